"""Batches of few shapes: every document once, within the budget, few different pairs of rows and width."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfold.text.encoding import plan_batches
from polyfold.text.shapes import PART_TOKENS, WIDTHS, full_rows, padded_width, plan_shapes

LENGTHS = st.lists(st.integers(1, 600), max_size=300).map(lambda values: np.asarray(values, dtype=np.int64))


@given(lengths=LENGTHS, budget=st.integers(1, 9000))
def test_every_document_is_in_one_batch_within_the_budget(lengths, budget):
    batches = plan_shapes(lengths, budget)
    rows = np.concatenate([np.empty(0, np.int64), *batches])
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    # Shortest first, so results of like documents are computed together.
    assert (np.diff(lengths[rows]) >= 0).all()
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget


@given(width=st.integers(1, 700), longest=st.integers(1, 700))
def test_a_width_is_padded_a_little_and_never_beyond_what_the_model_reads(width, longest):
    padded = padded_width(width, longest)
    assert width <= padded <= max(width, longest)
    assert padded == width or padded in (longest, *WIDTHS)
    assert padded - width <= max(2, width // 8)


def real_lengths(count, seed=0):
    drawn = np.random.default_rng(seed).lognormal(3.0, 0.7, count)
    return np.clip(drawn.round(), 3, 128).astype(np.int64)


def shapes_of(lengths, budget):
    return {(len(batch), padded_width(int(lengths[batch].max()), 128)) for batch in plan_shapes(lengths, budget)}


def test_more_documents_are_hardly_more_shapes():
    met = set()
    counts = []
    for window in range(12):
        met |= shapes_of(real_lengths(16_384, window), 4096)
        counts.append(len(met))
    # For each width full batches of its own documents, and one that the width before left something over for.
    assert counts[-1] <= 2 * len([width for width in WIDTHS if width <= 128])
    assert counts[-1] - counts[2] <= 12


def test_full_batches_are_whole_parts():
    lengths = real_lengths(5000)
    batches = plan_shapes(lengths, 4 * PART_TOKENS)
    whole = {4 * full_rows(width) for width in WIDTHS}
    assert len(batches) > 20
    assert all(len(batch) in whole for batch in batches[:-1])


@pytest.mark.parametrize("count", [512, 16_384])
def test_it_costs_few_more_tokens_than_batches_cut_to_the_longest(count):
    lengths = real_lengths(count)

    def tokens(batches, pad):
        return sum(len(batch) * pad(int(lengths[batch].max())) for batch in batches)

    plain = tokens(plan_batches(lengths, 4096), lambda width: width)
    assert tokens(plan_shapes(lengths, 4096), lambda width: padded_width(width, 128)) <= 1.06 * plain
