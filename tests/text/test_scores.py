"""Scores are moved by a number a character: no segmentation becomes better or worse than another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.text.scores import UNKNOWN_BELOW, centred

words = st.lists(st.text("abcé語", min_size=2, max_size=4), min_size=1, max_size=12, unique=True)


def total(pieces, scores):
    return sum(scores[piece] for piece in pieces)


@settings(deadline=None)
@given(words, st.integers(0, 2**32 - 1), st.booleans())
def test_two_segmentations_of_a_text_differ_by_as_much_as_before(longer, seed, decimal):
    pieces = [*"abcé", *longer]
    scores = -np.random.default_rng(seed).uniform(2, 20, len(pieces))
    scores = np.round(scores, 5) if decimal else scores
    moved = centred(pieces, scores)
    scale = 1e5 / 2**17 if decimal and not np.array_equal(moved, scores) else 1.0
    old, new = dict(zip(pieces, scores, strict=True)), dict(zip(pieces, moved, strict=True))
    # 語 has no piece of its own: alone it is unknown, which both libraries score by the lowest score.
    old["語"], new["語"] = scores.min() - UNKNOWN_BELOW, moved.min() - UNKNOWN_BELOW
    for piece in longer:
        before = total([piece], old) - total(piece, old)
        after = total([piece], new) - total(piece, new)
        assert after == pytest.approx(before * scale, abs=1e-9 if decimal else 1e-5)


def test_sums_of_five_decimal_places_are_exact_in_single_precision():
    random = np.random.default_rng(0)
    pieces = [*"abcdefgh", *{"".join(random.choice([*"abcdefgh"], 3)) for _ in range(200)}]
    scores = np.round(-random.uniform(2, 20, len(pieces)), 5)
    moved = centred(pieces, scores)
    likely = np.exp(scores) / np.exp(scores).sum()
    chosen = moved[random.choice(len(pieces), 40, p=likely)]
    assert np.abs(np.cumsum(chosen)).max() < 128
    assert np.array_equal(moved.astype(np.float32).astype(np.float64), moved)
    assert np.float64(np.cumsum(chosen.astype(np.float32))[-1]) == chosen.sum()


def test_likely_scores_come_near_zero():
    random = np.random.default_rng(1)
    letters = [*"abcdefghijklmnop"]
    pieces = letters + sorted({"".join(random.choice(letters, random.integers(2, 6))) for _ in range(500)})
    scores = -6.0 - 1.5 * np.asarray([len(piece) for piece in pieces]) - random.uniform(0, 2, len(pieces))
    chances = np.exp(scores)
    assert abs(np.average(centred(pieces, scores), weights=chances)) < 0.1 * abs(
        np.average(scores, weights=chances)
    )
