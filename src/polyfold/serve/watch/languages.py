"""In which languages texts are, guessed for a few of them a second, in a thread of its own.

The detector (py3langid; Lui and Baldwin 2012, langid.py) takes about 0.25 ms a text of a hundred characters, more
than a small model does, so texts are sampled. A text is dropped once it is counted; none is kept, logged or shown.
"""

import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from polyfold.errors import InputError, MissingExtra
from polyfold.serve.watch.drift_reference import OTHER, base_language

PER_SECOND = 20
"""At most so many texts are looked at: half a percent of one core."""

WAITING = 64
"""Texts that may wait for the detector; what comes while they do is not looked at."""

CHARACTERS = 500
"""More of a text does not change the guess, but costs: 1 ms for 2,000 characters."""

CONFIDENT = 0.5
"""From here on the detector is believed. On 3,000 texts of the public benchmark's 12 core languages it took 0.2 %
for another language and 0.6 % were unsure; of texts in its other 10 languages it found 91 % to be others."""

LEAST = 0.05
"""A known language that is less likely than this, of all, is no guess: a text of digits or of nothing."""

NO_LANGUAGE = "zxx"
"""What the detector says of numbers and symbols (ISO 639-2)."""

UNSURE = "unsure"

Ranking = Sequence[tuple[str, float]]
"""Languages and their probabilities, the likeliest first."""


@dataclass(frozen=True)
class Detector:
    """What guesses languages: its languages, and their ranking for a text."""

    languages: frozenset[str]
    rank: Callable[[str], Ranking]


def open_detector() -> Detector:
    """The py3langid model, which takes a second and some 100 MB; InputError where it is not installed."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise MissingExtra("py3langid", "serve") from None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return Detector(frozenset(map(str, identifier.labels)), identifier.rank)


def language_of(ranking: Ranking, known: frozenset[str]) -> str:
    """One of the `known` languages, another (where the detector is confident of one), or unsure.

    Restricting the detector to known languages would find one of them in any text; asked about all, it takes
    Croatian for Bosnian. So another language must be confidently so, and the known ones compete among themselves.
    """
    first, confidence = ranking[0]
    if first not in known and confidence >= CONFIDENT:
        return UNSURE if first == NO_LANGUAGE else OTHER
    among = [(language, share) for language, share in ranking if language in known]
    best, share = max(among, key=lambda one: one[1], default=(UNSURE, 0.0))
    return best if share > max(LEAST, CONFIDENT * sum(one[1] for one in among)) else UNSURE


@dataclass(frozen=True)
class _Sampled:
    text: str
    known: frozenset[str]
    found: Callable[[str], None]


class LanguageSampler:
    """Looks at some texts, each as likely as the others of its second. `offer` costs less than a microsecond."""

    def __init__(
        self,
        detector: Callable[[], Detector] = open_detector,
        per_second: int = PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = detector
        self._per_second = per_second
        self._clock = clock
        self._random = random.Random(0)
        self._queue: queue.Queue[_Sampled | None] = queue.Queue(WAITING)
        self._seen = 0
        self._next = 0
        self._stride = 1.0
        self._second = clock()
        self._seen_before = 0
        self._taken = 0
        self.problem: str | None = None
        self.languages: frozenset[str] | None = None
        self._thread = threading.Thread(target=self._work, name="languages", daemon=True)
        self._thread.start()

    def offer(self, texts: Sequence[str], known: frozenset[str], found: Callable[[str], None]) -> None:
        """Maybe look at some of the texts; `found` is called with each one's language, in the other thread."""
        start, self._seen = self._seen, self._seen + len(texts)
        while self._next < self._seen:
            if not self._allowed():
                self._next = self._seen
                return
            self._take(_Sampled(texts[self._next - start][:CHARACTERS], known, found))
            # Gaps of random length: with a fixed one, a client that alternates languages could be seen by halves.
            self._next += 1 + round(self._random.random() * 2.0 * (self._stride - 1.0))

    def drained(self) -> None:
        """Wait until every text taken so far is counted."""
        self._queue.join()

    def close(self) -> None:
        """End the thread, after the texts that wait."""
        self._queue.put(None)
        self._thread.join()

    def _allowed(self) -> bool:
        """Whether this second has room for one more; a new second sets the stride by what the last one brought."""
        now = self._clock()
        passed = now - self._second
        if passed >= 1.0:
            came = (self._seen - self._seen_before) / passed
            self._stride = max(1.0, came / self._per_second)
            self._second, self._seen_before, self._taken = now, self._seen, 0
        return self._taken < self._per_second and self.problem is None

    def _take(self, sampled: _Sampled) -> None:
        self._taken += 1
        # Where the detector is behind, texts that wait are as good as these.
        with suppress(queue.Full):
            self._queue.put_nowait(sampled)

    def _work(self) -> None:
        detector: Detector | None = None
        try:
            detector = self._open()
            self.languages = frozenset(map(base_language, detector.languages))
        except InputError as error:
            self.problem = f"{error.problem}: {error.hint}" if error.hint else error.problem
        while (sampled := self._queue.get()) is not None:
            if detector is not None:
                self._look(detector, sampled)
            self._queue.task_done()
        self._queue.task_done()

    def _look(self, detector: Detector, sampled: _Sampled) -> None:
        try:
            sampled.found(language_of(detector.rank(sampled.text), sampled.known))
        except Exception as error:  # noqa: BLE001  (a text that the detector cannot read must not end its thread)
            self.problem = f"the language detector failed: {type(error).__name__}"
