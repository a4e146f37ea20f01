"""What models answer, in counts: labels given, confidence, lengths.

Rows are gathered and counted many at a time: numpy takes some thirty microseconds for one row of three tasks, and
hardly more for two hundred.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from polyfold import metrics
from polyfold.serve.engine.answers import Answers
from polyfold.tasks import Task

GATHERED = 256
"""Rows that wait to be counted; whoever wants the counts counts them first."""


@dataclass
class TaskCounts:
    """One task's answers since the start; `labels` is int64 [labels]."""

    labels: np.ndarray
    confidence_sum: float = 0.0


@dataclass(frozen=True)
class TaskRows:
    """One task's answers in some rows: documents given each label, given none, and each one's confidence [n]."""

    labels: np.ndarray
    without_label: int
    confidence: np.ndarray


@dataclass(frozen=True)
class Rows:
    """Some answered texts: their tokens, int64 [n], and what each task says of them."""

    tokens: np.ndarray
    tasks: dict[str, TaskRows]


@dataclass
class AnswerCounts:
    """One version's answers; `counted` is told of the rows whenever some have been counted."""

    tasks: tuple[Task, ...]
    counted: Callable[[Rows], None]
    texts: int = 0
    truncated: int = 0
    answered: int = 0
    by_task: dict[str, TaskCounts] = field(init=False)

    def __post_init__(self) -> None:
        self.by_task = {task.name: TaskCounts(np.zeros(len(task.labels), np.int64)) for task in self.tasks}
        self._lock = threading.Lock()
        self._waiting: list[Answers] = []
        self._rows = 0

    def add(self, answers: Answers) -> None:
        """One finished request; its rows are counted now or soon."""
        with self._lock:
            self._waiting.append(answers)
            self._rows += len(answers.tokens)
            if self._rows >= GATHERED:
                self._count()

    def settle(self) -> None:
        """Count what waits."""
        with self._lock:
            if self._waiting:
                self._count()

    def _count(self) -> None:
        waiting, self._waiting, self._rows = self._waiting, [], 0
        probabilities = np.concatenate([one.probabilities for one in waiting])
        tokens = np.concatenate([one.tokens for one in waiting])
        self.texts += len(tokens)
        self.truncated += int(np.concatenate([one.truncated for one in waiting]).sum())
        # Rows that failed are NaN.
        answered = ~np.isnan(probabilities).any(axis=1)
        rows = count_rows(self.tasks, probabilities[answered], tokens[answered])
        self.answered += int(answered.sum())
        for name, found in rows.tasks.items():
            self.by_task[name].labels += found.labels
            self.by_task[name].confidence_sum += float(found.confidence.sum())
        self.counted(rows)


def count_rows(tasks: Sequence[Task], probabilities: np.ndarray, tokens: np.ndarray) -> Rows:
    """Of rows whose tasks stand side by side, float [n, labels of all tasks], at the tasks' own thresholds."""
    found, start = {}, 0
    for task in tasks:
        own = probabilities[:, start : start + len(task.labels)]
        start += len(task.labels)
        decided = task.decide(own)
        found[task.name] = TaskRows(
            labels=metrics.label_counts(task, decided),
            without_label=int((~decided.any(axis=1)).sum()) if task.multi_label else 0,
            confidence=metrics.confidence(task, own),
        )
    return Rows(tokens, found)
