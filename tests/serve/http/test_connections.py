"""What a client can hold open, and for how long: real connections, under a clock that is told the time."""

import asyncio
import json
from contextlib import nullcontext
from functools import partial

import pytest
import uvicorn

from polyfold.serve.http.connections import LEAST_READ_BYTES, MOST_HEAD_BYTES, Connection, Sweeper

TIMEOUT_S = 30.0
LARGE = 8 * 1024 * 1024
REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Served:
    """A server whose application answers `size` bytes once `go` is set, after reading the body."""

    def __init__(self, most=100, app=None):
        self.size, self.go, self.now, self.gone, self.clients = 2, asyncio.Event(), 0.0, 0, []
        self.go.set()
        config = uvicorn.Config(
            self.app if app is None else partial(app, self),
            http=lambda *args, **more: Connection(*args, most=most, **more),
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=3600,
        )
        self.server = uvicorn.Server(config)
        self.server.capture_signals = nullcontext
        self.sweeper = Sweeper(self.server.server_state.connections, TIMEOUT_S, lambda: self.now)

    async def app(self, scope, receive, send):
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            self.gone += 1
            return
        await self.go.wait()
        headers = [(b"content-length", str(self.size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * self.size})

    async def open(self):
        """A connection that the server has taken."""
        before = len(self.connections)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**16)
        self.clients.append(writer)
        await self.until(lambda: len(self.connections) > before or reader.at_eof())
        return reader, writer

    @property
    def connections(self):
        return self.server.server_state.connections

    @property
    def port(self):
        return self.server.servers[0].sockets[0].getsockname()[1]

    @staticmethod
    async def until(condition):
        while not condition():
            await asyncio.sleep(0.001)

    def sweep(self, *seconds):
        """Let so many seconds pass, sweeping after each; how many connections were closed."""
        closed = self.sweeper.sweep()
        for step in seconds:
            self.now += step
            closed += self.sweeper.sweep()
        return closed


def served(test, **more):
    """Run an async test with a server of its own, for at most ten seconds."""

    async def run():
        one = Served(**more)
        async with asyncio.timeout(10):
            one.server.config.port = 0
            serving = asyncio.ensure_future(one.server.serve())
            await one.until(lambda: one.server.started)
            try:
                await test(one)
            finally:
                for each in (*one.clients, *one.connections):
                    each.transport.abort()
                one.server.should_exit = True
                await serving

    asyncio.run(run())


def test_a_connection_that_asks_for_nothing_is_closed_after_the_timeout_and_not_before():
    async def test(server):
        reader, _ = await server.open()
        assert server.sweep(TIMEOUT_S - 1.0) == 0
        assert server.sweep(1.0) == 1
        assert await reader.read() == b""

    served(test)


def test_half_a_request_is_told_why_before_it_is_closed_however_it_trickles():
    async def test(server):
        reader, writer = await server.open()
        for byte in REQUEST[:10]:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.002)
            server.sweep(TIMEOUT_S / 11)
        assert server.sweep(TIMEOUT_S) == 1
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_timeout"

    served(test)


def test_whoever_asks_now_and_then_stays():
    async def test(server):
        reader, writer = await server.open()
        for _ in range(5):
            writer.write(REQUEST)
            await reader.readuntil(b"xx")
            assert server.sweep(TIMEOUT_S - 1.0) == 0
        assert server.sweep(TIMEOUT_S) == 1

    served(test)


def test_whoever_waits_for_us_is_not_to_blame():
    async def test(server):
        server.go.clear()
        reader, writer = await server.open()
        writer.write(REQUEST)
        (connection,) = server.connections
        await server.until(lambda: connection.doing == "waiting for us")
        assert server.sweep(*[TIMEOUT_S] * 5) == 0
        server.go.set()
        assert (await reader.readuntil(b"xx")).startswith(b"HTTP/1.1 200")
        assert server.sweep(TIMEOUT_S) == 1

    served(test)


def test_a_client_that_does_not_read_its_answer_is_cut_off():
    async def test(server):
        server.size = LARGE
        _, writer = await server.open()
        writer.transport.pause_reading()
        writer.write(REQUEST)
        (connection,) = server.connections
        await server.until(connection.transport.get_write_buffer_size)
        assert server.sweep(TIMEOUT_S - 1.0) == 0
        assert server.sweep(1.0) == 1
        await server.until(lambda: not server.connections)

    served(test)


def test_a_client_that_reads_slowly_is_borne_with():
    async def test(server):
        server.size = LARGE
        reader, writer = await server.open()
        writer.write(REQUEST)
        (connection,) = server.connections
        await server.until(connection.transport.get_write_buffer_size)
        server.sweep()
        left = LARGE
        while connection.doing == "reading" or connection.transport.get_write_buffer_size() > LEAST_READ_BYTES:
            before = connection.transport.get_write_buffer_size()
            while left > 0 and connection.transport.get_write_buffer_size() > before - LEAST_READ_BYTES:
                left -= len(await reader.read(2**16))
            assert server.sweep(TIMEOUT_S - 1.0) == 0

    served(test)


def test_an_answer_that_nobody_takes_does_not_keep_a_closing_connection():
    async def test(server):
        server.size = LARGE
        _, writer = await server.open()
        writer.transport.pause_reading()
        writer.write(REQUEST.replace(b"host:", b"connection: close\r\nhost:"))
        (connection,) = server.connections
        await server.until(lambda: connection.doing == "closing")
        server.sweep(TIMEOUT_S - 1.0)
        assert server.connections
        assert server.sweep(1.0) == 1
        await server.until(lambda: not server.connections)

    served(test)


@pytest.mark.parametrize("beginning", [b"GET / HTTP/1.1\r\nx: ", b"GET /", b"\r\n"])
def test_a_head_without_end_is_refused(beginning):
    async def test(server):
        reader, writer = await server.open()
        writer.write(beginning + (b"\r\n" if beginning == b"\r\n" else b"y") * (2 * MOST_HEAD_BYTES))
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        # Whatever else it sends is nobody's, and after a while its connection too.
        writer.write(b"z" * MOST_HEAD_BYTES)
        assert server.sweep(TIMEOUT_S) == 1
        await server.until(lambda: not server.connections)

    served(test)


def test_a_body_may_be_longer_than_a_head():
    async def test(server):
        reader, writer = await server.open()
        body = b"z" * (3 * MOST_HEAD_BYTES)
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            assert (await reader.readuntil(b"xx")).startswith(b"HTTP/1.1 200 ")

    served(test)


def test_of_too_many_connections_the_last_are_refused():
    async def test(server):
        kept = [await server.open() for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        server.clients.append(writer)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        for reader, writer in kept:
            writer.write(REQUEST)
            assert (await reader.readuntil(b"xx")).startswith(b"HTTP/1.1 200")

    served(test, most=3)


def test_a_broken_body_is_no_request():
    async def test(server):
        reader, writer = await server.open()
        writer.write(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\nzz\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        await server.until(lambda: server.gone == 1)

    served(test)


def test_what_comes_behind_requests_and_is_none_is_refused_after_their_answers():
    async def test(server):
        server.go.clear()
        reader, writer = await server.open()
        writer.write(REQUEST * 3 + b"nonsense\r\n\r\n")
        (connection,) = server.connections
        await server.until(lambda: connection.doing == "waiting for us")
        server.go.set()
        answers = await reader.read()
        assert answers.count(b"HTTP/1.1 200 ") == 3
        assert answers.endswith(b"xx")

    served(test)


def test_when_the_client_leaves_every_request_it_sent_hears_of_it():
    async def test(server):
        _, writer = await server.open()
        (connection,) = server.connections
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nxx")
        await server.until(lambda: connection.current is not None)
        writer.transport.abort()
        await server.until(lambda: server.gone == 1)
        await server.until(lambda: not server.server.server_state.tasks)

    served(test)


class Pieces(asyncio.Protocol):
    """A client that keeps what it receives as it comes."""

    def __init__(self):
        self.pieces = []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.pieces.append(data)


def test_an_answers_head_and_body_come_in_one_piece():
    async def test(server):
        loop = asyncio.get_running_loop()
        transport, client = await loop.create_connection(Pieces, "127.0.0.1", server.port)
        server.clients.append(client)
        for count in range(1, 4):
            transport.write(REQUEST)
            await server.until(lambda count=count: len(client.pieces) == count)
        assert all(piece.startswith(b"HTTP/1.1 200 ") and piece.endswith(b"xx") for piece in client.pieces)

    served(test)


@pytest.mark.parametrize("ending", ["keep-alive", "close"])
def test_a_head_is_sent_before_a_body_that_takes_longer(ending):
    async def streaming(server, scope, receive, send):
        headers = [(b"connection", ending.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await server.go.wait()
        for part in (b"one", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def test(server):
        server.go.clear()
        reader, writer = await server.open()
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        server.go.set()
        assert await reader.readexactly(21) == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        if ending == "close":
            assert await reader.read() == b""

    served(test, app=streaming)
