"""Token ids to logits on the first runtime that works: what fails over, and what is a single text's own fault.

When a batch cannot be answered, the runtime is asked the texts that it answered when it was opened (the probe). If
it cannot answer those either it is broken, and the next one in the list takes over for good. If it can, the batch
is taken apart, and a text that fails alone is a poison text: only its own row fails. Another runtime is not opened
for it, since whoever sends such texts could then keep the service busy with opening. A crash of the native library
itself takes the process with it; that is for whoever restarts processes.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from polyfold.artifact import read_config
from polyfold.errors import InputError
from polyfold.predictor import Predictor
from polyfold.runtimes.opening import runtimes_of
from polyfold.runtimes.openvino import OpenVinoSession
from polyfold.runtimes.probes import SENTENCES
from polyfold.serve.engine.answers import Failure
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


@dataclass(frozen=True)
class _Lane:
    """What one thread computes on; after a fail-over, several may have to share one."""

    predictor: Predictor
    free: threading.Lock = field(default_factory=threading.Lock)

    def logits(self, encoding: Encoding) -> np.ndarray:
        """Float32 [n, labels of all tasks]."""
        with self.free:
            found = self.predictor.logits_of_ids(encoding)
        return np.concatenate([found[task.name] for task in self.predictor.tasks], axis=1)


@dataclass(frozen=True)
class _Running:
    """A candidate that was opened and answered the probe."""

    place: int
    lanes: tuple[_Lane, ...]

    @property
    def predictor(self) -> Predictor:
        return self.lanes[0].predictor


class Runner:
    """Runs one model, for as many threads as it has lanes."""

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
        self._changing = threading.Lock()
        self.failovers = 0
        self._running, error = self._first_that_works(0)
        if self._running.place:
            self._moved(0, error)

    @property
    def predictor(self) -> Predictor:
        """The model in use."""
        return self._running.predictor

    @property
    def lanes(self) -> tuple[Predictor, ...]:
        """The same model for each thread that can compute side by side."""
        return tuple(lane.predictor for lane in self._running.lanes)

    @property
    def broken(self) -> bool:
        """Whether every candidate has failed; from time to time all are tried again."""
        return self._broken_since is not None

    @property
    def runtime(self) -> str:
        """The runtime in use."""
        return self._candidates[self._running.place].runtime

    @property
    def runtimes(self) -> tuple[str, ...]:
        """All that can run this model, in order of preference."""
        return tuple(one.runtime for one in self._candidates)

    @property
    def folder(self) -> Path:
        """The folder in use."""
        return self._candidates[self._running.place].folder

    def answer(self, encoding: Encoding, lane: int = 0) -> Answered:
        """Logits of every document; what cannot be computed is a failure of its row, never an exception."""
        self._revive()
        while not self.broken:
            running = self._running
            mine = running.lanes[lane % len(running.lanes)]
            try:
                return Answered(mine.logits(encoding))
            except Exception as error:  # noqa: BLE001  (runtimes raise types of their own; none may end the service)
                if _answers_probe(mine):
                    return self._one_by_one(encoding, lane)
                self._leave(running, error)
        return self._failed(len(encoding), BROKEN)

    def _one_by_one(self, encoding: Encoding, lane: int) -> Answered:
        """The runtime works, and something in this batch does not: each text for itself."""
        if len(encoding) == 1:
            return self._failed(1, POISON)
        parts = [self.answer(encoding.take([row]), lane) for row in range(len(encoding))]
        failures = {row: part.failures[0] for row, part in enumerate(parts) if part.failures}
        return Answered(np.concatenate([part.logits for part in parts]), failures)

    def _leave(self, running: _Running, error: Exception) -> None:
        """Go over to the next candidate that opens and answers the probe; without one, be broken."""
        with self._changing:
            if self._running is not running or self.broken:
                return  # another thread was quicker
            try:
                self._running, _ = self._first_that_works(running.place + 1)
            except InputError:
                self._broken_since = self._clock()
                self._failed_over(self._candidates[running.place].runtime, None, _reason(error))
            else:
                self._moved(running.place, error)

    def _revive(self) -> None:
        """Where everything has failed, try all again, but not with every batch."""
        if self._broken_since is None:
            return
        with self._changing:
            if self._broken_since is None or self._clock() - self._broken_since < REVIVE_SECONDS:
                return
            self._broken_since = self._clock()
            left = self._running.place
            try:
                self._running, _ = self._first_that_works(0)
            except InputError:
                return
            self._broken_since = None
            self._moved(left, None)

    def _first_that_works(self, start: int) -> tuple[_Running, Exception | None]:
        """The first candidate that does, and what the first one that did not said."""
        first: Exception | None = None
        for place in range(start, len(self._candidates)):
            try:
                lanes = _lanes(self._opener(self._candidates[place]))
                for lane in lanes:
                    _probe(lane)
            except Exception as error:  # noqa: BLE001  (as above)
                first = first or error
                continue
            return _Running(place, lanes), first
        if isinstance(first, InputError):
            raise first
        reason = "no runtime is left" if first is None else _reason(first)
        raise InputError(f"no runtime can run this model: {reason}", hint="export it again") from None

    def _moved(self, left: int, error: Exception | None) -> None:
        self.failovers += 1
        reason = "tried again" if error is None else _reason(error)
        self._failed_over(self._candidates[left].runtime, self.runtime, reason)

    def _failed(self, count: int, failure: Failure) -> Answered:
        labels = sum(len(task.labels) for task in self.predictor.tasks)
        return Answered(np.full((count, labels), np.nan, np.float32), dict.fromkeys(range(count), failure))


def _lanes(predictor: Predictor) -> tuple[_Lane, ...]:
    """OpenVINO's streams are lanes; the other runtimes share their threads within a batch."""
    if not isinstance(predictor.session, OpenVinoSession):
        return (_Lane(predictor),)
    return tuple(_Lane(replace(predictor, session=session)) for session in predictor.session.lanes())


def _answers_probe(lane: _Lane) -> bool:
    try:
        _probe(lane)
    except Exception:  # noqa: BLE001  (as above)
        return False
    return True


def _probe(lane: _Lane) -> None:
    predictor = lane.predictor
    lane.logits(predictor.tokenizer.encode(list(SENTENCES[:2]), predictor.config.max_length))


def _shape(tasks: Sequence[Task]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(task.name, task.kind, task.labels) for task in tasks]


def _reason(error: Exception) -> str:
    """The first line of what a runtime said; it says nothing of texts, which it never sees."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
