"""Teachers while a student trains: models asked at each step, a cache read instead, a look inside one of them.

A teacher may have another tokenizer than its student, so a model reads the document's row number in the batch and
looks its own token ids up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from polyfold.artifact import Artifact
from polyfold.batch import Batch, Outputs, Taught
from polyfold.data.batches import EncodedDocuments, encode
from polyfold.data.dataset import Documents
from polyfold.model.backbone import Backbone
from polyfold.model.classifier import Model, load_model
from polyfold.model.internals import POOLED, with_internals
from polyfold.tasks import Task
from polyfold.text import open_tokenizer
from polyfold.text.rectangles import RECTANGLE_TOKENS, cheapest_bounds
from polyfold.train.answers import Answers, TeacherSet, combine, coverage, one_answer
from polyfold.train.sides import Sides, aligned

NOTHING: frozenset[str] = frozenset()

TOKEN_BUDGET = 4096
"""Tokens of one pass of a model that is asked on a processor."""


class Teacher(Protocol):
    """What is to be imitated on the documents of a batch; no gradient."""

    def __call__(self, batch: Batch) -> Taught: ...


class ModelTeacher:
    """One model, asked about every document: its logits, and what is `wanted` of its inside."""

    def __init__(self, model: Model, encoded: EncodedDocuments, wanted: frozenset[str] = NOTHING) -> None:
        """`encoded` are the documents that batches are drawn from, as this model's own tokenizer cuts them."""
        self.model = model
        self.encoded = encoded
        self.wanted = wanted
        self._lengths = encoded.encoding.lengths
        model.classifier.eval()

    @property
    def guide(self) -> "ModelTeacher | None":
        """The model whose inside is shown: this one, where anything is wanted."""
        return self if self.wanted else None

    def __call__(self, batch: Batch) -> Taught:
        """Logits of every task the model knows, and its inside."""
        outputs = self.outputs(batch.index, batch.input_ids.device)
        every = torch.ones(len(batch), dtype=torch.bool, device=batch.input_ids.device)
        logits = {name: values.float() for name, values in outputs.logits.items()}
        return Taught(logits, dict.fromkeys(logits, every), outputs.pooled, outputs.internals)

    def outputs(self, index: torch.Tensor, device: torch.device) -> Outputs:
        """The model's outputs for these rows of its documents, on the student's device."""
        # no_grad and not inference_mode: the student's backward pass keeps what it is compared with.
        if next(self.model.classifier.parameters()).device != device:
            self.model.classifier.to(device)
        rows = index.cpu().numpy()
        if self.wanted - {POOLED} or device.type != "cpu":
            return self._ask(rows, device)
        # Of like length, so that little is padding. A GPU has it done sooner in one pass; a look inside needs one.
        order = np.argsort(self._lengths[rows], kind="stable")
        bounds = cheapest_bounds(self._lengths[rows[order]], TOKEN_BUDGET, RECTANGLE_TOKENS)
        parts = [self._ask(rows[order[start:end]], device) for start, end in pairwise(bounds)]
        back = torch.from_numpy(np.argsort(order))
        logits = {name: torch.cat([part.logits[name] for part in parts])[back] for name in parts[0].logits}
        return Outputs(logits, torch.cat([part.pooled for part in parts])[back])

    def _ask(self, rows: np.ndarray, device: torch.device) -> Outputs:
        own = self.encoded.batch(rows).to(device)
        with torch.no_grad():
            return with_internals(self.model.classifier, own.input_ids, own.attention_mask, self.wanted)


class GuidedTeacher(Teacher, Protocol):
    """A teacher that says which of its models may be looked inside of, if that was asked for."""

    @property
    def guide(self) -> ModelTeacher | None: ...


class Teach(Protocol):
    """Opens the teacher on some documents; `wanted` (see `losses.spec.wanted_of`) asks for a look inside it."""

    def __call__(self, documents: Documents, wanted: frozenset[str] = NOTHING) -> GuidedTeacher: ...


@dataclass(frozen=True)
class Seat:
    """One model of a set, and for which documents it answers: bool [n] by task."""

    teacher: ModelTeacher
    covers: Mapping[str, np.ndarray]

    def answers(self, batch: Batch) -> Answers:
        """What it knows of the batch; it runs on those documents alone."""
        index, device = batch.index.cpu(), batch.input_ids.device
        covers = {name: rows[index.numpy()] for name, rows in self.covers.items()}
        asked = np.any(list(covers.values()), axis=0)
        if not asked.any():
            return {}
        outputs = self.teacher.outputs(index[torch.from_numpy(asked)], device)
        tasks = {task.name: task for task in self.teacher.model.tasks}
        return {
            name: one_answer(
                tasks[name], outputs.logits[name][torch.from_numpy(rows[asked]).to(device)], rows, device
            )
            for name, rows in covers.items()
        }


class OnlineTeacher:
    """A set of models, each asked at each step about the documents it knows."""

    guide: ModelTeacher | None = None

    def __init__(self, members: Sequence[Sequence[Seat]], weights: Mapping[str, Sequence[float]]) -> None:
        self._members = tuple(tuple(seats) for seats in members)
        self._weights = weights
        self._labels = {
            task.name: len(task.labels)
            for seats in self._members
            for seat in seats
            for task in seat.teacher.model.tasks
            if task.name in seat.covers
        }

    def __call__(self, batch: Batch) -> Taught:
        """Logits of every task that some model knows, float [batch labels]."""
        answers = combine([[seat.answers(batch) for seat in seats] for seats in self._members], self._weights)
        device = batch.input_ids.device
        logits = {name: torch.zeros((len(batch), count), device=device) for name, count in self._labels.items()}
        nowhere = torch.zeros(len(batch), dtype=torch.bool, device=device)
        covered = {name: answers[name].covered if name in answers else nowhere for name in logits}
        return Taught(logits | {name: answer.logits for name, answer in answers.items()}, covered)


class ComposedTeacher:
    """The logits of one teacher and the inside of another: a cache, say, and a model whose layers are imitated."""

    def __init__(self, answering: Teacher, guide: ModelTeacher) -> None:
        self.guide = guide
        self._answering = answering

    def __call__(self, batch: Batch) -> Taught:
        """Both in one."""
        inside = self.guide(batch)
        return replace(self._answering(batch), pooled=inside.pooled, internals=inside.internals)


def open_model(artifact: Artifact, documents: Documents, wanted: frozenset[str] = NOTHING) -> ModelTeacher:
    """Load a finished model and encode the documents for it."""
    model = load_model(artifact.path)
    tokenizer = open_tokenizer(artifact.path, model.backbone.tokenizer)
    return ModelTeacher(model, encode(documents, tokenizer, model.max_length), wanted)


def open_online_teacher(teachers: TeacherSet, documents: Documents, tasks: Sequence[Task]) -> OnlineTeacher:
    """Load a set's models, each once, and encode the documents for each."""
    opened = {
        artifact.path: Seat(open_model(artifact, documents), coverage(artifact, tasks, documents))
        for artifact in teachers.artifacts
    }
    members = [[opened[artifact.path] for artifact in member] for member in teachers.members]
    return OnlineTeacher(members, teachers.weights)


def sides_of(
    student: Backbone, train: EncodedDocuments, teacher: GuidedTeacher | None, seed: int = 0
) -> Sides | None:
    """Student and teacher side by side, for losses that look inside; None where the teacher shows nothing."""
    guide = teacher.guide if teacher is not None else None
    if guide is None:
        return None
    return Sides(student, guide.model.backbone, aligned(train, guide.encoded), seed)
