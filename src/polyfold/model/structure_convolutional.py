"""What can be cut out of the embedded encoder: branches, channels, dense layers, embedding columns and rank.

Targets (`structure` says what a target, a group and a gate are):

- `branches`: whole n-gram branches;
- `branch_width`: a branch's channels, a group a branch. A branch is residual, so its two convolutions share them;
- `embedding_width`: columns of the token embeddings, which the projection and the features both read;
- `embedding_rank`: principal directions of the token table, the strongest first;
- `sentence_width`: the features' projected mean (layer 0), the last hidden layer (1), the sentence vector (2);
- `dense_width`: the two inner layers between them (0 and 1).

Two LayerNorms run over channels and columns. Under gates their mean and variance are weighed by the gates, so that
a masked channel counts in them as little as one that is gone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from polyfold.model.backbone import Backbone
from polyfold.model.classifier import Classifier, Model
from polyfold.model.factorized import principal_directions
from polyfold.model.flops import convolutional_flops
from polyfold.model.units import Cost, Gates, Group, Keep, Key
from polyfold.model.use_multilingual import Branch, UseConfig, UseMultilingual

BRANCHES: Key = ("branches", None)
COLUMNS: Key = ("embedding_width", None)
RANK: Key = ("embedding_rank", None)
MEAN: Key = ("sentence_width", 0)
LAST: Key = ("sentence_width", 1)
SENTENCE: Key = ("sentence_width", 2)
INNER: Key = ("dense_width", 0)
SECOND: Key = ("dense_width", 1)

Gate = Callable[[], Float[Tensor, "units"]]


def groups(backbone: Backbone, seq: int) -> tuple[Group, ...]:
    """All groups of units. A branch's figures are the mean over branches, a rank's those of a factorized table."""
    config = _encoder(backbone.module).config

    def group(key: Key, units: int) -> Group:
        # A rank is compared with a table factorized already: the first cut replaces it by two matrices.
        before = _cost(config, seq, {key: np.arange(units)} if key == RANK else {})
        drops = range(units) if key == BRANCHES else (0,)
        kept = [np.delete(np.arange(units), drop) for drop in drops] if units > 1 else [np.arange(1)]
        after = [_cost(config, seq, {key: indices}) for indices in kept]
        flops = float(np.mean([before.flops - one.flops for one in after]))
        return Group(*key, units, flops, round(np.mean([before.parameters - one.parameters for one in after])))

    every = {BRANCHES: len(config.orders), **unit_counts(config)}
    return tuple(group(key, units) for key, units in every.items())


def cost(backbone: Backbone, seq: int, keep: Keep) -> Cost:
    """What the encoder would cost after a cut."""
    return _cost(_encoder(backbone.module).config, seq, keep)


def _cost(config: UseConfig, seq: int, keep: Keep) -> Cost:
    rank = len(keep[RANK]) if RANK in keep else config.embedding_rank
    small = _cut_config(config, _kept(config, keep), rank)
    units = unit_counts(small)
    matrices = sum(math.prod(sum(units[key] for key in side) for side in axes) for axes in sides(small).values())
    # A convolution has a matrix for each token it sees.
    matrices += sum(
        2 * (order - 1) * width**2 for width, (order, _) in zip(small.branch_sizes, small.orders, strict=True)
    )
    wide = small.embedding_width
    table = small.vocab_size * (rank or wide) + (rank or 0) * wide
    return Cost(flops=convolutional_flops(small, seq), parameters=matrices + table)


def unit_counts(config: UseConfig) -> dict[Key, int]:
    """Units of every group but the branches themselves."""
    mean, inner, second, last = config.dense_sizes
    return {
        **{_channels(index): width for index, width in enumerate(config.branch_sizes)},
        COLUMNS: config.embedding_width,
        RANK: min(config.embedding_rank or config.vocab_size, config.embedding_width),
        MEAN: mean,
        LAST: last,
        SENTENCE: config.sentence_width,
        INNER: inner,
        SECOND: second,
    }


def hook(
    classifier: Classifier, gates: Gates, piece_weights: Float[Tensor, "vocab"] | None
) -> Sequence[RemovableHandle]:
    """Hooks that multiply each unit by its gate; where there is none, all runs as it always does."""
    encoder = _encoder(classifier.encoder)
    handles = []

    def scale(module: nn.Module, gate: Gate, *, channels_first: bool = False) -> None:
        def scaled(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            return output * (gate()[:, None] if channels_first else gate())

        handles.append(module.register_forward_hook(scaled))

    def norm(module: nn.LayerNorm, gate: Gate) -> None:
        def normed(_module: nn.Module, inputs: tuple[Tensor], _output: Tensor) -> Tensor:
            return gated_norm(module, inputs[0], gate())

        handles.append(module.register_forward_hook(normed))

    if RANK in gates:
        handles.append(_scale_along(encoder.expansion, _directions(encoder, piece_weights), gates[RANK]))
    columns = _gate(gates, COLUMNS, encoder.config.embedding_width)
    if COLUMNS in gates:
        scale(encoder.expansion, columns)
    parts = [_branch_gate(gates, index, width) for index, width in enumerate(encoder.config.branch_sizes)]
    convolved = BRANCHES in gates or any(_channels(index) in gates for index in range(len(parts)))
    if convolved:
        norm(encoder.projection_norm, lambda: torch.cat([part() for part in parts]))
        for branch, part in zip(encoder.branches, parts, strict=True):
            assert isinstance(branch, Branch)
            scale(branch.first, part, channels_first=True)
            scale(branch.second, part, channels_first=True)
    if convolved or COLUMNS in gates:
        norm(encoder.feature_norm, lambda: torch.cat([columns(), *(part() for part in parts)]))
    for key, modules in _dense_layers(encoder).items():
        if key in gates:
            for module in modules:
                scale(module, _gate(gates, key, len(gates[key])))
    return handles


def cut(model: Model, keep: Keep, piece_weights: Float[Tensor, "vocab"] | None) -> Model:
    """The dense model with the kept units only."""
    encoder = _encoder(model.classifier.encoder)
    kept = _kept(encoder.config, keep)
    rank = len(keep[RANK]) if RANK in keep else encoder.config.embedding_rank
    config = _cut_config(encoder.config, kept, rank)
    state = _cut_state(encoder, kept) | _cut_table(encoder, keep.get(RANK), kept[COLUMNS], piece_weights)
    heads = {
        name: (value[:, torch.from_numpy(kept[SENTENCE])] if value.ndim == 2 else value).clone()
        for name, value in model.classifier.heads.state_dict().items()
    }
    # Built without memory or random numbers: the weights are put in as they are.
    with torch.device("meta"):
        small = UseMultilingual(config)
        classifier = Classifier(small, config.sentence_width, model.tasks, model.classifier.dropout.p)
    small.load_state_dict(state, assign=True)
    classifier.heads.load_state_dict(heads, assign=True)
    classifier.train(model.classifier.training)
    settings = config.model_dump(mode="json")
    backbone = replace(model.backbone, module=small, width=config.sentence_width, config=settings)
    return replace(model, classifier=classifier, backbone=backbone)


def sides(config: UseConfig) -> dict[str, tuple[tuple[Key, ...], ...]]:
    """For every parameter but the token table: the groups whose units lie along each of its sides, in order."""
    channels = tuple(_channels(index) for index in range(len(config.orders)))
    features = (COLUMNS, *channels)
    layers: dict[str, tuple[tuple[Key, ...], ...]] = {
        "projection": (channels, (COLUMNS,)),
        "projection_norm": (channels,),
        "feature_norm": (features,),
        "sentence": ((MEAN,), features),
    }
    for index, own in enumerate(channels):
        layers |= {f"branches.{index}.{name}": ((own,), (own,)) for name in ("first", "second")}
    found = {f"{name}.weight": axes for name, axes in layers.items()}
    found |= {f"{name}.bias": axes[:1] for name, axes in layers.items()}
    without_bias = {
        "dense_in": (INNER, MEAN),
        "dense_skip": (SECOND, MEAN),
        "dense_mid": (SECOND, INNER),
        "out_in": (LAST, SECOND),
        "out_skip": (SENTENCE, SECOND),
        "out": (SENTENCE, LAST),
    }
    return found | {f"{name}.weight": ((rows,), (columns,)) for name, (rows, columns) in without_bias.items()}


def _kept(config: UseConfig, keep: Keep) -> dict[Key, np.ndarray]:
    """What stays of every group; of a branch that is gone, nothing."""
    kept = {key: keep.get(key, np.arange(units)) for key, units in unit_counts(config).items()}
    branches = keep.get(BRANCHES, np.arange(len(config.orders)))
    for index in range(len(config.orders)):
        if index not in branches:
            kept[_channels(index)] = np.arange(0)
    return kept


def _cut_config(old: UseConfig, kept: Keep, rank: int | None) -> UseConfig:
    """The sizes of what stays, said in the plainest way."""
    every = [len(kept[_channels(index)]) for index in range(len(old.orders))]
    widths = tuple(width for width in every if width)
    dense = (len(kept[MEAN]), len(kept[INNER]), len(kept[SECOND]), len(kept[LAST]))
    sentence = len(kept[SENTENCE])
    return UseConfig(
        vocab_size=old.vocab_size,
        embedding_width=len(kept[COLUMNS]),
        branch_width=max(widths),
        orders=tuple(order for order, width in zip(old.orders, every, strict=True) if width),
        sentence_width=sentence,
        dense_width=dense[1],
        eps=old.eps,
        branch_widths=None if len(set(widths)) == 1 else widths,
        dense_widths=None if dense == (sentence, dense[1], dense[1], sentence) else dense,
        embedding_rank=rank,
    )


def _cut_state(encoder: UseMultilingual, kept: Keep) -> dict[str, Tensor]:
    """Every weight but the token table's, without the rows and columns of what is gone."""
    old, units = encoder.state_dict(), unit_counts(encoder.config)
    left = [index for index in range(len(encoder.branches)) if len(kept[_channels(index)])]
    names = {f"branches.{index}.": f"branches.{number}." for number, index in enumerate(left)}
    state = {}
    for name, axes in sides(encoder.config).items():
        value = old[name]
        for side, keys in enumerate(axes):
            starts = accumulate((units[key] for key in keys), initial=0)
            indices = np.concatenate([start + kept[key] for start, key in zip(starts, keys, strict=False)])
            value = value.index_select(side, torch.from_numpy(indices).to(value.device))
        prefix = name[: len("branches.0.")]
        if not name.startswith("branches.") or prefix in names:
            state[names.get(prefix, prefix) + name[len(prefix) :]] = value
    return state


def _cut_table(
    encoder: UseMultilingual, rank: np.ndarray | None, columns: np.ndarray, weights: Float[Tensor, "vocab"] | None
) -> dict[str, Tensor]:
    """The token table and, where it is factorized, the matrix that expands it."""
    table, expansion = encoder.embedding.weight.detach(), _expansion(encoder)
    chosen = torch.from_numpy(columns)
    if rank is None:
        if expansion is None:
            return {"embedding.weight": table[:, chosen]}
        return {"embedding.weight": table.clone(), "expansion.weight": expansion[chosen]}
    directions = _directions(encoder, weights)[:, torch.from_numpy(rank)]
    narrowed = directions if expansion is None else expansion.T @ directions
    return {"embedding.weight": table @ narrowed, "expansion.weight": directions[chosen]}


def gated_norm(
    norm: nn.LayerNorm, inputs: Float[Tensor, "batch seq hidden"], gate: Float[Tensor, "hidden"]
) -> Float[Tensor, "batch seq hidden"]:
    """A LayerNorm whose units count as much as their gates: with ones the plain one, with zeros a narrower one."""
    shares = gate / gate.sum()
    centred = inputs - (inputs * shares).sum(dim=-1, keepdim=True)
    variance = (centred.square() * shares).sum(dim=-1, keepdim=True)
    return (centred * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias) * gate


def _scale_along(
    module: nn.Module, directions: Float[Tensor, "hidden rank"], gate: Float[Tensor, "rank"]
) -> RemovableHandle:
    """Multiply a module's output by a gate along each direction; what lies in none of them is gone."""

    def scaled(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return (output @ directions * gate) @ directions.T

    return module.register_forward_hook(scaled)


def _directions(encoder: UseMultilingual, weights: Float[Tensor, "vocab"] | None) -> Float[Tensor, "hidden rank"]:
    table = encoder.embedding.weight.detach()
    return principal_directions(table, _expansion(encoder), weights).to(table.dtype)


def _expansion(encoder: UseMultilingual) -> Float[Tensor, "hidden rank"] | None:
    return encoder.expansion.weight.detach() if isinstance(encoder.expansion, nn.Linear) else None


def _dense_layers(encoder: UseMultilingual) -> dict[Key, tuple[nn.Module, ...]]:
    """The modules whose outputs are a group's units; a sum of two is gated in both."""
    return {
        MEAN: (encoder.sentence,),
        INNER: (encoder.dense_in,),
        SECOND: (encoder.dense_skip, encoder.dense_mid),
        LAST: (encoder.out_in,),
        SENTENCE: (encoder,),
    }


def _gate(gates: Gates, key: Key, units: int) -> Gate:
    def gate() -> Tensor:
        like = next(iter(gates.values()))
        return gates[key] if key in gates else torch.ones(units, device=like.device, dtype=like.dtype)

    return gate


def _branch_gate(gates: Gates, index: int, width: int) -> Gate:
    """The gate of a branch's channels: its own and the whole branch's."""
    own = _gate(gates, _channels(index), width)
    return lambda: own() * gates[BRANCHES][index] if BRANCHES in gates else own()


def _channels(index: int) -> Key:
    return ("branch_width", index)


def _encoder(module: nn.Module) -> UseMultilingual:
    assert isinstance(module, UseMultilingual)
    return module
