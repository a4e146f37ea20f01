"""Pruning transformers: layers, heads, feed-forward neurons, the hidden width, and the rank of the token table.

The result is a stock encoder of the same family wherever the family's configuration can state its sizes (fewer
layers, feed-forward layers of one size, a width that is heads times the width of a head), and else one of the
classes in `pruned`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from polyfold.errors import InputError
from polyfold.model.backbone import Backbone, Transformer, rebuild
from polyfold.model.classifier import Classifier, Model
from polyfold.model.factorized import FactorizedEmbedding, principal_directions
from polyfold.model.flops import transformer_cost
from polyfold.model.layout import (
    PREFIX,
    WIDTH,
    Axis,
    Layout,
    Sizes,
    base_family,
    layers_of,
    layout_of,
    parameter_axes,
    sizes_of,
    table_of,
)
from polyfold.model.stock import StockTrunk
from polyfold.model.units import Cost, Gates, Group, Keep, Key

LAYERS, RANK = "layers", "embedding_rank"
WIDTH_KEY: Key = ("width", None)


@dataclass(frozen=True)
class _Anatomy:
    """An encoder with its family's layout and its present sizes."""

    encoder: nn.Module
    layout: Layout
    sizes: Sizes

    def units(self) -> dict[Key, int]:
        """How many units each group has; those of the rank are directions in which embeddings can differ."""
        table = table_of(self.encoder, self.layout).weight
        found: dict[Key, int] = {(LAYERS, None): len(self.sizes.heads)}
        found |= {("heads", layer): count for layer, count in enumerate(self.sizes.heads)}
        found |= {("feed_forward", layer): count for layer, count in enumerate(self.sizes.feed_forward)}
        return found | {("width", None): self.sizes.width, (RANK, None): min(*table.shape, self.sizes.width)}


def groups(backbone: Backbone, seq: int) -> tuple[Group, ...]:
    """The groups of `structure.groups`; a layer's figures are the mean over layers."""
    anatomy = _examine(backbone.module)
    found = []
    for (target, layer), units in anatomy.units().items():
        key, each = (target, layer), units if target == LAYERS else 1
        # A rank is compared with a table that is factorized: the first cut replaces it by two matrices.
        before = _cost(anatomy, seq, {key: np.arange(units)} if target == RANK else {})
        after = _cost(anatomy, seq, {key: np.arange(units - each)})
        flops, parameters = before.flops - after.flops, before.parameters - after.parameters
        found.append(Group(target, layer, units, flops / each, parameters // each))
    return tuple(found)


def hook(
    classifier: Classifier, gates: Gates, piece_weights: Float[Tensor, "vocab"] | None
) -> Sequence[RemovableHandle]:
    """Hooks that multiply each unit by its gate, without another forward pass."""
    anatomy = _examine(classifier.encoder)
    layers = layers_of(anatomy.encoder, anatomy.layout)
    handles: list[RemovableHandle] = []
    for (target, layer), gate in gates.items():
        match target, layer:
            case "heads", int():
                out = layers[layer].get_submodule(anatomy.layout.heads_out)
                handles.append(out.register_forward_pre_hook(_scale_input(gate, anatomy.sizes.head_size)))
            case "feed_forward", int():
                out = layers[layer].get_submodule(anatomy.layout.neurons_out)
                handles.append(out.register_forward_pre_hook(_scale_input(gate, 1)))
            case "layers", None:
                handles += [
                    part.register_forward_hook(_bypass(gate, index), with_kwargs=True)
                    for index, part in enumerate(layers)
                ]
            case "width", None:
                norms = [part for part in anatomy.encoder.modules() if isinstance(part, nn.LayerNorm)]
                handles += [norm.register_forward_hook(_masked_norm(gate)) for norm in norms]
            case _:
                assert (target, layer) == (RANK, None), (target, layer)
                tokens = anatomy.encoder.get_submodule(anatomy.layout.tokens)
                basis = _directions(anatomy, piece_weights)
                handles.append(tokens.register_forward_hook(_project(gate, basis.to(gate))))
    return handles


def cut(model: Model, keep: Keep, piece_weights: Float[Tensor, "vocab"] | None) -> Model:
    """The dense model of checked sets: a fresh encoder of the new sizes, filled with the rows that stay."""
    anatomy = _examine(model.classifier.encoder)
    layers = _kept_layers(anatomy, keep)
    sizes = _sizes_after(anatomy, keep)
    left = replace(
        sizes,
        heads=tuple(sizes.heads[layer] for layer in layers),
        feed_forward=tuple(sizes.feed_forward[layer] for layer in layers),
    )
    family, config = _describe(model.backbone, anatomy.layout, left, layers)
    with torch.random.fork_rng(devices=[]):
        module = rebuild(family, config)
    assert isinstance(module, Transformer)
    state = _cut_state(anatomy, keep, layers) | _cut_tokens(anatomy, keep, piece_weights)
    module.encoder.load_state_dict(state)
    backbone = replace(model.backbone, family=family, module=module, width=left.width, config=config)
    with torch.random.fork_rng(devices=[]):
        classifier = Classifier(module, left.width, model.tasks, model.classifier.dropout.p)
    columns = _indices(anatomy, keep, WIDTH, 0)
    for name, head in model.classifier.heads.items():
        values = head.state_dict()
        classifier.heads[name].load_state_dict({**values, "weight": values["weight"][:, columns]})
    device = next(model.classifier.parameters()).device
    classifier.to(device).train(model.classifier.training)
    return replace(model, classifier=classifier, backbone=backbone)


def cost(backbone: Backbone, seq: int, keep: Keep) -> Cost:
    """The figures of `structure.cost`."""
    return _cost(_examine(backbone.module), seq, keep)


def _examine(module: nn.Module) -> _Anatomy:
    assert isinstance(module, Transformer)
    if isinstance(module.encoder, StockTrunk):
        raise InputError(
            "a stock sequence classifier cannot be pruned: its layers above the encoder are its own",
            hint="start the student from the same folder as a backbone",
        )
    config: Any = module.encoder.config
    layout = layout_of(str(config.model_type))
    return _Anatomy(module.encoder, layout, sizes_of(module.encoder, layout))


def _cost(anatomy: _Anatomy, seq: int, keep: Keep) -> Cost:
    layers = frozenset(_kept_layers(anatomy, keep))
    return transformer_cost(anatomy.encoder, anatomy.layout, _sizes_after(anatomy, keep), layers, seq)


def _kept_layers(anatomy: _Anatomy, keep: Keep) -> list[int]:
    return [int(layer) for layer in keep.get((LAYERS, None), np.arange(len(anatomy.sizes.heads)))]


def _sizes_after(anatomy: _Anatomy, keep: Keep) -> Sizes:
    """The sizes that the sets leave; every present layer still has its entry."""
    left, sizes = {key: len(indices) for key, indices in keep.items()}, anatomy.sizes
    return Sizes(
        width=left.get(WIDTH_KEY, sizes.width),
        head_size=sizes.head_size,
        heads=tuple(left.get(("heads", layer), units) for layer, units in enumerate(sizes.heads)),
        feed_forward=tuple(
            left.get(("feed_forward", layer), units) for layer, units in enumerate(sizes.feed_forward)
        ),
        rank=left.get((RANK, None), sizes.rank),
    )


def _indices(anatomy: _Anatomy, keep: Keep, axis: Axis, layer: int) -> Tensor:
    """Rows or columns that stay along one side of a matrix: int64, ascending."""
    sizes = anatomy.sizes
    key: Key
    match axis.target:
        case "width":
            units, each, key = sizes.width, 1, WIDTH_KEY
        case "heads":
            units, each, key = sizes.heads[layer], sizes.head_size, ("heads", layer)
        case "feed_forward":
            units, each, key = sizes.feed_forward[layer], 1, ("feed_forward", layer)
    kept = np.asarray(keep.get(key, np.arange(units)))
    within = (kept[:, None] * each + np.arange(each)).reshape(-1)
    blocks = np.arange(axis.blocks)[:, None] * (units * each) + within
    device = next(anatomy.encoder.parameters()).device
    return torch.from_numpy(blocks.reshape(-1)).to(device)


def _cut_state(anatomy: _Anatomy, keep: Keep, layers: Sequence[int]) -> dict[str, Tensor]:
    """The weights that stay, under their new names; the token table is cut by itself."""
    layout, renumbered = anatomy.layout, {old: new for new, old in enumerate(layers)}
    state = {}
    for name, value in anatomy.encoder.state_dict().items():
        if name.startswith(f"{layout.tokens}."):
            continue
        layer, axes = parameter_axes(layout, name)
        if layer is not None and layer not in renumbered:
            continue
        left = value
        for side, axis in enumerate(axes):
            if axis is not None:
                left = left.index_select(side, _indices(anatomy, keep, axis, layer or 0))
        new = name if layer is None else name.replace(f".{layer}.", f".{renumbered[layer]}.", 1)
        state[new] = left
    return state


def _cut_tokens(anatomy: _Anatomy, keep: Keep, piece_weights: Tensor | None) -> dict[str, Tensor]:
    """The token table, cut to the width that stays or to the directions that do."""
    layout = anatomy.layout
    tokens = anatomy.encoder.get_submodule(layout.tokens)
    table = table_of(anatomy.encoder, layout).weight.detach()
    projection = tokens.projection.weight.detach() if isinstance(tokens, FactorizedEmbedding) else None
    columns = _indices(anatomy, keep, WIDTH, 0)
    if (RANK, None) in keep:
        kept = torch.from_numpy(keep[(RANK, None)]).to(table.device)
        basis = _directions(anatomy, piece_weights)[:, kept]
        # In two products of a narrow matrix: the whole table in double precision would not fit everywhere.
        into = basis if projection is None else projection.double().T @ basis
        table, projection = table @ into.to(table), basis.to(table)
    if projection is None:
        return {f"{layout.tokens}.weight": table[:, columns]}
    return {
        f"{layout.tokens}.table.weight": table,
        f"{layout.tokens}.projection.weight": projection[columns],
    }


def _directions(anatomy: _Anatomy, piece_weights: Tensor | None) -> Tensor:
    tokens = anatomy.encoder.get_submodule(anatomy.layout.tokens)
    projection = tokens.projection.weight if isinstance(tokens, FactorizedEmbedding) else None
    table = table_of(anatomy.encoder, anatomy.layout).weight
    return principal_directions(table, projection, piece_weights)


def _describe(
    backbone: Backbone, layout: Layout, sizes: Sizes, layers: Sequence[int]
) -> tuple[str, dict[str, Any]]:
    """The family and the configuration that state these sizes: the stock ones wherever they can."""
    from polyfold.model.pruned import FIELDS

    family, fields = base_family(backbone.family), layout.fields
    old = {name: value for name, value in backbone.config.items() if name != "model_type"}
    entry_norm = layout.pre_norm is not None and (layers[0] != 0 or bool(old.get("entry_norm")))
    config = {name: value for name, value in old.items() if name not in FIELDS}
    config |= {fields.width: sizes.width, fields.layers: len(layers), fields.feed_forward: max(sizes.feed_forward)}
    if config.get("layer_types") is not None:
        config["layer_types"] = [config["layer_types"][layer] for layer in layers]
    even = len({*sizes.feed_forward}) == 1 and all(heads * sizes.head_size == sizes.width for heads in sizes.heads)
    if even and sizes.rank is None and not entry_norm:
        return family, {**config, fields.heads: sizes.heads[0]}
    config |= {
        # The family's constructor wants a divisor of the width; what holds is `layer_heads`.
        fields.heads: 1,
        "layer_heads": list(sizes.heads),
        "layer_feed_forward": list(sizes.feed_forward),
        "head_size": sizes.head_size,
        "embedding_rank": sizes.rank,
    }
    if layout.pre_norm is not None:
        config |= {"entry_norm": entry_norm, "head_dim": sizes.head_size}
    return PREFIX + family, config


def _scale_input(gate: Tensor, each: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Multiply what a matrix reads: `each` neighbouring inputs by one gate."""

    def scale(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * gate.repeat_interleave(each), *inputs[1:])

    return scale


def _bypass(
    gate: Tensor, layer: int
) -> Callable[[nn.Module, tuple[Tensor, ...], Mapping[str, Any], Tensor], Tensor]:
    """Mix a layer's output with its input: a gate of zero hands the input on, as if the layer were not there."""

    def mix(_module: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Any], output: Tensor) -> Tensor:
        before: Tensor = inputs[0] if inputs else named["hidden_states"]
        return gate[layer] * output + (1 - gate[layer]) * before

    return mix


def _masked_norm(gate: Tensor) -> Callable[[nn.LayerNorm, tuple[Tensor, ...], Tensor], Tensor]:
    """LayerNorm with mean and variance weighed by the gates, its output multiplied by them."""

    def norm(module: nn.LayerNorm, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        share = gate / gate.sum()
        centred = inputs[0] - (inputs[0] * share).sum(-1, keepdim=True)
        variance = (centred.square() * share).sum(-1, keepdim=True)
        scaled = centred * torch.rsqrt(variance + module.eps) * module.weight
        return (scaled if module.bias is None else scaled + module.bias) * gate

    return norm


def _project(
    gate: Tensor, basis: Float[Tensor, "hidden units"]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """Token embeddings taken apart along the directions, each multiplied by its gate, and put together again."""

    def project(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return ((output @ basis) * gate) @ basis.T

    return project
