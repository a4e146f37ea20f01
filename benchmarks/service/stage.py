"""What every fault needs: a server of the model under test, a load beside it, and the account afterwards."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np

from polyfold.predictor import Predictor

from . import jobs
from .answers import Expected
from .contestants import polyfold_command
from .crowd_client import Crowd
from .processes import Server, free_port, launch
from .results import FaultRow, Tally

NAME = "model"
WINDOW_SECONDS = 0.25
NORMAL_FACTOR, NORMAL_LEAST_MS = 3.0, 50.0
"""A window is normal again while its p99 is at most so many times the one before the fault, or so low."""

WARM_SECONDS = 0.5
STOOD_STILL_S = 2.0
"""More than any scheduler lets a process wait on a machine that is not stopped as a whole."""

Excuse = Callable[[jobs.Outcome], np.ndarray]


@dataclass(frozen=True)
class Story:
    """How a fault is told: its name in figures, what it is, and how it was brought about."""

    name: str
    fault: str
    injected: str


@dataclass(frozen=True)
class Stage:
    """The model under test and the load beside it. `folders` are the preferred one and those that stand in."""

    folders: tuple[Path, ...]
    predictor: Predictor
    expected: Expected
    texts: list[str]
    file: Path
    work: Path
    rate: float
    before_s: float
    after_s: float
    connections: int
    command: str
    code: str
    faketime: Path | None = None
    options: tuple[str, ...] = ()
    rows: list[FaultRow] = field(default_factory=list)

    @contextmanager
    def server(self, *options: str, **settings: Any) -> Iterator[Server]:
        """A ready server, killed at the end where it still lives."""
        server = self.launch(*options, **settings)
        try:
            server.wait_ready()
            self._warm_up(server, settings.get("key"))
            yield server
        finally:
            server.kill()

    def launch(
        self,
        *options: str,
        sabotage: str | None = None,
        environment: Mapping[str, str] | None = None,
        port: int | None = None,
        key: str | None = None,
    ) -> Server:
        """A server that was only started; `key` is what its warm-up needs."""
        listen = port or free_port()
        models = f"{NAME}={','.join(str(folder.resolve()) for folder in self.folders)}"
        command = polyfold_command([models], listen, [*self.options, *options])
        if sabotage is not None:
            command = [sys.executable, "-m", "benchmarks.service.sabotage", sabotage, *command[1:]]
        surroundings = {"PYTHONPATH": str(jobs.ROOT), **(environment or {})}
        return launch("polyfold", command, listen, self.work / "server.log", surroundings)

    def load(self, server: Server, seconds: float, **settings: Any) -> jobs.Loading:
        """An open loop of single texts, with probabilities in every answer, begun."""
        given = {
            "port": server.port, "texts": str(self.file), "mode": "open", "rate": self.rate, "seconds": seconds,
            "count": max(1, int(2 * self.rate * seconds)), "connections": 32, "probabilities": True, **settings,
        }  # fmt: skip
        return jobs.start(jobs.Job.model_validate(given), self.work / "job")

    def crowd(self, kind: str, server: Server, count: int, seconds: float, key: str | None = None) -> Crowd:
        """Clients that misbehave."""
        return Crowd(kind, server.port, count, seconds, key)

    def reached(self, started: float, seconds: float) -> float:
        """Wait until so many seconds after a load's start; that moment."""
        sleep(max(0.0, started + seconds - monotonic()))
        return monotonic()

    def with_texts(self, texts: Sequence[str], poison: frozenset[int]) -> "Stage":
        """The same with other texts, some of them poison."""
        import json

        file = self.work / "other-texts.json"
        file.write_text(json.dumps(list(texts)))
        expected = replace(Expected.of(self.predictor, texts, self.expected.tolerance), poison=poison)
        return replace(self, texts=list(texts), file=file.resolve(), expected=expected)

    def _warm_up(self, server: Server, key: str | None) -> None:
        self.load(server, WARM_SECONDS, mode="closed", count=500, key=key).wait()

    def row(
        self,
        story: Story,
        outcome: jobs.Outcome,
        moment: float,
        *,
        facts: Mapping[str, float | str],
        checks: Mapping[str, bool],
        excuse: Excuse | None = None,
    ) -> FaultRow:
        """The account: what was lost, when all was well again, and whether every check held."""
        counts = self.expected.check(outcome)
        unanswered = np.isin(outcome.ending, (jobs.DIED, jobs.SILENT, jobs.UNREACHABLE))
        excused = int((unanswered & excuse(outcome)).sum()) if excuse is not None else 0
        tally = Tally.of(counts)
        lost = tally.bad + counts.unreachable - excused
        before = outcome.successes() & (outcome.due < moment) & (outcome.due > outcome.due[0] + WARM_SECONDS / 2)
        during = outcome.successes() & (outcome.due >= moment) & (outcome.due < moment + 2.0)
        p99 = _p99_ms(outcome, before)
        limit = max(NORMAL_LEAST_MS, NORMAL_FACTOR * (p99 or 0.0))
        failed = [what for what, held in checks.items() if not held]
        if outcome.facts["stood_still_s"] > STOOD_STILL_S:
            failed.append(f"the machine stood still for {outcome.facts['stood_still_s']:.1f} s: measure again")
        return FaultRow(
            name=story.name,
            fault=story.fault,
            injected=story.injected,
            command=self.command,
            code=self.code,
            tally=tally,
            excused=excused,
            lost=lost,
            recovered_s=recovered_s(outcome, moment, limit),
            survived=not failed and lost == 0,
            limit_ms=round(limit, 3),
            p99_before_ms=p99,
            p99_fault_ms=_p99_ms(outcome, during),
            facts={name: round(one, 4) if isinstance(one, float) else one for name, one in facts.items()},
            problem="; ".join(failed) or None,
        )


def _p99_ms(outcome: jobs.Outcome, chosen: np.ndarray) -> float | None:
    return round(float(1e3 * np.percentile(outcome.latencies[chosen], 99)), 3) if chosen.any() else None


def recovered_s(outcome: jobs.Outcome, moment: float, limit_ms: float) -> float | None:
    """Seconds from the fault until all later windows are normal; 0 where none was otherwise, None where none is.

    A window is normal where every request that was due in it was answered with 2xx, 99 of 100 within the limit.
    """
    due = outcome.due - moment
    answered, latencies = outcome.successes(), 1e3 * outcome.latencies
    known = ~np.isnan(due)
    if not known.any():
        return None
    last, worst = float(due[known].max()), 0.0
    for number in range(max(1, int(np.ceil(last / WINDOW_SECONDS)))):
        start, end = number * WINDOW_SECONDS, (number + 1) * WINDOW_SECONDS
        inside = known & (due >= start) & (due < end) & (outcome.ending != jobs.NOT_SENT)
        if not inside.any():
            continue
        if not answered[inside].all() or np.percentile(latencies[inside], 99) > limit_ms:
            worst = end
    # Nothing normal after the last bad window: it has not recovered as far as was looked.
    return None if worst >= last else round(worst, 3)


def sent_from(moment: float) -> Excuse:
    """Excuses requests that were sent, or would have been, from a moment on."""
    return lambda outcome: np.where(np.isnan(outcome.sent), outcome.due, outcome.sent) >= moment


def under_way(start: float, end: float) -> Excuse:
    """Excuses requests that were under way in some time, or begun in it."""

    def excuse(outcome: jobs.Outcome) -> np.ndarray:
        sent = np.where(np.isnan(outcome.sent), outcome.due, outcome.sent)
        return (sent < end) & ((outcome.done > start) | np.isnan(outcome.done))

    return excuse


def run_quietly(command: Sequence[str]) -> str:
    """A command's standard output; its words with the error where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=jobs.ROOT)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()[-800:]}"
    return done.stdout.strip()
