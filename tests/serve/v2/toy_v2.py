"""The whole application over toy models, in this process: requests go in as ASGI messages, all else is real."""

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx
from toy_service import Events

from polyfold.artifact import Stage
from polyfold.serve.access.gatekeeper import Gatekeeper
from polyfold.serve.access.key_file import KeyFile, write_keys
from polyfold.serve.access.keys import KeyEntry, Keys, digest_key, new_key
from polyfold.serve.engine.fleet import Fleet, opener_of
from polyfold.serve.http.app import build_app
from polyfold.serve.service import Service
from polyfold.serve.spec import Limits, ModelSource, ServeSpec
from toys import write_toy_folder

SECONDS = 20.0


@dataclass
class Gated:
    """A session that waits for `gate` before it computes, if it is shut."""

    inner: object
    gate: threading.Event

    def run(self, input_ids, attention_mask):
        assert self.gate.wait(SECONDS)
        return self.inner.run(input_ids, attention_mask)


@dataclass
class InProcess:
    """A service, its application, and the event loop of both."""

    runner: asyncio.Runner
    service: Service
    client: httpx.AsyncClient
    events: Events
    gate: threading.Event

    def run(self, coroutine):
        """A coroutine to its end, on the service's loop."""

        async def bounded():
            async with asyncio.timeout(SECONDS):
                return await coroutine

        return self.runner.run(bounded())

    def ask(self, method, path, **options):
        """One request's answer."""
        return self.run(self.client.request(method, path, **options))


@contextmanager
def in_process(*models, repository=None, keys=None, **limits):
    """The service over (name, version, folder); `keys` is a file of them, `limits` are fields of `Limits`."""
    sources = tuple(ModelSource(name=name, version=version, folders=(folder,)) for name, version, folder in models)
    spec = ServeSpec(models=sources, repository=repository, keys=keys, limits=Limits(**limits), drain_seconds=5.0)
    gate, events = threading.Event(), Events()
    gate.set()

    def opened(candidate):
        predictor = opener_of(spec)(candidate)
        return replace(predictor, session=Gated(predictor.session, gate))

    with asyncio.Runner() as runner:

        async def begin():
            fleet = Fleet(spec, events, opened)
            await fleet.start()
            held = None if keys is None else KeyFile(keys, lambda *told: None, 0.0)
            service = Service(spec, fleet, events, Gatekeeper(held))
            transport = httpx.ASGITransport(build_app(service))
            return service, httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

        service, client = runner.run(begin())
        service_in_process = InProcess(runner, service, client, events, gate)
        try:
            yield service_in_process
        finally:
            gate.set()
            service_in_process.run(client.aclose())
            service_in_process.run(service.fleet.stop(1.0))
            service_in_process.run(service.shadow.settle())


def finished(folder, runtime="onnxruntime", **options):
    """A toy model's folder with its checksums, as a stage leaves it."""
    write_toy_folder(folder, runtime, **options)
    Stage("toy", folder.name, 1, {}).finish(folder, {})
    return folder


def key_of(folder, *roles):
    """A new key with these roles, added to the file `keys.yaml` of a folder; the key, and the file."""
    path = folder / "keys.yaml"
    held = [] if not path.exists() else list(KeyFile(path, lambda *told: None, 0.0).current(0.0).entries)
    key = new_key()
    entry = KeyEntry(name=f"key{len(held)}", sha256=digest_key(key), roles=roles)
    write_keys(path, Keys(keys=(*(one for _, one in held), entry)))
    return key, path


def texts_input(texts):
    """The input `text` of a request, as JSON."""
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}


def ids_inputs(input_ids, attention_mask):
    """The two inputs of token ids of a request, as JSON."""
    return [
        {"name": name, "shape": list(values.shape), "datatype": "INT64", "data": values.reshape(-1).tolist()}
        for name, values in (("input_ids", input_ids), ("attention_mask", attention_mask))
    ]
