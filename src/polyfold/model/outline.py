"""An encoder's shape without its weights: what can be known of a model before it is trained or downloaded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polyfold.artifact import CONFIG
from polyfold.errors import InputError
from polyfold.model import stock
from polyfold.model.backbone import (
    FAMILIES,
    NO_LIMIT,
    Backbone,
    Transformer,
    auto_config,
    known_family,
    rebuild,
    source_of,
    use_backbone,
)
from polyfold.model.layout import base_family, layout_of
from polyfold.model.stock import plain_encoder
from polyfold.model.student import ConvolutionalInit, TransformerInit, small_encoder
from polyfold.model.use_multilingual import FAMILY, UseConfig, UseMultilingual
from polyfold.text import TokenizerSpec

# Nobody opens it, and the size of a vocabulary is no part of a trunk's shape.
NO_TOKENIZER = TokenizerSpec(kind="sentencepiece", file="", pad_id=0)
VOCABULARY = 1000
POSITIONS = 128


def outline(name: str, base: Path) -> Backbone:
    """The shape of a backbone or of one of our models by name; all its tensors are without content."""
    with torch.device("meta"):
        if name == FAMILY:
            return use_backbone(UseMultilingual(UseConfig()), NO_TOKENIZER)
        source = source_of(name, base)
        path = Path(source) / CONFIG
        settings: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
        if "polyfold" in settings:
            family = str(settings["polyfold"]["family"])
        else:
            config = auto_config(source, name)
            family, settings = str(config.model_type), config.to_dict()
            known_family(family, name)
        return _described(family, settings)


def with_layers(backbone: Backbone, layers: tuple[int, ...]) -> Backbone:
    """The same shape with some of its layers only, counted from 0."""
    module = backbone.module
    if not isinstance(module, Transformer):
        raise InputError(
            "the embedded encoder has no layers to choose from",
            key="init.layers",
            hint="leave `layers` out; its branches are pruned by a step under `compress`",
        )
    encoder = plain_encoder(module.encoder)
    path = layout_of(backbone.family).layers
    every = list(encoder.get_submodule(path).children())
    beyond = [layer for layer in layers if not 0 <= layer < len(every)]
    if beyond:
        hint = f"its layers are 0 to {len(every) - 1}"
        raise InputError(f"there is no layer {beyond[0]} in this encoder", key="init.layers", hint=hint)
    encoder.set_submodule(path, nn.ModuleList(every[layer] for layer in layers))
    return backbone


def outline_small(init: TransformerInit | ConvolutionalInit) -> Backbone:
    """The shape of a small encoder, whoever its teacher is; it will read as many tokens as are asked for."""
    with torch.device("meta"):
        return replace(small_encoder(init, NO_TOKENIZER, VOCABULARY, POSITIONS), max_length=NO_LIMIT)


def _described(family: str, settings: dict[str, Any]) -> Backbone:
    module = rebuild(family, settings)
    if isinstance(module, Transformer):
        width = int(module.encoder.config.hidden_size)  # type: ignore[union-attr, arg-type]
        offset = FAMILIES[base_family(family)].position_offset if family != stock.FAMILY else 0
        positions = int(settings["max_position_embeddings"]) - offset
        return Backbone(family, module, width, settings, NO_TOKENIZER, positions)
    assert isinstance(module, UseMultilingual)
    return use_backbone(module, NO_TOKENIZER)
