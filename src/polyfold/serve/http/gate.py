"""What every request passes, in and out: an id, who asks, the headers of every answer, one shape for every error.

One plain ASGI layer, since each layer costs every request. Paths in `direct` are answered without FastAPI's own
layers and router, which take a sixth of what such a request costs in all.
"""

import asyncio
import logging
from collections.abc import Mapping

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyfold.serve.access.gatekeeper import presented_key, role_of
from polyfold.serve.access.hosts import check_host, check_source
from polyfold.serve.exchange import UNMATCHED, Exchange, begin
from polyfold.serve.http.bodies import ClientGone, Headers, header, refusal_headers, refusal_json, send_json
from polyfold.serve.refusals import Refusal
from polyfold.serve.service import Service
from polyfold.serve.v2.schemas import error_json
from polyfold.serve.watch.tracing import Span

ALWAYS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
"""No guessing of types, no address handed to other sites, no frame of another site around us."""

UNLESS_SAID: Headers = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]
"""An answer is data for whoever asked: nothing in it runs, and nobody keeps it. Pages say otherwise themselves."""

INTERNAL = Refusal(500, "internal", "something went wrong in the service", hint="its log says what, under this id")


class _Outgoing:
    """Adds the headers, and notes what was sent."""

    __slots__ = ("_exchange", "_send", "started")

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send = send
        self._exchange = exchange
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._exchange.status = message["status"]
            own = list(message.get("headers", ()))
            said = {name for name, _ in own}
            own.append((b"x-request-id", self._exchange.request_id.encode()))
            own += [pair for pair in ALWAYS if pair[0] not in said]
            own += [pair for pair in UNLESS_SAID if pair[0] not in said]
            message["headers"] = own
        else:
            self._exchange.bytes_out += len(message.get("body", b""))
        await self._send(message)


class Gate:
    """The outermost layer of the application."""

    def __init__(
        self,
        app: FastAPI,
        service: Service,
        direct: Mapping[tuple[str, str], ASGIApp],
    ) -> None:
        """`direct` is by method and path; all else is the application's, which has all its routes by now."""
        self.app = app
        self._service = service
        self._direct = direct
        self._templates = {route.endpoint: route.path for route in app.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        clock = self._service.clock
        exchange = begin(scope, header(scope["headers"], b"x-request-id"), clock())
        span = self._service.tracer.span(scope["headers"])
        exchange.trace_id = span.trace_id
        outgoing = _Outgoing(send, exchange)
        try:
            self._admit(scope, exchange)
            direct = self._direct.get((exchange.method, exchange.path))
            if direct is not None:
                exchange.route = exchange.path
                await direct(scope, receive, outgoing)
            else:
                await self.app(scope, receive, outgoing)
        except Refusal as refusal:
            await self._refuse(outgoing, exchange, refusal)
        except ClientGone:
            pass
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  (what nobody foresaw must not reach the client, nor end the service)
            for witness in self._service.witnesses:
                witness.crashed(exchange, error)
            await self._refuse(outgoing, exchange, INTERNAL)
        finally:
            self._end(scope, exchange, span)

    def _admit(self, scope: Scope, exchange: Exchange) -> None:
        service, headers = self._service, dict(scope["headers"])
        host, origin = headers.get(b"host"), headers.get(b"origin")
        check_host(_text(host), service.hosts)
        check_source(exchange.method, _text(headers.get(b"sec-fetch-site")), _text(origin), _text(host))
        role = role_of(exchange.path)
        if role is not None:
            key = presented_key(scope["headers"])
            exchange.caller = service.gatekeeper.admit(key, exchange.started, role)

    @staticmethod
    async def _refuse(outgoing: _Outgoing, exchange: Exchange, refusal: Refusal) -> None:
        exchange.code = refusal.code
        if outgoing.started:
            # Half an answer cannot be taken back: the server closes the connection, which tells the client.
            return
        headers = [(name.encode(), value.encode()) for name, value in refusal_headers(refusal).items()]
        await send_json(outgoing, error_content(exchange, refusal), refusal.status, headers)

    def _end(self, scope: Scope, exchange: Exchange, span: Span) -> None:
        """Tell everyone. The answer has left: what goes wrong here is for the log alone."""
        if exchange.route == UNMATCHED and (endpoint := scope.get("endpoint")) is not None:
            # A router within the router names its route itself, and its endpoint is none of ours.
            inner = scope.get("route")
            exchange.route = self._templates.get(endpoint) or (UNMATCHED if inner is None else inner.path)
        exchange.seconds = self._service.clock() - exchange.started
        try:
            self._service.stats.exchanged(exchange)
            for witness in self._service.witnesses:
                witness.exchanged(exchange)
            span.finish(exchange)
        except Exception as error:
            logging.getLogger(__name__).error("a finished request could not be told of", exc_info=error)


def error_content(exchange: Exchange, refusal: Refusal) -> bytes:
    """The body of an error: our own shape, or under /v2 its protocol's."""
    if exchange.path == "/v2" or exchange.path.startswith("/v2/"):
        return error_json(refusal)
    return refusal_json(refusal, exchange.request_id)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
