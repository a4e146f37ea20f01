"""Distillation on logits (paper, Eq. 2), summed over documents."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional


class LogitLoss(BaseModel):
    """Eq. 2's second term; `weight` is alpha, `temperature` is F.

    `on: labelled` distils the labelled (document, task) pairs, as the paper does; `on: all` distils every task
    on every document, labelled or not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["logits"] = "logits"
    weight: float = Field(default=1.0, ge=0.0)
    temperature: float = Field(default=1.0, gt=0.0)
    on: Literal["labelled", "all"] = "labelled"


def single_label_divergence_sum(
    student: Float[Tensor, "batch labels"],
    teacher: Float[Tensor, "batch labels"],
    mask: Bool[Tensor, "batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """F^2 * KL(teacher || student) over softmax distributions at temperature F, summed over documents.

    The factor F^2 keeps the size of the gradient free of the temperature (Hinton et al., 2015, section 2).
    """
    target = functional.log_softmax(teacher[mask].to(student.dtype) / temperature, dim=-1)
    predicted = functional.log_softmax(student[mask] / temperature, dim=-1)
    return functional.kl_div(predicted, target, reduction="sum", log_target=True) * temperature**2


def multi_label_divergence_sum(
    student: Float[Tensor, "batch labels"],
    teacher: Float[Tensor, "batch labels"],
    mask: Bool[Tensor, "batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """The same with a Bernoulli distribution a label: a softmax over independent labels would be wrong.

    Written with log-sigmoids of both signs, so that no probability is ever rounded to 0 or 1.
    """
    q = teacher[mask].to(student.dtype) / temperature
    p = student[mask] / temperature
    probability = torch.sigmoid(q)
    positive = probability * (functional.logsigmoid(q) - functional.logsigmoid(p))
    negative = (1 - probability) * (functional.logsigmoid(-q) - functional.logsigmoid(-p))
    return (positive + negative).sum() * temperature**2
