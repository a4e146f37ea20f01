"""Every answer of a server against what the offline predictor says of the same text.

Int8 models round their activations, and a batch's shape decides the order of some sums: probabilities differ a
little, and a text on the border between two labels may cross it. So an answer is a text's own where every
probability is within `tolerance` of the offline one. Labels that differ then are *label differences*, counted
apart. An answer that is not the text's own is *mixed up* where it could be another text's, and *wrong* otherwise.
Where a request did not ask for probabilities, labels stand for them: a difference is one of rounding only where
the offline probabilities lie within the tolerance of the border.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import orjson

from polyfold.predictor import Predictor
from polyfold.tasks import Task

from .jobs import ANSWERED, NOT_SENT, UNREACHABLE, Outcome

TOLERANCE = 0.02
"""MiniLM-L6 in int8 differs by up to 0.008 between a text alone and one in a batch; this leaves room."""

ROUNDED = 1e-6
"""Answers carry six decimal places."""


Verdict = Literal["own", "label_differences", "mixed_up", "wrong", "item_errors", "poisoned"]


@dataclass
class Counts:
    """What became of requests (the first block) and of the texts in answered ones (the second)."""

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    failed: int = 0
    unanswered: int = 0
    unreachable: int = 0
    garbled: int = 0
    duplicated: int = 0
    texts: int = 0
    compared: int = 0
    item_errors: int = 0
    poisoned: int = 0
    mixed_up: int = 0
    wrong: int = 0
    label_differences: int = 0
    largest_difference: float = 0.0
    refusals: dict[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Requests without their answer: none came, or what came cannot be read."""
        return self.unanswered + self.garbled + self.failed

    def add(self, other: "Counts") -> None:
        """Both together."""
        for one in fields(self):
            mine, its = getattr(self, one.name), getattr(other, one.name)
            if one.name == "refusals":
                for code, count in its.items():
                    mine[code] = mine.get(code, 0) + count
            elif one.name == "largest_difference":
                self.largest_difference = max(mine, its)
            else:
                setattr(self, one.name, mine + its)


@dataclass(frozen=True)
class Expected:
    """What the offline predictor says of each text; `poison` are the rows that no model answers.

    `other` is what the same model says on another runtime, where that one may have taken over.
    """

    tasks: tuple[Task, ...]
    labels: Sequence[Mapping[str, Any]]
    truncated: Sequence[bool]
    probabilities: np.ndarray
    tolerance: float = TOLERANCE
    poison: frozenset[int] = frozenset()
    other: "Expected | None" = None

    @staticmethod
    def of(predictor: Predictor, texts: Sequence[str], tolerance: float = TOLERANCE) -> "Expected":
        """Asked of the predictor, all at once."""
        found = predictor.predict(texts)
        flat = np.concatenate([found.probabilities[task.name] for task in predictor.tasks], axis=1)
        labels = [one.labels for one in found]
        return Expected(predictor.tasks, labels, found.truncated.tolist(), flat, tolerance)

    def __len__(self) -> int:
        return len(self.labels)

    def check(self, outcome: Outcome) -> Counts:
        """Every request of a load."""
        counts = Counts(duplicated=int(outcome.facts["unasked"]))
        endings, statuses = outcome.ending.tolist(), outcome.status.tolist()
        for number, (ending, status) in enumerate(zip(endings, statuses, strict=True)):
            if ending == NOT_SENT:
                continue
            counts.sent += 1
            if ending == UNREACHABLE:
                counts.unreachable += 1
            elif ending != ANSWERED:
                counts.unanswered += 1
            elif status // 100 == 2:
                counts.acknowledged += 1
                self._check_body(outcome.job.rows(number, len(self)), outcome.bodies[number], counts)
            else:
                _count_refusal(status, outcome.bodies[number], counts)
        return counts

    def _check_body(self, rows: Sequence[int], body: bytes, counts: Counts) -> None:
        try:
            items = orjson.loads(body)["predictions"]
            fits = len(items) == len(rows)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            fits = False
        if not fits:
            counts.garbled += 1
            return
        counts.texts += len(rows)
        for row, item in zip(rows, items, strict=True):
            self._check_item(row, item, counts)

    def _check_item(self, row: int, item: Mapping[str, Any], counts: Counts) -> None:
        """One text's answer."""
        verdict, difference = self._judge(row, item)
        if verdict in ("mixed_up", "wrong") and self.other is not None:
            second = self.other._judge(row, item)
            verdict, difference = second if second[0] in ("own", "label_differences") else (verdict, difference)
        counts.compared += "probabilities" in item
        if verdict != "own":
            setattr(counts, verdict, getattr(counts, verdict) + 1)
        if verdict in ("own", "label_differences"):
            counts.largest_difference = max(counts.largest_difference, difference)

    def _judge(self, row: int, item: Mapping[str, Any]) -> tuple[Verdict, float]:
        """What an answer is, and how far its probabilities are from the offline ones."""
        if row in self.poison:
            # It must have an error, and no other text may.
            return ("wrong" if "labels" in item else "poisoned"), 0.0
        if "labels" not in item:
            return "item_errors", 0.0
        alike = item["labels"] == self.labels[row]
        given = item.get("probabilities")
        if given is None:
            if alike:
                return "own", 0.0
            return ("label_differences" if self._is_rounding(row, item["labels"]) else "mixed_up"), 0.0
        flat = self._flat(given)
        if flat is None:
            return "wrong", 0.0
        difference = float(np.abs(flat - self.probabilities[row]).max())
        if difference > self.tolerance + ROUNDED:
            others = np.abs(self.probabilities - flat).max(axis=1) <= self.tolerance
            return ("mixed_up" if others.any() else "wrong"), difference
        if alike:
            return "own", difference
        # Where labels do not follow from the very probabilities beside them, no rounding explains them.
        return ("label_differences" if self._is_rounding(row, item["labels"]) else "wrong"), difference

    def _flat(self, given: Any) -> np.ndarray | None:
        try:
            return np.array([given[task.name][label] for task in self.tasks for label in task.labels], np.float64)
        except (KeyError, TypeError, ValueError):
            return None

    def _is_rounding(self, row: int, labels: Any) -> bool:
        """Whether the offline probabilities are so near the border that rounding may decide these labels."""
        start = 0
        for task in self.tasks:
            own = self.probabilities[row, start : start + len(task.labels)]
            start += len(task.labels)
            if not isinstance(labels, dict) or not self._near(task, own, labels.get(task.name)):
                return False
        return True

    def _near(self, task: Task, own: np.ndarray, given: Any) -> bool:
        if not task.multi_label:
            return given in task.labels and own.max() - own[task.labels.index(given)] <= 2 * self.tolerance
        if not isinstance(given, list) or not set(given) <= set(task.labels):
            return False
        limits = np.asarray(task.thresholds or (0.5,) * len(task.labels))
        applied = np.array([label in given for label in task.labels])
        differs = applied != (own >= limits)
        return bool((np.abs(own - limits)[differs] <= self.tolerance).all())


def _count_refusal(status: int, body: bytes, counts: Counts) -> None:
    """A refusal on purpose has a code; an error of the server's own is a failure."""
    try:
        code = str(orjson.loads(body)["error"]["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        code = f"http_{status}"
    if status == 500 or code == "internal":
        counts.failed += 1
    else:
        counts.refused += 1
    counts.refusals[code] = counts.refusals.get(code, 0) + 1
