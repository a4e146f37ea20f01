"""Documents in one flat array: cut into batches, padded, taken and joined like a list of arrays, only faster."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfold.errors import InputError
from polyfold.text import Encoding, Frame, pad, pad_rows, plan_batches

lengths = st.lists(st.integers(0, 200), max_size=60).map(lambda values: np.asarray(values, dtype=np.int64))
documents = st.lists(st.lists(st.integers(0, 99), max_size=9).map(np.array), max_size=8)


def greedy(lengths, token_budget, most):
    """Batches planned one document at a time: what the planner is short for."""
    batches, batch = [], []
    for row in np.argsort(lengths, kind="stable").tolist():
        count = len(batch) + 1
        if batch and (count * lengths[row] > token_budget or (most is not None and count > most)):
            batches.append(batch)
            batch = []
        batch.append(row)
    return [*batches, batch] if batch else batches


@given(lengths=lengths, budget=st.integers(1, 600), most=st.none() | st.integers(1, 10))
def test_the_plan_is_that_of_taking_one_document_after_the_other(lengths, budget, most):
    assert [batch.tolist() for batch in plan_batches(lengths, budget, most)] == greedy(lengths, budget, most)


@given(lengths=lengths, budget=st.integers(1, 600), most=st.none() | st.integers(1, 10))
def test_batches_are_a_partition_within_the_budget(lengths, budget, most):
    batches = plan_batches(lengths, budget, most)
    placed = np.concatenate(batches) if batches else np.zeros(0, dtype=np.int64)
    assert sorted(placed.tolist()) == list(range(len(lengths)))
    assert np.all(np.diff(lengths[placed]) >= 0)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
        assert most is None or len(batch) <= most


@given(lengths=lengths, budget=st.integers(1, 600), most=st.none() | st.integers(1, 10))
def test_no_batch_could_have_taken_the_next_document(lengths, budget, most):
    batches = plan_batches(lengths, budget, most)
    for batch, following in pairwise(batches):
        grown = len(batch) + 1
        too_many = most is not None and grown > most
        assert too_many or grown * lengths[following[0]] > budget


@given(
    ids=st.lists(st.lists(st.integers(0, 99), max_size=9), max_size=6),
    pad_id=st.integers(0, 99),
    length=st.none() | st.integers(0, 12),
)
def test_padding_fills_on_the_right_and_the_mask_gives_the_documents_back(ids, pad_id, length):
    input_ids, mask = pad([np.asarray(one, dtype=np.int64) for one in ids], pad_id, length)
    assert input_ids.shape == mask.shape == (len(ids), max(1, length or 0, *map(len, ids), 0))
    assert input_ids.dtype == mask.dtype == np.int64
    for one, row, kept in zip(ids, input_ids, mask, strict=True):
        assert row[kept == 1].tolist() == one
        assert kept.tolist() == [1] * len(one) + [0] * (len(kept) - len(one))
        assert np.all(row[len(one) :] == pad_id)


@given(documents, st.data())
def test_an_encoding_is_a_list_of_arrays(ids, data):
    cut = np.asarray(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))), dtype=bool)
    encoding = Encoding.of(ids, cut)
    wanted = [one.tolist() for one in ids]
    assert len(encoding) == len(encoding.ids) == len(ids)
    assert encoding.lengths.tolist() == [len(one) for one in ids]
    assert encoding.flat.dtype == encoding.offsets.dtype == np.int64
    assert [one.tolist() for one in encoding.ids] == wanted
    assert [encoding.ids[row].tolist() for row in range(-len(ids), len(ids))] == wanted * 2
    assert [one.tolist() for one in encoding.ids[1:3]] == wanted[1:3]
    with pytest.raises(IndexError):
        encoding.ids[len(ids)]
    if ids:
        rows = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=9))
        taken = encoding.take(rows)
        assert [one.tolist() for one in taken.ids] == [wanted[row] for row in rows]
        assert taken.truncated.tolist() == [cut[row] for row in rows]
        both = Encoding.joined([taken, encoding])
        assert [one.tolist() for one in both.ids] == [wanted[row] for row in rows] + wanted
        assert both.truncated.tolist() == [*taken.truncated.tolist(), *cut.tolist()]


@given(documents.filter(bool), st.data())
def test_padding_rows_of_an_encoding_is_padding_their_arrays(ids, data):
    rows = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, max_size=9))
    for own, other in zip(
        pad_rows(Encoding.of(ids), np.asarray(rows), 7), pad([ids[row] for row in rows], 7), strict=True
    ):
        assert np.array_equal(own, other)
        assert own.dtype == np.int64


@given(
    ids=documents,
    begin=st.lists(st.just(101), max_size=2).map(tuple),
    end=st.lists(st.just(102), max_size=2).map(tuple),
    max_length=st.integers(1, 9),
)
def test_a_frame_stands_around_every_document_that_is_cut_to_fit(ids, begin, end, max_length):
    frame, whole = Frame(begin, end, 7), Encoding.of(ids)
    if max_length <= len(begin) + len(end):
        with pytest.raises(InputError, match="no room for text"):
            frame.around(whole.flat, whole.offsets[:-1], whole.lengths, max_length)
        return
    found = frame.around(whole.flat, whole.offsets[:-1], whole.lengths, max_length)
    room = max_length - len(begin) - len(end)
    wanted = [[*begin, *one.tolist()[:room], *end] or [7] for one in ids]
    assert [one.tolist() for one in found.ids] == wanted
    assert found.truncated.tolist() == [len(one) > room for one in ids]
