"""Distillation on hidden states and on the embedding layer's output: TinyBERT, DistilBERT, XtremeDistil.

Jiao et al., "TinyBERT" (2020), Eq. 8 and 9; Sanh et al., "DistilBERT" (2019), section 2 (cosine). Where the widths
differ, the student's states pass a learned projection first, which is no part of the student.
"""

from typing import Literal

from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from polyfold.losses.layers import LayerMap


class HiddenStatesLoss(BaseModel):
    """Outputs of mapped layers at every position: `mse` (TinyBERT, Eq. 8), or `cosine` as DistilBERT aligns them.

    Layers count from 0. `uniform` pairs evenly spaced layers, `last` the last with the last; or give
    {student layer: teacher layer}. The terms of several layers are added up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["hidden_states"] = "hidden_states"
    weight: float = Field(default=1.0, ge=0.0)
    layers: LayerMap = "uniform"
    distance: Literal["mse", "cosine"] = "mse"

    @property
    def wanted(self) -> frozenset[str]:
        """Internals this loss reads."""
        return frozenset({"hidden_states"})


class EmbeddingLoss(BaseModel):
    """The embedding layer's output at every position (TinyBERT, Eq. 9)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["embeddings"] = "embeddings"
    weight: float = Field(default=1.0, ge=0.0)

    @property
    def wanted(self) -> frozenset[str]:
        """Internals this loss reads."""
        return frozenset({"hidden_states"})


def state_error_sum(
    student: Float[Tensor, "batch seq hidden"],
    teacher: Float[Tensor, "batch seq hidden"],
    mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    """Squared error meaned over the width, summed over real positions (TinyBERT, Eq. 8, times their number)."""
    return ((student - teacher)[mask] ** 2).mean(dim=-1).sum()


def state_angle_sum(
    student: Float[Tensor, "batch seq hidden"],
    teacher: Float[Tensor, "batch seq hidden"],
    mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, ""]:
    """1 - cosine, summed over real positions: DistilBERT's L_cos."""
    return (1.0 - functional.cosine_similarity(student[mask], teacher[mask], dim=-1)).sum()
