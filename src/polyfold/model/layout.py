"""Where each transformers family keeps its matrices, and along which axes they shrink when units are removed.

One table serves all that must agree: which rows and columns are cut, what the cut model's modules look like, where
gates sit, and what a model costs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from torch import nn

from polyfold.errors import InputError
from polyfold.model.factorized import FactorizedEmbedding

PREFIX = "polyfold-"
"""Stands before the family's name in the `model_type` of an encoder whose sizes the family itself cannot state."""


@dataclass(frozen=True)
class Axis:
    """One side of a matrix: what it runs over, and how many equal blocks of it lie side by side."""

    target: Literal["width", "heads", "feed_forward"]
    blocks: int = 1


WIDTH, HEADS, NEURONS = Axis("width"), Axis("heads"), Axis("feed_forward")


@dataclass(frozen=True)
class Fields:
    """The names a family's configuration gives to its sizes."""

    width: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    feed_forward: str = "intermediate_size"


@dataclass(frozen=True)
class Layout:
    """Attribute paths of a family; those of `linears` (with their axes, out and in) and `norms` are a layer's own.

    `attention` holds the width of one head under the name `head_size`. The inputs of the linear layers
    `heads_out` and `neurons_out` are the heads and the feed-forward neurons side by side. A `pre_norm` family
    leaves out the first layer's first norm, having normalized the embeddings already.
    """

    layers: str
    attention: str
    head_size: str
    linears: Mapping[str, tuple[Axis, Axis]]
    norms: tuple[str, ...]
    heads_out: str
    neurons_out: str
    tokens: str
    other_tables: tuple[str, ...]
    outer_norms: tuple[str, ...]
    fields: Fields = Fields()
    pre_norm: str | None = None


_BERT = Layout(
    layers="encoder.layer",
    attention="attention.self",
    head_size="attention_head_size",
    linears={
        "attention.self.query": (HEADS, WIDTH),
        "attention.self.key": (HEADS, WIDTH),
        "attention.self.value": (HEADS, WIDTH),
        "attention.output.dense": (WIDTH, HEADS),
        "intermediate.dense": (NEURONS, WIDTH),
        "output.dense": (WIDTH, NEURONS),
    },
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    heads_out="attention.output.dense",
    neurons_out="output.dense",
    tokens="embeddings.word_embeddings",
    other_tables=("embeddings.position_embeddings", "embeddings.token_type_embeddings"),
    outer_norms=("embeddings.LayerNorm",),
)

LAYOUTS: Mapping[str, Layout] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": Layout(
        layers="transformer.layer",
        attention="attention",
        head_size="attention_head_size",
        linears={
            "attention.q_lin": (HEADS, WIDTH),
            "attention.k_lin": (HEADS, WIDTH),
            "attention.v_lin": (HEADS, WIDTH),
            "attention.out_lin": (WIDTH, HEADS),
            "ffn.lin1": (NEURONS, WIDTH),
            "ffn.lin2": (WIDTH, NEURONS),
        },
        norms=("sa_layer_norm", "output_layer_norm"),
        heads_out="attention.out_lin",
        neurons_out="ffn.lin2",
        tokens="embeddings.word_embeddings",
        other_tables=("embeddings.position_embeddings",),
        outer_norms=("embeddings.LayerNorm",),
        fields=Fields("dim", "n_layers", "n_heads", "hidden_dim"),
    ),
    "modernbert": Layout(
        layers="layers",
        attention="attn",
        head_size="head_dim",
        # Queries, keys and values in one matrix; so are the two halves of the gated feed-forward layer.
        linears={
            "attn.Wqkv": (Axis("heads", 3), WIDTH),
            "attn.Wo": (WIDTH, HEADS),
            "mlp.Wi": (Axis("feed_forward", 2), WIDTH),
            "mlp.Wo": (WIDTH, NEURONS),
        },
        norms=("attn_norm", "mlp_norm"),
        heads_out="attn.Wo",
        neurons_out="mlp.Wo",
        tokens="embeddings.tok_embeddings",
        other_tables=(),
        outer_norms=("embeddings.norm", "final_norm"),
        pre_norm="attn_norm",
    ),
}


@dataclass(frozen=True)
class Sizes:
    """The sizes of an encoder, layer by layer; `rank` is None where the token table is whole."""

    width: int
    head_size: int
    heads: tuple[int, ...]
    feed_forward: tuple[int, ...]
    rank: int | None

    def along(self, axis: Axis, layer: int) -> int:
        """How long this side of a matrix of that layer is."""
        match axis.target:
            case "width":
                return axis.blocks * self.width
            case "heads":
                return axis.blocks * self.heads[layer] * self.head_size
            case "feed_forward":
                return axis.blocks * self.feed_forward[layer]


def base_family(family: str) -> str:
    """The family an encoder was cut from; a stock family is its own."""
    return family.removeprefix(PREFIX)


def layout_of(family: str) -> Layout:
    """The family's row in the table; InputError where there is none."""
    found = LAYOUTS.get(base_family(family))
    if found is None:
        raise InputError(
            f"encoders of family '{family}' cannot be pruned: where it keeps its matrices is not known",
            hint=f"choose a backbone of one of the families {', '.join(sorted(LAYOUTS))}, or 'use-multilingual'",
        )
    return found


def layers_of(encoder: nn.Module, layout: Layout) -> list[nn.Module]:
    """The encoder's layers, the lowest first."""
    return list(encoder.get_submodule(layout.layers).children())


def sizes_of(encoder: nn.Module, layout: Layout) -> Sizes:
    """Read off the modules themselves, so that they hold for stock and for pruned encoders alike."""
    layers = layers_of(encoder, layout)
    head_size = int(getattr(layers[0].get_submodule(layout.attention), layout.head_size))
    tokens = encoder.get_submodule(layout.tokens)
    return Sizes(
        width=linear_of(layers[0], layout.heads_out).out_features,
        head_size=head_size,
        heads=tuple(linear_of(layer, layout.heads_out).in_features // head_size for layer in layers),
        feed_forward=tuple(linear_of(layer, layout.neurons_out).in_features for layer in layers),
        rank=tokens.table.embedding_dim if isinstance(tokens, FactorizedEmbedding) else None,
    )


def linear_of(layer: nn.Module, path: str) -> nn.Linear:
    """A layer's matrix by its path."""
    return cast(nn.Linear, layer.get_submodule(path))


def parameter_axes(layout: Layout, name: str) -> tuple[int | None, tuple[Axis | None, ...]]:
    """The layer a parameter lies in (None outside the layers), and for each of its sides what it runs over.

    Sides that no pruning shortens are None. The token table is not asked for here: it may change its form.
    """
    path, kind = name.rsplit(".", 1)
    if path.startswith(f"{layout.layers}."):
        index, inner = path.removeprefix(f"{layout.layers}.").split(".", 1)
        if inner in layout.linears:
            out, into = layout.linears[inner]
            return int(index), (out, into) if kind == "weight" else (out,)
        assert inner in layout.norms, name
        return int(index), (WIDTH,)
    if path in layout.other_tables:
        return None, (None, WIDTH)
    assert path in layout.outer_norms, name
    return None, (WIDTH,)


def count(layout: Layout, encoder: nn.Module, sizes: Sizes, layers: frozenset[int]) -> int:
    """Parameters that the encoder would have at these sizes (by its present layers) with those layers left."""
    found = 0
    for name, parameter in encoder.named_parameters():
        if name.startswith(f"{layout.tokens}."):
            continue
        layer, axes = parameter_axes(layout, name)
        if layer is not None and layer not in layers:
            continue
        sides = zip(parameter.shape, axes, strict=True)
        found += math.prod(side if axis is None else sizes.along(axis, layer or 0) for side, axis in sides)
    vocab = table_of(encoder, layout).num_embeddings
    return found + vocab * (sizes.rank or sizes.width) + (sizes.rank or 0) * sizes.width


def table_of(encoder: nn.Module, layout: Layout) -> nn.Embedding:
    """The token table, whole or narrow."""
    tokens = encoder.get_submodule(layout.tokens)
    return tokens.table if isinstance(tokens, FactorizedEmbedding) else cast(nn.Embedding, tokens)
