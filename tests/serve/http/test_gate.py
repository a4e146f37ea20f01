"""The one layer around all routes: ids, callers, errors, and that nobody is told more than is meant for them."""

import asyncio
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_app import ToyApp, ask_raw

from polyfold.serve.access.gatekeeper import Gatekeeper
from polyfold.serve.access.hosts import LOOPBACK_NAMES
from polyfold.serve.access.key_file import KeyFile, write_keys
from polyfold.serve.access.keys import Allowance, KeyEntry, Keys, digest_key, new_key
from polyfold.serve.exchange import CLIENT_GONE, UNMATCHED, exchange_of
from polyfold.serve.refusals import Refusal

SECRET = "Meine Kontonummer ist 1234"
ID = r"[A-Za-z0-9._-]{1,64}"


@pytest.fixture(scope="module")
def toy(toy_folders):
    app = ToyApp(f"toy={toy_folders['onnxruntime']}", hosts=LOOPBACK_NAMES | {"service.test"})
    yield app
    app.close()


@pytest.fixture(scope="module")
def keys():
    return {role: new_key() for role in ("predict", "admin", "slow")}


@pytest.fixture(scope="module")
def locked(toy_folders, tmp_path_factory, keys):
    """The same behind a file of keys."""
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    slow = Allowance(requests_per_second=0.001, burst=2)
    write_keys(
        file,
        Keys(
            keys=(
                KeyEntry(name="shop", sha256=digest_key(keys["predict"])),
                KeyEntry(name="boss", sha256=digest_key(keys["admin"]), roles=("admin",)),
                KeyEntry(name="slow", sha256=digest_key(keys["slow"]), allowance=slow),
            )
        ),
    )
    keeper = Gatekeeper(KeyFile(file, lambda *_: None, time.monotonic()))
    app = ToyApp(f"toy={toy_folders['onnxruntime']}", gatekeeper=keeper)
    yield app
    app.close()


@pytest.fixture
def failing(toy):
    """Lets the application behind the gate do what the test says, at a path of its own."""
    direct = toy.app._direct

    def add(behaviour):
        direct["GET", "/test"] = behaviour

    yield add
    direct.pop(("GET", "/test"), None)


async def nothing():
    return {"type": "http.request", "body": b"", "more_body": False}


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.from_regex(ID, fullmatch=True) | st.text(st.characters(codec="latin-1"), max_size=80))
def test_an_id_is_kept_if_it_is_one_and_made_if_it_is_not(toy, given_id):
    headers = [(b"x-request-id", given_id.encode("latin-1"))]
    start, _ = toy.run(ask_raw(toy.app, nothing, path="/live", headers=headers, method="GET"))
    (answered,) = [value.decode() for name, value in start["headers"] if name == b"x-request-id"]
    usable = (
        0 < len(given_id) <= 64 and given_id.isascii() and all(one.isalnum() or one in "._-" for one in given_id)
    )
    assert (answered == given_id) == usable
    assert 0 < len(answered) <= 64
    assert answered.isascii()
    assert toy.seen.exchanges[-1].request_id == answered


def test_ids_that_are_made_differ(toy):
    ids = {toy.get("/live").headers["x-request-id"] for _ in range(50)}
    assert len(ids) == 50


def test_a_refusal_becomes_its_status_its_json_and_its_headers(toy, failing):
    async def refuse(scope, receive, send):
        raise Refusal(503, "queue_full", "too much", hint="later", retry_after_s=2.1)

    failing(refuse)
    answer = toy.get("/test", headers={"x-request-id": "one"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["content-type"] == "application/json"
    expected = {"code": "queue_full", "message": "too much", "hint": "later", "request_id": "one"}
    assert answer.json() == {"error": expected}


def test_a_crash_is_told_to_the_log_and_not_to_the_client(toy, failing):
    async def crash(scope, receive, send):
        raise KeyError(SECRET)

    failing(crash)
    answer = toy.get("/test")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert SECRET not in answer.text
    assert "KeyError" not in answer.text
    exchange, error = toy.seen.crashes[-1]
    assert isinstance(error, KeyError)
    assert exchange is toy.seen.exchanges[-1]
    assert (exchange.status, exchange.code, exchange.route) == (500, "internal", "/test")


def test_after_half_an_answer_a_crash_adds_nothing_to_it(toy, failing):
    async def half(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        raise KeyError(SECRET)

    failing(half)
    sent = toy.run(ask_raw(toy.app, nothing, path="/test", method="GET"))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert isinstance(toy.seen.crashes[-1][1], KeyError)


def test_a_witness_that_crashes_harms_no_answer(toy, failing, caplog):
    class Broken:
        def exchanged(self, exchange):
            raise ValueError(SECRET)

    witnesses = toy.service.witnesses
    toy.service.witnesses = (Broken(),)
    try:
        assert toy.get("/live").status_code == 200
    finally:
        toy.service.witnesses = witnesses
    assert [record.name for record in caplog.records] == ["polyfold.serve.http.gate"]


def test_who_is_gone_gets_no_answer_and_is_counted_as_gone(toy):
    async def gone():
        return {"type": "http.disconnect"}

    assert toy.run(ask_raw(toy.app, gone)) == []
    assert toy.seen.exchanges[-1].status == CLIENT_GONE


def test_a_request_is_told_of_once_under_the_pattern_of_its_path(toy):
    for path, route in (
        ("/predict", "/predict"),
        ("/health?verbose=1", "/health"),
        ("/v2/models/toy", "/v2/models/{name}"),
        ("/static/abc/nothing", "/static/{digest}/{name}"),
        ("/nothing/at/all", UNMATCHED),
    ):
        before = len(toy.seen.exchanges)
        toy.get(path)
        (exchange,) = toy.seen.exchanges[before:]
        assert exchange.route == route
        assert exchange.seconds > 0.0


def test_a_cancelled_request_is_told_of_and_stays_cancelled(toy, failing):
    async def forever(scope, receive, send):
        assert exchange_of(scope).method == "GET"
        await asyncio.Event().wait()

    failing(forever)
    before = len(toy.seen.exchanges)

    async def cancel():
        call = asyncio.ensure_future(ask_raw(toy.app, nothing, path="/test", method="GET"))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    toy.run(cancel())
    assert len(toy.seen.exchanges) == before + 1


@pytest.mark.parametrize(
    "path", ["/live", "/health", "/docs", "/openapi.json", "/", "/v2/health/live", "/metrics"]
)
def test_probes_pages_and_documents_need_no_key(locked, path):
    assert locked.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/models", "/stats", "/nothing", "/v2/models/toy"])
def test_all_else_needs_one(locked, keys, path):
    answer = locked.get(path)
    assert (answer.status_code, locked.seen.exchanges[-1].code) == (401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert locked.get(path, headers={"x-api-key": keys["predict"]}).status_code in (200, 404)


def test_errors_of_v2_have_the_form_of_its_protocol(locked):
    answer = locked.get("/v2/models/toy")
    assert set(answer.json()) == {"error"}
    assert "API key" in answer.json()["error"]


def test_without_a_key_a_body_is_not_even_read(locked):
    async def unread():
        raise AssertionError("the body was read")

    start, _ = locked.run(ask_raw(locked.app, unread))
    assert start["status"] == 401


def test_the_caller_is_named_to_the_log(locked, keys):
    for header in ({"x-api-key": keys["predict"]}, {"authorization": f"Bearer {keys['predict']}"}):
        assert locked.post("/predict", json={"text": "w1"}, headers=header).status_code == 200
        assert locked.seen.exchanges[-1].caller.name == "shop"
    answer = locked.post("/predict", json={"text": "w1"}, headers={"x-api-key": keys["admin"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_a_caller_beyond_its_rate_is_told_when_to_come_again(locked, keys):
    answers = [locked.post("/predict", json={"text": "w1"}, headers={"x-api-key": keys["slow"]}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].json()["error"]["code"] == "rate_limited"
    assert int(answers[-1].headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.test"},
        {"sec-fetch-site": "cross-site"},
        {"host": "rebound.test"},
    ],
)
def test_another_website_may_ask_for_nothing(toy, headers):
    answer = toy.post("/predict", json={"text": "w1"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in answer.headers


def test_our_own_page_and_programs_may(toy):
    for headers in (
        {},
        {"origin": "http://service.test"},
        {"sec-fetch-site": "same-origin"},
        {"host": "127.0.0.1:80"},
    ):
        assert toy.post("/predict", json={"text": "w1"}, headers=headers).status_code == 200
