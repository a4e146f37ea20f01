"""What a line says and does not say."""

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
from datetime import datetime

import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyfold.serve.access.gatekeeper import Caller
from polyfold.serve.engine.answers import Timing
from polyfold.serve.exchange import Exchange
from polyfold.serve.watch.logs import LONGEST, Log, captured

SECRET = "the customer's own words"


def exchange(**changes):
    made = Exchange("id-1", "POST", f"/predict?text={SECRET}", 5.0, "/predict", Caller("shop"), "feedback", "2")
    made.texts, made.bytes_in, made.bytes_out, made.status, made.seconds = 3, 120, 340, 200, 0.0123456
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def written(tmp_path, form, *calls):
    """The lines that these calls on a log made."""
    path = tmp_path / "log"
    path.unlink(missing_ok=True)
    log = Log(path, form, wall=lambda: 1_700_000_000.125)
    for call in calls:
        call(log)
    log.stop()
    assert log.lost == 0
    return path.read_bytes().decode().split("\n")[:-1]


def test_a_request_is_one_object_with_what_an_operator_asks_for(tmp_path):
    timing = Timing(queue_s=0.001, tokenize_s=0.002, infer_s=0.003)
    (line,) = written(tmp_path, "json", lambda log: log.exchanged(exchange(timing=timing, trace_id="4bf9")))
    said = json.loads(line)
    assert said["time"] == "2023-11-14T22:13:20.125Z"
    assert datetime.fromisoformat(said["time"]).timestamp() == 1_700_000_000.125
    wanted = {
        "level": "info", "event": "request", "request_id": "id-1", "method": "POST", "path": "/predict",
        "status": 200,
        "duration_ms": 12.346, "caller": "shop", "model": "feedback", "version": "2", "texts": 3, "bytes_in": 120,
        "bytes_out": 340, "trace_id": "4bf9", "queue_ms": 1.0, "tokenize_ms": 2.0, "infer_ms": 3.0,
    }  # fmt: skip
    assert {name: said[name] for name in wanted} == wanted
    assert SECRET not in line


def test_a_probe_has_a_line_only_where_it_says_what_it_should_not(tmp_path):
    asked = [("/health", 200), ("/v2/health/ready", 503), ("/metrics", 200), ("/metrics", 401), ("/health", 500)]
    lines = written(
        tmp_path,
        "json",
        *(lambda log, one=one: log.exchanged(exchange(route=one[0], status=one[1])) for one in asked),
    )
    assert [(line["path"], line["status"]) for line in map(json.loads, lines)] == asked[3:]


def test_for_people_a_request_is_one_line_of_words(tmp_path):
    lines = written(
        tmp_path,
        "text",
        lambda log: log.exchanged(exchange()),
        lambda log: log.exchanged(exchange(status=429, code="rate_limited", model=None, version=None, texts=0)),
        lambda log: log.tell("warning", "keys_broken", "the keys are broken"),
    )
    assert lines == [
        "2023-11-14T22:13:20.125Z info    POST /predict 200 12.3 ms 3 texts feedback@2 shop id-1",
        "2023-11-14T22:13:20.125Z warning POST /predict 429 12.3 ms rate_limited shop id-1",
        "2023-11-14T22:13:20.125Z warning the keys are broken",
    ]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(0, 4e9), min_size=1, max_size=5))
def test_every_line_has_the_time_of_the_clock_wherever_that_jumps(tmp_path, moments):
    path = tmp_path / "log"
    path.unlink(missing_ok=True)
    times = iter(moments)
    log = Log(path, "json", wall=lambda: next(times))
    for _ in moments:
        log.tell("info", "said", "")
    log.stop()
    said = [json.loads(line)["time"] for line in path.read_bytes().splitlines()]
    assert [datetime.fromisoformat(one).timestamp() for one in said] == pytest.approx(moments, abs=0.0011)


@pytest.mark.parametrize(
    "status, level",
    [(200, "info"), (404, "info"), (429, "warning"), (499, "info"), (500, "error"), (503, "warning")],
)
def test_how_grave_a_request_is_follows_from_its_status(tmp_path, status, level):
    (line,) = written(tmp_path, "json", lambda log: log.exchanged(exchange(status=status)))
    assert json.loads(line)["level"] == level


anything = st.text(st.characters(codec=None, categories=None), max_size=30) | st.sampled_from(
    ["a\nb", "a\r\n{}", "\x1b[2J", "\u2028", "\u202e", "\ud800", "\x00", '","level":"error', "x" * 10_000]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(anything, st.sampled_from(["request_id", "method", "route", "model", "version", "code"]))
def test_nothing_from_outside_ends_a_line_or_speaks_to_a_terminal(tmp_path, word, field):
    for form in ("json", "text"):
        lines = written(
            tmp_path,
            form,
            lambda log: log.exchanged(exchange(**{field: word})),
            lambda log: log.tell("info", "said", word),
            lambda log: log.record(logging.LogRecord("lib", logging.WARNING, "", 0, "%s", (word,), None)),
        )
        assert len(lines) == 3
        assert all(one.isprintable() and len(one) < 10 * LONGEST for one in lines)
        if form == "json":
            assert [json.loads(one)["event"] for one in lines] == ["request", "said", "log"]


def crash():
    raise ValueError(SECRET)


def test_a_crash_tells_its_type_and_place_and_not_its_message(tmp_path):
    with pytest.raises(ValueError) as raised:
        crash()
    for form in ("json", "text"):
        (line,) = written(tmp_path, form, lambda log: log.crashed(exchange(), raised.value))
        assert "ValueError" in line
        assert "id-1" in line
        assert "test_logs.py" in line
        assert " crash" in line
        assert SECRET not in line


def test_what_libraries_log_of_an_exception_holds_no_text_either(tmp_path):
    async def forgotten():
        asyncio.get_running_loop().call_soon(lambda said: crash(), SECRET)
        task = asyncio.create_task(asyncio.to_thread(crash))
        await asyncio.wait([task])
        del task
        await asyncio.sleep(0)

    def work(log):
        with captured(log):
            asyncio.run(forgotten())
            try:
                crash()
            except ValueError:
                logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")

    lines = written(tmp_path, "json", work)
    said = [json.loads(line) for line in lines]
    assert {one["logger"] for one in said} == {"asyncio", "uvicorn.error"}
    assert len(said) == 3
    assert {one["error"] for one in said} == {"ValueError"}
    assert not [line for line in lines if SECRET in line or "customer" in line]


def test_a_message_whose_arguments_do_not_fit_is_told_as_it_is(tmp_path):
    record = logging.LogRecord("lib", logging.WARNING, "", 0, "%d of %d", ("x",), None)
    (line,) = written(tmp_path, "json", lambda log: log.record(record))
    assert json.loads(line)["message"] == "%d of %d"


def test_uvicorn_speaks_through_this_log_and_adds_no_lines_of_requests(tmp_path):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    def work(log):
        with captured(log):
            server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False))
            thread = threading.Thread(target=server.run)
            thread.start()
            while not server.started:
                assert thread.is_alive()
                thread.join(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            assert httpx.get(f"http://127.0.0.1:{port}/?{SECRET}").status_code == 204
            server.should_exit = True
            thread.join()

    said = [json.loads(line) for line in written(tmp_path, "json", work)]
    assert {(one["level"], one["event"]) for one in said} == {("info", "log")}
    assert any("running on" in one["message"] for one in said)
    assert not [one for one in said if one["logger"] == "uvicorn.access" or "GET" in one["message"]]


def test_libraries_are_left_as_they_were(tmp_path):
    before = (logging.getLogger().handlers[:], logging.getLogger("uvicorn").level)
    log = Log(tmp_path / "other")
    with captured(log):
        assert logging.getLogger().handlers != before[0]
    log.stop()
    assert (logging.getLogger().handlers, logging.getLogger("uvicorn").level) == before


def test_a_terminal_is_written_text_and_a_pipe_json(monkeypatch):
    ours, theirs = os.openpty()
    saved = os.dup(2)
    try:
        os.dup2(theirs, 2)
        with os.fdopen(theirs, "w", encoding="utf8") as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            log = Log()
            log.tell("info", "said", "for people")
            log.stop()
            forced = Log(form="json")
            forced.tell("info", "said", "for machines")
            forced.stop()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    with os.fdopen(ours, "rb", buffering=0) as screen, contextlib.suppress(OSError):
        # Reading from a terminal that nobody holds any more is an error, after all that was shown.
        shown = b""
        while part := screen.read(10_000):
            shown += part
    shown = shown.decode().splitlines()
    assert shown[0].endswith(" info    for people")
    assert json.loads(shown[1])["message"] == "for machines"
