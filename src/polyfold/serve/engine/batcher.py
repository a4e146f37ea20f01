"""Requests to batches and back: a thread for each of a model's lanes computes, the event loop does all else.

Texts wait only while all lanes are busy; meanwhile they gather, so batches grow with the load by themselves. A
text that is already waiting or being computed is not computed again for another request. Whatever belongs to
requests (tickets, who waits for what) is touched by the event loop alone; the queue is shared and locked.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from polyfold.serve.engine.answers import Failure, Ticket
from polyfold.serve.engine.fair_queue import Entry, FairQueue
from polyfold.serve.engine.observer import BatchFacts, DropReason
from polyfold.serve.engine.runner import BROKEN, POISON, REVIVE_SECONDS, Answered
from polyfold.serve.engine.tokenizing import Tokenizing
from polyfold.serve.engine.under_way import Request, Waiting
from polyfold.serve.refusals import Refusal
from polyfold.serve.spec import Batching
from polyfold.tasks import Task
from polyfold.text import Encoding

LEAST_TOKENS = 96
"""A batch may always hold so many tokens, however slow the model is or however few are left for other lanes:
four documents of usual length, with which a lane is about as fast a token as with more."""

WORTH_A_LANE = 128
"""Tokens for which another lane begins at once while one is at work. Fewer wait for more for a while: two texts of
32 tokens take MiniLM-L6 3.3 ms of a core and more, 0.7 to 2 of them for another shape than the last one's."""

FIRST_RATE = 20_000.0
"""Tokens a second and lane that are assumed until a batch has been measured."""

SMOOTHING = 0.1
"""How much of the measured speed each batch decides."""

ABANDONED = Failure("deadline_exceeded", "its time was up before it was computed")


Added = tuple[np.ndarray, bool]
"""A text's token ids, and whether its end was cut off."""


class Reporter(Protocol):
    """What a batcher tells of its work; a model's name and version are added by whoever passes it on."""

    def batch(self, facts: BatchFacts) -> None: ...

    def tokenized(self, documents: int, seconds: float) -> None: ...

    def dropped(self, reason: DropReason, documents: int) -> None: ...

    def poison(self) -> None: ...


class Model(Protocol):
    """What a batcher needs of a model: ids to logits, and texts to ids."""

    @property
    def tasks(self) -> tuple[Task, ...]: ...

    @property
    def runtime(self) -> str: ...

    @property
    def lanes(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> Encoding: ...

    def answer(self, encoding: Encoding, lane: int) -> Answered: ...


class Batcher:
    """A model's queue and its threads. Made, asked and stopped on one event loop."""

    def __init__(
        self,
        model: Model,
        longest: int,
        batching: Batching,
        queue_tokens: int,
        report: Reporter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._batching = batching
        self._limit = queue_tokens
        self._report = report
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queue: FairQueue[Waiting] = FairQueue(longest)
        self._changed = threading.Condition()
        self._open = True
        self._computing = 0
        self._under_way: dict[Hashable, Waiting] = {}
        self._pending: set[Request] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._labels = sum(len(task.labels) for task in model.tasks)
        self._tokenizing = Tokenizing(
            model.encode,
            self._under_way.__contains__,
            self._busy,
            self._admit,
            self._fail,
            report.tokenized,
            clock,
        )
        self._rate = FIRST_RATE
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"infer-{lane}", daemon=True)
            for lane in range(model.lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def tokens_per_second(self) -> float:
        """Of all lanes together, as the last batches went."""
        return self._rate * len(self._threads)

    @property
    def queue_tokens(self) -> int:
        """Tokens that wait now."""
        return self._queue.tokens

    @property
    def pending(self) -> int:
        """Requests that have no answer yet."""
        return len(self._pending)

    def submit(self, texts: Sequence[str], deadline: float) -> Ticket:
        """Rows for these texts, in their order; the future raises a Refusal where the queue is full."""
        request = self._request(len(texts), deadline)
        self._tokenizing.add(request, texts)
        return Ticket(request.future, partial(self._abandon, request, "cancelled"))

    def submit_ids(self, ids: Sequence[np.ndarray], deadline: float) -> Ticket:
        """The same for token ids, int64 [seq] each, none longer than the model reads."""
        request = self._request(len(ids), deadline)
        keys = [row.tobytes() for row in ids]
        self._admit([(request, keys, {key: (row, False) for key, row in zip(keys, ids, strict=True)})])
        return Ticket(request.future, partial(self._abandon, request, "cancelled"))

    async def drained(self) -> None:
        """Until every request has its answer."""
        await self._idle.wait()

    async def stop(self) -> None:
        """End every thread after the batch it is at; what still waits is refused."""
        for request in list(self._pending):
            self._refuse(request, Refusal(503, "stopping", "the model is being stopped"), "cancelled")
        with self._changed:
            self._open = False
            self._changed.notify_all()
        for thread in self._threads:
            await self._loop.run_in_executor(None, thread.join)
        self._tokenizing.stop()

    # On the event loop: from requests to waiting texts.

    def _request(self, rows: int, deadline: float) -> Request:
        now = self._clock()
        if not self._open:
            raise Refusal(503, "stopping", "the model is being stopped", retry_after_s=1.0)
        request = Request(self._loop.create_future(), rows, self._labels, now, deadline)
        self._pending.add(request)
        self._idle.clear()
        left = max(0.0, deadline - now)
        request.timer = self._loop.call_later(left, self._abandon, request, "deadline")
        return request

    def _busy(self) -> bool:
        return self._computing == len(self._threads)

    def _admit(self, arrived: Sequence[tuple[Request, Sequence[Hashable], Mapping[Any, Added]]]) -> None:
        """Put what is new into the queue and join what is under way."""
        with self._changed:
            for request, keys, added in arrived:
                places: dict[Hashable, list[int]] = {}
                for row, key in enumerate(keys):
                    places.setdefault(key, []).append(row)
                fresh = sum(len(added[key][0]) for key in places if key not in self._under_way)
                if self._queue.tokens and self._queue.tokens + fresh > self._limit:
                    self._fail(request, self._full())
                elif places:
                    self._enqueue(request, places, added)
                else:
                    self._finish(request)
            # A lane that is woken for a few texts while another is at work would only go back to waiting.
            self._changed.notify(1 if self._queue.tokens < WORTH_A_LANE else len(self._threads))

    def _enqueue(self, request: Request, places: Mapping[Hashable, list[int]], added: Mapping[Any, Added]) -> None:
        for key, rows in places.items():
            waiting = self._under_way.get(key) or self._new(key, *added[key], request.started)
            waiting.rows += [(request, row) for row in rows]
            request.waits_for.append(waiting)
            # One that is being computed already is only waited for.
            if waiting.entry.waiting or key not in self._under_way:
                self._queue.add(request.flow, waiting.entry)
                self._under_way[key] = waiting

    @staticmethod
    def _new(key: Hashable, ids: np.ndarray, truncated: bool, arrived: float) -> Waiting:
        waiting = Waiting(key, truncated)
        waiting.entry = Entry(ids, arrived, waiting)
        return waiting

    def _full(self) -> Refusal:
        waiting = self._queue.tokens
        return Refusal(
            503,
            "queue_full",
            f"{waiting:,} tokens are waiting already",
            hint="try again later, or send fewer texts at once",
            retry_after_s=max(0.1, waiting / self.tokens_per_second),
        )

    # On the event loop: requests that end.

    def _fail(self, request: Request, error: Exception) -> None:
        """It never got into the queue."""
        self._forget(request)
        if not request.future.done():
            request.future.set_exception(error)

    def _abandon(self, request: Request, reason: DropReason) -> None:
        """The client has gone, or its time is up."""
        if reason == "cancelled":
            self._refuse(request, None, reason)
        else:
            hint = "ask for fewer texts, allow more time (deadline_ms), or try again when there is less load"
            self._refuse(request, Refusal(504, "deadline_exceeded", ABANDONED.message, hint=hint), reason)

    def _refuse(self, request: Request, refusal: Refusal | None, reason: DropReason) -> None:
        if request not in self._pending:
            return
        with self._changed:
            for waiting in request.waits_for:
                waiting.rows = [one for one in waiting.rows if one[0] is not request]
                if not waiting.rows and self._queue.drop(waiting.entry):
                    del self._under_way[waiting.key]
        self._report.dropped(reason, request.missing)
        self._forget(request)
        if request.future.done():
            return
        if refusal is None:
            request.future.cancel()
        else:
            request.future.set_exception(refusal)

    def _forget(self, request: Request) -> None:
        self._pending.discard(request)
        if request.timer is not None:
            request.timer.cancel()
        request.waits_for.clear()
        if not self._pending:
            self._idle.set()

    def _finish(self, request: Request) -> None:
        self._forget(request)
        if request.future.done():
            return
        if len(request.failures) == request.rows and BROKEN in request.failures.values():
            request.future.set_exception(
                Refusal(503, "model_failed", BROKEN.message, retry_after_s=REVIVE_SECONDS)
            )
        else:
            request.future.set_result(request.answers())

    def _deliver(self, batch: "list[Entry[Waiting]]", answered: Answered, begun: float, infer_s: float) -> None:
        """Rows of a computed batch to everyone who waits for them; its lane may be idle now."""
        self._tokenizing.flush()
        probabilities = self._probabilities(answered.logits)
        for place, entry in enumerate(batch):
            waiting = entry.payload
            del self._under_way[waiting.key]
            failure = answered.failures.get(place)
            for request, row in waiting.rows:
                request.logits[row] = answered.logits[place]
                request.probabilities[row] = probabilities[place]
                request.truncated[row] = waiting.truncated
                request.tokens[row] = entry.tokens
                if failure is not None:
                    request.failures[row] = failure
                request.begun, request.infer_s = max(request.begun, begun), max(request.infer_s, infer_s)
                request.missing -= 1
                if not request.missing:
                    self._finish(request)

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        found, start = np.empty_like(logits), 0
        for task in self._model.tasks:
            columns = slice(start, start + len(task.labels))
            found[:, columns] = task.probabilities(logits[:, columns])
            start = columns.stop
        return found

    # In the lanes' threads.

    def _work(self, lane: int) -> None:
        while (batch := self._next_batch()) is not None:
            begun = self._clock()
            answered = self._model.answer(Encoding.of([entry.ids for entry in batch]), lane)
            infer_s = self._clock() - begun
            with self._changed:
                self._computing -= 1
                # One that holds back for company need not, now that none is at work.
                self._changed.notify()
            tokens = sum(entry.tokens for entry in batch)
            if tokens >= LEAST_TOKENS and infer_s > 0.0:
                self._rate += SMOOTHING * (tokens / infer_s - self._rate)
            self._report.batch(
                BatchFacts(
                    runtime=self._model.runtime,
                    documents=len(batch),
                    tokens=tokens,
                    padded_tokens=len(batch) * self._queue.width(max(entry.tokens for entry in batch)),
                    infer_s=infer_s,
                    oldest_wait_s=begun - min(entry.arrived for entry in batch),
                )
            )
            for failure in answered.failures.values():
                if failure is POISON:
                    self._report.poison()
            self._loop.call_soon_threadsafe(self._deliver, batch, answered, begun, infer_s)

    def _next_batch(self) -> "list[Entry[Waiting]] | None":
        """Waits for one; None when the batcher stops."""
        with self._changed:
            while self._open:
                oldest = self._queue.oldest()
                if oldest is None:
                    self._changed.wait()
                    continue
                left = oldest + self._batching.max_wait_ms / 1000 - self._clock()
                if left <= 0.0 or not self._computing or self._queue.tokens >= WORTH_A_LANE:
                    free = len(self._threads) - self._computing
                    self._computing += 1
                    return self._queue.take(self._budget(free))
                self._changed.wait(left)
        return None

    def _budget(self, free: int) -> int:
        """Tokens of a batch: those that take about as long as it may, and no more than a free lane's share."""
        timely = max(LEAST_TOKENS, int(self._rate * self._batching.batch_ms / 1000))
        share = max(WORTH_A_LANE, -(-self._queue.tokens // free))
        return min(self._batching.token_budget, timely, share)
