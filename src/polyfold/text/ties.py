"""Segmentations of exactly equal score, of which SentencePiece and `tokenizers` need not choose the same.

The same pieces in another order score the same, and where they also spell the same text ("..." and "." of "....",
"ha" and "haha" of "hahaha", "." and ".3." around "3.3"), what decides is the last bit of a sum: of the whole
sentence in single precision, or of the word in double. This is how SentencePiece and `tokenizers` most often come
to differ.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

REACH = 5
"""Pieces among which such an order is looked for: nearly always they are two, or three read backwards."""

_FEW = 128
"""Pieces for which a loop in Python is quicker than thirty calls of numpy: a few texts'."""


@dataclass(frozen=True)
class Ties:
    """How a piece is spelled, and for each (`[vocab]`) its first character and whether it begins a word."""

    spelled: Callable[[int], str]
    first: np.ndarray
    begins: np.ndarray

    @staticmethod
    def of(spelled: Callable[[int], str], first: np.ndarray, word_start: str) -> "Ties":
        return Ties(spelled, first, first == ord(word_start))

    def words(self, ids: np.ndarray) -> np.ndarray:
        """From where to where words go that hold pieces which spell the same in another order: int64 [found, 2].

        The other order begins with a later piece, so one with the same first character and in the same word; few
        places have such a piece near them. Documents stand one behind the other; each begins with a word.
        """
        first, begins = self.first[ids], self.begins[ids]
        if len(ids) < _FEW and not _alike(ids.tolist(), first.tolist(), begins.tolist()):
            return np.empty((0, 2), dtype=np.int64)
        word, found = np.cumsum(begins), []
        for ahead in range(1, REACH):
            like = (first[ahead:] == first[:-ahead]) & (ids[ahead:] != ids[:-ahead])
            like &= word[ahead:] == word[:-ahead]
            places = np.flatnonzero(like)
            found += [place for place in places.tolist() if self._tied(ids, word, place, ahead)]
        tied = np.unique(word[found])
        sides = [np.searchsorted(word, tied, side=side) for side in ("left", "right")]
        return np.stack(sides, axis=1)

    def _tied(self, ids: np.ndarray, word: np.ndarray, place: int, ahead: int) -> bool:
        """Whether pieces from this place spell the same with that one `ahead` put first."""
        stop = place + REACH
        near = [self.spelled(index) for index in ids[place:stop][word[place:stop] == word[place]].tolist()]
        leader, rest = near[ahead], near[:ahead] + near[ahead + 1 :]
        if not "".join(near).startswith(leader):
            return False
        lengths = range(ahead, len(near))
        return any(_spells("".join(near[: count + 1])[len(leader) :], rest[:count]) for count in lengths)


def _alike(ids: list[int], first: list[int], begins: list[bool]) -> bool:
    """Whether two different pieces that are near each other in a word, behind its first, begin alike."""
    start = 0
    for place, begin in enumerate(begins):
        if begin:
            start = place
            continue
        for other in range(max(start + 1, place - REACH + 1), place):
            if first[other] == first[place] and ids[other] != ids[place]:
                return True
    return False


def _spells(text: str, parts: list[str]) -> bool:
    """Whether the parts, each once and in any order, spell the text."""
    if not parts:
        return not text
    return any(
        text.startswith(part) and _spells(text[len(part) :], parts[:place] + parts[place + 1 :])
        for place, part in enumerate(parts)
    )
