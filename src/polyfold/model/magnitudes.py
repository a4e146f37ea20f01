"""How large the weights of every removable unit are: the oldest measure of importance, and one without any data.

A unit's magnitude is the root of the sum of squares over all rows and columns that go with it (Li et al., "Pruning
Filters for Efficient ConvNets", 2017, sums the absolute values of a filter's own weights).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfold.model import structure_convolutional as convolutional
from polyfold.model.backbone import Transformer
from polyfold.model.factorized import FactorizedEmbedding, principal_directions
from polyfold.model.layout import Axis, layout_of, parameter_axes, sizes_of, table_of
from polyfold.model.units import Group, Key
from polyfold.model.use_multilingual import UseMultilingual

Squares = tuple[Key, Float[Tensor, "units"]]


@torch.no_grad()
def magnitudes(
    encoder: nn.Module, chosen: Sequence[Group], piece_weights: Float[Tensor, "vocab"] | None = None
) -> dict[Key, np.ndarray]:
    """Float64 [units] for each of the chosen groups."""
    sums = {group.key: torch.zeros(group.units, dtype=torch.float64) for group in chosen}
    found = _convolutional if isinstance(encoder, UseMultilingual) else _transformer
    for key, squares in found(encoder, piece_weights):
        if key in sums:
            sums[key] += squares.double().cpu()
    return {key: values.sqrt().numpy() for key, values in sums.items()}


def _convolutional(encoder: nn.Module, piece_weights: Tensor | None) -> Iterator[Squares]:
    assert isinstance(encoder, UseMultilingual)
    state, config = encoder.state_dict(), encoder.config
    units = convolutional.unit_counts(config)
    for name, axes in convolutional.sides(config).items():
        for side, keys in enumerate(axes):
            squares = _along(state[name], side)
            yield from zip(keys, squares.split([units[key] for key in keys]), strict=True)
        if name.startswith("branches."):
            index = int(name.split(".")[1])
            yield convolutional.BRANCHES, _at(state[name].square().sum(), index, len(config.orders))
    expansion = encoder.expansion.weight if isinstance(encoder.expansion, nn.Linear) else None
    if expansion is None:
        yield convolutional.COLUMNS, _along(encoder.embedding.weight, 1)
    yield convolutional.RANK, _directions(encoder.embedding.weight, expansion, piece_weights)


def _transformer(encoder: nn.Module, piece_weights: Tensor | None) -> Iterator[Squares]:
    assert isinstance(encoder, Transformer)
    inner = encoder.encoder
    layout = layout_of(str(inner.config.model_type))  # type: ignore[union-attr]
    sizes = sizes_of(inner, layout)
    tokens = inner.get_submodule(layout.tokens)
    for name, parameter in inner.named_parameters():
        if name.startswith(f"{layout.tokens}."):
            continue
        layer, axes = parameter_axes(layout, name)
        for side, axis in enumerate(axes):
            if axis is not None:
                key = (axis.target, None if axis.target == "width" else layer)
                yield key, _units(_along(parameter, side), axis, sizes.head_size)
        if layer is not None:
            yield ("layers", None), _at(parameter.square().sum(), layer, len(sizes.heads))
    table = table_of(inner, layout).weight
    projection = tokens.projection.weight if isinstance(tokens, FactorizedEmbedding) else None
    if projection is None:
        yield ("width", None), _along(table, 1)
    yield ("embedding_rank", None), _directions(table, projection, piece_weights)


def _along(values: Tensor, side: int) -> Tensor:
    """Sum of squares of each row, column or other slice along one side."""
    return values.square().transpose(0, side).flatten(1).sum(1) if values.ndim > 1 else values.square()


def _units(squares: Tensor, axis: Axis, head_size: int) -> Tensor:
    """Rows to units: a head is many neighbouring rows, and there may be several blocks of them."""
    each = head_size if axis.target == "heads" else 1
    return squares.reshape(axis.blocks, -1, each).sum((0, 2))


def _at(value: Tensor, index: int, count: int) -> Tensor:
    return torch.zeros(count, dtype=value.dtype, device=value.device).index_fill(
        0, torch.tensor([index], device=value.device), float(value)
    )


def _directions(table: Tensor, expansion: Tensor | None, piece_weights: Tensor | None) -> Tensor:
    """How much of the table lies along each of its principal directions, pieces weighed as the directions are."""
    directions = principal_directions(table, expansion, piece_weights).to(table.dtype)
    along = table @ (directions if expansion is None else expansion.T @ directions)
    shares = torch.ones_like(along[:, 0]) if piece_weights is None else piece_weights.to(along) + 1.0
    return (along.square() * shares[:, None]).sum(0)
