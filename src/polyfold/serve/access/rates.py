"""How much a caller may still ask for: a bucket of requests, one of texts, and a quota of texts a day.

A bucket is kept as what had been taken at some moment and not come back by then (the leaky bucket of ITU-T I.371):
two numbers, no timer, and how long to wait is a division. All of it runs on the monotonic clock, which no change
of the date moves: while it stands still a burst comes through and then nothing, and if it went back, nothing more.
The counts are in memory: a restart forgets them.
"""

from dataclasses import dataclass

from polyfold.serve.access.keys import Allowance
from polyfold.serve.refusals import Refusal

DAY_S = 86_400.0

# Put on what a caller is told to wait, so that a rounded sum never refuses one who waited as told.
_ROUNDING_S = 1e-6


@dataclass(slots=True)
class Bucket:
    """Lets `size` through at once and `rate` a second on average; starts full."""

    taken: float = 0.0
    at: float = float("-inf")

    def wait(self, cost: int, rate: float, size: int, now: float) -> float:
        """Seconds until `cost` (at most `size`) fits: 0 where it does now."""
        over = self._taken(rate, size, now) + cost - size
        return over / rate + _ROUNDING_S if over > 0 else 0.0

    def take(self, cost: int, rate: float, size: int, now: float) -> None:
        """Take what fits."""
        self.taken, self.at = self._taken(rate, size, now) + cost, max(self.at, now)

    def _taken(self, rate: float, size: int, now: float) -> float:
        # No more than the bucket holds: it may have been a larger one when that was taken.
        return max(0.0, min(self.taken, size) - rate * max(0.0, now - self.at))


@dataclass(slots=True)
class Window:
    """Lets `size` through in 24 hours, which begin with the first of them; two windows may meet, at twice that."""

    began: float = float("-inf")
    used: int = 0

    def wait(self, cost: int, size: int, now: float) -> float:
        """Seconds until `cost` (at most `size`) fits: 0 where it does now."""
        left = self.began + DAY_S - now
        return left + _ROUNDING_S if left > 0 and self.used + cost > size else 0.0

    def take(self, cost: int, now: float) -> None:
        """Take what fits."""
        if now - self.began >= DAY_S:
            self.began, self.used = now, 0
        self.used += cost

    def give_back(self, cost: int, taken: float) -> None:
        """Undo a take of the moment `taken`, if that was in this window."""
        if taken >= self.began:
            self.used = max(0, self.used - cost)


class Meter:
    """What one caller has taken. How much it may take is said each time, since the file of keys may change."""

    def __init__(self) -> None:
        self._requests = Bucket()
        self._texts = Bucket()
        self._day = Window()

    def spend(self, allowance: Allowance, texts: int, now: float) -> None:
        """Count one request of so many texts; Refusal says how long to wait, and then nothing is counted."""
        requests_rate, texts_rate = allowance.requests_per_second, allowance.texts_per_second
        a_day = allowance.texts_per_day
        if requests_rate is not None:
            wait = self._requests.wait(1, requests_rate, allowance.requests_at_once, now)
            if wait:
                raise _too_fast(f"{requests_rate:g} requests a second", wait)
        if texts_rate is not None:
            _must_fit(texts, allowance.texts_at_once, "at once")
            wait = self._texts.wait(texts, texts_rate, allowance.texts_at_once, now)
            if wait:
                raise _too_fast(f"{texts_rate:g} texts a second", wait)
        if a_day is not None:
            _must_fit(texts, a_day, "a day")
            wait = self._day.wait(texts, a_day, now)
            if wait:
                raise Refusal(
                    429,
                    "quota_exhausted",
                    f"this key's {a_day} texts of a day are used up",
                    hint="wait for as long as Retry-After says, or ask the operator for more",
                    retry_after_s=wait,
                )
            self._day.take(texts, now)
        if requests_rate is not None:
            self._requests.take(1, requests_rate, allowance.requests_at_once, now)
        if texts_rate is not None:
            self._texts.take(texts, texts_rate, allowance.texts_at_once, now)

    def give_back(self, texts: int, spent: float) -> None:
        """Texts that were not answered after all do not count against the quota; the rates stay as they are."""
        self._day.give_back(texts, spent)


def _must_fit(texts: int, most: int, when: str) -> None:
    """What no waiting would let through is said so, and not sent to wait."""
    if texts > most:
        raise Refusal(
            413,
            "too_many_texts",
            f"{texts} texts are more than this key may send {when}: {most}",
            hint="send fewer in a request, or ask the operator for more",
        )


def _too_fast(limit: str, wait: float) -> Refusal:
    return Refusal(
        429,
        "rate_limited",
        f"this key is limited to {limit}",
        hint="wait for as long as Retry-After says",
        retry_after_s=wait,
    )
