"""A version that only listens: it gets a copy of the texts, and its labels are compared and thrown away.

Nobody waits for it. The copy is sent after the answer, only when the shadow has little to do and few copies are
under way, and whatever goes wrong with it is its own affair.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np

from polyfold.serve.engine.answers import Answers
from polyfold.serve.engine.fleet import Fleet
from polyfold.serve.engine.observer import Observer
from polyfold.serve.engine.served import ServedModel
from polyfold.serve.refusals import Refusal
from polyfold.tasks import Task

QUEUE_TOKENS = 4096
"""With more than this waiting for the shadow, a request is not copied: its comparison is a sample, not a duty."""

COPIES = 8
"""Requests that may be under way to shadows at once."""

SECONDS = 10.0
"""A copy that has no answer after this is dropped."""


class Shadow:
    """Sends copies; the event loop's alone."""

    def __init__(self, fleet: Fleet, observer: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._observer = observer
        self._clock = clock
        self._copies: set[asyncio.Task[None]] = set()

    def follow(self, model: ServedModel, texts: Sequence[str], answers: Answers) -> None:
        """Ask the shadow of `model`, if it has one, what `model` was asked and has answered."""
        shadow = self._fleet.shadow_of(model)
        if shadow is None or len(self._copies) >= COPIES or shadow.queue_tokens > QUEUE_TOKENS or not texts:
            return
        copy = asyncio.get_running_loop().create_task(self._compare(model, shadow, texts, answers))
        # Held here: the event loop itself keeps no task alive.
        self._copies.add(copy)
        copy.add_done_callback(self._copies.discard)

    async def settle(self) -> None:
        """Until no copy is under way."""
        while self._copies:
            await asyncio.wait(self._copies)

    async def _compare(
        self, model: ServedModel, shadow: ServedModel, texts: Sequence[str], answers: Answers
    ) -> None:
        try:
            others = await shadow.submit(texts, self._clock() + SECONDS).future
        except Refusal:
            return
        failed = answers.failures.keys() | others.failures.keys()
        rows = [row for row in range(len(texts)) if row not in failed]
        for task, other in _common(model.tasks, shadow.tasks):
            ours = decided(task, answers.probabilities[rows, model.columns[task.name]])
            theirs = decided(other, others.probabilities[rows, shadow.columns[task.name]])
            agreed = sum(one == two for one, two in zip(ours, theirs, strict=True))
            self._observer.shadowed(shadow.name, shadow.version, task.name, agreed, len(rows) - agreed)


def decided(task: Task, probabilities: np.ndarray) -> list[frozenset[str]]:
    """The labels each row is given, as sets of names: two versions may have them in different orders."""
    found = task.decide(probabilities)
    if not task.multi_label:
        return [frozenset({task.labels[place]}) for place in found.tolist()]
    return [frozenset(task.labels[place] for place in np.flatnonzero(row)) for row in found]


def _common(tasks: Sequence[Task], others: Sequence[Task]) -> list[tuple[Task, Task]]:
    """Tasks that both versions have, by name; a version may have gained or lost some."""
    by_name = {task.name: task for task in others}
    return [(task, by_name[task.name]) for task in tasks if task.name in by_name]
