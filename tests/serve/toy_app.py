"""The whole application over a toy model on one event loop, asked without sockets."""

import asyncio
import threading
from dataclasses import dataclass, field, replace

import httpx
from toy_service import Events

from polyfold.predictor import Predictor
from polyfold.serve.access.gatekeeper import Gatekeeper
from polyfold.serve.engine.fleet import Fleet
from polyfold.serve.http.app import build_app
from polyfold.serve.service import Service
from polyfold.serve.spec import Limits, ModelSource, ServeSpec


@dataclass
class Remembered:
    """A witness of everything that ended."""

    exchanges: list = field(default_factory=list)
    crashes: list = field(default_factory=list)

    def exchanged(self, exchange):
        self.exchanges.append(exchange)

    def crashed(self, exchange, error):
        self.crashes.append((exchange, error))


@dataclass
class Held:
    """Opens models whose every batch waits until `gate` is open."""

    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        self.gate.set()

    def __call__(self, candidate):
        predictor = Predictor.open(candidate.folder, runtime=candidate.runtime, threads=1)
        return replace(predictor, session=_HeldSession(predictor.session, self.gate))


@dataclass
class _HeldSession:
    inner: object
    gate: threading.Event

    def run(self, *inputs):
        assert self.gate.wait(10)
        return self.inner.run(*inputs)

    def __getattr__(self, name):
        return getattr(self.inner, name)


class ToyApp:
    """A service of toy models and a client, on an event loop of their own; tests speak to it without awaiting."""

    def __init__(self, *models, started=True, opener=None, gatekeeper=None, hosts=None, **limits):
        self.runner = asyncio.Runner()
        self.events, self.seen = Events(), Remembered()
        sources = tuple(ModelSource.parse(str(one)) for one in models)
        self.spec = ServeSpec(models=sources, threads=1, limits=Limits(**limits), drain_seconds=1.0)

        async def build():
            self.fleet = Fleet(self.spec, self.events, opener)
            if started:
                await self.fleet.start()
            return Service(
                self.spec, self.fleet, self.events, gatekeeper or Gatekeeper(), witnesses=(self.seen,), hosts=hosts
            )

        self.service = self.run(build())
        self.app = build_app(self.service)
        transport = httpx.ASGITransport(self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://service.test")

    def run(self, coroutine):
        """A coroutine to its end, or an error after ten seconds."""

        async def bounded():
            async with asyncio.timeout(10):
                return await coroutine

        return self.runner.run(bounded())

    def get(self, path, **more):
        return self.run(self.client.get(path, **more))

    def post(self, path, **more):
        return self.run(self.client.post(path, **more))

    def predict(self, **body):
        """What /predict answers to this JSON."""
        return self.post("/predict", json=body)

    def close(self):
        async def end():
            await self.client.aclose()
            await self.service.shadow.settle()
            await self.fleet.stop(1.0)

        self.run(end())
        self.runner.close()


def ask_raw(app, messages, *, path="/predict", headers=((b"content-type", b"application/json"),), method="POST"):
    """Call the ASGI application itself; `messages` is an async function that receives. What was sent, awaited."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": list(headers),
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }

    async def call():
        await app(scope, messages, send)
        return sent

    return call()
