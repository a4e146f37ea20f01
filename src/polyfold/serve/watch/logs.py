"""What a line of the log says: one line a request, and what else is worth knowing. JSON for machines, or text.

No line holds a text, a key, a query or a header. Names come from our own routes and files; what comes from outside
(a request id, a library's message) is cut to a length, and what is not printable in it is escaped, so that nothing
ends a line early or speaks to a terminal. Of an exception the type and the places are told and not its message,
since libraries quote what they choke on.
"""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from polyfold.serve.exchange import Exchange
from polyfold.serve.watch.log_writer import LogWriter

Form = Literal["text", "json"]

PROBES = frozenset({"/health", "/v2/health/live", "/v2/health/ready", "/metrics"})
"""Routes that an orchestrator and a scraper ask every few seconds: what they are meant to say is no news."""

LONGEST = 300
_FRAMES = 8


class Log:
    """The service's log. Any thread may use it; nothing it does raises or waits."""

    def __init__(
        self, path: Path | None = None, form: Form | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        """To `path`, or standard error; `form` is text on a terminal and JSON elsewhere, unless it is given."""
        self._form = form or ("text" if path is None and sys.stderr.isatty() else "json")
        self._wall = wall
        self._second = (-1, "")
        self._writer = LogWriter(path, self._lost_line)

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._writer.lost

    def exchanged(self, exchange: Exchange) -> None:
        """One finished request. What it leaves open (no model was reached, say) has no field.

        A probe has no line where it says that all is well, or (503) that this is not so.
        """
        status, timing = exchange.status, exchange.timing
        if exchange.route in PROBES and status in (200, 503):
            return
        level = "error" if status == 500 else "warning" if status > 500 or status == 429 else "info"
        fields: dict[str, Any] = {
            "request_id": exchange.request_id,
            "method": exchange.method,
            # The pattern of the path: what a client wrote there may be anything.
            "path": exchange.route,
            "status": status,
            "code": exchange.code,
            "duration_ms": round(exchange.seconds * 1000, 3),
            "caller": exchange.caller.name,
            "model": exchange.model,
            "version": exchange.version,
            "texts": exchange.texts or None,
            "failed_texts": exchange.failed_texts or None,
            "tokens": exchange.tokens or None,
            "bytes_in": exchange.bytes_in,
            "bytes_out": exchange.bytes_out,
            "trace_id": exchange.trace_id,
        }
        if timing is not None:
            fields["queue_ms"] = round(timing.queue_s * 1000, 3)
            fields["tokenize_ms"] = round(timing.tokenize_s * 1000, 3)
            fields["infer_ms"] = round(timing.infer_s * 1000, 3)
        self._writer.write(self._line(level, "request", fields))

    def crashed(self, exchange: Exchange, error: Exception) -> None:
        """An exception that nobody foresaw."""
        fields = {"request_id": exchange.request_id, "message": "a request crashed", **_named(error)}
        self._writer.write(self._line("error", "crashed", fields))

    def tell(self, level: str, event: str, message: str) -> None:
        """Something that happened: `event` is a word for machines, `message` a sentence for people."""
        self._writer.write(self._line(level, event, {"message": message}))

    def record(self, record: logging.LogRecord) -> None:
        """What a library logged: the first line of its message."""
        fields: dict[str, Any] = {"logger": record.name, "message": _first_line(record)}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= _named(record.exc_info[1])
        self._writer.write(self._line(record.levelname.lower(), "log", fields))

    def reopen(self) -> None:
        """Open the log's file anew (SIGHUP)."""
        self._writer.reopen()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Write what waits, and end."""
        self._writer.stop(timeout_s)

    def _lost_line(self, lines: int) -> bytes:
        return self._line("warning", "log_lines_lost", {"message": f"{lines} lines of this log were lost before"})

    def _line(self, level: str, event: str, fields: Mapping[str, Any]) -> bytes:
        stamp = self._stamp()
        safe: dict[str, Any] = {"time": stamp, "level": level, "event": event}
        for name, value in fields.items():
            if type(value) is str and not (value.isprintable() and len(value) <= LONGEST):
                safe[name] = _escaped(value)
            elif value is not None:
                safe[name] = value
        if self._form == "json":
            return orjson.dumps(safe, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
        said = _request_text(safe) if event == "request" else " ".join(map(str, list(safe.values())[3:]))
        return f"{stamp} {level:<7} {said}\n".encode()

    def _stamp(self) -> str:
        """The time in UTC, to the millisecond; the part that holds for a second is kept that long."""
        now = self._wall()
        second, text = self._second
        if int(now) != second:
            second, text = self._second = int(now), f"{datetime.fromtimestamp(int(now), UTC):%Y-%m-%dT%H:%M:%S}"
        return f"{text}.{int((now - second) * 1000):03d}Z"


class _ToLog(logging.Handler):
    """Carries what libraries log into ours."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.record(record)


@contextmanager
def captured(log: Log) -> Iterator[None]:
    """All that libraries log goes into this log: warnings, and of uvicorn its information too.

    uvicorn is to be started with `log_config=None` and `access_log=False`: a request has its line already.
    """
    handler, root, uvicorn = _ToLog(log), logging.getLogger(), logging.getLogger("uvicorn")
    level = uvicorn.level
    root.addHandler(handler)
    uvicorn.setLevel(logging.INFO)
    try:
        yield
    finally:
        uvicorn.setLevel(level)
        root.removeHandler(handler)


def _escaped(value: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in value[:LONGEST])


def _request_text(facts: Mapping[str, Any]) -> str:
    words = [facts["method"], facts["path"], str(facts["status"]), f"{facts['duration_ms']:.1f} ms"]
    words += [facts["code"]] if "code" in facts else []
    words += [f"{facts['texts']} texts"] if "texts" in facts else []
    words += [f"{facts['model']}@{facts['version']}"] if "model" in facts and "version" in facts else []
    return " ".join([*words, facts["caller"], facts["request_id"]])


def _first_line(record: logging.LogRecord) -> str:
    try:
        said = record.getMessage()
    except (TypeError, ValueError):
        said = str(record.msg)
    # asyncio tells what failed with its arguments, in brackets and on later lines: those may be texts.
    said = said.partition("(")[0] if record.name == "asyncio" else said
    return said.strip().partition("\n")[0]


def _named(error: BaseException) -> dict[str, str]:
    """Its type and the innermost calls, the innermost first."""
    frames = reversed(traceback.extract_tb(error.__traceback__)[-_FRAMES:])
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
    return {"error": type(error).__name__, "where": where}
