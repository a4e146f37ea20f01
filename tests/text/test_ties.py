"""The same pieces in another order that spell the same are found, and nothing else is."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from polyfold.text.ties import REACH, Ties

ALPHABET = ["▁", "a", "b", "aa", "ab", "ba", "aba", "bab", "abab", "c", "▁a"]
TIES = Ties.of(ALPHABET.__getitem__, np.asarray([ord(piece[0]) for piece in ALPHABET]), "▁")
words = st.lists(st.integers(1, len(ALPHABET) - 2), max_size=7).map(lambda pieces: [0, *pieces])


def tied(word):
    """Whether any few neighbours can be put into another order."""
    pieces = [ALPHABET[index] for index in word]
    return any(
        "".join(other) == "".join(window) and other != tuple(window)
        for start in range(1, len(pieces))
        for stop in range(start + 2, min(start + REACH, len(pieces)) + 1)
        for window in [pieces[start:stop]]
        for other in permutations(window)
    )


@given(st.lists(st.lists(words, max_size=3), min_size=1, max_size=4))
@example([[[0, 1, 2, 6]], [[0, 1, 3]], [[0, 1], [0, 3]]])
def test_words_are_told_in_which_another_order_spells_the_same(documents):
    flat = [[index for word in document for index in word] for document in documents]
    ids = np.asarray([index for document in flat for index in document], dtype=np.int64)
    wanted = [word for document in documents for word in document if tied(word)]
    spans = TIES.words(ids)
    assert [ids[start:stop].tolist() for start, stop in spans.tolist()] == wanted


@pytest.mark.parametrize(("pieces", "wanted"), [(["a", "aa"], 1), (["a", "b", "aba"], 1), (["a", "b", "c"], 0)])
def test_two_pieces_may_change_places_or_three(pieces, wanted):
    ids = np.asarray([0, *(ALPHABET.index(piece) for piece in pieces)])
    assert TIES.words(ids).tolist() == [[0, len(ids)]] * wanted


def test_no_documents_hold_no_ties():
    assert len(TIES.words(np.empty(0, np.int64))) == 0
