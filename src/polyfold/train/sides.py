"""Student and teacher side by side: which layers belong together, and which losses the two cannot have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from polyfold.data.batches import EncodedDocuments
from polyfold.errors import InputError
from polyfold.losses.hidden import EmbeddingLoss, HiddenStatesLoss
from polyfold.losses.layers import layer_pairs
from polyfold.losses.relations import AttentionLoss, RelationLoss
from polyfold.losses.sentence import SentenceLoss
from polyfold.losses.spec import ImitationLoss, LossSpec, check_weights
from polyfold.model.backbone import Backbone
from polyfold.model.internals import POOLED, Shape, internals_available, shape_of


@dataclass(frozen=True)
class Sides:
    """The two encoders of an imitation; `same_tokenizer` if position i means the same piece of text to both.

    Learned projections between them are drawn from `seed`.
    """

    student: Backbone
    teacher: Backbone
    same_tokenizer: bool
    seed: int = 0


def aligned(student: EncodedDocuments, teacher: EncodedDocuments) -> bool:
    """Whether both cut every document into the same pieces: as many, each student id always for one teacher id.

    Ids themselves may differ: a trimmed vocabulary numbers the same pieces anew.
    """
    if not np.array_equal(student.encoding.lengths, teacher.encoding.lengths):
        return False
    own, other = student.encoding.flat, teacher.encoding.flat
    if np.array_equal(own, other):
        return True
    pairs = np.unique(own * (int(other.max()) + 1) + other)
    return len(pairs) == len(np.unique(own))


def check_taskless(losses: Sequence[LossSpec]) -> None:
    """InputError for losses that cannot teach a backbone: those of tasks, and none with a weight."""
    for index, loss in enumerate(losses):
        if not isinstance(loss, ImitationLoss):
            raise InputError(
                f"a '{loss.kind}' loss has nothing to learn from where there are no tasks",
                key=f"losses.{index}",
                hint="give sentence, hidden_states, embeddings, attention or relations",
            )
    check_weights(losses)


def check_losses(losses: Sequence[LossSpec], student: Backbone, teacher: Backbone, same_tokenizer: bool) -> None:
    """InputError, before any training, for a loss that these two encoders cannot have."""
    for index, loss in enumerate(losses):
        if not isinstance(loss, ImitationLoss) or not loss.weight:
            continue
        for problem, hint in _problems(loss, student, teacher, same_tokenizer):
            raise InputError(problem, key=f"losses.{index}", hint=hint)


def _problems(
    loss: ImitationLoss, student: Backbone, teacher: Backbone, same_tokenizer: bool
) -> Iterator[tuple[str, str]]:
    """What is wrong with a loss, and what to do instead; each is found only where those before it are not."""
    for side, backbone in (("student", student), ("teacher", teacher)):
        missing = loss.wanted - internals_available(backbone) - {POOLED}
        if missing:
            yield (
                f"a '{loss.kind}' loss reads {', '.join(sorted(missing))}, which the {side} ('{backbone.family}') "
                "does not have",
                "sentence works with every encoder; hidden_states and embeddings without attention",
            )
    if isinstance(loss, SentenceLoss):
        return
    if not same_tokenizer:
        yield (
            f"a '{loss.kind}' loss compares position by position, but student and teacher cut texts differently",
            "use a sentence or logits loss, or a student with its teacher's tokenizer",
        )
    own, other = shape_of(student), shape_of(teacher)
    if isinstance(loss, EmbeddingLoss):
        return
    pairs = mapped_layers(loss, own, other)
    for mine, theirs in pairs:
        for side, layer, shape in (("student", mine, own), ("teacher", theirs, other)):
            if not 0 <= layer < shape.layers:
                yield f"there is no layer {layer} in the {side}", f"its layers are 0 to {shape.layers - 1}"
    if isinstance(loss, RelationLoss):
        yield from _relation_problems(loss, pairs, own, other)
    if isinstance(loss, AttentionLoss):
        yield from _attention_problems(pairs, own, other)


def _relation_problems(
    loss: RelationLoss, pairs: Sequence[tuple[int, int]], student: Shape, teacher: Shape
) -> Iterator[tuple[str, str]]:
    for mine, theirs in pairs:
        for side, width in (("student", student.attention[mine]), ("teacher", teacher.attention[theirs])):
            if width % loss.relation_heads:
                yield (
                    f"{loss.relation_heads} relation heads do not divide the {side}'s width of {width}",
                    f"for example {_divisor(student.attention[mine], teacher.attention[theirs], loss)}",
                )


def _attention_problems(
    pairs: Sequence[tuple[int, int]], student: Shape, teacher: Shape
) -> Iterator[tuple[str, str]]:
    if student.rotary or teacher.rotary:
        yield (
            "an 'attention' loss cannot be formed with an encoder of rotary positions: its queries and keys are "
            "rotated after they are read",
            "use relations",
        )
    for mine, theirs in pairs:
        if student.heads[mine] != teacher.heads[theirs]:
            yield (
                f"layer {mine} of the student has {student.heads[mine]} attention heads, layer {theirs} of the "
                f"teacher {teacher.heads[theirs]}",
                "use relations, which split both anew, or a student with as many heads",
            )


def _divisor(student: int, teacher: int, loss: RelationLoss) -> int:
    """The number of relation heads nearest to the one given that divides both widths."""
    common = [heads for heads in range(1, student + 1) if student % heads == 0 and teacher % heads == 0]
    return min(common, key=lambda heads: abs(heads - loss.relation_heads))


def mapped_layers(loss: ImitationLoss, student: Shape, teacher: Shape) -> tuple[tuple[int, int], ...]:
    """(student layer, teacher layer) pairs of a loss; -1 is the embedding layer."""
    match loss:
        case HiddenStatesLoss() | AttentionLoss():
            return layer_pairs(loss.layers, student.layers, teacher.layers)
        case RelationLoss():
            last = student.layers - 1, teacher.layers - 1
            own = last[0] if loss.student_layer is None else loss.student_layer
            return ((own, last[1] if loss.teacher_layer is None else loss.teacher_layer),)
        case EmbeddingLoss():
            return ((-1, -1),)
        case SentenceLoss():
            return ()
