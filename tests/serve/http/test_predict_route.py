"""`POST /predict` answers what the predictor answers, text by text, and says what it will not answer."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_app import Held, ToyApp, ask_raw

from polyfold.predictor import Predictor
from polyfold.serve.http.answers_json import PLACES
from polyfold.serve.http.predict import WATCH_AFTER_S
from toys import TOY_MAX_LENGTH, TOY_TASKS, WORDS

MOST_CHARACTERS = 500
MOST_TEXTS = 64
TEXT = st.lists(st.sampled_from(WORDS), max_size=TOY_MAX_LENGTH + 4).map(" ".join)


@pytest.fixture(scope="module")
def folder(toy_folders):
    return toy_folders["onnxruntime"]


@pytest.fixture(scope="module")
def held():
    return Held()


@pytest.fixture(scope="module")
def toy(folder, held):
    app = ToyApp(
        f"toy={folder}",
        opener=held,
        max_characters=MOST_CHARACTERS,
        max_texts=MOST_TEXTS,
        max_body_bytes=100_000,
        queue_tokens=100,
        max_deadline_ms=5000,
    )
    yield app
    held.gate.set()
    app.close()


@pytest.fixture
def blocked(toy, held):
    """Nothing is computed until the test ends or opens the gate."""
    held.gate.clear()
    yield held.gate
    held.gate.set()


@pytest.fixture(scope="module")
def predictor(folder):
    return Predictor.open(folder)


def error_of(response):
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"code", "message", "hint", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    return error


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT, max_size=12), st.booleans())
def test_answers_are_the_predictors(toy, predictor, texts, probabilities):
    answer = toy.predict(texts=texts, probabilities=probabilities)
    assert answer.status_code == 200
    predictions = answer.json()["predictions"]
    assert len(predictions) == len(texts)
    for mine, expected in zip(predictions, predictor.predict(texts), strict=True):
        assert mine["labels"] == expected.labels
        assert mine["truncated"] == expected.truncated
        assert ("probabilities" in mine) == probabilities
        for task, values in mine.get("probabilities", {}).items():
            assert values == pytest.approx(expected.probabilities[task], abs=2 * 10**-PLACES)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    TEXT,
    st.none() | st.permutations([task.name for task in TOY_TASKS]) | st.just(["topics"]),
    st.floats(0, 1) | st.dictionaries(st.sampled_from(TOY_TASKS[1].labels), st.floats(0, 1)),
)
def test_tasks_and_thresholds_are_the_predictors(toy, predictor, text, tasks, threshold):
    answer = toy.predict(text=text, tasks=tasks, thresholds={"topics": threshold})
    (mine,) = answer.json()["predictions"]
    (expected,) = predictor.predict([text], tasks, {"topics": threshold})
    assert mine["labels"] == expected.labels


def test_the_answer_names_the_model_that_gave_it_and_the_time_it_took(toy):
    answer = toy.post("/predict", json={"text": "w1"}, headers={"x-request-id": "mine-1"})
    content = answer.json()
    assert (content["model"], content["version"], content["request_id"]) == ("toy", "1", "mine-1")
    parts = [part.strip().partition(";dur=") for part in answer.headers["server-timing"].split(",")]
    assert [name for name, _, _ in parts] == ["queue", "tokenize", "infer"]
    assert all(0.0 <= float(value) < 10_000 for _, _, value in parts)
    exchange = toy.seen.exchanges[-1]
    assert (exchange.model, exchange.version, exchange.texts, exchange.status) == ("toy", "1", 1, 200)
    assert exchange.bytes_in == len(answer.request.content)
    assert exchange.bytes_out == len(answer.content)


def test_one_bad_text_does_not_fail_the_others(toy, predictor):
    body = {"texts": ["w1", None, "w2 " * MOST_CHARACTERS, 3, "\ud800", ["w3"], {"text": "w4"}, "w5"]}
    answer = toy.post("/predict", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 200
    found = answer.json()["predictions"]
    codes = [item["error"]["code"] if "error" in item else None for item in found]
    bad = "not_a_text"
    assert codes == [None, bad, "text_too_long", bad, bad, bad, bad, None]
    first, last = predictor.predict(["w1", "w5"])
    assert (found[0]["labels"], found[-1]["labels"]) == (first.labels, last.labels)
    assert toy.seen.exchanges[-1].failed_texts == 6
    assert "w2" not in found[2]["error"]["message"]


def test_a_request_of_bad_texts_alone_is_answered_and_asks_no_model(toy):
    batches = len(toy.events.seen)
    answer = toy.predict(texts=[None, 1])
    assert answer.status_code == 200
    assert [item["error"]["code"] for item in answer.json()["predictions"]] == ["not_a_text"] * 2
    assert len(toy.events.seen) == batches


def test_no_texts_have_no_answers(toy):
    answer = toy.predict(texts=[])
    assert (answer.status_code, answer.json()["predictions"]) == (200, [])


def test_the_longest_text_that_may_be_is_answered_and_one_character_more_is_not(toy):
    texts = ["x" * MOST_CHARACTERS, "x" * (MOST_CHARACTERS + 1)]
    good, bad = toy.predict(texts=texts).json()["predictions"]
    assert "labels" in good
    assert bad["error"]["code"] == "text_too_long"


@pytest.mark.parametrize(
    ("body", "status", "code", "hint"),
    [
        ({"text": "w1", "model": "toi"}, 404, "unknown_model", "toy"),
        ({"text": "w1", "version": "2"}, 404, "unknown_version", "1"),
        ({"text": "w1", "tasks": ["topic"]}, 422, "unknown_task", "domain, topics"),
        ({"text": "w1", "thresholds": {"topic": 0.5}}, 422, "unknown_task", "domain, topics"),
        ({"text": "w1", "thresholds": {"domain": 0.5}}, 422, "bad_threshold", "topics"),
        ({"text": "w1", "thresholds": {"topics": {"prize": 0.5}}}, 422, "bad_threshold", "price, speed"),
        ({"text": "w1", "thresholds": {"topics": 1.5}}, 422, "bad_threshold", "/docs"),
        ({"text": "w1", "deadline_ms": 5001}, 422, "bad_request", "5,000"),
        ({"texts": ["w1"] * (MOST_TEXTS + 1)}, 413, "too_many_texts", str(MOST_TEXTS)),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(toy, body, status, code, hint):
    answer = toy.post("/predict", json=body)
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (status, code)
    assert hint in error["hint"]
    assert toy.seen.exchanges[-1].code == code


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""]
)
def test_a_body_that_is_not_declared_to_be_json_is_refused(toy, kind):
    headers = {} if kind is None else {"content-type": kind}
    answer = toy.post("/predict", content=b'{"text": "w1"}', headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (415, "bad_request")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/json "])
def test_json_may_be_declared_in_any_spelling(toy, kind):
    assert toy.post("/predict", content=b'{"text": "w1"}', headers={"content-type": kind}).status_code == 200


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_long_is_refused_declared_or_not(toy, declared):
    body = json.dumps({"text": "x" * toy.spec.limits.max_body_bytes}).encode()

    async def pieces():
        yield body

    answer = toy.post(
        "/predict", content=body if declared else pieces(), headers={"content-type": "application/json"}
    )
    assert ("content-length" in answer.request.headers) == declared
    assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")


def test_reading_stops_at_the_limit_and_not_at_the_end(toy):
    received = 0

    async def endless():
        nonlocal received
        received += 1
        return {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

    start, _ = toy.run(ask_raw(toy.app, endless))
    assert start["status"] == 413
    assert received == toy.spec.limits.max_body_bytes // 10_000 + 1


def test_a_request_without_an_answer_in_time_ends_with_504(toy, blocked):
    answer = toy.predict(text="w1 w2 w3", deadline_ms=30)
    assert (answer.status_code, error_of(answer)["code"]) == (504, "deadline_exceeded")
    assert ("dropped", "toy", "1", "deadline", 1) in toy.events.seen


def test_more_tokens_than_may_wait_are_refused_until_there_is_room(toy, blocked):
    async def flood():
        bodies = [{"texts": [f"w{n} w{n + 1} w{n + place}" for place in range(2, 10)]} for n in range(0, 180, 10)]
        asked = [asyncio.ensure_future(toy.client.post("/predict", json=body)) for body in bodies]
        while not any(one.done() for one in asked):
            await asyncio.sleep(0.005)
        blocked.set()
        return await asyncio.gather(*asked)

    answers = toy.run(flood())
    refused = [one for one in answers if one.status_code != 200]
    assert refused
    assert len(refused) < len(answers)
    for one in refused:
        assert (one.status_code, error_of(one)["code"]) == (503, "queue_full")
        assert int(one.headers["retry-after"]) >= 1
    assert toy.predict(text="w1").status_code == 200


def request_then(event, text):
    """Receives one small request, and then waits for `event`. A text of one's own is not computed for another."""
    body = json.dumps({"text": text}).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive():
        for message in messages:
            return message
        await event.wait()
        return {"type": "http.disconnect"}

    return receive


def test_when_the_client_leaves_its_request_is_dropped_and_nothing_is_sent(toy, blocked):
    async def leave():
        gone = asyncio.Event()
        call = asyncio.ensure_future(ask_raw(toy.app, request_then(gone, "w5 w6 w7")))
        await asyncio.sleep(0)
        gone.set()
        return await call

    assert toy.run(leave()) == []
    assert toy.seen.exchanges[-1].status == 499
    assert ("dropped", "toy", "1", "cancelled", 1) in toy.events.seen
    assert toy.fleet.models[0].pending == 0


def test_a_request_that_the_server_gives_up_is_dropped_too(toy, blocked):
    async def give_up():
        call = asyncio.ensure_future(ask_raw(toy.app, request_then(asyncio.Event(), "w9 w10 w11")))
        while not toy.fleet.models[0].pending:
            assert not call.done()
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    toy.run(give_up())
    assert toy.fleet.models[0].pending == 0


def test_only_requests_that_wait_are_watched(toy):
    received = 0

    async def receive():
        nonlocal received
        received += 1
        return {"type": "http.request", "body": b'{"text": "w8"}', "more_body": False}

    start, _ = toy.run(ask_raw(toy.app, receive))
    assert start["status"] == 200
    waited_ms = float(dict(start["headers"])[b"server-timing"].split(b"queue;dur=")[1].split(b",")[0])
    # On a busy machine the request itself may wait long enough to be watched.
    assert received == 1 or waited_ms > 0.5e3 * WATCH_AFTER_S


def test_a_body_that_does_not_come_is_given_up():
    app = ToyApp(started=False, body_timeout_s=0.02)

    async def nothing():
        await asyncio.Event().wait()

    try:
        start, body = app.run(ask_raw(app.app, nothing))
        assert start["status"] == 408
        assert (b"connection", b"close") in start["headers"]
        assert json.loads(body["body"])["error"]["code"] == "body_timeout"
    finally:
        app.close()


def test_before_the_start_and_after_the_end_requests_are_refused_with_503(folder):
    app = ToyApp(f"toy={folder}", started=False)
    try:
        answer = app.predict(text="w1")
        assert (answer.status_code, error_of(answer)["code"]) == (503, "not_ready")
        assert answer.headers["retry-after"] == "1"
        app.run(app.fleet.start())
        assert app.predict(text="w1").status_code == 200
        app.run(app.fleet.stop(1.0))
        answer = app.predict(text="w1")
        assert (answer.status_code, error_of(answer)["code"]) == (503, "stopping")
    finally:
        app.close()


def test_where_several_models_are_served_one_must_be_named(toy_folders):
    app = ToyApp(f"one={toy_folders['onnxruntime']}", f"two@7={toy_folders['openvino']}")
    try:
        answer = app.predict(text="w1")
        assert (answer.status_code, error_of(answer)["code"]) == (422, "unknown_model")
        assert error_of(answer)["hint"] == "models: one, two"
        answer = app.predict(text="w1", model="two")
        assert (answer.json()["model"], answer.json()["version"]) == ("two", "7")
    finally:
        app.close()
