"""The answers for many documents: columns inside, one `Prediction` a document for whoever asks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

import numpy as np

from polyfold.tasks import Task

_BLOCK = 1024
"""Documents turned into objects at a time by an iteration: a call of numpy is shared, memory is not filled."""


@dataclass(frozen=True)
class Prediction:
    """One document's answer: by task its label, or its labels, and every label's calibrated probability.

    `truncated` says that the text was longer than the model reads, and its end was not looked at.
    """

    labels: dict[str, str | list[str]]
    probabilities: dict[str, dict[str, float]]
    truncated: bool


@dataclass(frozen=True, eq=False)
class Predictions(Sequence[Prediction]):
    """Predictions in the order of their texts, as columns.

    By task: `probabilities`, float32 [n, labels], and `decided`, int64 [n] or for multi-label int8 [n, labels].
    `truncated` is bool [n]. A `Prediction` is made when it is asked for, which takes longer than a small model
    needs for the document. Equal to any sequence of equal predictions.
    """

    tasks: tuple[Task, ...]
    probabilities: Mapping[str, np.ndarray]
    decided: Mapping[str, np.ndarray]
    truncated: np.ndarray

    def __len__(self) -> int:
        return len(self.truncated)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...
    def __getitem__(self, index: int | slice) -> "Prediction | Predictions":
        if isinstance(index, slice):
            return self._part(index)
        place = range(len(self))[index]
        return next(self._part(slice(place, place + 1))._objects())

    def __iter__(self) -> Iterator[Prediction]:
        for start in range(0, len(self), _BLOCK):
            yield from self._part(slice(start, start + _BLOCK))._objects()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def names(self, task: str) -> list[str] | list[tuple[str, ...]]:
        """A task's decided labels by name: one a document, or for a multi-label task a tuple each."""
        answers, codes = self.coded(task)
        # A document costs a reference here and no object of its own, of which many set off garbage collections.
        found: list[str] | list[tuple[str, ...]] = _objects_of(answers)[codes].tolist()
        return found

    def coded(self, task: str) -> tuple[tuple[str, ...] | list[tuple[str, ...]], np.ndarray]:
        """Different answers to a task, as `names` gives them, and which of them is each document's: int64 [n]."""
        labels = next(one.labels for one in self.tasks if one.name == task)
        decided = self.decided[task]
        if decided.ndim == 1:
            return labels, decided
        packed = np.ascontiguousarray(np.packbits(decided, axis=1))
        patterns = packed.view(f"V{packed.shape[1]}")[:, 0].tolist()
        # A row for each pattern: all rows that have it are alike.
        rows = dict(zip(patterns, range(len(patterns)), strict=True))
        places = dict(zip(rows, range(len(rows)), strict=True))
        codes = np.fromiter(map(places.__getitem__, patterns), dtype=np.int64, count=len(patterns))
        return list(map(tuple, _applying(decided[list(rows.values())], labels))), codes

    def _part(self, rows: slice) -> "Predictions":
        return Predictions(
            self.tasks,
            {name: values[rows] for name, values in self.probabilities.items()},
            {name: values[rows] for name, values in self.decided.items()},
            self.truncated[rows],
        )

    def _objects(self) -> Iterator[Prediction]:
        # Lists of their own, straight from the array: looking for equal answers would cost one document 9 us.
        names = {task.name: _applying(self.decided[task.name], task.labels) for task in self.tasks}
        values = {task.name: self.probabilities[task.name].tolist() for task in self.tasks}
        for row, cut in enumerate(self.truncated.tolist()):
            yield Prediction(
                {name: decided[row] for name, decided in names.items()},
                {task.name: dict(zip(task.labels, values[task.name][row], strict=True)) for task in self.tasks},
                cut,
            )


def _applying(decided: np.ndarray, labels: Sequence[str]) -> list[Any]:
    """The label that each row of decided labels names, or in a multi-label array a list of those that apply."""
    if decided.ndim == 1:
        return [labels[place] for place in decided.tolist()]
    flat = _objects_of(labels)[np.nonzero(decided)[1]].tolist()
    ends = np.count_nonzero(decided, axis=1).cumsum().tolist()
    return [flat[start:end] for start, end in pairwise([0, *ends])]


def _objects_of(values: Sequence[str] | Sequence[tuple[str, ...]]) -> np.ndarray:
    """An array of these very objects; tuples do not become an axis."""
    return np.fromiter(values, dtype=object, count=len(values))
