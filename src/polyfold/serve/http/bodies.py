"""A request's body, read within limits of size and time, and JSON answers sent."""

import asyncio
from collections.abc import Iterable, Mapping
from math import ceil

import orjson
from starlette.types import Receive, Scope, Send

from polyfold.serve.access.gatekeeper import CHALLENGE
from polyfold.serve.exchange import exchange_of
from polyfold.serve.refusals import Refusal
from polyfold.serve.spec import Limits

JSON = b"application/json"
Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """Nobody is left to answer: the gate lets the request end without one."""


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """All of it; Refusal 413 as soon as it is too long, whatever its header says, and 408 where it is too slow."""
    declared = header(scope["headers"], b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limits.max_body_bytes:
        raise _too_large(limits)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            body = await _read(receive, limits)
    except TimeoutError:
        hint = f"a body must be there within {limits.body_timeout_s:g} s of its headers"
        raise Refusal(408, "body_timeout", "the body came too slowly", hint=hint) from None
    exchange_of(scope).bytes_in = len(body)
    return body


async def _read(receive: Receive, limits: Limits) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > limits.max_body_bytes:
            raise _too_large(limits)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The first of this name, which is in lower case."""
    return next((value for key, value in headers if key == name), None)


async def send_json(send: Send, content: bytes, status: int = 200, headers: Headers | None = None) -> None:
    """An answer that is JSON already."""
    own = [(b"content-type", JSON), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": own + (headers or [])})
    await send({"type": "http.response.body", "body": content})


def refusal_headers(refusal: Refusal) -> Mapping[str, str]:
    """What a refusal says in headers: when to come again, how to identify, and that this connection is over."""
    found: dict[str, str] = {}
    if refusal.retry_after_s is not None:
        found["retry-after"] = str(max(1, ceil(refusal.retry_after_s)))
    if refusal.status == 401:
        found["www-authenticate"] = CHALLENGE
    if refusal.status == 408:
        # What comes still belongs to the body that nobody waits for any more.
        found["connection"] = "close"
    return found


def refusal_json(refusal: Refusal, request_id: str) -> bytes:
    """The body of every error; what a client wrote and UTF-8 cannot say is replaced."""
    body = refusal.body(request_id)
    error = {key: _sayable(value) for key, value in body["error"].items()}
    return orjson.dumps({"error": error})


def _sayable(value: str | None) -> str | None:
    return value if value is None else value.encode("utf-8", "replace").decode()


def _too_large(limits: Limits) -> Refusal:
    hint = f"a body may have {limits.max_body_bytes:,} bytes; send the texts in several requests"
    return Refusal(413, "body_too_large", "the body is too large", hint=hint)
