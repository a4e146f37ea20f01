"""The speed baseline: XLM-R base in fp32 PyTorch, with random weights where the model hub is out of reach.

Speed does not depend on the weights' values; quality does, so a random baseline is never scored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from polyfold.errors import InputError
from polyfold.model.hub import hub_options
from polyfold.text import Encoding, JsonTokenizer, TokenizerSpec

# True sizes of the published checkpoints, for building them where they cannot be downloaded.
KNOWN_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "FacebookAI/xlm-roberta-base": {
        "model_type": "xlm-roberta",
        "vocab_size": 250_002,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "pad_token_id": 1,
    },
    "google-bert/bert-base-multilingual-cased": {
        "model_type": "bert",
        "vocab_size": 119_547,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
    },
}


@dataclass(frozen=True)
class BaselineEncoder:
    """The baseline's own tokenizer."""

    tokenizer: JsonTokenizer
    max_length: int

    @property
    def pad_id(self) -> int:
        """The padding id."""
        return self.tokenizer.spec.pad_id

    def encode(self, texts: Any) -> Encoding:
        """Token ids, cut to the data's length."""
        return self.tokenizer.encode(texts, self.max_length)


@dataclass(frozen=True)
class Baseline:
    """A transformers encoder run in inference mode on all cores."""

    name: str
    encoder: nn.Module
    weights: str
    own_tokenizer: BaselineEncoder | None

    def run_ids(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> object:
        """One batch through the encoder; a classification head on top would cost a ten-thousandth of it."""
        with torch.inference_mode():
            return self.encoder(
                input_ids=torch.from_numpy(input_ids), attention_mask=torch.from_numpy(attention_mask)
            )

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(parameter.numel() for parameter in self.encoder.parameters())

    @property
    def trunk_parameters(self) -> int:
        """Parameters without the token-embedding table."""
        return self.parameters - self.encoder.get_input_embeddings().weight.numel()  # type: ignore[operator]


def load_baseline(name: str, tokenizer: str | None, base: Path, max_length: int) -> Baseline:
    """The named model from a local folder or the hub; by its known shape with random weights where neither has it.

    `tokenizer` may name a tokenizers JSON; without one a random baseline is given the student's token ids.
    """
    from transformers import AutoModel

    local = base / name
    source = str(local) if local.is_dir() else name
    own = _tokenizer(tokenizer, base, max_length)
    try:
        encoder = AutoModel.from_pretrained(source, add_pooling_layer=False, **hub_options(source))
        weights = "random" if getattr(encoder.config, "polyfold_random_weights", False) else "trained"
        if own is None and (Path(source) / "tokenizer.json").is_file():
            own = _tokenizer(str(Path(source) / "tokenizer.json"), base, max_length)
    except (OSError, ValueError) as error:
        if name not in KNOWN_SHAPES:
            raise InputError(
                f"the baseline '{name}' cannot be loaded: {str(error).splitlines()[0]}",
                key="measure.baseline",
                hint=f"give a folder, a hub id in reach, or one of {', '.join(KNOWN_SHAPES)}",
            ) from None
        encoder, weights = _random(KNOWN_SHAPES[name]), "random"
    return Baseline(name, encoder.eval(), weights, own)


def _random(shape: Mapping[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    settings = dict(shape)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder: nn.Module = AutoModel.from_config(config, add_pooling_layer=False)
    return encoder


def _tokenizer(name: str | None, base: Path, max_length: int) -> BaselineEncoder | None:
    if name is None:
        return None
    path = base / name
    if not path.is_file():
        raise InputError("the baseline's tokenizer is not there", file=path, key="measure.baseline_tokenizer")
    spec = TokenizerSpec(kind="tokenizers", file=path.name, pad_id=1)
    return BaselineEncoder(JsonTokenizer(path.parent, spec), max_length)
