"""All models of the service by name and version: who takes a request, and how that changes while running."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field

from polyfold.errors import InputError
from polyfold.predictor import Predictor
from polyfold.serve.engine.observer import Observer
from polyfold.serve.engine.runner import Candidate, Opener
from polyfold.serve.engine.served import ServedModel, open_model
from polyfold.serve.refusals import Refusal
from polyfold.serve.spec import ModelSource, ServeSpec

WHOLE = 100.0


class Routing(BaseModel):
    """Which version answers requests that name none: percentages that add up to 100, and one that only listens.

    The `shadow` version gets a copy of the requests, and its answers are compared and thrown away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    shares: dict[str, float] = Field(min_length=1)
    shadow: str | None = None


@dataclass(frozen=True)
class _Named:
    """One name's versions, and how requests are shared among them; replaced as a whole."""

    versions: dict[str, ServedModel] = field(default_factory=dict)
    routing: Routing | None = None


class Fleet:
    """Belongs to one event loop. One change at a time; requests go on meanwhile."""

    def __init__(self, spec: ServeSpec, observer: Observer, opener: Opener | None = None) -> None:
        """`opener` opens a folder on a runtime; by default as `spec` says."""
        self._spec = spec
        self._observer = observer
        self._opener = opener or opener_of(spec)
        self._names: dict[str, _Named] = {}
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.started = False
        self.stopping = False

    @property
    def models(self) -> list[ServedModel]:
        """Every loaded version, in the order of loading."""
        return [model for named in self._names.values() for model in named.versions.values()]

    @property
    def ready(self) -> bool:
        """Whether requests may come: what the start named is loaded, and every name has a version that works."""
        working = (any(one.state == "ready" for one in named.versions.values()) for named in self._names.values())
        return self.started and not self.stopping and bool(self._names) and all(working)

    @property
    def routing(self) -> dict[str, Routing]:
        """By name."""
        return {name: named.routing for name, named in self._names.items() if named.routing is not None}

    async def start(self) -> None:
        """Load what the command line named, one after the other; InputError where one cannot be served."""
        for source in self._spec.models:
            await self.load(source, verified=False)
        self.started = True

    def pick(self, name: str | None, version: str | None, key: str) -> ServedModel:
        """Who answers a request: `version` if it names one, else drawn by the shares from `key`, the request's id.

        So a request that is sent again under its id meets the same version.
        """
        if not self.started:
            raise Refusal(503, "not_ready", "models are still being loaded", retry_after_s=1.0)
        if self.stopping:
            raise Refusal(503, "stopping", "the service is being stopped", retry_after_s=1.0)
        named = self._named(name)
        if version is None:
            assert named.routing is not None
            version = drawn(named.routing.shares, key)
        model = named.versions.get(version)
        if model is None:
            known = ", ".join(named.versions)
            raise Refusal(
                404, "unknown_version", f"there is no version '{version[:64]}'", hint=f"versions: {known}"
            )
        return model

    def shadow_of(self, model: ServedModel) -> ServedModel | None:
        """The version that listens to what this one answers."""
        named = self._names.get(model.name)
        shadow = named.routing.shadow if named is not None and named.routing is not None else None
        return None if named is None or shadow in (None, model.version) else named.versions.get(shadow or "")

    def route(self, name: str, routing: Routing) -> None:
        """Share requests anew; InputError for a version that is not loaded, or shares that are not 100 in all."""
        named = self._names.get(name)
        if named is None:
            raise InputError(f"there is no model '{name}'", hint=f"models: {', '.join(self._names)}")
        for version in [*routing.shares, *([routing.shadow] if routing.shadow is not None else [])]:
            if version not in named.versions:
                raise InputError(f"version '{version}' is not loaded", hint=f"loaded: {', '.join(named.versions)}")
        total = sum(routing.shares.values())
        if min(routing.shares.values()) < 0.0 or abs(total - WHOLE) > 1e-6:
            raise InputError(
                f"the shares add up to {total:g}", key="shares", hint="give percentages that make 100"
            )
        self._names[name] = replace(named, routing=routing)

    async def load(self, source: ModelSource, *, share: float = WHOLE, verified: bool = True) -> ServedModel:
        """Bring a version into service: verified, opened and warmed up before it takes any request.

        A version of the same name and number is replaced by it, and goes on until then. A new number takes `share`
        percent of the requests that name no version; the others keep the rest in their proportions. InputError
        where it cannot be served: then all is as before.
        """
        if not 0.0 <= share <= WHOLE:
            raise InputError(f"the share is {share:g}", key="share", hint="a percentage, 0 to 100")
        async with self._changing:
            model = await open_model(source, self._spec, self._opener, self._observer, must_verify=verified)
            named = self._names.get(source.name, _Named())
            old = named.versions.get(source.version)
            versions = {**named.versions, source.version: model}
            routing = named.routing if old is not None else _with(named.routing, source.version, share)
            self._names[source.name] = _Named(versions, routing)
            if old is not None:
                self._retire(old)
            return model

    async def unload(self, name: str, version: str | None = None) -> None:
        """Take a version, or all of a name, out of service; it finishes what it has. InputError if not there."""
        async with self._changing:
            named = self._names.get(name)
            gone = list(named.versions.values()) if named is not None and version is None else []
            if named is not None and version in named.versions:
                gone = [named.versions[version]]
            if named is None or not gone:
                raise InputError(f"there is no {name}@{version or ''}", hint=f"models: {', '.join(self._names)}")
            left = {number: one for number, one in named.versions.items() if one not in gone}
            if left:
                self._names[name] = _Named(left, _without(named.routing, list(left)))
            else:
                del self._names[name]
            for model in gone:
                self._retire(model)

    async def stop(self, seconds: float) -> None:
        """Refuse what is new, finish what is under way within `seconds`, stop every model."""
        self.stopping = True
        for model in self.models:
            self._retire(model, seconds)
        await asyncio.gather(*self._retiring)

    def _retire(self, model: ServedModel, seconds: float | None = None) -> None:
        task = asyncio.get_running_loop().create_task(
            model.retire(self._spec.drain_seconds if seconds is None else seconds)
        )
        # Held here: the event loop itself keeps no task alive.
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _named(self, name: str | None) -> _Named:
        if name is None and self._names:
            if len(self._names) == 1:
                return next(iter(self._names.values()))
            hint = f"models: {', '.join(self._names)}"
            raise Refusal(422, "unknown_model", "there are several models, and none was named", hint=hint)
        named = self._names.get(name or "")
        if named is None:
            hint = f"models: {', '.join(self._names) or 'none is loaded'}"
            raise Refusal(404, "unknown_model", f"there is no model '{(name or '')[:64]}'", hint=hint)
        return named


def drawn(shares: dict[str, float], key: str) -> str:
    """A version by its share, the same one for the same key."""
    place = crc32(key.encode()) % 10_000 / 10_000 * WHOLE
    for version, share in shares.items():
        if place < share:
            return version
        place -= share
    # Shares that add up to a rounding less than 100.
    return max(shares, key=lambda version: shares[version])


def opener_of(spec: ServeSpec) -> Opener:
    """Opens predictors with what the command line says of threads, precision and caches."""

    def open_candidate(candidate: Candidate) -> Predictor:
        return Predictor.open(
            candidate.folder,
            runtime=candidate.runtime,  # type: ignore[arg-type]  # what `runtimes_of` gives
            threads=spec.threads,
            bf16=spec.bf16 and candidate.runtime == "openvino",
            cache_dir=spec.cache_dir,
            token_budget=spec.batching.token_budget,
            # The event loop, tokenizing and the other models want the cores between two batches.
            spinning=False,
        )

    return open_candidate


def _with(routing: Routing | None, version: str, share: float) -> Routing:
    """The routing after a version has come, with `share` percent for it."""
    if routing is None:
        return Routing(shares={version: WHOLE})
    others = {name: old * (WHOLE - share) / WHOLE for name, old in routing.shares.items()}
    return Routing(
        shares={name: old for name, old in others.items() if old} | {version: share}, shadow=routing.shadow
    )


def _without(routing: Routing | None, left: Sequence[str]) -> Routing:
    """The routing after versions have gone: the others keep their proportions, or the newest takes all."""
    shares = {} if routing is None else {name: share for name, share in routing.shares.items() if name in left}
    total = sum(shares.values())
    shadow = routing.shadow if routing is not None and routing.shadow in left else None
    if not total:
        return Routing(shares={left[-1]: WHOLE}, shadow=shadow if shadow != left[-1] else None)
    return Routing(shares={name: share * WHOLE / total for name, share in shares.items()}, shadow=shadow)
