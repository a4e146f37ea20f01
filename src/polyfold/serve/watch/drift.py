"""Whether what is served still looks like what the model was tested on: languages, lengths, labels, confidence.

Each is a distribution over the newest texts, held against the same distribution of the report's test documents
(`stability.py` says how). Lengths, labels and confidence are seen in every answer; languages in a sample.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from polyfold import metrics
from polyfold.artifact import ModelConfig
from polyfold.serve.watch.answer_counts import Rows
from polyfold.serve.watch.drift_reference import OTHER, Expected, NoReference, Reference, reference_of
from polyfold.serve.watch.languages import UNSURE, LanguageSampler
from polyfold.serve.watch.stability import DRIFTED, WATCH, Distance, Window, distance, texts_needed
from polyfold.tasks import Task

WINDOW_TEXTS = 5000
WINDOW_SECONDS = 3600.0

_ORDER = ("drifted", "watch", "ok", "gathering", "not measured", "no reference")
"""States, the most urgent first."""


class Model(Protocol):
    """What is asked of a served version, once."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def config(self) -> ModelConfig: ...
    @property
    def tasks(self) -> tuple[Task, ...]: ...


@dataclass(frozen=True)
class Reading:
    """One distribution as it stands; `distance` is None where nothing can be claimed, and `reason` says why."""

    expected: Expected
    served: np.ndarray
    texts: int
    needed: int | None
    distance: Distance | None
    reason: str | None = None
    mean: float | None = None

    @property
    def state(self) -> str:
        """ok, watch, drifted, gathering (too few texts so far) or not measured."""
        if self.distance is not None:
            return self.distance.level
        return "not measured" if self.reason is not None else "gathering"

    def summary(self) -> dict[str, Any]:
        """For the page, in plain JSON."""
        found, wanted = self.distance, self.expected
        return {
            "name": wanted.name,
            "task": wanted.task,
            "state": self.state,
            "reason": self.reason,
            "stability_index": None if found is None else round(found.stability_index, 4),
            "total_variation": None if found is None else round(found.total_variation, 4),
            "texts": self.texts,
            "texts_needed": self.needed,
            "values": list(wanted.values),
            "expected": _shares(wanted.counts),
            "served": _shares(self.served),
            "expected_mean": None if wanted.mean is None else round(wanted.mean, 4),
            "served_mean": None if self.mean is None else round(self.mean, 4),
        }


@dataclass
class _Watched:
    """One version: its reference, and a window a distribution, in the order of the reference's."""

    model: str
    version: str
    tasks: tuple[Task, ...]
    reference: Reference | NoReference
    windows: list[Window] = field(default_factory=list)
    known: frozenset[str] = frozenset()


class Drift:
    """All versions' drift. Told of answers from any thread; asked when somebody looks."""

    def __init__(
        self,
        report: Path | None = None,
        sampler: Callable[[], LanguageSampler] = LanguageSampler,
        clock: Callable[[], float] = time.monotonic,
        texts: int = WINDOW_TEXTS,
        seconds: float = WINDOW_SECONDS,
    ) -> None:
        """`report` is the reference of every model; without it each folder's own is looked for."""
        self._report = report
        self._make_sampler = sampler
        self._sampler: LanguageSampler | None = None
        self._clock = clock
        self._texts, self._seconds = texts, seconds
        self._lock = threading.Lock()
        self._watched: dict[tuple[str, str], _Watched] = {}

    def watch(self, model: Model) -> None:
        """Begin with a version, or begin again when another model has taken its place. Reads the report."""
        reference = reference_of(model.folder, model.config, self._report)
        watched = _Watched(model.name, model.version, model.tasks, reference)
        if isinstance(reference, Reference):
            watched.windows = [self._window(one) for one in reference.expected]
            languages = next((one for one in reference.expected if one.name == "language"), None)
            if languages is not None:
                watched.known = frozenset(languages.values) - {OTHER}
                self._sampler = self._sampler or self._make_sampler()
        with self._lock:
            self._watched[model.name, model.version] = watched

    def forget(self, name: str, version: str) -> None:
        """The version is not served any more."""
        with self._lock:
            self._watched.pop((name, version), None)

    def offer(self, name: str, version: str, texts: Sequence[str]) -> None:
        """Texts of a request, some of whose languages are guessed; they are not kept."""
        watched = self._watched.get((name, version))
        if watched is not None and watched.known and self._sampler is not None:
            self._sampler.offer(texts, watched.known, lambda language: self._found(watched, language))

    def add(self, name: str, version: str, rows: Rows) -> None:
        """Answers of a version."""
        with self._lock:
            watched = self._watched.get((name, version))
            if watched is None or not isinstance(watched.reference, Reference) or not len(rows.tokens):
                return
            for expected, window in zip(watched.reference.expected, watched.windows, strict=True):
                counts = _counts(expected, rows, watched.reference.token_bounds)
                if counts is not None:
                    window.add(counts, len(rows.tokens))

    def readings(self) -> Iterator[tuple[str, str, Reading]]:
        """Model, version and reading of every distribution that has a reference."""
        with self._lock:
            watched = list(self._watched.values())
        for one in watched:
            if isinstance(one.reference, Reference):
                for reading in self._readings(one, one.reference):
                    yield one.model, one.version, reading

    def summary(self) -> dict[str, Any]:
        """For the page, in plain JSON; `state` is the most urgent of all."""
        with self._lock:
            watched = list(self._watched.values())
        models = [self._summary(one) for one in watched]
        states = [one["state"] for one in models]
        state = min(states, key=_ORDER.index, default="no reference")
        return {
            "state": state,
            "levels": {"watch": WATCH, "drifted": DRIFTED},
            "window": {"texts": self._texts, "seconds": self._seconds},
            "models": models,
        }

    def close(self) -> None:
        """End the detector's thread."""
        if self._sampler is not None:
            self._sampler.close()

    def _window(self, expected: Expected) -> Window:
        # One more than there are values: texts of unsure language, or the sum of the confidence.
        return Window(len(expected.values) + 1, self._texts, self._seconds, self._clock)

    def _found(self, watched: _Watched, language: str) -> None:
        """In the detector's thread."""
        assert isinstance(watched.reference, Reference)
        for expected, window in zip(watched.reference.expected, watched.windows, strict=True):
            if expected.name == "language":
                counts = np.zeros(len(expected.values) + 1)
                counts[-1 if language == UNSURE else expected.values.index(language)] = 1.0
                with self._lock:
                    window.add(counts, 1)

    def _readings(self, watched: _Watched, reference: Reference) -> Iterator[Reading]:
        for expected, window in zip(reference.expected, watched.windows, strict=True):
            with self._lock:
                counts, texts = window.read()
            yield self._reading(watched, expected, counts, texts)

    def _reading(self, watched: _Watched, expected: Expected, counts: np.ndarray, texts: int) -> Reading:
        served, more = counts[:-1], float(counts[-1])
        if expected.name == "language":
            texts -= int(more)
        needed = texts_needed(len(expected.values), expected.documents)
        reason = self._problem(watched, expected)
        if reason is None and needed is None:
            reason = f"{expected.documents} test documents are too few for {len(expected.values)} values"
        claimed = reason is None and needed is not None and texts >= needed
        return Reading(
            expected=expected,
            served=served,
            texts=texts,
            needed=needed,
            distance=distance(expected.counts, served) if claimed else None,
            reason=reason,
            mean=more / texts if expected.name == "confidence" and texts else None,
        )

    def _problem(self, watched: _Watched, expected: Expected) -> str | None:
        """Why a distribution cannot be measured at all."""
        if expected.name == "language":
            assert self._sampler is not None
            if self._sampler.problem is not None:
                return self._sampler.problem
            unknown = watched.known - (self._sampler.languages or watched.known)
            return f"the detector does not know {', '.join(sorted(unknown))}" if unknown else None
        if expected.task is None:
            return None
        task = next((one for one in watched.tasks if one.name == expected.task), None)
        if task is None or (expected.name == "label" and expected.values[: len(task.labels)] != task.labels):
            return "the report's task is not the model's"
        return None

    def _summary(self, watched: _Watched) -> dict[str, Any]:
        reference = watched.reference
        readings: list[dict[str, Any]] = []
        row: str | None = None
        reason: str | None
        hint: str | None = None
        if isinstance(reference, NoReference):
            state, reason, hint = "no reference", reference.reason, reference.hint
        else:
            readings = [one.summary() for one in self._readings(watched, reference)]
            state = min((one["state"] for one in readings), key=_ORDER.index, default="not measured")
            row, reason = reference.row, reference.missing
        return {
            "model": watched.model,
            "version": watched.version,
            "state": state,
            "reason": reason,
            "hint": hint,
            "row": row,
            "distributions": readings,
        }


def _shares(counts: np.ndarray) -> list[float]:
    return [round(share, 4) for share in (counts / max(1.0, float(counts.sum()))).tolist()]


def _counts(expected: Expected, rows: Rows, token_bounds: Sequence[int]) -> np.ndarray | None:
    """Rows by the reference's own values, [values + 1]; None where answers do not tell, or are of other labels."""
    bins = len(expected.values)
    if expected.name == "length":
        return np.bincount(np.searchsorted(token_bounds, rows.tokens), minlength=bins + 1)
    task = rows.tasks.get(expected.task or "")
    if task is None:
        return None
    if expected.name == "confidence":
        return np.append(metrics.confidence_counts(task.confidence, bins), task.confidence.sum())
    counts = np.append(task.labels, task.without_label)
    return np.append(counts[:bins], 0) if len(counts) >= bins else None
