"""An encoder whose layers differ in size, filled up with zeros to the sizes its family can state.

The stock classes have one number of heads and of feed-forward neurons for all layers, and heads that fill the
width. A head whose queries, keys and values are zero adds nothing, nor does a neuron whose rows and columns are:
GELU and ReLU leave zero as it is. So the filled encoder computes the same, at the speed of its largest layer;
a factorized token table is multiplied out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polyfold.errors import InputError
from polyfold.model.backbone import Backbone, Transformer
from polyfold.model.factorized import FactorizedEmbedding
from polyfold.model.layout import Axis, Layout, Sizes, base_family, layout_of, parameter_axes, sizes_of
from polyfold.model.pruned import FIELDS


@dataclass(frozen=True)
class Stated:
    """An encoder that a stock class can hold: its family, configuration and weights under the family's names."""

    family: str
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]


@torch.no_grad()
def stated(backbone: Backbone) -> Stated:
    """The encoder as its stock family states it; InputError where its width is no multiple of a head's."""
    assert isinstance(backbone.module, Transformer)
    encoder, family = backbone.module.encoder, base_family(backbone.family)
    own = {name: value.detach().cpu() for name, value in encoder.state_dict().items()}
    if family == backbone.family:
        return Stated(family, backbone.config, own)
    layout = layout_of(family)
    sizes = sizes_of(encoder, layout)
    full = _full(sizes)
    tokens = encoder.get_submodule(layout.tokens)
    weights = {
        name: _filled(value, name, layout, full)
        for name, value in own.items()
        if not name.startswith(f"{layout.tokens}.")
    }
    table = own[f"{layout.tokens}.weight"] if not isinstance(tokens, FactorizedEmbedding) else _product(tokens)
    fields = layout.fields
    config = {
        **{name: value for name, value in backbone.config.items() if name not in FIELDS},
        fields.width: full.width,
        fields.heads: full.heads[0],
        fields.feed_forward: full.feed_forward[0],
    }
    return Stated(family, config, {**weights, f"{layout.tokens}.weight": table})


def check_stated(backbone: Backbone) -> None:
    """InputError where an encoder of this outline is too narrow, or of the wrong width, for its stock family."""
    assert isinstance(backbone.module, Transformer)
    family = base_family(backbone.family)
    if family != backbone.family:
        _full(sizes_of(backbone.module.encoder, layout_of(family)))


def _full(sizes: Sizes) -> Sizes:
    heads = sizes.width // sizes.head_size
    most = max(sizes.heads)
    if sizes.width % sizes.head_size or heads < most:
        raise InputError(
            f"no stock class holds heads of {sizes.head_size} in an encoder of width {sizes.width} "
            f"with up to {most} heads a layer",
            key="export.transformers",
            hint=f"prune the width to a multiple of {sizes.head_size}, at least {most * sizes.head_size}",
        )
    layers = len(sizes.heads)
    return Sizes(sizes.width, sizes.head_size, (heads,) * layers, (max(sizes.feed_forward),) * layers, None)


def _filled(value: Tensor, name: str, layout: Layout, full: Sizes) -> Tensor:
    layer, axes = parameter_axes(layout, name)
    shape = [
        side if axis is None else _length(axis, full, layer) for side, axis in zip(value.shape, axes, strict=True)
    ]
    filled = value.new_zeros(shape)
    filled[tuple(slice(0, side) for side in value.shape)] = value
    return filled


def _length(axis: Axis, full: Sizes, layer: int | None) -> int:
    assert axis.blocks == 1, "several blocks side by side must be filled one by one"
    return full.along(axis, layer or 0)


def _product(tokens: FactorizedEmbedding) -> Tensor:
    product: Tensor = tokens.projection(tokens.table.weight)
    return product.detach().cpu()
