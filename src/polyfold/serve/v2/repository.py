"""The model repository extension: which versions there are, and bringing them into service and out of it.

A folder `--repository` holds versions as REPOSITORY/NAME/VERSION. What a caller names must lie inside it once all
links are followed, so that the right to load models is not the right to read this machine.

Source: Triton Inference Server, docs/protocol/extension_model_repository.md; the routing is our own.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from polyfold.artifact import CONFIG
from polyfold.errors import InputError
from polyfold.serve.engine.fleet import Fleet, Routing
from polyfold.serve.refusals import Refusal
from polyfold.serve.spec import ModelSource
from polyfold.serve.v2.binary_tensors import bad
from polyfold.serve.v2.schemas import IndexEntry, IndexRequest, Loaded, LoadRequest, UnloadRequest, refused

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", re.ASCII)
STATES = {"ready": "READY", "draining": "UNLOADING", "stopped": "UNAVAILABLE", "failed": "UNAVAILABLE"}
REASONS = {"draining": "finishes what it has", "stopped": "unloaded", "failed": "every runtime has failed"}
FIRST = "1"


@dataclass(frozen=True)
class Repository:
    """Changes which models are in service; only for callers who may."""

    fleet: Fleet
    folder: Path | None

    async def index(self, request: IndexRequest) -> list[IndexEntry]:
        """Every version in service, and then those that could be loaded."""
        stored = await asyncio.to_thread(lambda: list(self._stored()))
        found = [
            IndexEntry(
                name=one.name, version=one.version, state=STATES[one.state], reason=REASONS.get(one.state, "")
            )
            for one in self.fleet.models
        ]
        known = {(one.name, one.version) for one in found}
        found += [
            IndexEntry(name=name, version=version, state="UNAVAILABLE", reason="not loaded")
            for name, version in stored
            if (name, version) not in known
        ]
        return [one for one in found if one.state == "READY"] if request.ready else found

    async def load(self, name: str, request: LoadRequest) -> Loaded:
        """Bring a version into service; Refusal 422 where it cannot be served, and then all is as before."""
        source = await asyncio.to_thread(self._source, name, request)
        try:
            model = await self.fleet.load(source, share=request.parameters.share)
        except InputError as error:
            raise refused(error) from None
        except OSError as error:
            # A file that cannot be read, or went while it was.
            raise Refusal(422, "bad_request", f"the model cannot be read: {error.strerror}") from None
        routing = self.fleet.routing[model.name]
        return Loaded(name=model.name, version=model.version, runtime=model.runtime, routing=routing)

    async def unload(self, name: str, request: UnloadRequest) -> None:
        """Take a version, or all of a name, out of service; Refusal 404 where there is none."""
        try:
            await self.fleet.unload(name, request.parameters.version)
        except InputError as error:
            raise Refusal(404, "unknown_model", error.problem, hint=error.hint) from None

    def routing(self, name: str) -> Routing:
        """How a model's requests are shared."""
        found = self.fleet.routing.get(name)
        if found is None:
            hint = f"models: {', '.join(self.fleet.routing) or 'none is loaded'}"
            raise Refusal(404, "unknown_model", f"there is no model '{name[:64]}'", hint=hint)
        return found

    def route(self, name: str, routing: Routing) -> Routing:
        """Share a model's requests anew."""
        self.routing(name)
        try:
            self.fleet.route(name, routing)
        except InputError as error:
            raise refused(error) from None
        return self.routing(name)

    def _source(self, name: str, request: LoadRequest) -> ModelSource:
        """Where the version lies that is to be loaded."""
        if NAME.fullmatch(name) is None:
            raise bad("the name is no model's", hint="letters, digits, '.', '_' and '-', at most 64")
        if self.folder is None:
            hint = "start the service with --repository FOLDER"
            raise Refusal(422, "bad_request", "there is no repository to load from", hint=hint)
        asked = request.parameters
        version = asked.version or (self._newest(name) if asked.path is None else None) or FIRST
        paths = [asked.path or f"{name}/{version}", *asked.fallbacks]
        folders = tuple(_inside(self.folder, path) for path in paths)
        try:
            return ModelSource(name=name, version=version, folders=folders)
        except ValidationError as error:
            raise bad(error.errors()[0]["msg"]) from None

    def _newest(self, name: str) -> str | None:
        """The version with the greatest number, or the last by its name."""
        versions = [version for one, version in self._stored() if one == name]
        return max(versions, key=lambda version: (version.isdecimal(), len(version), version), default=None)

    def _stored(self) -> Iterator[tuple[str, str]]:
        """Names and versions of what looks like a model, in order."""
        if self.folder is None:
            return
        for name in _folders(self.folder):
            for version in _folders(name):
                if (version / CONFIG).is_file():
                    yield name.name, version.name


def _folders(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    return [one for one in found if NAME.fullmatch(one.name) and one.is_dir()]


def _inside(repository: Path, path: str) -> Path:
    """A folder of the repository, all links followed; whether anything lies outside is not told."""
    root, folder = _resolved(repository), _resolved(repository / path)
    if root is None or folder is None or root not in folder.parents or not folder.is_dir():
        hint = "paths begin at the folder given to --repository, and must stay in it"
        raise Refusal(422, "bad_request", f"the repository has no folder '{path[:200]}'", hint=hint)
    return folder


def _resolved(path: Path) -> Path | None:
    """Where a path leads; None where it leads nowhere (links in a circle, NUL characters, names too long)."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None
