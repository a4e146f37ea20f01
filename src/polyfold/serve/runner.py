"""Token ids to logits on the first runtime that works: what fails over, and what is a single text's own fault.

When a batch cannot be answered, the runtime is asked the texts that it answered when it was opened (the probe). If
it cannot answer those either it is broken, and the next one in the list takes over for good. If it can, the batch
is taken apart, and a text that fails alone is a poison text: only its own row fails. Another runtime is not opened
for it, since whoever sends such texts could then keep the service busy with opening. A crash of the native library
itself takes the process with it; that is for whoever restarts processes.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polyfold.artifact import read_config
from polyfold.errors import InputError
from polyfold.predictor import Predictor
from polyfold.runtimes.opening import runtimes_of
from polyfold.runtimes.probes import SENTENCES
from polyfold.serve.answers import Failure
from polyfold.tasks import Task
from polyfold.text import Encoding

SERVED = ("onnxruntime", "openvino")
"""Runtimes that stand in for each other unasked: both compute on the processor and need no torch."""

POISON = Failure("inference_failed", "the model could not compute this text, alone or with others")
REVIVE_SECONDS = 30.0
"""Between two tries to bring back a model whose every runtime has failed."""

BROKEN = Failure("model_failed", "every runtime of this model has failed")


@dataclass(frozen=True)
class Candidate:
    """One way to run a model: a folder, and the runtime to open it in."""

    folder: Path
    runtime: str


Opener = Callable[[Candidate], Predictor]


@dataclass(frozen=True)
class Answered:
    """Logits float32 [n, labels of all tasks] with NaN in failed rows, and why those failed."""

    logits: np.ndarray
    failures: Mapping[int, Failure] = field(default_factory=dict)


FailedOver = Callable[[str, str | None, str], None]
"""Told the runtime that broke, the one that took over (None if there is none) and the reason."""


def candidates_of(folders: Sequence[Path], runtime: str | None = None) -> tuple[Candidate, ...]:
    """Every way to run one model, the preferred first; InputError where the folders are not the same model.

    Each folder's own runtime (or `runtime`, if it opens there) comes before the others that can open it.
    """
    found: list[Candidate] = []
    others: list[Candidate] = []
    reference: tuple[Task, ...] | None = None
    for folder in folders:
        config, tasks = read_config(folder)
        if reference is not None and _shape(tasks) != _shape(reference):
            raise InputError(
                "its tasks or labels are not those of the folder before it",
                file=folder,
                hint="folders that stand in for each other must hold the same model",
            )
        reference = reference or tasks
        possible = runtimes_of(config)
        first = runtime if runtime in possible or runtime == "auto" else config.runtime
        found.append(Candidate(folder, first or config.runtime))
        others += [Candidate(folder, one) for one in possible if one in SERVED]
    return tuple(dict.fromkeys([*found, *others]))


class Runner:
    """Runs one model; one thread at a time may call it."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        opener: Opener,
        failed_over: FailedOver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the first candidate that opens and answers the probe; InputError where none does."""
        self._candidates = tuple(candidates)
        self._opener = opener
        self._failed_over = failed_over
        self._clock = clock
        self._broken_since: float | None = None
        self.failovers = 0
        self._place, self.predictor, error = self._first_that_works(0)
        if self._place:
            self._moved(0, error)

    @property
    def broken(self) -> bool:
        """Whether every candidate has failed; from time to time all are tried again."""
        return self._broken_since is not None

    @property
    def runtime(self) -> str:
        """The runtime in use."""
        return self._candidates[self._place].runtime

    @property
    def runtimes(self) -> tuple[str, ...]:
        """All that can run this model, in order of preference."""
        return tuple(one.runtime for one in self._candidates)

    @property
    def folder(self) -> Path:
        """The folder in use."""
        return self._candidates[self._place].folder

    def answer(self, encoding: Encoding) -> Answered:
        """Logits of every document; what cannot be computed is a failure of its row, never an exception."""
        self._revive()
        while not self.broken:
            try:
                return Answered(self._logits(self.predictor, encoding))
            except Exception as error:  # noqa: BLE001  (runtimes raise types of their own; none may end the service)
                if self._answers_probe():
                    return self._one_by_one(encoding)
                self._next(error)
        return self._failed(len(encoding), BROKEN)

    def _one_by_one(self, encoding: Encoding) -> Answered:
        """The runtime works, and something in this batch does not: each text for itself."""
        if len(encoding) == 1:
            return self._failed(1, POISON)
        parts = [self.answer(encoding.take([row])) for row in range(len(encoding))]
        failures = {row: part.failures[0] for row, part in enumerate(parts) if part.failures}
        return Answered(np.concatenate([part.logits for part in parts]), failures)

    def _next(self, error: Exception) -> None:
        """Go over to the next candidate that opens and answers the probe; without one, be broken."""
        left = self._place
        try:
            self._place, self.predictor, _ = self._first_that_works(left + 1)
        except InputError:
            self._broken_since = self._clock()
            self._failed_over(self._candidates[left].runtime, None, _reason(error))
        else:
            self._moved(left, error)

    def _revive(self) -> None:
        """Where everything has failed, try all again, but not with every batch."""
        if self._broken_since is None or self._clock() - self._broken_since < REVIVE_SECONDS:
            return
        self._broken_since = self._clock()
        left = self._place
        try:
            self._place, self.predictor, _ = self._first_that_works(0)
        except InputError:
            return
        self._broken_since = None
        self._moved(left, None)

    def _first_that_works(self, start: int) -> tuple[int, Predictor, Exception | None]:
        """Its place, its predictor, and what the first one that did not work said."""
        first: Exception | None = None
        for place in range(start, len(self._candidates)):
            try:
                predictor = self._opener(self._candidates[place])
                self._probe(predictor)
            except Exception as error:  # noqa: BLE001  (as above)
                first = first or error
                continue
            return place, predictor, first
        if isinstance(first, InputError):
            raise first
        reason = "no runtime is left" if first is None else _reason(first)
        raise InputError(f"no runtime can run this model: {reason}", hint="export it again") from None

    def _moved(self, left: int, error: Exception | None) -> None:
        self.failovers += 1
        reason = "tried again" if error is None else _reason(error)
        self._failed_over(self._candidates[left].runtime, self.runtime, reason)

    def _answers_probe(self) -> bool:
        try:
            self._probe(self.predictor)
        except Exception:  # noqa: BLE001  (as above)
            return False
        return True

    def _probe(self, predictor: Predictor) -> None:
        self._logits(predictor, predictor.tokenizer.encode(list(SENTENCES[:2]), predictor.config.max_length))

    def _failed(self, count: int, failure: Failure) -> Answered:
        labels = sum(len(task.labels) for task in self.predictor.tasks)
        return Answered(np.full((count, labels), np.nan, np.float32), dict.fromkeys(range(count), failure))

    @staticmethod
    def _logits(predictor: Predictor, encoding: Encoding) -> np.ndarray:
        found = predictor.logits_of_ids(encoding)
        return np.concatenate([found[task.name] for task in predictor.tasks], axis=1)


def _shape(tasks: Sequence[Task]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(task.name, task.kind, task.labels) for task in tasks]


def _reason(error: Exception) -> str:
    """The first line of what a runtime said; it says nothing of texts, which it never sees."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
