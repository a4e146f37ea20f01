"""Latency under open-loop arrivals: texts come when they come, whether or not the worker is ready.

Arrivals are a Poisson process whose times are drawn beforehand, and a latency is counted from the moment its text
was due. So a slow answer makes the texts behind it wait, as they would in service, and none is left out for
having come late (Tene, "How NOT to measure latency", 2013, calls leaving them out coordinated omission).

One thread serves the queue first come, first served, and needs no other to fill it: what is due is known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, sleep

import numpy as np

from polyfold.benchmark.results import Arrivals

SPIN_SECONDS = 0.001
"""Sleeping wakes up late by up to about this much, so the rest is waited for awake."""

FEWEST_FOR_P999 = 1000

Serve = Callable[[Sequence[int]], object]
"""Answers the requests of these numbers, which wait together."""


@dataclass(frozen=True)
class Time:
    """A clock and how to wait on it; a test has one of its own."""

    now: Callable[[], float] = perf_counter
    rest: Callable[[float], None] = sleep


def poisson_arrivals(rate: float, requests: int, seconds: float, seed: int) -> np.ndarray:
    """Seconds at which requests are due, ascending: exponential gaps of mean 1/rate, at least one request."""
    times = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, requests))
    return times[: max(1, int(np.searchsorted(times, seconds, side="right")))]


def serve_open_loop(due: np.ndarray, serve: Serve, together: int = 1, time: Time | None = None) -> np.ndarray:
    """Latency of every request in seconds, from when it was due to when its answer was there."""
    clock = time or Time()
    latencies = np.empty(len(due))
    start = clock.now()
    first = 0
    while first < len(due):
        wait_until(start + due[first], clock)
        waiting = int(np.searchsorted(due, clock.now() - start, side="right"))
        # The clock may stand a rounding before the moment that was waited for.
        last = min(max(waiting, first + 1), first + together)
        serve(range(first, last))
        latencies[first:last] = clock.now() - start - due[first:last]
        first = last
    return latencies


def wait_until(moment: float, clock: Time) -> None:
    """Sleep most of the way and spin the rest: a sleep alone would add its own lateness to the latency."""
    while (left := moment - clock.now()) > 0:
        if left > SPIN_SECONDS:
            clock.rest(left - SPIN_SECONDS)


def measure_arrivals(
    texts: Sequence[str], answer: Callable[[Sequence[str]], object], load: float, rate: float, together: int,
    *, limits: tuple[int, float], seed: int,
) -> Arrivals:  # fmt: skip
    """One load: texts in turn, at `rate` a second; `limits` are the most requests and seconds."""
    due = poisson_arrivals(rate, *limits, seed)
    started = perf_counter()
    latencies = serve_open_loop(due, lambda rows: answer([texts[row % len(texts)] for row in rows]), together)
    elapsed = perf_counter() - started
    p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9]) * 1000
    return Arrivals(
        load=load,
        together=together,
        requests=len(due),
        arrivals_per_second=rate,
        answers_per_second=len(due) / elapsed,
        latency_ms_p50=float(p50),
        latency_ms_p99=float(p99),
        latency_ms_p999=float(p999) if len(due) >= FEWEST_FOR_P999 else None,
        latency_ms_most=float(latencies.max()) * 1000,
    )


def service_rate(texts: Sequence[str], answer: Callable[[Sequence[str]], object]) -> float:
    """Texts a second one at a time, back to back: what a load of 1 means; each text is warmed up first."""
    for text in texts:
        answer([text])
    started = perf_counter()
    for text in texts:
        answer([text])
    return len(texts) / (perf_counter() - started)
