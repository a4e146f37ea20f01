"""What the page shows of the service's pace: cheap enough to keep for every request and to ask every second."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from polyfold.serve.exchange import Exchange

SECONDS = 10
LATENCIES = 1000


@dataclass(slots=True)
class _Second:
    """What one second brought."""

    number: int
    requests: int = 0
    texts: int = 0


class Stats:
    """Answers of the last ten seconds, durations of the last thousand requests, the time since the start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._seconds: deque[_Second] = deque(maxlen=SECONDS + 1)
        self._durations: deque[float] = deque(maxlen=LATENCIES)

    def add(self, texts: int) -> None:
        """A request of so many texts was answered, by whatever protocol."""
        number = int(self._clock())
        if not self._seconds or self._seconds[-1].number != number:
            self._seconds.append(_Second(number))
        newest = self._seconds[-1]
        newest.requests += 1
        newest.texts += texts

    def exchanged(self, exchange: Exchange) -> None:
        """A request over HTTP ended; how long it took counts if it asked for texts."""
        if exchange.texts:
            self._durations.append(exchange.seconds)

    def crashed(self, exchange: Exchange, error: Exception) -> None:
        """Nothing more: its end is told, too."""

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def rates(self) -> tuple[float, float]:
        """Requests and texts a second, over whole seconds: the one that runs does not count yet."""
        now, started = int(self._clock()), int(self._started)
        whole = [one for one in self._seconds if now - SECONDS <= one.number < now]
        # In the first seconds, over those there were.
        span = min(SECONDS, max(1, now - started))
        return sum(one.requests for one in whole) / span, sum(one.texts for one in whole) / span

    def latency_ms(self, share: float) -> float | None:
        """The duration that this share of the last requests did not exceed; None before the first."""
        ordered = sorted(self._durations)
        return 1000.0 * ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else None
