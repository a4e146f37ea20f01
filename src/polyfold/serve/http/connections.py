"""Connections over HTTP/1.1: uvicorn's, with bounds on what a client can hold open without asking for anything.

uvicorn itself waits for ever for the rest of a request's headers, keeps headers of any length, and never gives up
on a client that does not read its answer. A sweeper looks at all connections once a second; that costs a request
nothing, and each connection 1.3 us a second.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, cast

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from polyfold.serve.http.bodies import refusal_json
from polyfold.serve.http.together import Together
from polyfold.serve.refusals import Refusal

MOST_HEAD_BYTES = 65_536
"""A request's line and headers; clients send 1 kB, and common servers take 8 to 64."""

LEAST_READ_BYTES = 65_536
"""A client that reads its answer must take so much of it within the idle timeout, and then gets another one."""

SWEEP_S = 1.0
SLICE = 500
"""Connections that are looked at before requests get a turn: half a millisecond."""

BAD_HTTP = Refusal(
    400, "bad_request", "this is not HTTP/1.1", hint="speak plain HTTP to this port; no TLS, no HTTP/2"
)
HEAD_TOO_LARGE = Refusal(431, "bad_request", f"the headers have more than {MOST_HEAD_BYTES:,} bytes")
HEAD_TOO_SLOW = Refusal(408, "body_timeout", "the headers came too slowly")
TOO_MANY = Refusal(503, "queue_full", "too many connections are open", retry_after_s=1.0)

Doing = Literal["sending", "reading", "closing", "waiting for us"]


class Connection(HttpToolsProtocol):
    """One client's. `seen`, `since` and `unread` are the sweeper's notes."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        most: int,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._most = most
        self._in_head = True
        self._head_bytes = 0
        self._answering: RequestResponseCycle | None = None
        self._together: Together | None = None
        self._refused = False
        self.seen: tuple[RequestResponseCycle | None, Doing] | None = None
        self.since = 0.0
        self.unread = 0

    @property
    def current(self) -> RequestResponseCycle | None:
        """The request that is being answered, or else the last; uvicorn's `cycle` is the last that has come."""
        answering = self._answering
        return self.cycle if answering is None or answering.response_complete else answering

    @property
    def doing(self) -> Doing:
        """What the client is to do next, or whether it waits for us."""
        cycle = self.current
        if self._refused or self.transport.is_closing():
            return "closing"
        if self.transport.get_write_buffer_size():
            return "reading"
        if cycle is None or cycle.response_complete:
            return "sending"
        # A body has a timeout of its own, where it is read.
        return "waiting for us"

    @property
    def half_asked(self) -> bool:
        """Whether part of a request's head is there."""
        return self._in_head and self._head_bytes > 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Not more of them than may be."""
        super().connection_made(transport)
        if len(self.connections) > self._most:
            self.refuse(TOO_MANY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The request being answered hears of it, also where others were sent behind it."""
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        together = Together(self.transport, self.loop)
        cycle.transport = cast(asyncio.Transport, together)
        self._together = together
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """An answer is whole: it is sent before anything else is done with this connection."""
        if self._together is not None:
            self._together.flush()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        """Counts the bytes of a head that does not end."""
        if self._refused:
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self.refuse(HEAD_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is there; the request starts."""
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn says of bytes that are no HTTP, in our shape."""
        self.refuse(BAD_HTTP)

    def refuse(self, refusal: Refusal) -> None:
        """Answer without the application, and end; what was asked properly before is answered first.

        What the client still sends is read and thrown away until it closes, or the sweeper does: a connection
        closed on unread bytes is reset, and the client might never see the answer (RFC 9112, 9.6).
        """
        last = self.cycle
        if last is not None and not last.response_complete:
            if last is not self.current or last.response_started or not last.more_body:
                last.keep_alive = False
                self.flow.pause_reading()
                return
            # Its body turned out to be no HTTP: the application hears that the client has gone.
            last.disconnected = True
            last.message_event.set()
        if not self.transport.is_closing():
            self._refused = True
            self.transport.write(_answer(refusal))
            self.transport.write_eof()


def _answer(refusal: Refusal) -> bytes:
    content = refusal_json(refusal, "")
    head = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "connection": "close",
        **({} if refusal.retry_after_s is None else {"retry-after": "1"}),
    }
    lines = [STATUS_LINE[refusal.status], *(f"{name}: {value}\r\n".encode() for name, value in head.items())]
    return b"".join([*lines, b"\r\n", content])


class Sweeper:
    """Closes connections whose client has not done its part for `idle_timeout_s`."""

    def __init__(
        self,
        connections: Collection[Connection],
        idle_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self._timeout_s = idle_timeout_s
        self._clock = clock

    async def run(self) -> None:
        """Once a second, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            everyone = list(self._connections)
            for start in range(0, len(everyone), SLICE):
                self.sweep(everyone[start : start + SLICE])
                await asyncio.sleep(0)

    def sweep(self, some: Sequence[Connection] | None = None) -> int:
        """Look at all connections, or some; how many were closed."""
        now, closed = self._clock(), 0
        for connection in list(self._connections) if some is None else some:
            if self._moved(connection, now) or now - connection.since < self._timeout_s:
                continue
            closed += 1
            self._close(connection)
        return closed

    @staticmethod
    def _moved(connection: Connection, now: float) -> bool:
        """Whether the client did something since the last look, or has nothing to do."""
        doing = connection.doing
        unread = connection.transport.get_write_buffer_size()
        seen = (connection.current, doing)
        if doing != "waiting for us" and seen == connection.seen and unread > connection.unread - LEAST_READ_BYTES:
            return False
        connection.seen, connection.since, connection.unread = seen, now, unread
        return True

    @staticmethod
    def _close(connection: Connection) -> None:
        if connection.doing in ("closing", "reading"):
            # It does not do its part: closing in order would wait for it for ever.
            connection.transport.abort()
        elif connection.half_asked:
            connection.refuse(HEAD_TOO_SLOW)
        else:
            connection.transport.close()
