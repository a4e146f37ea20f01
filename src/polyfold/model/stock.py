"""Stock `...ForSequenceClassification` models: everything below their last linear layer is an encoder like ours.

Each family puts its own layers between encoder and labels (BERT a pooler, RoBERTa a dense layer with tanh,
DistilBERT one with ReLU). With the last linear layer taken out, what the model returns as its logits is the vector
that layer reads; so one wrapper serves every family, and the layer itself becomes the head of our task.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from polyfold.errors import InputError

FAMILY = "stock"
MODEL_TYPE = "stock_model_type"
"""The key in a saved configuration that keeps the family's own `model_type`."""
WIDTH = "sentence_width"
"""The key that keeps the width of the vector our head reads, as the embedded encoder's configuration has it."""


class StockTrunk(nn.Module):
    """A stock classifier without its last linear layer, in the shape of an encoder read at its first token."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        """The transformers configuration."""
        return self.model.config

    def forward(self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]) -> Any:
        """The vector that the last layer would read, as the state of the only token."""
        from transformers.modeling_outputs import BaseModelOutput

        vector = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return BaseModelOutput(last_hidden_state=vector.unsqueeze(1))

    def get_input_embeddings(self) -> nn.Module:
        """The table of token embeddings."""
        return self.model.get_input_embeddings()  # type: ignore[operator]

    def set_input_embeddings(self, table: nn.Module) -> None:
        """Put another table in."""
        self.model.set_input_embeddings(table)  # type: ignore[operator]

    def set_attn_implementation(self, name: str) -> None:
        """Choose how attention is computed."""
        self.model.set_attn_implementation(name)  # type: ignore[operator]


def plain_encoder(encoder: nn.Module) -> nn.Module:
    """The family's own encoder, where the layers are: inside a stock classifier's trunk, or the encoder itself."""
    if not isinstance(encoder, StockTrunk):
        return encoder
    found = encoder.model.base_model
    assert isinstance(found, nn.Module)
    return found


def strip(model: nn.Module, labels: int) -> tuple[StockTrunk, nn.Linear]:
    """Take the last linear layer out of a classifier of so many labels: what is left, and that layer."""
    found = [
        name for name, one in model.named_modules() if isinstance(one, nn.Linear) and one.out_features == labels
    ]
    if not found:
        raise InputError(
            f"a '{type(model).__name__}' has no linear layer with {labels} outputs, so no head to take"
        )
    head = model.get_submodule(found[-1])
    assert isinstance(head, nn.Linear)
    model.set_submodule(found[-1], nn.Identity())
    return StockTrunk(model), head


def rebuild_trunk(config: Mapping[str, Any]) -> StockTrunk:
    """The trunk of a saved configuration, its weights still to be loaded."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    left_out = ("tasks", "polyfold", "model_type", MODEL_TYPE, WIDTH)
    settings = {name: value for name, value in config.items() if name not in left_out}
    whole = AutoConfig.for_model(str(config[MODEL_TYPE]), **settings)
    trunk, _ = strip(AutoModelForSequenceClassification.from_config(whole), whole.num_labels)
    return trunk
