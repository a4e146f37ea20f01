"""All parts of the running service in one place: what routes, the gate and the server are handed."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from polyfold.serve.access.gatekeeper import Gatekeeper
from polyfold.serve.engine.answers import Answers
from polyfold.serve.engine.fleet import Fleet
from polyfold.serve.engine.observer import Observer
from polyfold.serve.engine.served import ServedModel
from polyfold.serve.engine.shadow import Shadow
from polyfold.serve.exchange import Exchange
from polyfold.serve.spec import Limits, ServeSpec
from polyfold.serve.watch.stats import Stats
from polyfold.serve.watch.tracing import NoTracer, Tracer

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Witness(Protocol):
    """Who counts or writes down finished requests; called once each, on the event loop."""

    def exchanged(self, exchange: Exchange) -> None: ...

    def crashed(self, exchange: Exchange, error: Exception) -> None:
        """An exception that nobody foresaw; its message may hold a text, so logs have only its type and place."""
        ...


@dataclass
class Service:
    """Built once by `assembly.py`, or by a test, and then only read, but for `stopping`.

    `metrics` gives the body of /metrics, `drift` its part of /stats. `hosts` are the names that the service may be
    asked under, None for any.
    """

    spec: ServeSpec
    fleet: Fleet
    observer: Observer
    gatekeeper: Gatekeeper
    witnesses: Sequence[Witness] = ()
    metrics: Callable[[], bytes] = bytes
    drift: Callable[[], Mapping[str, Any]] = dict
    hosts: frozenset[str] | None = None
    tracer: Tracer = field(default_factory=NoTracer)
    clock: Callable[[], float] = time.monotonic
    stopping: bool = False
    stats: Stats = field(init=False)
    shadow: Shadow = field(init=False)

    def __post_init__(self) -> None:
        self.stats = Stats(self.clock)
        self.shadow = Shadow(self.fleet, self.observer, self.clock)

    @property
    def limits(self) -> Limits:
        """What one client may ask for."""
        return self.spec.limits

    def answered(self, model: ServedModel, texts: Sequence[str] | None, answers: Answers) -> None:
        """A request has its answer: call it once each, after the answer was sent. Without texts for token ids."""
        self.stats.add(len(answers.tokens))
        self.observer.answered(model, texts, answers)
        if texts is not None:
            self.shadow.follow(model, texts, answers)
