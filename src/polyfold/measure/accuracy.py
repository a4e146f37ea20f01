"""How good a model's logits are on labelled documents."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from polyfold import metrics
from polyfold.data.dataset import Documents
from polyfold.metrics import ReliabilityBin
from polyfold.tasks import Task

Logits = Mapping[str, np.ndarray]
"""Logits by task over all documents of a split, labelled or not: float [n, labels]."""


class Quality(BaseModel):
    """The quality fields of a row that its own logits decide; `row_fields()` goes straight into a `Row`.

    A task without a labelled document in the split is absent from every field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    test_documents: int
    macro_f1: dict[str, float]
    macro_f1_ci95: dict[str, tuple[float, float]]
    macro_f1_by_language: dict[str, dict[str, float]]
    f1_by_label: dict[str, dict[str, float]]
    calibration_error: dict[str, float]
    reliability: dict[str, tuple[ReliabilityBin, ...]]
    confusion: dict[str, list[Any]]
    thresholds: dict[str, tuple[float, ...]]
    temperatures: dict[str, float]

    def row_fields(self) -> dict[str, Any]:
        """Keyword arguments for `Row`."""
        return {name: getattr(self, name) for name in Quality.model_fields}


class Agreement(BaseModel):
    """How far two models of the same weights decide alike, and how often the first says yes at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label_agreement_percent: dict[str, float]
    positives_percent: dict[str, float]


def score(tasks: Sequence[Task], documents: Documents, logits: Logits, seed: int) -> Quality:
    """Measure each task on its labelled documents, with the task's own temperature and thresholds.

    Macro-F1 averages over all labels of a task. In one language it averages over the labels that occur in that
    language's documents: a label nobody there uses cannot be measured, and as a 0 it would hide the others.
    """
    chosen = [task for task in tasks if documents.labelled(task).any()]
    truth, probabilities, predicted = {}, {}, {}
    for task in chosen:
        rows = documents.labelled(task)
        truth[task.name] = documents.labels[task.name][rows]
        probabilities[task.name] = task.probabilities(logits[task.name][rows])
        predicted[task.name] = task.decide(probabilities[task.name])

    def each(function: Any) -> dict[str, Any]:
        return {task.name: function(task) for task in chosen}

    return Quality(
        test_documents=len(documents),
        macro_f1=each(lambda t: metrics.macro_f1(t, truth[t.name], predicted[t.name])),
        macro_f1_ci95=each(lambda t: metrics.bootstrap_interval(t, truth[t.name], predicted[t.name], seed)),
        macro_f1_by_language=each(
            lambda t: _by_language(t, truth[t.name], predicted[t.name], _languages(documents, t))
        ),
        f1_by_label=each(lambda t: _by_label(t, truth[t.name], predicted[t.name])),
        calibration_error=each(lambda t: metrics.calibration_error(t, probabilities[t.name], truth[t.name])),
        reliability=each(lambda t: metrics.reliability(t, probabilities[t.name], truth[t.name])),
        confusion=each(lambda t: metrics.confusion(t, truth[t.name], predicted[t.name]).tolist()),
        thresholds={task.name: _thresholds(task) for task in chosen if task.multi_label},
        temperatures=each(lambda t: t.temperature),
    )


def label_agreement(tasks: Sequence[Task], first: Logits, second: Logits) -> Agreement:
    """Percent of decisions in which two models agree over all documents, labelled or not.

    `positives_percent` has the multi-label tasks only and counts the first model's decisions.
    """
    decided = {
        task.name: (
            task.decide(task.probabilities(first[task.name])),
            task.decide(task.probabilities(second[task.name])),
        )
        for task in tasks
    }
    return Agreement(
        label_agreement_percent={task.name: metrics.agreement(task, *decided[task.name]) for task in tasks},
        positives_percent={
            task.name: metrics.positives_percent(decided[task.name][0]) for task in tasks if task.multi_label
        },
    )


def _languages(documents: Documents, task: Task) -> np.ndarray:
    return np.asarray(documents.languages, dtype=np.str_)[documents.labelled(task)]


def _by_language(task: Task, truth: np.ndarray, predicted: np.ndarray, languages: np.ndarray) -> dict[str, float]:
    values = {}
    for language in np.unique(languages):
        rows = languages == language
        values[str(language)] = metrics.macro_f1(task, truth[rows], predicted[rows], only_supported=True)
    return values


def _by_label(task: Task, truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return dict(zip(task.labels, metrics.f1_by_label(task, truth, predicted).tolist(), strict=True))


def _thresholds(task: Task) -> tuple[float, ...]:
    return task.thresholds or (0.5,) * len(task.labels)
