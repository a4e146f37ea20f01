"""How far what is served lies from what a model was tested on: two distances of counts, and a window of counts.

The population stability index (PSI) of two distributions p and q is the sum of (p - q) ln(p / q), the symmetric
divergence of Jeffreys (1946). Below 0.1 is read as no change worth a look, above 0.25 as one that asks for action
(Siddiqi 2006, Credit Risk Scorecards). Those levels say nothing of chance: two samples of one distribution have an
index of about a chi-square variable of (bins - 1) degrees times (1/n + 1/m) (Yurdakul 2018, Statistical Properties
of Population Stability Index, dissertation, Western Michigan University). Hence nothing is claimed before chance
alone keeps below 0.1 in 999 of 1,000 samples.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Literal

import numpy as np

Level = Literal["ok", "watch", "drifted"]

WATCH, DRIFTED = 0.1, 0.25
LEAST_TEXTS = 200
"""Nothing is claimed from fewer, however few the bins."""

_SMOOTHING = 0.5
"""Added to each count, so that an empty bin has a share: that of half a text (Jeffreys' prior)."""

_NORMAL_999 = 3.0902
"""The standard normal's 99.9 % point."""


@dataclass(frozen=True)
class Distance:
    """How far two distributions lie apart: `stability_index` from 0 up, `total_variation` from 0 to 1."""

    stability_index: float
    total_variation: float

    @property
    def level(self) -> Level:
        """By the rule of thumb."""
        return "ok" if self.stability_index < WATCH else "watch" if self.stability_index < DRIFTED else "drifted"


def distance(first: np.ndarray, second: np.ndarray) -> Distance:
    """Of two arrays of counts, [bins] each; a bin that is empty in both does not count."""
    used = (first + second) > 0
    if not used.any():
        return Distance(0.0, 0.0)
    p, q = _smooth(first[used]), _smooth(second[used])
    index = float(((p - q) * np.log(p / q)).sum())
    variation = 0.5 * float(np.abs(_shares(first) - _shares(second)).sum())
    return Distance(max(0.0, index), min(1.0, variation))


def texts_needed(bins: int, documents: float) -> int | None:
    """So many texts that chance alone keeps the index below `WATCH`, against a reference of `documents`.

    None where no number would do, the reference itself being too small.
    """
    chance = _chi_square_999(bins - 1)
    if bins > 1 and documents * WATCH <= chance:
        return None
    needed = 1.0 / (WATCH / chance - 1.0 / documents) if bins > 1 else 0.0
    return max(LEAST_TEXTS, ceil(needed))


class Window:
    """Counts (or sums) of the newest texts: about the last `texts` of them, and none older than `seconds`.

    Kept as some twenty slices that leave as a whole, so it costs the same however many texts come.
    """

    def __init__(self, bins: int, texts: int, seconds: float, clock: Callable[[], float]) -> None:
        self._texts, self._seconds, self._clock = texts, seconds, clock
        self._slices: deque[_Slice] = deque()
        self._counts = np.zeros(bins)
        self._total = 0

    def add(self, counts: np.ndarray, texts: int) -> None:
        """`counts` of `texts` more, [bins]; a text may count in several bins."""
        now = self._clock()
        newest = self._slices[-1] if self._slices else None
        small = newest is not None and newest.texts < self._texts / 20 and now - newest.began < self._seconds / 60
        if newest is None or not small:
            newest = _Slice(now, np.zeros_like(self._counts))
            self._slices.append(newest)
        newest.counts += counts
        newest.texts += texts
        self._counts += counts
        self._total += texts

    def read(self) -> tuple[np.ndarray, int]:
        """The counts, float [bins], and how many texts they are of."""
        oldest_allowed = self._clock() - self._seconds
        while self._slices and (
            self._slices[0].began < oldest_allowed or self._total - self._slices[0].texts >= self._texts
        ):
            gone = self._slices.popleft()
            self._counts -= gone.counts
            self._total -= gone.texts
        return self._counts.copy(), self._total


@dataclass
class _Slice:
    """Counts of some texts that came one after the other."""

    began: float
    counts: np.ndarray
    texts: int = 0


def _smooth(counts: np.ndarray) -> np.ndarray:
    return np.asarray((counts + _SMOOTHING) / (counts.sum() + _SMOOTHING * len(counts)))


def _shares(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts / max(float(counts.sum()), 1.0))


def _chi_square_999(degrees: int) -> float:
    """The 99.9 % point, to about one part in a hundred (Wilson and Hilferty 1931); scipy is not for serving."""
    if degrees < 1:
        return 0.0
    spread = 2.0 / (9.0 * degrees)
    return float(degrees * (1.0 - spread + _NORMAL_999 * sqrt(spread)) ** 3)
