"""The prepared data: documents with their labels, in three splits, and what preparing left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict

from polyfold.tasks import NOT_LABELLED, Task

SPLITS = ("train", "dev", "test")

UNDETERMINED = "und"
"""The language of a text whose source names none (BCP 47's own code for that)."""


@dataclass(frozen=True)
class Documents:
    """One split. Label arrays: int64 [n] for single-label, int8 [n, labels] for multi-label; -1 = not labelled."""

    ids: Sequence[str]
    texts: Sequence[str]
    languages: Sequence[str]
    groups: Sequence[str]
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: np.ndarray) -> "Documents":
        """The chosen documents, in that order."""
        return Documents(
            [self.ids[i] for i in indices],
            [self.texts[i] for i in indices],
            [self.languages[i] for i in indices],
            [self.groups[i] for i in indices],
            {name: values[indices] for name, values in self.labels.items()},
        )

    def followed_by(self, others: "Documents", tasks: Sequence[Task]) -> "Documents":
        """These documents, then others that carry no label for any task."""
        labels = {}
        for task in tasks:
            own = self.labels[task.name]
            empty = np.full((len(others), *own.shape[1:]), NOT_LABELLED, dtype=own.dtype)
            labels[task.name] = np.concatenate([own, empty])
        return Documents(
            [*self.ids, *others.ids],
            [*self.texts, *others.texts],
            [*self.languages, *others.languages],
            [*self.groups, *others.groups],
            labels,
        )

    def labelled(self, task: Task) -> np.ndarray:
        """Which documents carry a label for this task: bool [n]."""
        values = self.labels[task.name]
        return (values if values.ndim == 1 else values[:, 0]) != NOT_LABELLED


@dataclass(frozen=True)
class Dataset:
    """All splits of a prepared data set; `fingerprint` is the SHA-256 of its content."""

    tasks: tuple[Task, ...]
    train: Documents
    dev: Documents
    test: Documents
    unlabelled: Documents
    fingerprint: str
    max_length: int = 128

    def split(self, name: str) -> Documents:
        """`train`, `dev`, `test` or `unlabelled` by name."""
        return {"train": self.train, "dev": self.dev, "test": self.test, "unlabelled": self.unlabelled}[name]


class Preparation(BaseModel):
    """What preparing read, left out and changed: counts of documents, and the warnings about them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows_read: dict[str, int] = {}
    other_languages: int = 0
    empty: int = 0
    duplicates_dropped: int = 0
    not_sampled: dict[str, int] = {}
    labels_outside_task_languages: dict[str, int] = {}
    unlabelled_left_out: dict[str, int] = {}
    warnings: tuple[str, ...] = ()
