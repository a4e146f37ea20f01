"""A pass of BERT-like encoders that computes little of what nobody reads: padding, and most of the last layer.

**The last layer.** Heads read the first token alone, so of its other positions only keys and values matter.
Queries, attention's output and the feed-forward part, five sixths of a layer's multiply-adds, need one position a
document: 28 % less work with three layers, 14 % with six, forward and backward.

**Padding.** A batch sorted by length is cut into rectangles of like documents. Only attention runs over them one
by one; all else works on single tokens, and runs over the tokens of all rectangles at once.

Logits and gradients are those of the whole pass but for rounding. Dropout draws other numbers, since it has fewer
places to draw for.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from polyfold.batch import Outputs
from polyfold.model.backbone import Transformer
from polyfold.model.classifier import Classifier
from polyfold.model.internals import POOLED, with_internals
from polyfold.model.layout import Layout, base_family, layers_of, layout_of
from polyfold.model.quantized import HOOKS
from polyfold.model.stock import StockTrunk
from polyfold.text.rectangles import RECTANGLE_TOKENS, cheapest_bounds

FAMILIES = frozenset({"bert", "roberta", "xlm-roberta"})
"""Families whose layers are BERT's, stock or pruned."""


@dataclass(frozen=True)
class Rectangle:
    """Some neighbouring documents of a batch; `mask` is None where all are as long as the longest."""

    documents: int
    width: int
    mask: Bool[Tensor, "batch 1 1 seq"] | None


def training_outputs(
    model: nn.Module,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"],
    wanted: frozenset[str],
) -> Outputs:
    """What `with_internals` returns; the cheaper way where the model trains and nobody looks inside."""
    if model.training and reads_first_token(model, wanted):
        return first_token_outputs(model, input_ids, attention_mask)
    return with_internals(model, input_ids, attention_mask, wanted)


def reads_first_token(model: nn.Module, wanted: frozenset[str]) -> bool:
    """Whether nothing but the first token's last state is wanted of a model whose layers are known."""
    return wanted <= {POOLED} and readable(model)


def readable(model: nn.Module) -> bool:
    """Whether `first_token_outputs` knows this model's layers.

    Quantizers sit on operations of the whole pass, and plain attention takes its masks in another form.
    """
    if not isinstance(model, Classifier) or not isinstance(model.encoder, Transformer):
        return False
    encoder = model.encoder.encoder
    if isinstance(encoder, StockTrunk) or any(name == HOOKS for name, _ in model.named_children()):
        return False
    config = encoder.config
    return base_family(str(config.model_type)) in FAMILIES and config._attn_implementation == "sdpa"  # type: ignore[union-attr]


def first_token_outputs(
    model: nn.Module, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]
) -> Outputs:
    """What the classifier returns, for a `readable` one."""
    assert isinstance(model, Classifier)
    assert isinstance(model.encoder, Transformer)
    pooled = _first_token(model.encoder.encoder, input_ids, attention_mask)
    dropped = model.dropout(pooled)
    return Outputs({name: head(dropped) for name, head in model.heads.items()}, pooled)


def cut(attention_mask: Int[Tensor, "batch seq"]) -> list[Rectangle]:
    """Rectangles of like length; the whole batch as one on a GPU, or where lengths do not rise.

    A GPU would wait for the lengths, and spends more on starting kernels than on padding.
    """
    mask = attention_mask.bool()[:, None, None, :]
    whole = Rectangle(len(mask), mask.shape[-1], mask)
    if mask.device.type != "cpu":
        return [whole]
    lengths = attention_mask.sum(dim=1).numpy()
    if bool((np.diff(lengths) < 0).any()):
        return [whole]
    return [
        Rectangle(
            end - start,
            width := int(lengths[end - 1]),
            None if lengths[start] == width else mask[start:end, :, :, :width],
        )
        for start, end in pairwise(cheapest_bounds(lengths, attention_mask.numel(), RECTANGLE_TOKENS))
    ]


def _first_token(
    encoder: nn.Module, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]
) -> Float[Tensor, "batch hidden"]:
    layout = layout_of(str(encoder.config.model_type))  # type: ignore[union-attr]
    rectangles = cut(attention_mask)
    embeddings = encoder.get_submodule("embeddings")
    ids, positions = _flat(rectangles, input_ids, _positions(embeddings, input_ids))
    states = embeddings(
        input_ids=ids[None], position_ids=positions[None], token_type_ids=torch.zeros_like(ids)[None]
    ).squeeze(0)
    *lower, last = layers_of(encoder, layout)
    for layer in lower:
        states = _layer(layer, layout, states, states, rectangles)
    return _layer(last, layout, states, states[_begins(rectangles).to(states.device)], rectangles)


def _positions(embeddings: nn.Module, input_ids: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """The rows of the position table: counted from 0, or as RoBERTa does from behind the padding id."""
    pad_id = cast(nn.Embedding, embeddings.get_submodule("position_embeddings")).padding_idx
    if pad_id is None:
        return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    real = (input_ids != pad_id).long()
    return real.cumsum(dim=1) * real + pad_id


def _flat(rectangles: list[Rectangle], *values: Int[Tensor, "batch seq"]) -> list[Int[Tensor, "tokens"]]:
    """The rectangles' tokens one after the other."""
    counts = [one.documents for one in rectangles]
    return [
        torch.cat(
            [part[:, : one.width].reshape(-1) for part, one in zip(whole.split(counts), rectangles, strict=True)]
        )
        for whole in values
    ]


def _begins(rectangles: list[Rectangle]) -> Int[Tensor, "batch"]:
    """Where each document's first token stands among all."""
    widths = torch.cat([torch.full((one.documents,), one.width) for one in rectangles])
    return widths.cumsum(dim=0) - widths


def _layer(
    layer: nn.Module,
    layout: Layout,
    states: Float[Tensor, "tokens hidden"],
    read: Float[Tensor, "queries hidden"],
    rectangles: list[Rectangle],
) -> Float[Tensor, "queries hidden"]:
    """A layer's states of the positions that are `read`: all of `states`, or one of every document."""
    own = layer.get_submodule(layout.attention)
    heads = (-1, int(getattr(own, layout.head_size)))
    tokens = [one.documents * one.width for one in rectangles]
    queries = tokens if read is states else [one.documents for one in rectangles]
    dropout = cast(nn.Dropout, own.get_submodule("dropout"))
    parts = zip(
        rectangles,
        own.get_submodule("query")(read).split(queries),
        own.get_submodule("key")(states).split(tokens),
        own.get_submodule("value")(states).split(tokens),
        strict=True,
    )
    contexts = []
    for one, *three in parts:
        # [tokens, heads x head] to [batch, heads, seq, head], and back.
        query, key, value = (
            part.unflatten(0, (one.documents, -1)).unflatten(2, heads).transpose(1, 2) for part in three
        )
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=one.mask, dropout_p=dropout.p if own.training else 0.0
        )
        contexts.append(context.transpose(1, 2).flatten(2).flatten(0, 1))
    attended = layer.get_submodule("attention.output")(torch.cat(contexts), read)
    result: Tensor = layer.get_submodule("output")(layer.get_submodule("intermediate")(attended), attended)
    return result
