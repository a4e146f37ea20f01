"""All losses a recipe may name, and what they read of student and teacher beside logits."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from polyfold.errors import InputError
from polyfold.losses.hidden import EmbeddingLoss, HiddenStatesLoss
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.losses.relations import AttentionLoss, RelationLoss
from polyfold.losses.sentence import SentenceLoss

ImitationLoss = AttentionLoss | RelationLoss | HiddenStatesLoss | EmbeddingLoss | SentenceLoss
"""Losses that need no labels, no tasks and no heads: they learn from every document."""

LossSpec = Annotated[LabelLoss | LogitLoss | ImitationLoss, Field(discriminator="kind")]


def named(losses: Sequence[LossSpec]) -> dict[str, LossSpec]:
    """Each loss by its kind, with its place in the list behind it: the name it is logged and counted under."""
    return {f"{loss.kind}{index or ''}": loss for index, loss in enumerate(losses)}


def wanted_of(losses: Sequence[LossSpec]) -> frozenset[str]:
    """What these losses read: `pooled`, `hidden_states`, `queries`, `keys`, `values`; nothing at weight zero."""
    found: frozenset[str] = frozenset()
    for loss in losses:
        if isinstance(loss, ImitationLoss) and loss.weight:
            found |= loss.wanted
    return found


def needs_teacher(losses: Sequence[LossSpec]) -> bool:
    """Whether some loss imitates a teacher."""
    return any(loss.kind == "logits" for loss in losses) or bool(wanted_of(losses))


def check_weights(losses: Sequence[LossSpec]) -> None:
    """InputError where no loss has any weight."""
    if not any(loss.weight for loss in losses):
        raise InputError(
            "every loss has weight zero: there is nothing to learn", key="losses", hint="give one a weight above 0"
        )


def every_document(losses: Sequence[LossSpec]) -> bool:
    """Whether some loss learns from documents without labels."""
    return bool(wanted_of(losses)) or any(isinstance(loss, LogitLoss) and loss.on == "all" for loss in losses)
