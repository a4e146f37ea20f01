"""Tensors as bytes: what is written is read again, and nothing else is."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfold.serve.refusals import Refusal
from polyfold.serve.v2.binary_tensors import (
    Tail,
    decode_elements,
    decode_int64,
    encode_elements,
    encode_float32,
    split_body,
)

ELEMENTS = st.lists(st.binary(max_size=40), max_size=20)
COUNTS = st.one_of(st.integers(0, 12), st.integers(0, 2**70))


@given(ELEMENTS)
def test_elements_come_back_as_they_were(elements):
    assert decode_elements(memoryview(encode_elements(elements)), len(elements), "text") == elements


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50))
def test_whole_numbers_come_back_as_they_were(values):
    raw = memoryview(np.array(values, dtype="<i8").tobytes())
    found = decode_int64(raw, len(values), "input_ids")
    assert found.dtype == np.int64
    assert found.tolist() == values


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=50))
def test_numbers_are_four_little_endian_bytes_each(values):
    raw = encode_float32(np.array(values, np.float32))
    assert [one for (one,) in struct.iter_unpack("<f", raw)] == values


@given(ELEMENTS.filter(len), st.data())
def test_elements_that_are_cut_are_refused(elements, data):
    whole = encode_elements(elements)
    kept = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(Refusal) as refused:
        decode_elements(memoryview(whole[:kept]), len(elements), "text")
    assert refused.value.status == 400


@given(ELEMENTS, st.binary(min_size=1, max_size=9))
def test_bytes_after_the_last_element_are_refused(elements, more):
    with pytest.raises(Refusal):
        decode_elements(memoryview(encode_elements(elements) + more), len(elements), "text")


@given(ELEMENTS.filter(len), st.data())
def test_an_element_whose_length_is_a_lie_is_refused(elements, data):
    liar = data.draw(st.integers(0, len(elements) - 1))
    length = data.draw(st.integers(0, 2**32 - 1).filter(lambda one: one != len(elements[liar])))
    # A length that is read inside an element is 2^32 - 1: no other cut comes out right at the end by chance.
    parts = [struct.pack("<I", len(one)) + b"\xff" * len(one) for one in elements]
    parts[liar] = struct.pack("<I", length) + b"\xff" * len(elements[liar])
    with pytest.raises(Refusal):
        decode_elements(memoryview(b"".join(parts)), len(elements), "text")


@given(st.binary(max_size=64), COUNTS)
def test_any_bytes_are_elements_that_fill_them_or_refused(raw, count):
    try:
        found = decode_elements(memoryview(raw), count, "text")
    except Refusal as refusal:
        assert refusal.status == 400
    else:
        assert encode_elements(found) == raw
        assert len(found) == count


@given(st.binary(max_size=64), COUNTS)
def test_any_bytes_are_whole_numbers_that_fill_them_or_refused(raw, count):
    try:
        found = decode_int64(memoryview(raw), count, "input_ids")
    except Refusal as refusal:
        assert refusal.status == 400
    else:
        assert found.astype("<i8").tobytes() == raw
        assert len(found) == count


@given(
    st.binary(max_size=20),
    st.one_of(st.none(), st.text("0123456789-+_ ٣x", max_size=22), st.integers(-5, 30).map(str)),
)
def test_a_body_is_cut_in_two_without_loss_or_refused(body, length):
    try:
        content, tail = split_body(body, length)
    except Refusal as refusal:
        assert refusal.status == 400
    else:
        assert length is None or int(length) <= len(body)
        left = len(body) - len(content)
        assert content + bytes(tail.take("rest", left)) == body
        tail.check_empty()
        assert len(content) == (len(body) if length is None else int(length))


@given(st.binary(max_size=20), st.integers(1, 2**70))
def test_a_json_longer_than_its_body_is_refused(body, more):
    with pytest.raises(Refusal):
        split_body(body, str(len(body) + more))


@given(st.binary(max_size=30), st.lists(st.integers(0, 12), max_size=5))
def test_every_byte_behind_the_json_goes_to_one_input(raw, sizes):
    tail = Tail(memoryview(raw))
    if sum(sizes) > len(raw):
        with pytest.raises(Refusal):
            [tail.take("text", size) for size in sizes]
    else:
        taken = [bytes(tail.take("text", size)) for size in sizes]
        assert b"".join(taken) == raw[: sum(sizes)]
        if sum(sizes) < len(raw):
            with pytest.raises(Refusal):
                tail.check_empty()
