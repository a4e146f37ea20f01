"""The supervised loss of a task, summed over its labelled documents (paper, Eq. 1).

Functions return sums, never means: whoever knows the number of labelled (document, task) pairs of the whole
optimizer step divides by it once, so that splitting a batch differently changes nothing.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional


class LabelLoss(BaseModel):
    """Eq. 1. For skewed labels: `class_weights: balanced` (or given by task and label), or `logit_adjustment`.

    `logit_adjustment` adds tau times the log prior to the training logits (Menon et al., "Long-tail learning
    via logit adjustment", 2021, Eq. 10); `label_smoothing` spreads that share of a single label's mass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["labels"] = "labels"
    weight: float = Field(default=1.0, ge=0.0)
    class_weights: Literal["balanced"] | dict[str, dict[str, float]] | None = None
    logit_adjustment: float = Field(default=0.0, ge=0.0)
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)


def single_label_sum(
    logits: Float[Tensor, "batch labels"],
    labels: Tensor,
    mask: Bool[Tensor, "batch"],
    class_weights: Float[Tensor, "labels"] | None = None,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy summed over the labelled documents; unlabelled ones give exactly no gradient."""
    return functional.cross_entropy(
        logits[mask], labels[mask], weight=class_weights, reduction="sum", label_smoothing=label_smoothing
    )


def multi_label_sum(
    logits: Float[Tensor, "batch labels"],
    labels: Float[Tensor, "batch labels"],
    mask: Bool[Tensor, "batch"],
    label_weights: Float[Tensor, "labels"] | None = None,
) -> Float[Tensor, ""]:
    """Bernoulli cross-entropy summed over labels and labelled documents.

    A mean over the labels would make a task count less the more labels it has. `label_weights` weigh a label's
    positives against its negatives.
    """
    return functional.binary_cross_entropy_with_logits(
        logits[mask], labels[mask].to(logits.dtype), pos_weight=label_weights, reduction="sum"
    )


def adjusted(
    logits: Float[Tensor, "batch labels"], prior: Float[Tensor, "labels"], tau: float, multi_label: bool
) -> Float[Tensor, "batch labels"]:
    """Logits shifted by tau times the log prior (log odds for independent labels)."""
    clipped = prior.clamp(1e-6, 1 - 1e-6)
    return logits + tau * (torch.logit(clipped) if multi_label else clipped.log())
