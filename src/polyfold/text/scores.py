"""Unigram scores moved so that their sums stay near zero, where single precision has digits to spare.

SentencePiece adds the scores of a whole sentence in single precision, `tokenizers` those of a word in double. A
sentence of 100 characters scores -250, where single precision counts in steps of 1.5e-5: two segmentations of a
word that are as near to each other as that come out as they happen to (one text in 35,000, in 50 languages).

Any number may be added for each character of the text without changing which segmentation is best, since all
spell the same characters. Here it is what centres the scores, so that sums wander about zero. Where scores are
decimal fractions of five places, as XLM-R's are in some files, they are made multiples of a power of two besides:
then every sum is exact.
"""

from collections.abc import Sequence

import numpy as np

UNKNOWN_BELOW = 10.0
"""How far below the lowest score both libraries put an unknown character."""

_PLACES = 1e5
_UNIT = 2.0**-17
"""What 0.00001 becomes: a sum is exact up to 2^24 units, which is 168 in old scores."""
_ROUNDS = 5


def centred(pieces: Sequence[str], scores: np.ndarray) -> np.ndarray:
    """Scores that choose the same segmentations, float64 [pieces], each exact in single precision or near it.

    Pieces must be distinct; among them are those of one character that make a character known.
    """
    codes = np.frombuffer("".join(pieces).encode("utf-32-le"), dtype="<u4")
    lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    owners = np.repeat(np.arange(len(pieces)), lengths)
    known, places = np.unique(codes, return_inverse=True)
    decimal = bool(np.all(np.abs(scores * _PLACES - np.rint(scores * _PLACES)) < 1e-4))
    scale = _PLACES * _UNIT if decimal else 1.0
    unit = _UNIT if decimal else 2.0**-20
    old = np.rint(scores * scale / unit) * unit if decimal else scores
    single = np.zeros(len(known), dtype=bool)
    single[places[np.repeat(lengths == 1, lengths)]] = True

    shifts = np.where(single, np.rint(_shifts(old, scores, owners, places, len(known)) / unit) * unit, 0.0)
    moved = old + np.bincount(owners, shifts[places], minlength=len(pieces))
    # A character without a piece of its own may be unknown, or inside a longer piece. All that are unknown score
    # the same, so all such characters are moved by what moves that score.
    unknown = moved.min() - UNKNOWN_BELOW - (old.min() - UNKNOWN_BELOW * scale)
    moved += unknown * np.bincount(owners, ~single[places], minlength=len(pieces))
    settled = moved.min() - UNKNOWN_BELOW - (old.min() - UNKNOWN_BELOW * scale) == unknown
    return moved if settled else scores


def _shifts(old: np.ndarray, scores: np.ndarray, owners: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """A number for each character that brings the pieces' scores near zero, the likelier a piece the nearer."""
    weights = np.exp(scores - scores.max())
    lengths = np.bincount(owners, minlength=len(old))
    total = np.bincount(places, weights[owners], minlength=count)
    shifts = np.zeros(count)
    for _ in range(_ROUNDS):
        # What a piece is still away from zero, shared among its characters.
        share = (old + np.bincount(owners, shifts[places], minlength=len(old))) / lengths
        shifts -= np.bincount(places, (weights * share)[owners], minlength=count) / total
    return shifts
