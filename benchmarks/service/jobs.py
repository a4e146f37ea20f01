"""What the load generator is told and what it hands back; it runs in a process of its own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from polyfold.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
GRACE_SECONDS = 60.0
"""How long the generator may take beyond its job: to begin, and to write down what it saw."""

NOT_SENT, ANSWERED, DIED, SILENT, UNREACHABLE = range(5)
"""How a request ended: `DIED` is a connection that ended before the answer was whole, `SILENT` one on which none
came in time, `UNREACHABLE` one that could not be opened."""


class Job(BaseModel):
    """One load. Texts go in turn from `first`, `texts_a_request` in each request, and from the start again.

    Open loop: requests are due at the moments of a Poisson process of `rate` a second, however the server does.
    Closed loop: each of `connections` carries `depth` requests, and the next once one is answered. `connections`
    are opened beforehand; an open loop opens more, up to `most_connections`, and then lets requests wait. More
    than `most_waiting` of these mean that the server cannot keep up, and the rest is not sent. No request is sent
    after `seconds`; one that has no answer `patience_s` after the last sign of life is given up. `retries` is how
    often a request that is refused with Retry-After is sent again. A connection that was idle for `idle_s` is
    closed and not used: a server may close it at any moment, and what is sent then is lost through no fault of
    its own (RFC 9112, 9.3.1).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int
    texts: str
    mode: Literal["open", "closed"]
    count: int = Field(ge=1)
    seconds: float = Field(gt=0)
    rate: float | None = None
    seed: int = 0
    first: int = 0
    texts_a_request: int = Field(default=1, ge=1)
    connections: int = Field(default=16, ge=1)
    most_connections: int = 4096
    most_waiting: int = 4096
    depth: int = 1
    probabilities: bool = False
    key: str | None = None
    patience_s: float = 15.0
    retries: int = 0
    idle_s: float = 20.0

    def rows(self, request: int, texts: int) -> list[int]:
        """Which of so many texts a request asks for."""
        start = self.first + request * self.texts_a_request
        return [(start + place) % texts for place in range(self.texts_a_request)]


@dataclass(frozen=True)
class Outcome:
    """What became of every request; moments are `time.monotonic`, which all processes of a machine share.

    `refusals` counts how often a request was refused before it was answered or given up.
    """

    job: Job
    due: np.ndarray
    sent: np.ndarray
    done: np.ndarray
    status: np.ndarray
    ending: np.ndarray
    refusals: np.ndarray
    bodies: list[bytes]
    facts: dict[str, float]

    def __len__(self) -> int:
        return len(self.due)

    @property
    def latencies(self) -> np.ndarray:
        """Seconds from when a request was due to its answer; NaN without one."""
        return self.done - self.due

    def successes(self) -> np.ndarray:
        """Which requests were answered with 2xx."""
        return (self.ending == ANSWERED) & (self.status // 100 == 2)

    def refused(self) -> np.ndarray:
        """Which requests ended with 4xx or 5xx."""
        return (self.ending == ANSWERED) & (self.status >= 400)


class Loading:
    """A load under way."""

    def __init__(self, job: Job, folder: Path, process: "subprocess.Popen[str]", started: float) -> None:
        self.job = job
        self.started = started
        self._folder = folder
        self._process = process

    def wait(self) -> Outcome:
        """What became of it."""
        try:
            _, said = self._process.communicate(timeout=self.job.seconds + self.job.patience_s + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.stop()
            raise InputError("the load generator did not end in time", file=self._folder) from None
        if self._process.returncode:
            raise InputError(f"the load generator failed: {said.strip()[-800:]}", file=self._folder)
        return read_outcome(self.job, self._folder)

    def stop(self) -> None:
        """End it, whatever it was doing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def start(job: Job, folder: Path) -> Loading:
    """Begin a load; returns once the first request is about to be sent."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(job.model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.service.generator", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("started "):
        _, said = process.communicate()
        raise InputError(f"the load generator did not begin: {(line + said).strip()[-800:]}", file=folder)
    return Loading(job, folder, process, float(line.split()[1]))


def run(job: Job, folder: Path) -> Outcome:
    """A whole load."""
    loading = start(job, folder)
    try:
        return loading.wait()
    finally:
        loading.stop()


def write_outcome(folder: Path, columns: dict[str, Any], bodies: list[bytes], facts: dict[str, float]) -> None:
    """What `read_outcome` reads."""
    lengths = np.fromiter(map(len, bodies), np.int64, len(bodies))
    np.savez(folder / "outcome.npz", lengths=lengths, bodies=np.frombuffer(b"".join(bodies), np.uint8), **columns)
    (folder / "facts.json").write_text(json.dumps(facts))


def read_outcome(job: Job, folder: Path) -> Outcome:
    """A finished load from its folder."""
    with np.load(folder / "outcome.npz") as stored:
        columns = {name: stored[name] for name in stored.files}
    ends = np.cumsum(columns.pop("lengths")).tolist()
    joined = columns.pop("bodies").tobytes()
    bodies = [joined[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return Outcome(job, bodies=bodies, facts=json.loads((folder / "facts.json").read_text()), **columns)
