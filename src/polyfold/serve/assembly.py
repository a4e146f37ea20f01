"""From what the command line says to the parts of the service, begun and ended in order."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.routing import Route
from uvicorn.server import ServerState

from polyfold.serve.access.gatekeeper import Gatekeeper
from polyfold.serve.access.hosts import allowed_hosts
from polyfold.serve.engine.fleet import Fleet
from polyfold.serve.exchange import UNMATCHED
from polyfold.serve.http.openapi import document
from polyfold.serve.service import Service
from polyfold.serve.spec import ServeSpec
from polyfold.serve.v2.metadata import GRPC_ROUTES
from polyfold.serve.watch.drift import Drift
from polyfold.serve.watch.logs import Log, captured
from polyfold.serve.watch.metrics import Metrics
from polyfold.serve.watch.scrape import Sources
from polyfold.serve.watch.tracing import open_tracer


@dataclass(frozen=True)
class Assembled:
    """The service and what belongs to its process."""

    service: Service
    metrics: Metrics
    log: Log

    def watch(self, app: FastAPI, state: ServerState) -> None:
        """Let the metrics see the application's routes and the server's connections."""
        own = [route.path for route in app.routes if isinstance(route, Route)]
        self.metrics.allow_routes([*own, *document(app)["paths"], *GRPC_ROUTES, UNMATCHED])
        self.metrics.ask(
            Sources(
                models=lambda: self.service.fleet.models,
                connections=lambda: len(state.connections),
                requests_in_flight=lambda: len(state.tasks),
                log_lines_lost=lambda: self.log.lost,
                key_reloads_failed=lambda: self.service.gatekeeper.broken_reads,
                spans_lost=lambda: self.service.tracer.lost,
            )
        )


@contextmanager
def assembled(spec: ServeSpec) -> Iterator[Assembled]:
    """Everything but the sockets, ended when left; on an event loop. InputError where a file cannot be used."""
    with ExitStack() as ending:
        log = Log(spec.log_file, spec.log_format)
        ending.callback(log.stop)
        ending.enter_context(captured(log))
        metrics = Metrics(Drift(spec.report))
        ending.callback(metrics.close)
        gatekeeper = Gatekeeper.open(spec.keys, log.tell)
        tracer = open_tracer(spec.traces, log.tell)
        ending.callback(tracer.stop)
        observer = _Told(metrics, log)
        fleet = Fleet(spec, observer)
        service = Service(
            spec=spec,
            fleet=fleet,
            observer=observer,
            gatekeeper=gatekeeper,
            witnesses=(metrics, log),
            metrics=metrics.render,
            drift=metrics.drift_summary,
            hosts=allowed_hosts(spec.host, spec.hosts),
            tracer=tracer,
        )
        yield Assembled(service, metrics, log)


class _Told:
    """The metrics' observer, that also writes down what an operator must know of."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log
        # Most calls are the metrics' own: these are made for every batch and request.
        self.batch = metrics.batch
        self.tokenized = metrics.tokenized
        self.answered = metrics.answered
        self.dropped = metrics.dropped
        self.shadowed = metrics.shadowed

    def failed_over(self, model: str, version: str, away_from: str, to: str | None, reason: str) -> None:
        """Another runtime took over, or none is left."""
        self._metrics.failed_over(model, version, away_from, to, reason)
        what = f"{model}@{version} went from {away_from} to {to or 'nothing: no runtime is left'}: {reason}"
        self._log.tell("warning" if to is not None else "error", "failed_over", what)

    def poison(self, model: str, version: str) -> None:
        """A text that no runtime answers; which one it was is not written down."""
        self._metrics.poison(model, version)
        self._log.tell("warning", "poison_text", f"{model}@{version} could not compute a text")
