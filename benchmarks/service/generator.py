"""The load generator: an asyncio client over raw connections, in a process of its own.

    python -m benchmarks.service.generator FOLDER

reads FOLDER/job.json and leaves there what became of every request. Requests are bytes made before the clock
starts, arrivals are drawn before it, and answers are kept as they came and looked at afterwards: while it runs,
it does nothing that could wait. A latency is counted from when a request was due, so that a server that is behind
cannot hide it (Tene, "How NOT to measure latency", 2013: coordinated omission).
"""

import asyncio
import gc
import json
import math
import os
import resource
import sys
from collections import deque
from pathlib import Path
from time import monotonic, process_time
from typing import cast

import numpy as np
import uvloop

from polyfold.benchmark.arrivals import poisson_arrivals

from .alarm import Alarm
from .jobs import ANSWERED, DIED, NOT_SENT, SILENT, UNREACHABLE, Job, write_outcome
from .wire import Answer, Broken, next_answer, request_of, retry_after_s, says_goodbye

WATCH_SECONDS = 0.25
OPENED_TOGETHER = 64


class Connection(asyncio.Protocol):
    """One connection; `waiting` are the requests under way on it, the oldest first."""

    __slots__ = ("_load", "_rest", "_transport", "_write", "alive", "used", "waiting")

    def __init__(self, load: "Load", first: int | None) -> None:
        self._load = load
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self.alive = True
        self.used = monotonic()
        self.waiting: deque[int] = deque() if first is None else deque([first])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what the connection was opened for."""
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        first = self.waiting.popleft() if self.waiting else None
        self._load.opened(self, first)

    def send(self, number: int) -> None:
        """One request."""
        self.waiting.append(number)
        self._load.sent[number] = monotonic()
        self._write(self._load.requests[number])

    def data_received(self, data: bytes) -> None:
        """Answers, or parts of one."""
        self.used = now = monotonic()
        if self._rest:
            data, self._rest = self._rest + data, b""
        start = 0
        try:
            while start < len(data):
                answer = next_answer(data, start)
                if answer is None:
                    self._rest = data[start:]
                    return
                start = answer.end
                if not self.waiting:
                    self._load.facts["unasked"] += 1
                    continue
                number = self.waiting.popleft()
                if says_goodbye(answer.head):
                    self.alive = False
                self._load.answered(self, number, now, answer)
        except Broken:
            self._load.facts["broken"] += 1
            self.close()

    def close(self) -> None:
        """End it from this side."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever was under way on it has no answer."""
        self.alive = False
        self._load.lost(self)


class Load:
    """One job on the running event loop."""

    def __init__(self, job: Job, requests: list[bytes], due: list[float] | None) -> None:
        self.job = job
        self.requests = requests
        count = len(requests)
        self.due = due
        self.sent = [math.nan] * count
        self.done = [math.nan] * count
        self.status = [0] * count
        self.ending = [NOT_SENT] * count
        self.refusals = [0] * count
        self.bodies = [b""] * count
        names = ("unasked", "broken", "connections", "opened_while_running", "waited_for_connection", "died",
                 "overloaded", "stood_still_s", "wall_s", "cpu_s", "started")  # fmt: skip
        self.facts: dict[str, float] = dict.fromkeys(names, 0.0)
        self._loop = asyncio.get_running_loop()
        self._free: list[Connection] = []
        self._all: set[Connection] = set()
        self._opening = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._backlog: deque[int] = deque()
        self._left = count
        self._next = 0
        self._finished = self._loop.create_future()
        self._life = self._looked = 0.0
        self._until = math.inf

    async def run(self) -> None:
        """Open connections, send everything, wait for the answers."""
        for start in range(0, self.job.connections, OPENED_TOGETHER):
            together = min(OPENED_TOGETHER, self.job.connections - start)
            await asyncio.gather(*(self._open(None) for _ in range(together)))
        if not self._all:
            raise SystemExit(f"nobody listens on port {self.job.port}")
        self.facts["opened_while_running"] = 0.0
        alarm = Alarm()
        gc.collect()
        gc.freeze()
        gc.disable()
        started, cpu = monotonic(), process_time()
        self._looked = started
        self._life, self._until = started, started + self.job.seconds
        self.facts["started"] = started
        print(f"started {started!r}", flush=True)
        watch = self._loop.call_later(WATCH_SECONDS, self._watch)
        if self.due is not None:
            self.due = [started + moment for moment in self.due]
            self._loop.add_reader(alarm.fd, self._arrivals, alarm)
            alarm.set(self.due[0])
        else:
            for _ in range(min(len(self.requests), self.job.connections * self.job.depth)):
                self._send_next()
        await self._finished
        self.facts["cpu_s"], self.facts["wall_s"] = process_time() - cpu, monotonic() - started
        watch.cancel()
        self._loop.remove_reader(alarm.fd)
        alarm.close()
        self._finish()

    def opened(self, connection: Connection, first: int | None) -> None:
        """A connection is there: send what it is for, and take what waits."""
        self._all.add(connection)
        self.facts["connections"] += 1
        self.facts["opened_while_running"] += 1
        if first is not None:
            connection.send(first)
        for _ in range(self.job.depth - (first is not None)):
            self._freed(connection)

    def answered(self, connection: Connection, number: int, now: float, answer: Answer) -> None:
        """An answer is whole."""
        status, head, body, _ = answer
        self._life = now
        if status in (429, 503) and self.refusals[number] < self.job.retries:
            wait = retry_after_s(head)
            if wait is not None:
                self.refusals[number] += 1
                self._loop.call_later(wait, self._send, number)
                self._freed(connection)
                return
        self.done[number] = now
        self.status[number] = status
        self.bodies[number] = body
        self._freed(connection)
        self._end(number, ANSWERED)

    def lost(self, connection: Connection) -> None:
        """A connection ended; not every server says so before."""
        self._all.discard(connection)
        if connection.waiting:
            self.facts["died"] += 1
        while connection.waiting:
            self._end(connection.waiting.popleft(), DIED)
        while self._backlog and len(self._all) + self._opening < self.job.most_connections:
            self._connect(self._backlog.popleft())

    def _arrivals(self, alarm: Alarm) -> None:
        """Send all that is due, and set the alarm for the next."""
        assert self.due is not None
        alarm.clear()
        now, number, due = monotonic(), self._next, self.due
        while number < len(due) and due[number] <= now:
            self._send(number)
            number += 1
        self._next = number
        if len(self._backlog) > self.job.most_waiting:
            self.facts["overloaded"] = 1.0
            self._give_up_the_rest()
        elif number < len(due):
            alarm.set(due[number])

    def _give_up_the_rest(self) -> None:
        rest = len(self.requests) - self._next
        self._next = len(self.requests)
        dropped = len(self._backlog)
        self._backlog.clear()
        self._left -= rest + dropped
        self._check_finished()

    def _send_next(self) -> None:
        """The next request of a closed loop, unless its time is over."""
        if self._next >= len(self.requests):
            return
        if monotonic() >= self._until:
            self._give_up_the_rest()
            return
        self._next += 1
        self._send(self._next - 1)

    def _send(self, number: int) -> None:
        free, oldest = self._free, monotonic() - self.job.idle_s
        while free:
            connection = free.pop()
            if connection.alive:
                if connection.used > oldest or connection.waiting:
                    connection.send(number)
                    return
                connection.alive = False
                connection.close()
        if len(self._all) + self._opening < self.job.most_connections:
            self._connect(number)
        else:
            self.facts["waited_for_connection"] += 1
            self._backlog.append(number)

    def _connect(self, number: int) -> None:
        task = self._loop.create_task(self._open(number))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, number: int | None) -> None:
        self._opening += 1
        try:
            await self._loop.create_connection(lambda: Connection(self, number), "127.0.0.1", self.job.port)
        except OSError:
            if number is not None:
                self._end(number, UNREACHABLE)
        finally:
            self._opening -= 1

    def _freed(self, connection: Connection) -> None:
        if not connection.alive:
            return
        if self._backlog:
            connection.send(self._backlog.popleft())
        else:
            self._free.append(connection)

    def _end(self, number: int, how: int) -> None:
        self.ending[number] = how
        self._left -= 1
        if self.due is None:
            # Through the loop where nothing was sent: a server that is not there must not be asked recursively.
            if how == ANSWERED:
                self._send_next()
            else:
                self._loop.call_later(0.01, self._send_next)
        self._check_finished()

    def _check_finished(self) -> None:
        if self._left <= 0 and not self._finished.done():
            self._finished.set_result(None)

    def _watch(self) -> None:
        """Give up where nothing has come for a while and nothing more is to be sent.

        A look that comes late tells of a machine that stood still: a virtual one may, for a minute, and then no
        server is to blame.
        """
        late = monotonic() - self._looked - WATCH_SECONDS
        self.facts["stood_still_s"] = max(self.facts["stood_still_s"], late)
        self._looked = monotonic()
        waits = self._next >= len(self.requests) or self.due is None
        moment = max(self._life, self._until if self.due is not None else 0.0)
        if waits and monotonic() - moment > self.job.patience_s and not self._finished.done():
            self._finished.set_result(None)
        else:
            self._loop.call_later(WATCH_SECONDS, self._watch)

    def _finish(self) -> None:
        """What is still under way is silent."""
        for connection in list(self._all):
            for number in connection.waiting:
                self.ending[number] = SILENT
            connection.waiting.clear()
            connection.close()
        for number in self._backlog:
            self.ending[number] = SILENT


def arrivals_of(job: Job) -> np.ndarray | None:
    """Seconds from the start at which requests are due; None for a closed loop."""
    if job.mode == "closed":
        return None
    assert job.rate is not None
    return poisson_arrivals(job.rate, job.count, job.seconds, job.seed)


def requests_of(job: Job, texts: list[str], count: int) -> list[bytes]:
    """All requests of a job, as bytes."""
    single = job.texts_a_request == 1
    return [
        request_of(
            [texts[row] for row in job.rows(number, len(texts))],
            job.port, probabilities=job.probabilities, key=job.key, single=single,
        )
        for number in range(count)
    ]  # fmt: skip


async def _run(job: Job, folder: Path) -> None:
    texts = json.loads(Path(job.texts).read_bytes())
    due = arrivals_of(job)
    count = job.count if due is None else len(due)
    load = Load(job, requests_of(job, texts, count), None if due is None else due.tolist())
    await load.run()
    await asyncio.sleep(0)
    # In a closed loop a request is due when it is sent.
    columns = {
        "due": np.array(load.sent if load.due is None else load.due),
        "sent": np.array(load.sent),
        "done": np.array(load.done),
        "status": np.array(load.status, np.int16),
        "ending": np.array(load.ending, np.int8),
        "refusals": np.array(load.refusals, np.int16),
    }
    write_outcome(folder, columns, load.bodies, load.facts)


def main(arguments: list[str]) -> None:
    """Run the job of a folder."""
    folder = Path(arguments[0])
    job = Job.model_validate_json((folder / "job.json").read_bytes())
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(_run(job, folder))
    # Requests and answers by the hundred thousand need not be freed one by one.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
