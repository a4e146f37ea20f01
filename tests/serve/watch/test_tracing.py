"""Spans reach a real collector, or do not, and no request is the worse for it."""

import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from polyfold.errors import InputError
from polyfold.serve.access.gatekeeper import Caller
from polyfold.serve.engine.answers import Timing
from polyfold.serve.exchange import Exchange
from polyfold.serve.watch.tracing import QUEUE, NoTracer, open_tracer

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER = 2
SECRET = "the customer's own words"


class Collector:
    """An OTLP/HTTP collector: keeps the spans it is sent, once `gate` is open."""

    def __init__(self):
        self.spans, self.services, self.paths, self.status = [], set(), set(), 200
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def take(self, path, body):
        self.asked.set()
        assert self.gate.wait(120)
        self.paths.add(path)
        if self.status != 200:
            return
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.services.add(named["service.name"])
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def named(self, name):
        (found,) = [span for span in self.spans if span.name == name]
        return found


@contextmanager
def collecting():
    """A collector on a free port, and its address."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield collector, f"http://127.0.0.1:{server.server_port}"
        finally:
            collector.gate.set()
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """No proxy between us and the collector; batches leave at once, and failed ones are given up soon."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")


@pytest.fixture
def told():
    return []


@pytest.fixture
def tell(told):
    return lambda *said: told.append(said)


def exchange(**changes):
    made = Exchange("id-1", "POST", f"/predict?{SECRET}", 0.0, "/predict", Caller("shop"), "feedback", "2")
    made.texts, made.tokens, made.status, made.timing = (
        3,
        70,
        200,
        Timing(queue_s=0.02, tokenize_s=0.01, infer_s=0.03),
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def attributes(span):
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def seconds(span):
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def test_a_request_is_one_span_with_its_parts_below_it(tell, told):
    now = [50.0]
    with collecting() as (collector, url):
        tracer = open_tracer(url, tell, lambda: now[0])
        span = tracer.span([(b"host", b"here")])
        now[0] += 0.1
        span.finish(exchange())
        tracer.stop()
    assert (collector.paths, collector.services, tracer.lost, told) == ({"/v1/traces"}, {"polyfold"}, 0, [])
    assert len(collector.spans) == 4
    whole = collector.named("POST /predict")
    assert (whole.kind, whole.parent_span_id, whole.status.code) == (SERVER, b"", 0)
    assert whole.trace_id.hex() == span.trace_id
    assert seconds(whole) == pytest.approx(0.1, abs=1e-6)
    assert attributes(whole) == {
        "http.request.method": "POST", "http.route": "/predict", "http.response.status_code": 200,
        "polyfold.request_id": "id-1", "polyfold.caller": "shop", "polyfold.model": "feedback",
        "polyfold.version": "2", "polyfold.texts": 3, "polyfold.tokens": 70,
    }  # fmt: skip
    at = whole.start_time_unix_nano
    for name, length in (("tokenize", 0.01), ("queue", 0.02), ("infer", 0.03)):
        part = collector.named(name)
        assert (part.trace_id, part.parent_span_id) == (whole.trace_id, whole.span_id)
        assert part.start_time_unix_nano == at
        assert seconds(part) == pytest.approx(length, abs=1e-6)
        at = part.end_time_unix_nano
    assert SECRET not in str(collector.spans)


def test_parts_never_end_after_the_request(tell):
    now = [50.0]
    with collecting() as (collector, url):
        tracer = open_tracer(url, tell, lambda: now[0])
        span = tracer.span([])
        now[0] += 0.015
        span.finish(exchange())
        tracer.stop()
    whole = collector.named("POST /predict")
    assert all(span.end_time_unix_nano <= whole.end_time_unix_nano for span in collector.spans)
    assert all(seconds(span) >= 0 for span in collector.spans)


def test_a_callers_trace_is_continued_and_sampled_as_the_caller_says(tell):
    headers = [(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode()), (b"tracestate", b"vendor=1")]
    unsampled = [(b"traceparent", f"00-{TRACE}-{PARENT}-00".encode())]
    with collecting() as (collector, url):
        tracer = open_tracer(url, tell)
        for each in (headers, unsampled, headers):
            span = tracer.span(each)
            assert span.trace_id == (TRACE if each is headers else None)
            span.finish(exchange(timing=None))
        tracer.stop()
    assert len(collector.spans) == 2
    for span in collector.spans:
        assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, PARENT, "vendor=1")


@pytest.mark.parametrize(
    "given", [b"", b"00-x", b"\xff\xfe", f"00-{'0' * 32}-{PARENT}-01".encode(), b"0" * 10_000]
)
def test_headers_that_make_no_sense_begin_a_trace_of_our_own(tell, given):
    with collecting() as (collector, url):
        tracer = open_tracer(url, tell)
        tracer.span([(b"traceparent", given), (b"tracestate", given)]).finish(exchange(timing=None))
        tracer.stop()
    assert collector.named("POST /predict").parent_span_id == b""


def test_a_failure_of_the_service_is_an_error_and_a_refusal_is_not(tell):
    with collecting() as (collector, url):
        tracer = open_tracer(url, tell)
        tracer.span([]).finish(exchange(status=503, code="stopping", route="/a", timing=None))
        tracer.span([]).finish(exchange(status=429, code="rate_limited", route="/b", timing=None))
        tracer.stop()
    errors = {span.name: (span.status.code, attributes(span)["error.type"]) for span in collector.spans}
    assert errors == {"POST /a": (2, "stopping"), "POST /b": (0, "rate_limited")}


def test_the_environment_may_name_the_collector_the_service_and_what_is_sampled(tell, monkeypatch):
    with collecting() as (collector, url):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "feedback-eu")
        tracer = open_tracer(None, tell)
        tracer.span([]).finish(exchange())
        tracer.stop()
        assert (collector.paths, collector.services) == ({"/v1/traces"}, {"feedback-eu"})
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        silent = open_tracer(None, tell)
        silent.span([]).finish(exchange())
        silent.stop()
        assert len(collector.spans) == 4
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        assert isinstance(open_tracer(url, tell), NoTracer)


def test_a_collector_that_is_away_costs_spans_and_is_told_of_once(tell, told):
    with socket.socket() as taken:
        # Bound and not listening: nobody answers there, and nobody else takes it.
        taken.bind(("127.0.0.1", 0))
        tracer = open_tracer(f"http://127.0.0.1:{taken.getsockname()[1]}", tell)
        for _ in range(500):
            tracer.span([]).finish(exchange())
        tracer.stop(60)
    assert tracer.lost == 2000
    assert told == [("warning", "traces", "spans do not reach the collector")]


def test_a_collector_that_comes_back_is_told_too(tell, told):
    with collecting() as (collector, url):
        tracer = open_tracer(url, tell)
        collector.status = 400
        tracer.span([]).finish(exchange())
        deadline = time.monotonic() + 60
        while not told:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        collector.status = 200
        tracer.span([]).finish(exchange(timing=None))
        tracer.stop(60)
    assert (tracer.lost, len(collector.spans)) == (4, 1)
    assert [level for level, _, _ in told] == ["warning", "info"]


def test_a_collector_that_hangs_holds_up_neither_requests_nor_the_stop_and_what_is_dropped_is_counted(
    tell, monkeypatch
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "120")
    with collecting() as (collector, url):
        collector.gate.clear()
        tracer = open_tracer(url, tell)
        tracer.span([]).finish(exchange())
        assert collector.asked.wait(60)
        for _ in range(QUEUE // 4 + 100):
            tracer.span([]).finish(exchange())
        assert tracer.lost == 400
        tracer.stop(0.1)
        # The first batch is still out: nothing above waited for it.
        assert not collector.paths
        collector.gate.set()
        deadline = time.monotonic() + 60
        while len(collector.spans) < QUEUE + 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert tracer.lost == 400


def test_without_a_collector_nothing_of_opentelemetry_is_imported_and_nothing_is_done():
    script = (
        "import sys\n"
        "from polyfold.serve.watch.tracing import open_tracer\n"
        "tracer = open_tracer(None, print)\n"
        "span = tracer.span([(b'traceparent', b'00-%s-%s-01')])\n"
        "span.finish(None)\n"
        "tracer.stop()\n"
        "print(span.trace_id, tracer.lost, [name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "None 0 []\n"


# None among the modules is how Python's import system is told that a package is not there.
WITHOUT = (
    "import sys\n"
    "sys.modules['opentelemetry'] = None\n"
    "from polyfold.errors import MissingExtra\n"
    "from polyfold.serve.watch.tracing import open_tracer\n"
    "try:\n"
    "    print(type(open_tracer(ENDPOINT, lambda *said: print(said[1]))).__name__)\n"
    "except MissingExtra as error:\n"
    "    print(error.hint)\n"
)


@pytest.mark.parametrize(
    "endpoint, said",
    [
        ("'http://127.0.0.1:1'", "install it with: pip install 'polyfold[tracing]'\n"),
        ("None", "no_traces\nNoTracer\n"),
    ],
)
def test_without_the_packages_only_who_asked_for_traces_is_refused(endpoint, said, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    script = WITHOUT.replace("ENDPOINT", endpoint)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == said


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "grpc://here:4317", "http://", "collector"])
def test_what_is_no_address_is_refused(endpoint, tell):
    with pytest.raises(InputError, match="no address"):
        open_tracer(endpoint, tell)
