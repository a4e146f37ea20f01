"""One span a request for OpenTelemetry, with tokenizing, waiting and inference below it; only if it is configured.

Where it is not, nothing of OpenTelemetry is imported. Where it is, a caller's trace is continued (W3C Trace
Context) and the caller's decision whether to sample holds; OTEL_TRACES_SAMPLER and OpenTelemetry's other variables
are obeyed. Spans leave by a thread of the library's own, from a queue of bounded length: a collector that is away
costs spans, which are counted, and no request any time.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from polyfold.errors import InputError, MissingExtra
from polyfold.serve.access.key_file import Tell
from polyfold.serve.exchange import Exchange

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

Headers = Iterable[tuple[bytes, bytes]]

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
QUEUE = 8192
"""Spans that may wait, about 1 kB each; the library's own default holds half a second of a busy service."""

_PROPAGATED = (b"traceparent", b"tracestate")
_PATH = "/v1/traces"


class Span(Protocol):
    """A request under way. `trace_id` (32 hexadecimal digits) is for its log line; None where it is not traced."""

    @property
    def trace_id(self) -> str | None: ...

    def finish(self, exchange: Exchange) -> None:
        """End it, named by method and route; once the answer is sent."""
        ...


class Tracer(Protocol):
    """Starts spans; `lost` counts those that did not reach the collector."""

    @property
    def lost(self) -> int: ...

    def span(self, headers: Headers) -> Span:
        """A request's span, below its caller's if the headers (names in lower case) tell of one."""
        ...

    def stop(self, timeout_s: float = 2.0) -> None:
        """Send what waits, for no longer than this."""
        ...


class _NoSpan:
    trace_id = None

    def finish(self, exchange: Exchange) -> None:
        """Nothing."""


class NoTracer:
    """Traces nothing, at the cost of a call."""

    lost = 0
    _span = _NoSpan()

    def span(self, headers: Headers) -> Span:
        """The one span that does nothing."""
        return self._span

    def stop(self, timeout_s: float = 2.0) -> None:
        """Nothing."""


def open_tracer(endpoint: str | None, tell: Tell, clock: Callable[[], float] = time.monotonic) -> Tracer:
    """A tracer that sends to `endpoint`, or to where the environment says; without either, one that does nothing.

    InputError where `endpoint` is no address, or the packages are missing for one that was asked for. A platform
    may set the variables for every container: there, missing packages are worth a warning only.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return NoTracer()
    if endpoint is None and not any(os.environ.get(name) for name in VARIABLES):
        return NoTracer()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        if endpoint is not None:
            raise MissingExtra(error.name or "opentelemetry", "tracing") from None
        tell("warning", "no_traces", "OTEL_EXPORTER_OTLP_ENDPOINT is set, but polyfold[tracing] is not installed")
        return NoTracer()
    return OtlpTracer(OTLPSpanExporter(endpoint=_traces_url(endpoint)), tell, clock)


class OtlpTracer:
    """Sends spans by OTLP over HTTP; for one thread, the event loop's."""

    def __init__(self, exporter: "SpanExporter", tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # The library logs every batch that fails; we tell when it begins and when it ends.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "polyfold"}
        self._counted = _CountedExporter(exporter, tell)
        # Not ended by the library when the process ends: that waits up to 30 s for a collector that is away.
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._counted, max_queue_size=QUEUE))
        self._tracer = self._provider.get_tracer("polyfold.serve")
        self._extract = TraceContextTextMapPropagator().extract
        self._below = set_span_in_context
        self._server = SpanKind.SERVER
        self._error = StatusCode.ERROR
        self.clock = clock

    @property
    def lost(self) -> int:
        """Spans that did not reach the collector."""
        return self._counted.lost

    def span(self, headers: Headers) -> Span:
        """A span of kind server."""
        carrier = {key.decode(): value.decode("latin-1") for key, value in headers if key in _PROPAGATED}
        began_ns = time.time_ns()
        span = self._tracer.start_span("request", self._extract(carrier), kind=self._server, start_time=began_ns)
        return _OtlpSpan(self, span, began_ns)

    def end(self, span: Any, began_ns: int, ended_ns: int, exchange: Exchange) -> None:
        """End a request's span, with its parts below it.

        The parts are laid end to end from the beginning: their lengths were measured, the gaps between were not.
        """
        timing = exchange.timing
        span.update_name(f"{exchange.method} {exchange.route}")
        span.set_attributes(_attributes(exchange))
        if exchange.status >= 500:
            span.set_status(self._error)
        at, below = began_ns, self._below(span)
        for name in ("tokenize", "queue", "infer") if timing is not None else ():
            until = min(ended_ns, at + int(getattr(timing, f"{name}_s") * 1e9))
            self._tracer.start_span(name, below, start_time=at).end(until)
            at = until
        span.end(ended_ns)
        self._counted.ended(1 if timing is None else 4)

    def stop(self, timeout_s: float = 2.0) -> None:
        """Send what waits; what is not taken in time is left to a thread that ends with the process."""
        sending = threading.Thread(target=self._provider.shutdown, name="polyfold-traces", daemon=True)
        sending.start()
        sending.join(timeout_s)


class _OtlpSpan:
    """A span's end is its beginning plus a duration of the monotonic clock: no jump of the date gets between."""

    def __init__(self, tracer: OtlpTracer, span: Any, began_ns: int) -> None:
        self._tracer = tracer
        self._span = span
        self._began_ns = began_ns
        self._began = tracer.clock()

    @property
    def trace_id(self) -> str | None:
        context = self._span.get_span_context()
        return format(context.trace_id, "032x") if context.trace_flags.sampled else None

    def finish(self, exchange: Exchange) -> None:
        if self._span.is_recording():
            ended_ns = self._began_ns + int((self._tracer.clock() - self._began) * 1e9)
            self._tracer.end(self._span, self._began_ns, ended_ns, exchange)


class _CountedExporter:
    """Passes spans on, counts those that do not arrive, and tells when that begins and ends."""

    def __init__(self, exporter: "SpanExporter", tell: Tell) -> None:
        self._exporter = exporter
        self._tell = tell
        self._failing = False
        self._ended = self._taken = self._refused = self._dropped = 0

    @property
    def lost(self) -> int:
        """Spans that the collector did not take, and those that found the queue full."""
        return self._refused + self._dropped

    def ended(self, spans: int) -> None:
        """So many more are in the queue, which drops its oldest where it is full, and says so to nobody."""
        self._ended += spans
        self._dropped += max(0, self._ended - self._taken - self._dropped - QUEUE)

    def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
        self._taken += len(spans)
        result = self._exporter.export(spans)
        failing = result.name != "SUCCESS"
        self._refused += len(spans) if failing else 0
        if failing != self._failing:
            self._failing = failing
            said = "spans do not reach the collector" if failing else "spans reach the collector again"
            self._tell("warning" if failing else "info", "traces", said)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _attributes(exchange: Exchange) -> dict[str, str | int]:
    """Names and numbers, never a text; those of HTTP are called as in OpenTelemetry's semantic conventions."""
    found: dict[str, str | int | None] = {
        "http.request.method": exchange.method,
        "http.route": exchange.route,
        "http.response.status_code": exchange.status,
        "error.type": exchange.code,
        "polyfold.request_id": exchange.request_id,
        "polyfold.caller": exchange.caller.name,
        "polyfold.model": exchange.model,
        "polyfold.version": exchange.version,
        "polyfold.texts": exchange.texts,
        "polyfold.tokens": exchange.tokens,
    }
    return {name: value for name, value in found.items() if value is not None}


def _traces_url(endpoint: str | None) -> str | None:
    """The whole address: that of a collector gets the path that OTLP gives to traces. None: the environment's."""
    if endpoint is None:
        return None
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"'{endpoint}' is no address of a collector", hint="for example: http://127.0.0.1:4318")
    return endpoint if parts.path.strip("/") else endpoint.rstrip("/") + _PATH
