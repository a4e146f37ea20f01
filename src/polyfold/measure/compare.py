"""What changed between two artifacts on the same texts: decisions flipped, and what that did to macro-F1."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from polyfold import __version__, metrics
from polyfold.data.dataset import Documents
from polyfold.errors import InputError
from polyfold.predictor import Predictor
from polyfold.tasks import NOT_LABELLED, Kind, Task


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Flips(_Part):
    """Documents that the two artifacts decide otherwise; percents with Wilson's 95 % interval."""

    documents: int
    flipped: int
    percent: float
    percent_ci95: tuple[float, float]


class Gain(_Part):
    """Macro-F1 (0..1) of both on the labelled documents, and the second's minus the first's."""

    documents: int
    first: float
    second: float
    difference: float
    ci95: tuple[float, float]
    verdict: Literal["better", "worse", "same"]


class TaskChange(_Part):
    """One task that both have. `gained` and `lost` count documents by the label that the second gives or drops."""

    task: str
    kind: Kind
    flips: Flips
    flips_by_language: dict[str, Flips]
    gained: dict[str, int]
    lost: dict[str, int]
    labels_only_in_first: tuple[str, ...] = ()
    labels_only_in_second: tuple[str, ...] = ()
    quality: Gain | None = None
    quality_by_language: dict[str, Gain] = {}


class Side(_Part):
    """One of the two artifacts."""

    folder: str
    runtime: str
    precision: str
    weights: Literal["trained", "random"]
    parameters_million: float


class Comparison(_Part):
    """Everything that `polyfold compare` found; it holds counts only, no text and no id."""

    polyfold_version: str
    first: Side
    second: Side
    texts: str
    documents: dict[str, int]
    tasks: tuple[TaskChange, ...]
    tasks_only_in_first: tuple[str, ...] = ()
    tasks_only_in_second: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flip:
    """One document's changed answer to one task, labels joined by `|`; `row` counts from 0."""

    row: int
    task: str
    first: str
    second: str
    truth: str | None


@dataclass(frozen=True)
class _Answers:
    """One task as both decided it: label arrays over the labels of both artifacts and of the data."""

    task: Task
    first: np.ndarray
    second: np.ndarray
    truth: np.ndarray | None
    only: tuple[tuple[str, ...], tuple[str, ...]]


def compare(
    first: Predictor, second: Predictor, documents: Documents, labelled: Sequence[Task], texts: str, seed: int = 0
) -> tuple[Comparison, list[Flip]]:
    """Run both over the documents and count what differs, by task and language.

    `labelled` are the tasks that the documents' label arrays are encoded by, none where there are no labels.
    `texts` says in words where the documents come from.
    """
    if not len(documents):
        raise InputError("there are no documents to compare on", hint="give at least one text")
    notes: list[str] = []
    answers = list(_answers(first, second, documents, labelled, notes))
    languages = np.asarray(documents.languages, dtype=np.str_)
    names, counts = np.unique(languages, return_counts=True)
    own, others = ({task.name for task in one.tasks} for one in (first, second))
    comparison = Comparison(
        polyfold_version=__version__,
        first=_side(first),
        second=_side(second),
        texts=texts,
        documents=dict(zip(names.tolist(), counts.tolist(), strict=True)),
        tasks=tuple(_change(one, languages, seed) for one in answers),
        tasks_only_in_first=tuple(task.name for task in first.tasks if task.name not in others),
        tasks_only_in_second=tuple(task.name for task in second.tasks if task.name not in own),
        notes=tuple(notes),
    )
    return comparison, [flip for one in answers for flip in _flips(one)]


def _side(predictor: Predictor) -> Side:
    config = predictor.config
    return Side(
        folder=str(predictor.folder),
        runtime=config.runtime,
        precision=config.precision,
        weights=config.weights,
        parameters_million=config.parameters / 1e6,
    )


def _answers(
    first: Predictor, second: Predictor, documents: Documents, labelled: Sequence[Task], notes: list[str]
) -> Iterator[_Answers]:
    """Both artifacts' decisions on the tasks they share, in the first one's order."""
    scored = all(one.config.weights == "trained" for one in (first, second))
    if labelled and not scored:
        notes.append("one of the two has random weights: flips are counted, quality is not")
    decided = [_decided(one, documents.texts) for one in (first, second)]
    others = {task.name: task for task in second.tasks}
    truths = {task.name: task for task in labelled}
    for task in first.tasks:
        other, truth = others.get(task.name), truths.get(task.name)
        if other is None:
            continue
        if other.kind != task.kind:
            notes.append(f"task '{task.name}' is {task.kind} in the first and {other.kind} in the second")
            continue
        if truth is not None and truth.kind != task.kind:
            notes.append(
                f"task '{task.name}' is {task.kind} in the models and {truth.kind} in the data: no quality"
            )
            truth = None
        union = task.model_copy(update={"labels": _union(task, other, truth), "thresholds": None})
        yield _Answers(
            union,
            _renumbered(decided[0][task.name], task, union),
            _renumbered(decided[1][task.name], other, union),
            _renumbered(documents.labels[task.name], truth, union) if truth is not None and scored else None,
            (_without(task.labels, other.labels), _without(other.labels, task.labels)),
        )
    shared = {task.name for task in first.tasks} & set(others)
    for name in truths:
        if name not in shared:
            notes.append(f"task '{name}' is in the data, but not in both artifacts")


def _decided(predictor: Predictor, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Label arrays by task, by the artifact's own temperatures and thresholds."""
    logits = predictor.logits(texts)
    return {task.name: task.decide(task.probabilities(logits[task.name])) for task in predictor.tasks}


def _union(*tasks: Task | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for task in tasks if task is not None for label in task.labels))


def _without(labels: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(label for label in labels if label not in others)


def _renumbered(values: np.ndarray, task: Task, union: Task) -> np.ndarray:
    """A label array of `task` in the labels of `union`; what is not labelled stays so."""
    places = np.asarray([union.labels.index(label) for label in task.labels], dtype=np.int64)
    if not task.multi_label:
        return np.where(values == NOT_LABELLED, NOT_LABELLED, places[values])
    wide = np.zeros((len(values), len(union.labels)), dtype=np.int8)
    wide[:, places] = values
    wide[~task.labelled(values)] = NOT_LABELLED
    return wide


def _change(answers: _Answers, languages: np.ndarray, seed: int) -> TaskChange:
    task = answers.task
    changed = metrics.flipped(answers.first, answers.second)
    everywhere = np.ones(len(languages), dtype=bool)
    slices = {str(name): languages == name for name in np.unique(languages)}
    gained, lost = _moved(task, answers.first, answers.second)
    by_language = {name: _gain(answers, rows, seed, only_supported=True) for name, rows in slices.items()}
    return TaskChange(
        task=task.name,
        kind=task.kind,
        flips=_counted(changed),
        flips_by_language={name: _counted(changed[rows]) for name, rows in slices.items()},
        gained=gained,
        lost=lost,
        labels_only_in_first=answers.only[0],
        labels_only_in_second=answers.only[1],
        quality=_gain(answers, everywhere, seed),
        quality_by_language={name: gain for name, gain in by_language.items() if gain is not None},
    )


def _counted(changed: np.ndarray) -> Flips:
    count, total = int(changed.sum()), len(changed)
    low, high = metrics.share_interval(count, total)
    return Flips(
        documents=total,
        flipped=count,
        percent=100.0 * count / max(total, 1),
        percent_ci95=(100.0 * low, 100.0 * high),
    )


def _moved(task: Task, first: np.ndarray, second: np.ndarray) -> tuple[dict[str, int], dict[str, int]]:
    """Documents by label: those that only the second gives it to, and those that only the first does."""
    before, after = (_present(task, one) for one in (first, second))
    gained, lost = (after & ~before).sum(axis=0).tolist(), (before & ~after).sum(axis=0).tolist()
    return dict(zip(task.labels, gained, strict=True)), dict(zip(task.labels, lost, strict=True))


def _present(task: Task, values: np.ndarray) -> np.ndarray:
    """Which labels each document has: bool [n, labels]."""
    return values == 1 if task.multi_label else values[:, None] == np.arange(len(task.labels))


def _gain(answers: _Answers, rows: np.ndarray, seed: int, only_supported: bool = False) -> Gain | None:
    """Both macro-F1 on the labelled documents among `rows`, None where there are none."""
    if answers.truth is None:
        return None
    chosen = rows & answers.task.labelled(answers.truth)
    if not chosen.any():
        return None
    truth, first, second = answers.truth[chosen], answers.first[chosen], answers.second[chosen]
    difference = metrics.paired_bootstrap_difference(
        answers.task, truth, [first], [second], seed, only_supported=only_supported
    )
    before, after = (
        metrics.macro_f1(answers.task, truth, one, only_supported=only_supported) for one in (first, second)
    )
    return Gain(
        documents=int(chosen.sum()),
        first=before,
        second=after,
        difference=difference.value,
        ci95=(difference.low, difference.high),
        verdict=difference.verdict,
    )


def _flips(answers: _Answers) -> Iterator[Flip]:
    for row in np.flatnonzero(metrics.flipped(answers.first, answers.second)).tolist():
        yield Flip(
            row,
            answers.task.name,
            _named(answers.task, answers.first[row]),
            _named(answers.task, answers.second[row]),
            None if answers.truth is None else _named(answers.task, answers.truth[row]),
        )


def _named(task: Task, value: np.ndarray) -> str:
    """One document's labels in words, joined by `|`; empty where there is none."""
    if not task.multi_label:
        return task.labels[int(value)] if value >= 0 else ""
    return "|".join(label for label, on in zip(task.labels, value, strict=True) if on == 1)
