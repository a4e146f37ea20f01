"""Asking teachers: their answers on whole splits, cached for training, averaged with weights fitted on dev."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from polyfold.artifact import Artifact
from polyfold.console import progress_bar
from polyfold.data.dataset import Documents
from polyfold.predictor import Predictor
from polyfold.tasks import NOT_LABELLED, Task
from polyfold.train.answers import (
    Answer,
    Answers,
    TeacherSet,
    combine,
    coverage,
    fit_weights,
    one_answer,
    the_lead,
)
from polyfold.train.cache import CachedTeacher, cache_key, open_cache
from polyfold.train.evaluate import calibrate
from polyfold.train.teachers import NOTHING, ComposedTeacher, GuidedTeacher, open_model, open_online_teacher

CPU = torch.device("cpu")

CHUNK = 8192
"""Documents asked at once: enough to sort them by length, few enough that progress shows."""


@dataclass(frozen=True)
class TeachFrom:
    """Opens a set of teachers on documents: their logits from the cache or online, and a look inside the lead.

    Losses that look inside need one model to look into (`TeacherSet.lead`), and that one online; the logits may
    come from the cache all the same.
    """

    teachers: TeacherSet
    tasks: tuple[Task, ...]
    cache: Path
    mode: Literal["cached", "online"] = "cached"

    def __call__(self, documents: Documents, wanted: frozenset[str] = NOTHING) -> GuidedTeacher:
        """The teacher's answers for these documents, with what is `wanted` of its inside."""
        answering: GuidedTeacher
        if self.mode == "online":
            answering = open_online_teacher(self.teachers, documents, self.tasks)
        else:
            answering = open_cached_teacher(self.teachers, documents, self.tasks, self.cache)
        if not wanted:
            return answering
        lead = the_lead(self.teachers.lead, "a loss can look inside the teacher", "losses")
        return ComposedTeacher(answering, open_model(lead, documents, wanted))


def open_cached_teacher(
    teachers: TeacherSet, documents: Documents, tasks: Sequence[Task], folder: Path
) -> CachedTeacher:
    """The cache for these teachers on these documents, computed now if there is no good one.

    It is named by a hash of teachers and documents, so another's is never read.
    """
    return open_cache(folder, cache_key(teachers, documents), lambda: ask(teachers, documents, tasks))


def ask(teachers: TeacherSet, documents: Documents, tasks: Sequence[Task]) -> Answers:
    """What a set of teachers answers for documents, whatever runtimes its models are of.

    Every model is asked once, and only about the documents that it covers.
    """
    found = {artifact.path: _ask_one(artifact, documents, tasks) for artifact in teachers.artifacts}
    members = [[found[artifact.path] for artifact in member] for member in teachers.members]
    return combine(members, teachers.weights)


def dev_weights(
    members: Sequence[tuple[Artifact, ...]], dev: Documents, tasks: Sequence[Task]
) -> dict[str, tuple[float, ...]]:
    """By task the weights of a mean that make dev's labels likeliest; a member without the task has none."""
    answers = [ask(TeacherSet((member,)), dev, tasks) for member in members]
    found = {}
    for task in tasks:
        able = [number for number, one in enumerate(answers) if task.name in one]
        rows = dev.labelled(task)
        if able and rows.any():
            known = [_rows(answers[number][task.name], rows) for number in able]
            weights = np.zeros(len(members))
            weights[able] = fit_weights(task, dev.labels[task.name][rows], known)
            found[task.name] = tuple(weights.tolist())
    return found


def set_tasks(teachers: TeacherSet, tasks: Sequence[Task], dev: Documents) -> tuple[Task, ...]:
    """The tasks that a set answers, each with the temperature and thresholds of its answers.

    Where one model answers a task they are its own; those of several models are fitted on dev for all together.
    """
    owners = {
        task.name: [
            one for artifact in teachers.artifacts for one in artifact.config()[1] if one.name == task.name
        ]
        for task in tasks
    }
    shared = tuple(task for task in tasks if len(owners[task.name]) > 1)
    fitted = {task.name: own[0] for task in tasks if len(own := owners[task.name]) == 1}
    if shared:
        answers = ask(teachers, dev, shared)
        logits = {name: answer.logits.numpy() for name, answer in answers.items()}
        fitted |= {task.name: task for task in calibrate(shared, answerable(dev, answers), logits)}
    return tuple(fitted[task.name] for task in tasks if task.name in fitted)


def answerable(documents: Documents, answers: Answers) -> Documents:
    """The documents with the labels of those (document, task) pairs alone that have an answer."""
    labels = {}
    for name, answer in answers.items():
        labels[name] = documents.labels[name].copy()
        labels[name][~answer.covered.numpy()] = NOT_LABELLED
    return replace(documents, labels={**documents.labels, **labels})


def _ask_one(artifact: Artifact, documents: Documents, tasks: Sequence[Task]) -> Answers:
    """One model's answers for the documents it covers; the others' logits are zero."""
    covers = coverage(artifact, tasks, documents)
    if not covers:
        return {}
    rows = np.flatnonzero(np.any(list(covers.values()), axis=0))
    predictor = Predictor.open(artifact.path)
    parts = []
    with progress_bar(f"{artifact.manifest.name} answers", len(rows)) as bar:
        for start in range(0, len(rows), CHUNK):
            texts = [documents.texts[row] for row in rows[start : start + CHUNK]]
            parts.append(predictor.logits(texts))
            bar.advance(len(texts))
    answers = {}
    for task in predictor.tasks:
        if task.name in covers:
            empty = [np.zeros((0, len(task.labels)), dtype=np.float32)]
            logits = np.concatenate(empty + [part[task.name] for part in parts])
            answers[task.name] = one_answer(task, torch.from_numpy(logits), covers[task.name], CPU)
    return answers


def _rows(answer: Answer, rows: np.ndarray) -> Answer:
    chosen = torch.from_numpy(rows)
    return Answer(answer.logits[chosen], answer.covered[chosen], answer.temperature[chosen])
