"""Whatever a body holds, it is understood or the client is told; nothing else ever happens."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from polyfold.serve.http.schemas import PredictRequest
from polyfold.serve.http.strict_json import decode, parse
from polyfold.serve.refusals import Refusal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
FIELDS = st.sampled_from([*PredictRequest.model_fields, "txet"])


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    number: float = 0.0


def refusal(body, shape=PredictRequest):
    with pytest.raises(Refusal) as refused:
        parse(shape, body)
    return refused.value


@given(JSON)
def test_what_json_can_say_is_read_as_it_was_written(value):
    assert decode(json.dumps(value).encode()) == value
    assert decode(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) == value


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_bytes_of_any_kind_are_a_request_or_a_refusal(body):
    try:
        assert isinstance(parse(PredictRequest, body), PredictRequest)
    except Refusal as refused:
        assert (refused.status, refused.code) in ((400, "bad_json"), (422, "bad_request"))


@given(st.dictionaries(FIELDS, JSON, max_size=5))
def test_fields_of_any_content_are_a_request_or_a_refusal(fields):
    try:
        request = parse(PredictRequest, json.dumps(fields).encode())
    except Refusal as refused:
        assert refused.status in (400, 422)
    else:
        assert "txet" not in fields
        assert (request.text is None) != (request.texts is None)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b'{"text": "a"', "not valid JSON"),
        (b'{"text": "a"} x', "not valid JSON"),
        (b'\xef\xbb\xbf{"text": "a"}', "not valid JSON"),
        (b'{"text": "a\nb"}', "not valid JSON"),
        (b'{"text": "\xff"}', "UTF-8"),
        (b'{"text": "\xed\xa0\x80"}', "UTF-8"),
        ('{"text": "a"}'.encode("utf-16"), "UTF-8"),
        (b'{"texts": [NaN]}', "NaN"),
        (b'{"deadline_ms": -Infinity}', "-Infinity"),
        (b'{"text": "a", "text": "b"}', "'text' stands twice"),
        (b'{"text": "a", "\\u0074ext": "b"}', "'text' stands twice"),
        (b'{"texts": [{"a": 1, "a": 1}]}', "'a' stands twice"),
        (b'{"texts": ' + b"[" * 100_000, "too deeply"),
        (b'{"texts": ' + b'{"a":' * 100_000, "too deeply"),
        (b'{"texts": [' + b"9" * 100_000 + b"]}", "too long"),
    ],
)
def test_what_is_no_json_is_told_what_it_is(body, words):
    refused = refusal(body)
    assert (refused.status, refused.code) == (400, "bad_json")
    assert words in refused.message


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"[]", "valid dictionary"),
        (b'"text"', "valid dictionary"),
        (b"{}", "either 'text' or 'texts'"),
        (b'{"text": "a", "texts": ["b"]}', "either 'text' or 'texts'"),
        (b'{"text": 1}', "text"),
        (b'{"text": ["a"]}', "text"),
        (b'{"texts": "abc"}', "texts"),
        (b'{"text": "a", "txet": 1}', "txet"),
        (b'{"text": "a", "probabilities": 1}', "probabilities"),
        (b'{"text": "a", "probabilities": "yes"}', "probabilities"),
        (b'{"text": "a", "deadline_ms": 1.5}', "deadline_ms"),
        (b'{"text": "a", "deadline_ms": true}', "deadline_ms"),
        (b'{"text": "a", "deadline_ms": 0}', "deadline_ms"),
        (b'{"text": "a", "model": "../etc"}', "model"),
        (b'{"text": "a", "tasks": "domain"}', "tasks"),
        (b'{"text": "a", "tasks": []}', "tasks"),
        (b'{"text": "a", "thresholds": {"topics": 1e999}}', "thresholds.topics"),
        (b'{"text": "a", "thresholds": {"topics": 1.01}}', "thresholds.topics"),
        (b'{"text": "a", "thresholds": {"topics": true}}', "thresholds.topics"),
        (b'{"text": "a", "thresholds": {"topics": {"price": {"deeper": 0.5}}}}', "thresholds.topics"),
    ],
)
def test_json_that_asks_for_nothing_known_is_told_where(body, where):
    refused = refusal(body)
    assert (refused.status, refused.code) == (422, "bad_request")
    assert where in refused.message


def test_a_mistake_under_a_field_may_have_a_code_of_its_own():
    with pytest.raises(Refusal) as refused:
        parse(Shape, b'{"number": "1"}', {"number": "bad_threshold"})
    assert refused.value.code == "bad_threshold"


def test_numbers_beyond_double_precision_are_no_infinity():
    assert "finite" in refusal(b'{"number": 1e999}', Shape).message


def test_a_refusal_quotes_little_of_what_was_sent_and_nothing_that_utf8_cannot_say():
    refused = refusal(json.dumps({"text": "a", "\ud800" + "k" * 5000: 1}).encode())
    assert len(refused.message) < 200
    assert refused.message.encode()


def test_a_lone_surrogate_is_left_to_whoever_reads_the_text():
    assert parse(PredictRequest, b'{"texts": ["\\ud800", "a"]}').texts == ["\ud800", "a"]
