"""The Open Inference Protocol without a network: what is understood of a request, and what its answer holds."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfold.serve.engine.answers import Answers, Failure, Timing
from polyfold.serve.engine.runner import BROKEN, POISON
from polyfold.serve.refusals import Refusal
from polyfold.serve.spec import Limits
from polyfold.serve.v2.binary_tensors import encode_elements
from polyfold.serve.v2.bodies import read_body
from polyfold.serve.v2.infer import patience
from polyfold.serve.v2.inputs import Given, Reach, read_rows
from polyfold.serve.v2.outputs import answer, choose
from toys import TOY_TASKS

LIMITS = Limits(max_texts=8, max_characters=50)
REACH = Reach(vocabulary_size=204, max_length=16)

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=8)
DOCUMENTS = st.lists(st.lists(st.integers(0, 203), min_size=1, max_size=16), min_size=1, max_size=8)

# JSON of any kind, and kinds that come close to what is asked for.
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**65), 2**65), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)
SHAPES = st.lists(st.one_of(st.integers(0, 20), st.integers(0, 2**63 - 1)), max_size=4).map(tuple)
INPUTS = st.lists(
    st.builds(
        Given,
        st.sampled_from(["text", "input_ids", "attention_mask", "other"]),
        st.sampled_from(["BYTES", "INT64", "FP32", ""]),
        SHAPES,
        st.one_of(st.none(), st.lists(VALUES, max_size=6), st.lists(st.binary(max_size=4), max_size=4)),
        st.one_of(st.none(), st.binary(max_size=48).map(memoryview)),
    ),
    max_size=3,
)


COLUMNS = {"domain": slice(0, 3), "topics": slice(3, 7)}


class ToyServed:
    """As much of a served model as outputs are made of."""

    tasks = TOY_TASKS
    columns = COLUMNS


def answers_of(logits, failures=()):
    """Answers with these logits, NaN in failed rows."""
    logits = np.array(logits, np.float32)
    logits[list(dict(failures))] = np.nan
    parts = [task.probabilities(logits[:, COLUMNS[task.name]]) for task in TOY_TASKS]
    rows = len(logits)
    return Answers(
        logits,
        np.concatenate(parts, axis=1),
        np.zeros(rows, bool),
        np.ones(rows, np.int64),
        Timing(0.0, 0.0, 0.0),
        dict(failures),
    )


def padded(documents):
    """`input_ids` and `attention_mask` of documents, as wide as the longest."""
    width = max(map(len, documents))
    ids = np.array([row + [1] * (width - len(row)) for row in documents], np.int64)
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in documents], np.int64)
    return ids, mask


@given(TEXTS)
def test_texts_are_the_same_flat_nested_and_as_bytes(texts):
    raw = [text.encode() for text in texts]
    count = len(texts)
    forms = [
        Given("text", "BYTES", (count,), data=texts),
        Given("text", "BYTES", (count, 1), data=[[text] for text in texts]),
        Given("text", "BYTES", (count, 1), data=texts),
        Given("text", "BYTES", (count,), data=raw),
        Given("text", "BYTES", (count, 1), raw=memoryview(encode_elements(raw))),
    ]
    for form in forms:
        assert read_rows([form], REACH, LIMITS).texts == texts


@given(DOCUMENTS)
def test_documents_lose_their_padding_and_nothing_else(documents):
    ids, mask = padded(documents)
    forms = [
        lambda name, values: Given(name, "INT64", values.shape, data=values.tolist()),
        lambda name, values: Given(name, "INT64", values.shape, data=values.reshape(-1).tolist()),
        lambda name, values: Given(name, "INT64", values.shape, raw=memoryview(values.tobytes())),
    ]
    for form in forms:
        rows = read_rows([form("input_ids", ids), form("attention_mask", mask)], REACH, LIMITS)
        assert [row.tolist() for row in rows.ids] == documents
        assert all(row.dtype == np.int64 for row in rows.ids)


@given(DOCUMENTS, st.data())
def test_a_mask_is_refused_unless_every_row_is_ones_and_then_zeros(documents, data):
    ids, mask = padded(documents)
    values = data.draw(st.sampled_from([[0, 1], [1, 1, 1, 0], [0, 1, 2, -1]]))
    changed = data.draw(st.lists(st.sampled_from(values), min_size=mask.size, max_size=mask.size))
    mask = np.array(changed, np.int64).reshape(mask.shape)
    good = all(row.tolist() == [1] * row.sum() + [0] * (row == 0).sum() and row[0] == 1 for row in mask)
    inputs = [
        Given("input_ids", "INT64", ids.shape, raw=memoryview(ids.tobytes())),
        Given("attention_mask", "INT64", mask.shape, raw=memoryview(mask.tobytes())),
    ]
    if good:
        assert [len(row) for row in read_rows(inputs, REACH, LIMITS).ids] == mask.sum(axis=1).tolist()
    else:
        with pytest.raises(Refusal, match="is no mask"):
            read_rows(inputs, REACH, LIMITS)


@pytest.mark.parametrize("wrong", [-1, 204, 2**62])
def test_an_id_beyond_the_vocabulary_is_refused_but_not_in_the_padding(wrong):
    ids = np.array([[0, 5, 2], [0, 2, wrong]], np.int64)
    mask = np.array([[1, 1, 1], [1, 1, 0]], np.int64)

    def read():
        names = zip(("input_ids", "attention_mask"), (ids, mask), strict=True)
        return read_rows(
            [Given(name, "INT64", one.shape, data=one.tolist()) for name, one in names], REACH, LIMITS
        )

    assert [row.tolist() for row in read().ids] == [[0, 5, 2], [0, 2]]
    mask[1, 2] = 1
    with pytest.raises(Refusal, match=r"input_ids\[1\]\[2\] is not in the vocabulary"):
        read()


@pytest.mark.parametrize("wrong", [True, 1.0, "1", None, 2**63, [1]])
def test_only_whole_numbers_are_token_ids(wrong):
    ids, mask = (Given(name, "INT64", (1, 2), data=[1, 1]) for name in ("input_ids", "attention_mask"))
    assert len(read_rows([ids, mask], REACH, LIMITS)) == 1
    for name in ("input_ids", "attention_mask"):
        one = Given(name, "INT64", (1, 2), data=[1, wrong])
        with pytest.raises(Refusal):
            read_rows([one, mask if name == "input_ids" else ids], REACH, LIMITS)


@given(INPUTS)
def test_any_inputs_are_rows_or_refused(inputs):
    try:
        rows = read_rows(inputs, REACH, LIMITS)
    except Refusal as refusal:
        assert refusal.status in (400, 413)
    else:
        assert len(rows) == inputs[0].shape[0]
        assert all(type(text) is str for text in rows.texts or ())


@given(st.one_of(st.binary(max_size=80), VALUES.map(json.dumps).map(str.encode)), st.one_of(st.none(), st.text()))
def test_any_body_is_a_request_or_refused(body, length):
    with pytest.raises(Refusal) as refused:
        read_body(body, length)
    assert refused.value.status == 400


@given(
    st.dictionaries(st.sampled_from(["name", "shape", "datatype", "parameters", "data", "more"]), VALUES),
    st.dictionaries(st.sampled_from(["binary_data_size", "other"]), VALUES),
    st.binary(max_size=20),
)
def test_any_input_tensor_is_read_or_refused(fields, parameters, raw):
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": parameters, **fields}
    content = json.dumps({"inputs": [tensor]}).encode()
    try:
        asked = read_body(content + raw, str(len(content)))
    except Refusal as refusal:
        assert refusal.status == 400
    else:
        assert asked.inputs[0].name == tensor["name"]
        assert len(asked.inputs[0].raw or b"") == len(raw)


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [], "inputs": []}',
        b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [NaN]}]}',
        b'{"inputs": [{"name": "text", "shape": [1.0], "datatype": "BYTES", "data": ["a"]}]}',
        b'{"inputs": [{"name": "text", "shape": [true], "datatype": "BYTES", "data": ["a"]}]}',
        b'{"inputs": [{"name": "text", "shape": [-1], "datatype": "BYTES", "data": ["a"]}]}',
        b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}], "x": 1}',
        b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}], "id": 7}',
        b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": "a"}]}',
        b'{"inputs": ' + b"[" * 100_000,
    ],
)
def test_bodies_that_only_look_right_are_refused(body):
    with pytest.raises(Refusal) as refused:
        read_body(body, None)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\ud800", r"text\[1\] holds half"),
        (7, r"text\[1\] is no string"),
        (b"\xff", r"text\[1\] is not valid UTF-8"),
    ],
)
def test_what_is_no_text_is_named_by_its_row(text, problem):
    with pytest.raises(Refusal, match=problem):
        read_rows([Given("text", "BYTES", (2,), data=["a", text])], REACH, LIMITS)


def test_limits_of_rows_and_characters_are_413():
    for data in (["a"] * 9, ["a" * 51]):
        with pytest.raises(Refusal) as refused:
            read_rows([Given("text", "BYTES", (len(data),), data=data)], REACH, LIMITS)
        assert refused.value.status == 413
    assert len(read_rows([Given("text", "BYTES", (8,), data=["a" * 50] * 8)], REACH, LIMITS)) == 8


def test_the_client_waits_as_long_as_it_says_within_the_limit():
    assert patience({}, LIMITS) == 10.0
    assert patience({"deadline_ms": 250, "sequence_id": 3}, LIMITS) == 0.25
    assert patience({"timeout": 1500}, LIMITS) == 0.002
    assert patience({"deadline_ms": 10**9}, LIMITS) == 60.0
    for wrong in (
        {"deadline_ms": 0},
        {"deadline_ms": True},
        {"deadline_ms": 1.5},
        {"timeout": "5"},
        {"priority": 1},
    ):
        with pytest.raises(Refusal):
            patience(wrong, LIMITS)


@given(st.lists(st.lists(st.floats(-9, 9, width=32), min_size=7, max_size=7), max_size=5))
def test_outputs_are_what_the_tasks_make_of_the_logits(logits):
    logits = np.array(logits, np.float32).reshape(-1, 7)
    found = {one.name: one for one in answer(ToyServed, answers_of(logits), choose(ToyServed, [
        f"{part}_{task.name}" for part in ("logits", "probabilities", "labels") for task in TOY_TASKS
    ]))}  # fmt: skip
    for task in TOY_TASKS:
        own = logits[:, COLUMNS[task.name]]
        np.testing.assert_array_equal(found[f"logits_{task.name}"].numbers, own)
        probabilities = task.probabilities(own)
        np.testing.assert_array_equal(found[f"probabilities_{task.name}"].numbers, probabilities)
        assert found[f"probabilities_{task.name}"].shape == [len(logits), len(task.labels)]
        decided = task.decide(probabilities)
        labels = found[f"labels_{task.name}"].strings
        if task.multi_label:
            chosen = [[label for label, yes in zip(task.labels, row, strict=True) if yes] for row in decided]
            assert [orjson.loads(one) for one in labels] == chosen
        else:
            assert labels == [task.labels[place] for place in decided]


def test_without_names_labels_and_probabilities_of_all_tasks_are_answered():
    names = [one.name for one in choose(ToyServed, [])]
    assert names == ["labels_domain", "labels_topics", "probabilities_domain", "probabilities_topics"]


@pytest.mark.parametrize("names", [["labels_other"], ["labels_domain"] * 2, ["labels"], [""]])
def test_outputs_that_are_not_there_or_twice_are_refused(names):
    with pytest.raises(Refusal) as refused:
        choose(ToyServed, names)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("failure", "status"), [(POISON, 422), (BROKEN, 503), (Failure("deadline_exceeded", "too late"), 504)]
)
def test_one_row_without_an_answer_fails_the_request_and_is_named(failure, status):
    answers = answers_of(np.zeros((4, 7)), {2: failure, 3: failure})
    with pytest.raises(Refusal, match=r"row 2 .*\(2 rows in all\)") as refused:
        answer(ToyServed, answers, choose(ToyServed, []))
    assert refused.value.status == status
