"""One version of one model: loaded, warmed up, with a queue and threads of its own."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from polyfold.artifact import MANIFEST, Artifact, ModelConfig
from polyfold.errors import InputError
from polyfold.serve.engine.answers import Ticket
from polyfold.serve.engine.batcher import Batcher
from polyfold.serve.engine.observer import BatchFacts, DropReason, Observer
from polyfold.serve.engine.runner import Answered, Opener, Runner, candidates_of
from polyfold.serve.engine.warmup import warm_up
from polyfold.serve.refusals import Refusal
from polyfold.serve.spec import Batching, ModelSource, ServeSpec
from polyfold.tasks import Task
from polyfold.text import Encoding

State = Literal["ready", "draining", "stopped", "failed"]


class ServedModel:
    """Built by `open_model`. Everything but `answer` belongs to the event loop."""

    def __init__(
        self, source: ModelSource, runner: Runner, batching: Batching, queue_tokens: int, observer: Observer
    ) -> None:
        self.source = source
        self.name = source.name
        self.version = source.version
        self.config: ModelConfig = runner.predictor.config
        self.columns = _columns(runner.predictor.tasks)
        self._runner = runner
        self._observer = observer
        self._state: State = "ready"
        self._batcher = Batcher(self, self.config.max_length, batching, queue_tokens, self)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the folder in use, with its temperatures and thresholds."""
        return self._runner.predictor.tasks

    @property
    def folder(self) -> Path:
        """The folder in use."""
        return self._runner.folder

    @property
    def state(self) -> State:
        """Failed means that no runtime works; it is tried again from time to time."""
        return "failed" if self._state == "ready" and self._runner.broken else self._state

    @property
    def runtime(self) -> str:
        """The runtime in use."""
        return self._runner.runtime

    @property
    def runtimes(self) -> tuple[str, ...]:
        """In order of preference; fail-over moves to the right."""
        return self._runner.runtimes

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below this."""
        return self._runner.predictor.tokenizer.vocabulary_size

    @property
    def lanes(self) -> int:
        """Batches that are computed side by side."""
        return len(self._runner.lanes)

    @property
    def failovers(self) -> int:
        """How often another runtime took over."""
        return self._runner.failovers

    @property
    def queue_tokens(self) -> int:
        """Tokens that wait now."""
        return self._batcher.queue_tokens

    @property
    def pending(self) -> int:
        """Requests without an answer."""
        return self._batcher.pending

    @property
    def tokens_per_second(self) -> float:
        """Measured over the last batches."""
        return self._batcher.tokens_per_second

    def submit(self, texts: Sequence[str], deadline: float) -> Ticket:
        """Ask for these texts, by a moment of `time.monotonic`; a Refusal, here or later, where that cannot be."""
        self._check()
        return self._batcher.submit(texts, deadline)

    def submit_ids(self, ids: Sequence[np.ndarray], deadline: float) -> Ticket:
        """The same for token ids, int64 [seq] each, none longer than `config.max_length`."""
        self._check()
        return self._batcher.submit_ids(ids, deadline)

    async def retire(self, seconds: float) -> None:
        """Take nothing new, finish what is under way if that takes no longer than `seconds`, and stop."""
        if self._state in ("draining", "stopped"):
            return
        self._state = "draining"
        try:
            async with asyncio.timeout(seconds):
                await self._batcher.drained()
        except TimeoutError:
            pass  # what is left is refused by the stop
        await self._batcher.stop()
        self._state = "stopped"

    # What the batcher asks, in its own threads.

    def encode(self, texts: Sequence[str]) -> Encoding:
        """Texts to token ids; every runtime of a model reads the same."""
        return self._runner.predictor.tokenizer.encode(texts, self.config.max_length)

    def answer(self, encoding: Encoding, lane: int) -> Answered:
        """Token ids to logits."""
        return self._runner.answer(encoding, lane)

    # What the batcher tells, passed on under this model's name.

    def batch(self, facts: BatchFacts) -> None:
        """A batch was computed."""
        self._observer.batch(self.name, self.version, facts)

    def tokenized(self, documents: int, seconds: float) -> None:
        """Texts were tokenized."""
        self._observer.tokenized(self.name, self.version, documents, seconds)

    def dropped(self, reason: DropReason, documents: int) -> None:
        """A request ended before its answer."""
        self._observer.dropped(self.name, self.version, reason, documents)

    def poison(self) -> None:
        """A text cannot be computed."""
        self._observer.poison(self.name, self.version)

    def _check(self) -> None:
        if self._state != "ready":
            raise Refusal(
                503, "stopping", f"version {self.version} of '{self.name}' is being taken out of service"
            )


async def open_model(
    source: ModelSource,
    spec: ServeSpec,
    opener: Opener,
    observer: Observer,
    *,
    must_verify: bool,
    clock: Callable[[], float] = time.monotonic,
) -> ServedModel:
    """Verify, open, try and warm up a model in another thread; InputError where it cannot be served."""

    def failed_over(away_from: str, to: str | None, reason: str) -> None:
        observer.failed_over(source.name, source.version, away_from, to, reason)

    def opened() -> Runner:
        for folder in source.folders:
            verify(folder, must=must_verify)
        runner = Runner(candidates_of(source.folders, spec.runtime), opener, failed_over, clock)
        try:
            warm_up(runner.lanes, spec.batching.token_budget, clock)
        except Exception as error:  # noqa: BLE001  (runtimes raise types of their own)
            hint = "export it again, or serve it on another runtime"
            raise InputError(f"it fails while warming up: {error}", file=runner.folder, hint=hint) from None
        # Worked out once, and here: some tokenizers have to count for it.
        assert runner.predictor.tokenizer.vocabulary_size > 0
        return runner

    runner = await asyncio.get_running_loop().run_in_executor(None, opened)
    return ServedModel(source, runner, spec.batching, spec.limits.queue_tokens, observer)


def verify(folder: Path, *, must: bool) -> None:
    """Compare a folder with its manifest's checksums; without a manifest, refuse where it `must` have one."""
    if must or (folder / MANIFEST).exists():
        Artifact.open(folder).verify()


def _columns(tasks: Sequence[Task]) -> dict[str, slice]:
    """Where each task's labels stand in the rows of `Answers`."""
    found, start = {}, 0
    for task in tasks:
        found[task.name] = slice(start, start + len(task.labels))
        start += len(task.labels)
    return found
