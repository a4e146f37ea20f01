"""Rows of numbers to the JSON of /predict.

A lone text is the commonest request, and numpy's calls cost more than its few numbers do: its row is read as
plain Python numbers. Many rows are decided by columns. Both give what `Task.decide` gives (a law of the tests).
"""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np

from polyfold.serve.engine.answers import Answers, Failure
from polyfold.serve.http.questions import Question

PLACES = 6
"""Decimals of a probability: single precision has no more to say, and a client reads no more."""

FEW = 4
"""Up to so many rows, plain Python is the faster."""

Item = dict[str, Any]


def items_of(answers: Answers, asked: Sequence[Question], *, probabilities: bool) -> list[Item]:
    """One object a row: its labels, or why it has none."""
    good = answers.probabilities
    if len(good) <= FEW:
        items = [_row(row, cut, asked, probabilities) for row, cut in _rows(answers)]
    else:
        items = _columns(answers, asked, probabilities)
    for row, failure in answers.failures.items():
        items[row] = failed(failure)
    return items


def failed(failure: Failure) -> Item:
    """What stands where a text's answer would."""
    return {"error": {"code": failure.code, "message": failure.message}}


def with_failures(items: Sequence[Item], failures: Mapping[int, Failure], count: int) -> Sequence[Item]:
    """Answers of the good texts among `count`, with the others' failures in their places."""
    if not failures:
        return items
    good = iter(items)
    return [failed(failures[place]) if place in failures else next(good) for place in range(count)]


def _rows(answers: Answers) -> "zip[tuple[list[float], bool]]":
    return zip(answers.probabilities.tolist(), answers.truncated.tolist(), strict=True)


def _row(row: list[float], cut: bool, asked: Sequence[Question], probabilities: bool) -> Item:
    labels: dict[str, str | list[str]] = {}
    by_task: dict[str, dict[str, float]] = {}
    for question in asked:
        task, values = question.task, row[question.columns]
        if question.thresholds is None:
            labels[task.name] = task.labels[values.index(max(values))]
        else:
            applies = map(float.__ge__, values, question.thresholds)
            labels[task.name] = list(compress(task.labels, applies))
        if probabilities:
            rounded = [round(value, PLACES) for value in values]
            by_task[task.name] = dict(zip(task.labels, rounded, strict=True))
    if probabilities:
        return {"labels": labels, "probabilities": by_task, "truncated": cut}
    return {"labels": labels, "truncated": cut}


def _columns(answers: Answers, asked: Sequence[Question], probabilities: bool) -> list[Item]:
    cuts = answers.truncated.tolist()
    items: list[Item] = [{"labels": {}, "truncated": cut} for cut in cuts]
    if probabilities:
        for item in items:
            item["probabilities"] = {}
    for question in asked:
        task, values = question.task, answers.probabilities[:, question.columns]
        # Rows that failed are NaN; whatever is decided of them is replaced.
        decided = task.decide(values, question.thresholds).tolist()
        if question.thresholds is None:
            for item, place in zip(items, decided, strict=True):
                item["labels"][task.name] = task.labels[place]
        else:
            for item, applies in zip(items, decided, strict=True):
                item["labels"][task.name] = list(compress(task.labels, applies))
        if probabilities:
            for item, row in zip(items, np.round(values.astype(np.float64), PLACES).tolist(), strict=True):
                item["probabilities"][task.name] = dict(zip(task.labels, row, strict=True))
    return items
