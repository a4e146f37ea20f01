"""The process of `polyfold serve`: one socket, one event loop, models loading behind it, and an orderly end.

The port opens at once. Until the models are warm, `/health` says "starting" and requests are refused with 503.
SIGTERM or SIGINT end it: no new connections, what is under way gets its answer within `drain_seconds`, exit code
0. A second signal does not wait.
"""

import asyncio
import faulthandler
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from polyfold import __version__
from polyfold.console import note, warn
from polyfold.errors import InputError
from polyfold.serve.access.hosts import is_loopback
from polyfold.serve.assembly import assembled
from polyfold.serve.http.app import build_app
from polyfold.serve.http.connections import Connection, Sweeper
from polyfold.serve.http.gate import Gate
from polyfold.serve.service import Service
from polyfold.serve.spec import ServeSpec

if TYPE_CHECKING:
    from polyfold.serve.v2.grpc_server import GrpcServer

GARBAGE = 20_000
"""New objects between two collections: Python's 700 are a few requests' worth, and took 4 % of the event loop."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)

LAST_WORDS_S = 1.0
"""Time for refusals to leave, after what was under way had its time."""

HANGING_S = 5.0
"""An end that takes longer than it may, by this, is no orderly one any more."""

SPARE_FILES = 256
"""Open files that are no connections: models, logs, the loop's own."""

_STDERR = 2

MOST_FILES = 1_048_576
"""Some systems allow a billion; programs that we start would then close each of them."""


class HttpServer(uvicorn.Server):
    """uvicorn's, whose end is ours: it is told to stop by `stop`, and leaves its exit code alone."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def stop(self) -> None:
        """The first time in order, the second time at once. Also the handler of signals."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._service.stopping = True
        # Whatever then hangs, a runtime for one, the process says where, and ends with 1.
        seconds = 0.0 if self.force_exit else self._service.spec.drain_seconds
        faulthandler.dump_traceback_later(seconds + HANGING_S, file=_STDERR, exit=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Not here: uvicorn would raise them again at the end, and the process die by them."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No new connections; answers for what is under way, within the time for it; refusals for the rest."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        clock = self._service.clock
        deadline = clock() + self._service.spec.drain_seconds
        await self._emptied(deadline)
        await self._service.fleet.stop(0.0 if self.force_exit else max(0.0, deadline - clock()))
        await self._emptied(clock() + LAST_WORDS_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()

    async def _emptied(self, deadline: float) -> None:
        """Until no connection is left, the time is up, or a second signal came."""
        while self.server_state.connections and not self.force_exit and self._service.clock() < deadline:
            await asyncio.sleep(0.02)


def serve(spec: ServeSpec) -> None:
    """Serve until told to stop; InputError where it cannot start."""
    files = raise_open_files()
    try:
        with bound(spec.host, spec.port) as listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(spec, listener, min(spec.limits.connections, files - SPARE_FILES)))
    finally:
        faulthandler.cancel_dump_traceback_later()


async def _run(spec: ServeSpec, listener: socket.socket, connections: int) -> None:
    loop = asyncio.get_running_loop()
    with assembled(spec) as parts:
        app = build_app(parts.service)
        server = HttpServer(_config(app, spec, connections), parts.service)
        parts.watch(app.app, server.server_state)
        for one in SIGNALS:
            loop.add_signal_handler(one, server.stop)
        loop.add_signal_handler(signal.SIGHUP, parts.log.reopen)
        grpc = None if spec.grpc_port is None else await _start_grpc(parts.service, spec.host, spec.grpc_port)
        sweeper = Sweeper(server.server_state.connections, spec.limits.idle_timeout_s)  # type: ignore[arg-type]
        sweeping = loop.create_task(sweeper.run())
        loading = loop.create_task(_load(parts.service, parts.metrics.settle))
        loading.add_done_callback(lambda done: None if _went_well(done) else server.stop())
        _announce(spec, listener, None if grpc is None else grpc.port)
        await server.serve([listener])
        if grpc is not None:
            # Its calls have their answers by now: the models have stopped.
            await grpc.stop(0.0 if server.force_exit else LAST_WORDS_S)
        sweeping.cancel()
        loaded = loading.done()
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        note("stopped" if not server.force_exit else "stopped at once; what was under way has no answer")
    if not loaded or server.force_exit:
        # A model is still being loaded, or a batch computed, in a thread that Python would wait for.
        sys.stderr.flush()
        os._exit(1 if server.force_exit else 0)


async def _start_grpc(service: Service, host: str, port: int) -> "GrpcServer":
    # Its packages are an extra of their own.
    from polyfold.serve.v2.grpc_server import start_grpc

    return await start_grpc(service, host, port)


async def _load(service: Service, loaded: Callable[[], None]) -> None:
    started = service.clock()
    await service.fleet.start()
    loaded()
    # What is there now stays: the collector need not look through it again, nor after every few hundred requests.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)
    models = ", ".join(
        f"{one.name}@{one.version} ({one.config.precision} on {one.runtime})" for one in service.fleet.models
    )
    note(f"ready: {models or 'no model yet'}, after {service.clock() - started:.1f} s")


def _went_well(done: "asyncio.Task[None]") -> bool:
    return done.cancelled() or done.exception() is None


def _config(app: Gate, spec: ServeSpec, connections: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=partial(Connection, most=connections),  # type: ignore[arg-type]
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, round(spec.limits.idle_timeout_s)),
        backlog=4096,
    )


def _announce(spec: ServeSpec, listener: socket.socket, grpc_port: int | None) -> None:
    host, port = listener.getsockname()[:2]
    named = "[::1]" if host == "::" else "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    models = ", ".join(f"{one.name}@{one.version}" for one in spec.models) or "no model yet"
    note(f"polyfold {__version__}: listening at http://{named}:{port} (docs: /docs, metrics: /metrics)")
    if grpc_port is not None:
        note(f"gRPC at {named}:{grpc_port}")
    note(f"loading: {models}")
    warn_if_open(spec)


def warn_if_open(spec: ServeSpec) -> None:
    """Say so where other machines reach a service that asks nobody for a key."""
    if not is_loopback(spec.host) and spec.keys is None:
        warn(
            f"{spec.host} can be reached from other machines, and anyone who reaches it may use it: "
            "give --keys FILE, or let something in front of it ask who they are"
        )


def raise_open_files() -> int:
    """Let this process have as many open files as the system allows it; each connection is one. How many it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket; InputError where there can be none."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=4096)
    except socket.gaierror as error:
        raise InputError(f"'{host}' is no address of this machine: {error.strerror}", key="--host") from None
    except PermissionError:
        hint = "ports below 1024 are for the administrator: give --port 8080, say"
        raise InputError(f"port {port} may not be used", key="--port", hint=hint) from None
    except OSError as error:
        hint = "another service uses it: stop that one, or give another --port (0: any that is free)"
        raise InputError(f"{host}, port {port}: {error.strerror}", key="--port", hint=hint) from None
    with listener:
        yield listener
