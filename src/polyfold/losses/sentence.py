"""Distillation on the sentence vector that the heads read, across tokenizers and families.

The direction of each vector (a cosine), and how alike any two documents of a batch are: Tung and Mori,
"Similarity-Preserving Knowledge Distillation" (2019), section 3, on cosines. The second needs no common width.
"""

from typing import Literal

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional


class SentenceLoss(BaseModel):
    """1 - cosine to the teacher's sentence vector, and `similarity` times the error of the batch's similarities.

    Where the widths differ, the student's vector passes a learned projection before the cosine. Similarities
    are those of documents that happen to share a batch, so this term alone depends on how steps are cut.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sentence"] = "sentence"
    weight: float = Field(default=1.0, ge=0.0)
    similarity: float = Field(default=1.0, ge=0.0)

    @property
    def wanted(self) -> frozenset[str]:
        """What of the encoder this loss reads."""
        return frozenset({"pooled"})


def cosine_sum(
    student: Float[Tensor, "batch hidden"], teacher: Float[Tensor, "batch hidden"]
) -> Float[Tensor, ""]:
    """1 - cosine, summed over documents."""
    return (1.0 - functional.cosine_similarity(student, teacher, dim=-1)).sum()


def similarity_error_sum(
    student: Float[Tensor, "batch narrow"], teacher: Float[Tensor, "batch hidden"]
) -> Float[Tensor, ""]:
    """Squared difference of the two matrices of cosines, summed over ordered pairs of different documents."""
    own, other = functional.normalize(student, dim=-1), functional.normalize(teacher, dim=-1)
    # A document is like itself on both sides; what rounding leaves there is no pair's.
    error = (own @ own.T - other @ other.T).fill_diagonal_(0.0)
    return (error**2).sum()
