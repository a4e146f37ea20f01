"""The Open Inference Protocol over gRPC, on the event loop and with the models, keys and limits of the HTTP side.

Source of the status codes: the gRPC core concepts, and their usual mapping from HTTP.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

from polyfold.errors import InputError, MissingExtra
from polyfold.serve.access.gatekeeper import presented_key
from polyfold.serve.exchange import Exchange, begin
from polyfold.serve.http.bodies import Headers, header
from polyfold.serve.http.gate import INTERNAL
from polyfold.serve.refusals import Refusal
from polyfold.serve.service import Service
from polyfold.serve.v2.binary_tensors import bad
from polyfold.serve.v2.infer import ask, simply, understand
from polyfold.serve.v2.metadata import GRPC_SERVICE, describe_model, describe_server, find, model_is_ready
from polyfold.serve.v2.schemas import plain
from polyfold.serve.watch.tracing import Span

try:
    import grpc
    import grpc.aio
    from google.protobuf.message import DecodeError

    from polyfold.serve.v2.grpc_bodies import (
        fill_answer,
        fill_metadata,
        read_inputs,
        read_outputs,
        read_parameters,
    )
    from polyfold.serve.v2.grpc_messages import Protocol, read_protocol
except ModuleNotFoundError:
    raise MissingExtra("grpcio", "grpc") from None

OPEN = ("ServerLive", "ServerReady")
"""Calls that need no key: probes have none."""

LONGEST_MESSAGE = 1024
"""Characters of an error: it travels in headers, of which clients take eight kilobytes."""

KEEPALIVE_MS = 30_000
STREAMS = 1024
"""Calls that one connection may have under way."""

CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True)
class GrpcServer:
    """A running server, and the port it listens on."""

    server: Any
    port: int

    async def stop(self, seconds: float) -> None:
        """Take no new calls, and give those under way so many seconds."""
        await self.server.stop(seconds)


async def start_grpc(service: Service, host: str, port: int) -> GrpcServer:
    """Listen on a port (0 for any free one); InputError where it cannot be had."""
    limits, protocol = service.limits, read_protocol()
    options = [
        ("grpc.max_receive_message_length", limits.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", STREAMS),
        # A client that has gone without a word is found by its silence.
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.server_handshake_timeout_ms", int(limits.body_timeout_s * 1000)),
        # Two servers on one port would share its connections, without a word.
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=limits.connections)
    calls = Calls(service, protocol)
    handlers = {name: grpc.unary_unary_rpc_method_handler(calls.handler(name)) for name in protocol.methods}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(GRPC_SERVICE, handlers)])
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError:
        hint = "choose another --grpc-port, or 0 for any free one"
        raise InputError(f"cannot listen at {address}", key="grpc_port", hint=hint) from None
    await server.start()
    return GrpcServer(server, bound)


class Calls:
    """What each call of the protocol does."""

    def __init__(self, service: Service, protocol: Protocol) -> None:
        self._service = service
        self._protocol = protocol
        self._answers: dict[str, Callable[[Any, Any, Exchange, Any], Awaitable[None]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server,
            "ModelMetadata": self._model,
            "ModelInfer": self._infer,
        }

    def handler(self, name: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """A call from bytes to bytes, so that what is no message is the client's mistake and not the server's."""

        async def handle(request: bytes, context: Any) -> bytes:
            headers = _headers(context)
            exchange, span = self._begin(name, request, headers)
            context.set_trailing_metadata((("x-request-id", exchange.request_id),))
            try:
                if name not in OPEN:
                    key = presented_key(headers)
                    exchange.caller = self._service.gatekeeper.admit(key, exchange.started)
                answer = await self._answer(name, request, context, exchange)
                exchange.status, exchange.bytes_out = 200, len(answer)
                return answer
            except Refusal as refusal:
                await self._refuse(context, exchange, refusal)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001  (as the gate of the HTTP side: the service goes on)
                for witness in self._service.witnesses:
                    witness.crashed(exchange, error)
                await self._refuse(context, exchange, INTERNAL)
            finally:
                self._end(exchange, span)
            raise AssertionError("a refused call has ended above")

        return handle

    def _begin(self, name: str, request: bytes, headers: Headers) -> tuple[Exchange, Span]:
        path = f"/{GRPC_SERVICE}/{name}"
        scope = {"method": "GRPC", "path": path}
        exchange = begin(scope, header(headers, b"x-request-id"), self._service.clock())
        exchange.route, exchange.bytes_in = path, len(request)
        span = self._service.tracer.span(headers)
        exchange.trace_id = span.trace_id
        return exchange, span

    def _end(self, exchange: Exchange, span: Span) -> None:
        service = self._service
        exchange.seconds = service.clock() - exchange.started
        service.stats.exchanged(exchange)
        for witness in service.witnesses:
            witness.exchanged(exchange)
        span.finish(exchange)

    async def _answer(self, name: str, request: bytes, context: Any, exchange: Exchange) -> bytes:
        method = self._protocol.methods[name]
        try:
            message = method.request.FromString(request)
        except DecodeError:
            raise bad(f"the request is no {method.request.DESCRIPTOR.name}") from None
        answer = method.response()
        await self._answers[name](message, answer, exchange, context)
        return bytes(answer.SerializeToString())

    @staticmethod
    async def _refuse(context: Any, exchange: Exchange, refusal: Refusal) -> None:
        exchange.status, exchange.code = refusal.status, refusal.code
        trailing = [("x-request-id", exchange.request_id), ("x-error-code", refusal.code)]
        if refusal.retry_after_s is not None:
            trailing.append(("retry-after", str(max(1, ceil(refusal.retry_after_s)))))
        code = CODES.get(refusal.status, grpc.StatusCode.INVALID_ARGUMENT)
        await context.abort(code, plain(refusal)[:LONGEST_MESSAGE], tuple(trailing))

    async def _live(self, request: Any, answer: Any, exchange: Exchange, context: Any) -> None:
        answer.live = True

    async def _ready(self, request: Any, answer: Any, exchange: Exchange, context: Any) -> None:
        answer.ready = self._service.fleet.ready and not self._service.stopping

    async def _model_ready(self, request: Any, answer: Any, exchange: Exchange, context: Any) -> None:
        answer.ready = model_is_ready(self._service.fleet, request.name, request.version or None)

    async def _server(self, request: Any, answer: Any, exchange: Exchange, context: Any) -> None:
        found = describe_server()
        answer.name, answer.version = found.name, found.version
        answer.extensions.extend(found.extensions)

    async def _model(self, request: Any, answer: Any, exchange: Exchange, context: Any) -> None:
        fleet = self._service.fleet
        fill_metadata(answer, describe_model(fleet, find(fleet, request.name, request.version or None)))

    async def _infer(self, request: Any, answer: Any, exchange: Exchange, context: Any) -> None:
        service = self._service
        model = service.fleet.pick(request.model_name, request.model_version or None, exchange.request_id)
        exchange.model, exchange.version = model.name, model.version
        given, outputs, parameters = read_inputs(request), read_outputs(request), read_parameters(request)
        inference = understand(model, given, outputs, parameters, service.limits, exchange.started)
        left = context.time_remaining()
        if left is not None:
            inference = inference.until(service.clock() + left)
        exchange.texts = len(inference.rows)
        found = await ask(service, exchange.caller, inference, simply)
        exchange.timing = found.answers.timing
        fill_answer(answer, model, found.outputs, raw=bool(request.raw_input_contents))
        answer.id = request.id
        service.answered(model, inference.rows.texts, found.answers)


def _headers(context: Any) -> Headers:
    """The call's metadata whose values are text; names are in lower case already."""
    given = context.invocation_metadata()
    return [(key.encode(), value.encode()) for key, value in given if isinstance(value, str)]
