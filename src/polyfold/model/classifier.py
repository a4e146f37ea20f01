"""The multi-task classifier: one encoder, one linear head a task; saved and loaded as a model folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polyfold.artifact import CONFIG, ModelConfig, read_config, write_atomically, write_config
from polyfold.batch import Outputs
from polyfold.errors import InputError
from polyfold.model.backbone import Backbone, Transformer, prefer_plain_attention, rebuild, token_embedding
from polyfold.model.quantized import (
    FLOAT,
    HOOKS,
    QUANTIZERS_FILE,
    precision_of,
    quantizer_config,
    restore_quantizers,
)
from polyfold.tasks import Task

WEIGHTS_FILE = "model.safetensors"


class Classifier(nn.Module):
    """Token ids to logits by task. Heads are separate on purpose: a task can be added or dropped alone."""

    def __init__(self, encoder: nn.Module, width: int, tasks: Sequence[Task], dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({task.name: nn.Linear(width, len(task.labels)) for task in tasks})

    def forward(self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]) -> Outputs:
        """Logits of every task; a head that nobody asks for costs a thousandth of the encoder."""
        pooled = self.encoder(input_ids, attention_mask)
        dropped = self.dropout(pooled)
        return Outputs({name: head(dropped) for name, head in self.heads.items()}, pooled)


@dataclass(frozen=True)
class Model:
    """A classifier with its tasks and what is needed to save, export and describe it."""

    classifier: Classifier
    tasks: tuple[Task, ...]
    backbone: Backbone
    max_length: int

    def with_tasks(self, tasks: Sequence[Task]) -> "Model":
        """The same weights with other temperatures and thresholds."""
        return replace(self, tasks=tuple(tasks))

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(own_parameters(self.classifier).values())

    @property
    def trunk_parameters(self) -> int:
        """Parameters of the encoder without its token-embedding table."""
        encoder = sum(own_parameters(self.classifier.encoder).values())
        return encoder - token_embedding(self.classifier.encoder).weight.numel()


def new_classifier(backbone: Backbone, tasks: Sequence[Task], max_length: int, seed: int) -> Model:
    """Fresh heads on a backbone; InputError where its position table is shorter than `max_length`."""
    check_length(backbone, max_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(backbone.module, backbone.width, tasks)
    return Model(classifier, tuple(tasks), backbone, max_length)


def check_length(backbone: Backbone, max_length: int) -> None:
    """InputError where a backbone cannot read so many tokens."""
    if max_length > backbone.max_length:
        raise InputError(
            f"max_length {max_length} is more than this backbone's {backbone.max_length} positions",
            key="data.max_length",
            hint=f"set it to {backbone.max_length} or less",
        )


def save_model(model: Model, folder: Path, source: Path) -> None:
    """Write config, weights and tokenizer; the encoder's keys are those that `AutoModel` itself would write.

    `source` is the folder that holds the tokenizer file (it may be `folder`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoder = model.classifier.encoder
    state = {
        outer_name(name, encoder): value.contiguous() for name, value in model.classifier.state_dict().items()
    }
    draft = folder / f".{WEIGHTS_FILE}.tmp"
    save_file(state, draft, metadata={"format": "pt"})
    draft.replace(folder / WEIGHTS_FILE)
    if source != folder:
        name = model.backbone.tokenizer.file
        (folder / name).write_bytes((source / name).read_bytes())
    precision = precision_of(model.classifier)
    if precision != FLOAT:
        write_atomically(folder / QUANTIZERS_FILE, json.dumps(quantizer_config(model.classifier)).encode())
    config = model_config(model, "torch", precision, WEIGHTS_FILE)
    extra = {**model.backbone.config, "model_type": model.backbone.family}
    write_config(folder, config, model.tasks, extra)


def model_config(
    model: Model, runtime: Literal["torch", "onnxruntime", "openvino"], precision: str, file: str
) -> ModelConfig:
    """The `polyfold` block of this model's configuration for one runtime."""
    return ModelConfig(
        family=model.backbone.family,
        runtime=runtime,
        precision=precision,
        weights="random" if model.backbone.weights == "random" else "trained",
        file=file,
        tokenizer=model.backbone.tokenizer,
        max_length=model.max_length,
        parameters=model.parameters,
        trunk_parameters=model.trunk_parameters,
    )


def load_model(folder: Path) -> Model:
    """Read a torch model folder back; InputError where it is damaged or of another runtime."""
    config, tasks = read_config(folder)
    if config.runtime != "torch":
        raise InputError(f"a '{config.runtime}' export holds no torch weights", file=folder)
    settings: Mapping[str, object] = json.loads((folder / CONFIG).read_bytes())
    encoder = rebuild(config.family, settings)
    width = int(str(settings.get("sentence_width") or settings.get("hidden_size") or settings.get("dim")))
    backbone = Backbone(
        family=config.family,
        module=encoder,
        width=width,
        config={name: value for name, value in settings.items() if name not in ("tasks", "polyfold")},
        tokenizer=config.tokenizer,
        max_length=config.max_length,
        weights=config.weights,
    )
    classifier = Classifier(encoder, width, tasks)
    if (folder / QUANTIZERS_FILE).is_file():
        # Quantizers of attention's products sit on operations that the fused attention does not run.
        prefer_plain_attention(encoder)
        classifier = restore_quantizers(classifier, json.loads((folder / QUANTIZERS_FILE).read_bytes()))
    state = {inner_name(name, encoder): value for name, value in load_file(folder / config.file).items()}
    classifier.load_state_dict(state)
    return Model(classifier.eval(), tasks, backbone, config.max_length)


def own_parameters(module: nn.Module) -> dict[str, int]:
    """Sizes of the model's own parameters by name; the quantizers' ranges are not the model's."""
    return {name: value.numel() for name, value in module.named_parameters() if HOOKS not in name}


def _prefix(encoder: nn.Module) -> str:
    """Our attribute path to the encoder's own parameters: transformers' module lies one level deeper."""
    return "encoder.encoder." if isinstance(encoder, Transformer) else "encoder."


def outer_name(name: str, encoder: nn.Module) -> str:
    """Our attribute path to the key on disk, where the encoder's parameters stand without a prefix."""
    return name.removeprefix(_prefix(encoder))


def inner_name(name: str, encoder: nn.Module) -> str:
    """The key on disk to our attribute path."""
    return name if name.startswith(("heads.", HOOKS)) else _prefix(encoder) + name
