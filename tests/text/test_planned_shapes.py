"""Batches of few shapes: every document once, within the budget, few different pairs of rows and width."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfold.text.encoding import plan_batches
from polyfold.text.shapes import PART_TOKENS, WIDTHS, full_rows, padded_width, plan_shapes

LENGTHS = st.lists(st.integers(1, 600), max_size=300).map(lambda values: np.asarray(values, dtype=np.int64))


@given(lengths=LENGTHS, budget=st.integers(1, 9000), longest=st.integers(1, 600))
def test_every_document_is_in_one_batch_within_the_budget(lengths, budget, longest):
    batches = plan_shapes(lengths, budget, longest)
    rows = np.concatenate([np.empty(0, np.int64), *(batch.rows for batch in batches)])
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    # Shortest first, so results of like documents are computed together.
    assert (np.diff(lengths[rows]) >= 0).all()
    for batch in batches:
        assert lengths[batch.rows].max() <= batch.width <= max(longest, lengths.max())
        assert len(batch.rows) == 1 or len(batch.rows) * batch.width <= budget


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
    return {(len(batch.rows), batch.width) for batch in plan_shapes(lengths, budget, 128)}


def test_more_documents_are_hardly_more_shapes():
    met = set()
    counts = []
    for window in range(12):
        met |= shapes_of(real_lengths(16_384, window), 4096)
        counts.append(len(met))
    # A full one for each width, and the odd last batches.
    assert counts[-1] <= len([width for width in WIDTHS if width <= 128]) + 12
    assert counts[-1] - counts[2] <= 12


def test_full_batches_are_whole_parts():
    lengths = real_lengths(5000)
    batches = plan_shapes(lengths, 4 * PART_TOKENS, 128)
    assert len(batches) > 20
    assert all(len(batch.rows) == 4 * full_rows(batch.width) for batch in batches[:-1])


@pytest.mark.parametrize(("count", "allowed"), [(512, 1.1), (16_384, 1.05)])
def test_it_costs_few_more_tokens_than_batches_cut_to_the_longest(count, allowed):
    lengths = real_lengths(count)

    plain = sum(len(batch) * int(lengths[batch].max()) for batch in plan_batches(lengths, 4096))
    assert sum(len(batch.rows) * batch.width for batch in plan_shapes(lengths, 4096, 128)) <= allowed * plain
