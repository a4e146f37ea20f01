"""Distillation on how an encoder's positions relate to each other: MiniLM, MiniLMv2, TinyBERT's attention.

Wang et al., "MiniLM: Deep Self-Attention Distillation" (2020), section 3; Wang et al., "MiniLMv2: Multi-Head
Self-Attention Relation Distillation" (2021), section 3; Jiao et al., "TinyBERT" (2020), section 3.2. All of them
compare, for each position as a query, what it is to every position as a key, so widths may differ freely.

Functions return sums over real query positions; a padded position is neither query nor key. Divided by the
number of real positions of a step, they are the papers' means over |x|.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from polyfold.losses.layers import LayerMap


class AttentionLoss(BaseModel):
    """Self-attention of mapped layers, head by head, and value relations (times `value_relations`).

    `compare: distributions` is MiniLM's L_AT, a KL divergence of attention probabilities; `scores` is TinyBERT's
    mean squared error of the scaled products before the softmax (Eq. 7). Both need as many heads in the student
    as in the teacher. MiniLM takes the last layer alone, TinyBERT `uniform` layers without value relations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["attention"] = "attention"
    weight: float = Field(default=1.0, ge=0.0)
    layers: LayerMap = "last"
    compare: Literal["distributions", "scores"] = "distributions"
    value_relations: float = Field(default=1.0, ge=0.0)

    @property
    def wanted(self) -> frozenset[str]:
        """Internals this loss reads."""
        return frozenset({"queries", "keys"} | ({"values"} if self.value_relations else set()))


class RelationLoss(BaseModel):
    """MiniLMv2: query-query, key-key and value-value relations of one layer, in `relation_heads` heads.

    Heads are concatenated and split anew, so both sides may have any number of attention heads; more relation
    heads see finer relations (the paper: 48 for a base-size teacher, 64 for a large one). Layers count from 0;
    None is the last. For a large teacher a layer below the last is better (the paper: the 21st of 24).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["relations"] = "relations"
    weight: float = Field(default=1.0, ge=0.0)
    teacher_layer: int | None = Field(default=None, ge=0)
    student_layer: int | None = Field(default=None, ge=0)
    relation_heads: int = Field(default=16, ge=1)
    queries: float = Field(default=1.0, ge=0.0)
    keys: float = Field(default=1.0, ge=0.0)
    values: float = Field(default=1.0, ge=0.0)

    @property
    def parts(self) -> dict[str, float]:
        """The weight alpha_i of each relation that counts."""
        weights = {"queries": self.queries, "keys": self.keys, "values": self.values}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def wanted(self) -> frozenset[str]:
        """Internals this loss reads."""
        return frozenset(self.parts)


def scaled_products(
    first: Float[Tensor, "batch seq hidden"], second: Float[Tensor, "batch seq hidden"], heads: int
) -> Float[Tensor, "batch heads seq seq"]:
    """Q K^T / sqrt(d) of every head, d the width of one: the argument of the softmax in both papers.

    With `first` and `second` the queries and keys it is attention; with one tensor twice, a self-relation
    (MiniLM: V V^T / sqrt(d); MiniLMv2: Q Q^T, K K^T and V V^T).
    """
    batch, seq, width = first.shape
    if width % heads:
        raise ValueError(f"{heads} heads do not divide a width of {width}")
    each = width // heads
    rows = first.reshape(batch, seq, heads, each).transpose(1, 2)
    columns = second.reshape(batch, seq, heads, each).transpose(1, 2)
    return rows @ columns.transpose(2, 3) / each**0.5


def relation_divergence_sum(
    student: Float[Tensor, "batch heads seq seq"],
    teacher: Float[Tensor, "batch heads seq seq"],
    mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    """KL(teacher || student) of the softmax over keys, meaned over heads, summed over query positions.

    MiniLM's L_AT (section 3.1) and L_VR (3.2), MiniLMv2's L_i (3.1), each times the number of positions |x|.
    """
    keys = mask[:, None, None, :]
    # The smallest number and not -inf: zero probability times infinity would be no number.
    target = functional.log_softmax(teacher.masked_fill(~keys, torch.finfo(teacher.dtype).min), dim=-1)
    predicted = functional.log_softmax(student.masked_fill(~keys, torch.finfo(student.dtype).min), dim=-1)
    pointwise = (target.exp() * (target - predicted)).masked_fill(~keys, 0.0)
    return pointwise.sum(dim=-1).mean(dim=1)[mask].sum()


def score_error_sum(
    student: Float[Tensor, "batch heads seq seq"],
    teacher: Float[Tensor, "batch heads seq seq"],
    mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    """Squared error meaned over heads and a document's real keys, summed over query positions (TinyBERT, Eq. 7).

    For a single document of l positions, this is l times the mean over its l x l matrices.
    """
    keys = mask[:, None, None, :]
    squared = ((student - teacher) ** 2).masked_fill(~keys, 0.0)
    lengths = mask.sum(dim=1).clamp(min=1)[:, None]
    return (squared.sum(dim=-1).mean(dim=1) / lengths)[mask].sum()
