"""Single texts on models of fixed lengths: the same answers, made beside the work, refused where they differ."""

import threading

import numpy as np
import pytest

from polyfold.runtimes.static_shapes import BYTES_A_PARAMETER, LADDERS, MOST_BYTES, SingleTexts, lengths_for

LENGTHS = LADDERS[0]


def sums(input_ids, attention_mask):
    """A model that padding does not change."""
    return {"task": (input_ids * attention_mask).sum(axis=1, keepdims=True).astype(np.float32)}


def text(width, start=3):
    ids = np.arange(start, start + width, dtype=np.int64)[None]
    return ids, np.ones_like(ids)


def compiled(single, width):
    assert single.run(*text(width)) is None
    single.wait()


@pytest.mark.parametrize("width", [1, 7, 8, 9, 33, 100, 128])
def test_a_text_is_padded_to_the_next_length_and_answered_the_same(width):
    seen = []

    def compile_for(length):
        seen.append(length)
        return lambda ids, mask: (seen.append(ids.shape), sums(ids, mask))[1]

    single = SingleTexts(compile_for, sums, LENGTHS)
    compiled(single, width)
    found = single.run(*text(width))
    length = min(one for one in LENGTHS if one >= width)
    assert seen[0] == length
    assert set(seen[1:]) == {(1, length)}
    assert single.length_of(width) == length
    assert np.array_equal(found["task"], sums(*text(width))["task"])


def test_texts_longer_than_the_model_reads_are_left_to_the_other_model():
    single = SingleTexts(lambda length: sums, sums, (8, 16, 24, 32, 48))
    compiled(single, 48)
    for width in (49, 64, 129):
        assert single.run(*text(width)) is None
        single.wait()
        assert single.run(*text(width)) is None


def test_while_a_model_is_being_made_nobody_waits_and_no_second_one_is_begun():
    go, made = threading.Event(), []

    def compile_for(length):
        made.append(length)
        assert go.wait(10)
        return sums

    single = SingleTexts(compile_for, sums, LENGTHS)
    assert all(single.run(*text(width)) is None for width in (5, 5, 20, 70))
    go.set()
    single.wait()
    assert made == [8]
    compiled(single, 20)
    assert made == [8, 24]


def test_a_model_that_answers_otherwise_is_never_used():
    def compile_for(length):
        return lambda ids, mask: {"task": sums(ids, mask)["task"] * 1.5}

    single = SingleTexts(compile_for, sums, LENGTHS)
    for _ in range(3):
        compiled(single, 10)


def test_a_model_that_looks_at_padding_is_never_used():
    def compile_for(length):
        return lambda ids, mask: sums(ids, np.ones_like(mask))

    single = SingleTexts(compile_for, sums, LENGTHS)
    for _ in range(3):
        compiled(single, 8)


def test_what_cannot_be_compiled_is_asked_for_once():
    asked = []

    def compile_for(length):
        asked.append(length)
        raise RuntimeError("no kernel")

    single = SingleTexts(compile_for, sums, LENGTHS)
    for width in (5, 5, 20):
        compiled(single, width)
    assert asked == [8]


@pytest.mark.parametrize("parameters", [1, 10**6, 3 * 10**6, 10**7, 10**8])
@pytest.mark.parametrize("longest", [4, 20, 128, 512])
def test_more_models_are_made_of_smaller_ones_and_never_more_than_memory_allows(parameters, longest):
    lengths = lengths_for(parameters, longest)
    assert len(lengths) * parameters * BYTES_A_PARAMETER <= MOST_BYTES
    assert all(length <= longest for length in lengths)
    assert len(lengths) <= len(lengths_for(parameters // 2, longest))


def test_minilm_has_one_length_and_a_large_model_none():
    assert lengths_for(10_700_000, 128) == (64,)
    assert lengths_for(86_000_000, 512) == ()
