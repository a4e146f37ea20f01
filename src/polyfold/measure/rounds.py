"""Taking turns on one clock: rounds of all works are interleaved, so what else the machine does hits all alike."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from time import perf_counter
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from polyfold.measure.report import Speed

Call = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)


class Timing(BaseModel):
    """One key's figures: medians over rounds; latencies are percentiles over all calls.

    A call is one batch for a dense shape and one text for the real-text keys. `documents` is how many distinct
    documents the throughput was measured on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents_per_second: float
    documents_per_second_least: float
    documents_per_second_most: float
    latency_ms_p50: float
    latency_ms_p99: float
    documents: int
    rounds: int
    calls: int

    @property
    def speed(self) -> Speed:
        """The part of it that the report's contract holds."""
        return Speed(
            documents_per_second=self.documents_per_second,
            latency_ms_p50=self.latency_ms_p50,
            latency_ms_p99=self.latency_ms_p99,
        )


@dataclass(frozen=True)
class Turns:
    """How often a work has its turn, and each for how long at least; after `most_seconds` none is begun."""

    rounds: int
    seconds: float
    most_seconds: float = float("inf")


@dataclass(frozen=True)
class Work:
    """What one turn does: `calls`, in a circle, and, where a call is not one latency, `singles` after them."""

    calls: Sequence[Call]
    documents_per_call: int
    documents: int
    warm_up: Sequence[Call]
    turns: Turns
    singles: Sequence[Call] = ()


@dataclass
class _Clock:
    """The turns one work has had."""

    work: Work
    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._calls = cycle(self.work.calls)
        self._singles = cycle(self.work.singles)

    @property
    def waiting(self) -> bool:
        """Whether it may have another turn; the first it always may."""
        turns = self.work.turns
        return not self.rates or (len(self.rates) < turns.rounds and self.seconds < turns.most_seconds)

    def turn(self) -> None:
        """At least one call, and more until the turn's seconds have passed; then the same for the singles."""
        seconds = self.work.turns.seconds
        times = timed(self._calls, seconds)
        self.rates.append(self.work.documents_per_call * len(times) / sum(times))
        single = timed(self._singles, seconds) if self.work.singles else []
        self.latencies += single if self.work.singles else times
        self.seconds += sum(times) + sum(single)

    def timing(self) -> Timing:
        """The figures of all turns."""
        p50, p99 = np.percentile(self.latencies, [50, 99]) * 1000
        return Timing(
            documents_per_second=float(np.median(self.rates)),
            documents_per_second_least=min(self.rates),
            documents_per_second_most=max(self.rates),
            latency_ms_p50=float(p50),
            latency_ms_p99=float(p99),
            documents=self.work.documents,
            rounds=len(self.rates),
            calls=len(self.latencies),
        )


def take_turns(works: Mapping[Key, Work]) -> dict[Key, Timing]:
    """Warm every work up, then give each its turns, one after the other, round after round."""
    clocks = {key: _Clock(work) for key, work in works.items()}
    for clock in clocks.values():
        for call in clock.work.warm_up:
            call()
    while any(clock.waiting for clock in clocks.values()):
        for clock in clocks.values():
            if clock.waiting:
                clock.turn()
    return {key: clock.timing() for key, clock in clocks.items()}


def timed(calls: Iterator[Call], seconds: float) -> list[float]:
    """Seconds of each call: one at least, then more until `seconds` are spent."""
    times: list[float] = []
    spent = 0.0
    for call in calls:
        started = perf_counter()
        call()
        times.append(perf_counter() - started)
        spent += times[-1]
        if spent >= seconds:
            break
    return times
