"""Clients that do what clients should not, many of them, in a process of their own.

    python -m benchmarks.service.crowd KIND PORT COUNT SECONDS [KEY]

says `ready N` once they are connected, and at its end what became of them, as JSON. Kinds:

    idle         one request each, and then nothing, on connections that stay open
    headers      a header, one byte at a time
    body         a request's head, and then its body one byte at a time
    silent       half of a request, and then nothing: as of a client whose machine went down
    deaf         requests for long answers that are never read, into a small receive buffer
    resetting    a request, and at once the connection reset; again and again
    cancelling   a request for 32 texts, and the connection closed before the answer; again and again
"""

import asyncio
import json
import re
import resource
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic
from typing import cast

import uvloop

from .wire import request_of

KINDS = ("idle", "headers", "body", "silent", "deaf", "resetting", "cancelling")
AT_ONCE = 200
DRIP_SECONDS = 0.5
AGAIN_SECONDS = 0.05
CANCEL_SECONDS = 0.005
DEAF_TEXTS, DEAF_REQUESTS, DEAF_BUFFER = 1000, 16, 4096
ANSWER_SECONDS = 60.0
LISTEN_SECONDS = 1.0
STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")
RESET = struct.pack("ii", 1, 0)


class Client(asyncio.Protocol):
    """One connection of a kind."""

    def __init__(self, kind: str, port: int, seen: "Counter[str]", key: str | None) -> None:
        self._kind = kind
        self._seen = seen
        self._drip: asyncio.TimerHandle | None = None
        many = [f"text number {number}, and some words more" for number in range(32)]
        # The same text again and again is computed once, and still makes an answer that no buffer holds.
        self._request = request_of(
            many[:1] * DEAF_TEXTS if kind == "deaf" else many if kind == "cancelling" else many[:1],
            port, probabilities=kind == "deaf", key=key, single=kind not in ("deaf", "cancelling"),
        )  # fmt: skip

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        head_end = self._request.index(b"\r\n\r\n") + 4
        match self._kind:
            case "idle":
                self._transport.write(self._request)
            case "headers":
                self._transport.write(self._request[:20])
                self._drop(head_end - 10, 20)
            case "body":
                self._transport.write(self._request[:head_end])
                self._drop(len(self._request) - 1, head_end)
            case "silent":
                self._transport.write(self._request[: head_end + 5])
            case "deaf":
                # uvloop begins to read only after this call, and would not be paused by it.
                loop.call_soon(self._transport.pause_reading)
                self._transport.write(self._request * DEAF_REQUESTS)
            case "resetting":
                self._transport.write(self._request)
                own = self._transport.get_extra_info("socket")
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                loop.call_later(CANCEL_SECONDS, self._transport.abort)
            case "cancelling":
                self._transport.write(self._request)
                loop.call_later(CANCEL_SECONDS, self._transport.close)

    def _drop(self, last: int, place: int) -> None:
        """One byte more, of a request that never ends: at the last byte before its end it starts to wait."""
        if place < last and not self._transport.is_closing():
            self._transport.write(self._request[place : place + 1])
            loop = asyncio.get_running_loop()
            self._drip = loop.call_later(DRIP_SECONDS, self._drop, last, place + 1)

    def listen(self) -> None:
        """Read at last: what the server closed is only seen so."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Only looked at."""
        for status in STATUS.findall(data):
            self._seen[f"status_{status.decode()}"] += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """By the server, unless this side closed first."""
        if self._drip is not None:
            self._drip.cancel()
        self._seen["closed"] += 1


async def crowd(kind: str, port: int, count: int, seconds: float, key: str | None) -> dict[str, int]:
    """What became of so many clients."""
    loop = asyncio.get_running_loop()
    seen: Counter[str] = Counter()

    clients: list[Client] = []

    async def connect() -> None:
        own = socket.socket()
        own.setblocking(False)
        if kind == "deaf":
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DEAF_BUFFER)
        try:
            await loop.sock_connect(own, ("127.0.0.1", port))
            _, client = await loop.create_connection(lambda: Client(kind, port, seen, key), sock=own)
            clients.append(client)
            seen["opened"] += 1
        except OSError:
            own.close()
            seen["not_opened"] += 1

    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*(connect() for _ in range(min(AT_ONCE, count - start))))
    patience = monotonic() + ANSWER_SECONDS
    while kind == "idle" and seen["status_200"] + seen["closed"] < seen["opened"] and monotonic() < patience:
        await asyncio.sleep(AGAIN_SECONDS)
    print(f"ready {seen['opened']}", flush=True)
    until = monotonic() + seconds
    while monotonic() < until:
        await asyncio.sleep(AGAIN_SECONDS)
        if kind in ("resetting", "cancelling"):
            await asyncio.gather(*(connect() for _ in range(count)))
    if kind == "deaf":
        for client in clients:
            client.listen()
        await asyncio.sleep(LISTEN_SECONDS)
    return {**seen, "still_open": seen["opened"] - seen["closed"]}


def main(arguments: Sequence[str]) -> None:
    """Be a crowd."""
    kind, port, count, seconds, *key = arguments
    if kind not in KINDS:
        raise SystemExit(f"no crowd is '{kind}'; there are {', '.join(KINDS)}")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    run: Callable[..., dict[str, int]] = uvloop.run
    found = run(crowd(kind, int(port), int(count), float(seconds), key[0] if key else None))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
