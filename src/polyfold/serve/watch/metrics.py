"""What the service counts, in Prometheus' text format; docs/OBSERVABILITY.md says what each figure means.

A registry of its own, so that two services in one process do not share figures. Labels are models, versions,
tasks, labels, runtimes, route templates, statuses and codes: nothing that a request chooses, so what is served
bounds the number of series.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from polyfold.serve.engine.answers import Answers
from polyfold.serve.engine.observer import BatchFacts, DropReason
from polyfold.serve.exchange import Exchange
from polyfold.serve.refusals import Code
from polyfold.serve.watch.answer_counts import AnswerCounts
from polyfold.serve.watch.drift import Drift, Model
from polyfold.serve.watch.metric_families import Families
from polyfold.serve.watch.scrape import AtScrape, Sources

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

OTHER = "other"
"""A route or a code that is none of the service's own."""

MOST_VERSIONS = 64
"""Series are kept of so many versions; beyond, those of the longest gone are dropped."""

_CODES = frozenset(get_args(Code))


class Metrics:
    """An `Observer` and a `Witness` that counts. Safe from any thread; a call costs a few microseconds."""

    def __init__(self, drift: Drift | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.drift = drift or Drift(clock=clock)
        self._sources = Sources()
        self._registry = CollectorRegistry()
        self._families = Families(self._registry)
        self._versions: dict[tuple[str, str], _Version] = {}
        self._requests: dict[tuple[str, int, str], _Request] = {}
        self._routes: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        ProcessCollector(registry=self._registry)
        self._registry.register(AtScrape(lambda: self._sources, self._answer_counts, self.drift))

    # Once, while the service is built.

    def ask(self, sources: Sources) -> None:
        """Whom to ask at every scrape; their models are known from then on, before they have answered anything."""
        self._sources = sources

    def allow_routes(self, routes: Iterable[str]) -> None:
        """The route templates there are: any other is counted as 'other', so that no client makes series."""
        self._routes = frozenset(routes)

    def close(self) -> None:
        """End the thread that guesses languages."""
        self.drift.close()

    # For every request, from the event loop.

    def exchanged(self, exchange: Exchange) -> None:
        """A request over HTTP ended."""
        self.request_done(exchange.route, exchange.status, exchange.code, exchange.seconds)

    def crashed(self, exchange: Exchange, error: Exception) -> None:
        """Nothing more: its end is told, too, with status 500."""

    def request_done(self, route: str, status: int, code: str | None, seconds: float) -> None:
        """A request ended, by whatever protocol: its route's template, status, error code if any, duration."""
        known = route if route in self._routes else OTHER
        named = "" if not code else code if code in _CODES else OTHER
        request = self._requests.get((known, status, named)) or self._request(known, status, named)
        request.count.inc()
        request.seconds.observe(seconds)
        if request.refused is not None:
            request.refused.inc()

    def answered(self, model: Model, texts: Sequence[str] | None, answers: Answers) -> None:
        """A finished request; some texts are looked at for their language, and none is kept."""
        version, tasks = self._of(model.name, model.version), model.tasks
        counts = version.counts
        if counts is None or counts.tasks is not tasks:
            counts = self._adopt(model)
        version.queue_seconds.observe(answers.timing.queue_s)
        counts.add(answers)
        if texts:
            self.drift.offer(model.name, model.version, texts)
        for failure in answers.failures.values():
            version.counter(self._families.failed_texts, failure.code).inc()

    # What else the core tells.

    def batch(self, model: str, version: str, facts: BatchFacts) -> None:
        """A batch was computed."""
        one = self._of(model, version)
        one.histogram(self._families.infer_seconds, facts.runtime).observe(facts.infer_s)
        one.histogram(self._families.batch_tokens).observe(facts.tokens)
        one.histogram(self._families.batch_documents).observe(facts.documents)
        padding = 1.0 - facts.tokens / facts.padded_tokens if facts.padded_tokens else 0.0
        one.histogram(self._families.padding_share).observe(padding)

    def tokenized(self, model: str, version: str, documents: int, seconds: float) -> None:
        """A request's texts were tokenized; `documents` is for observers that want it."""
        self._of(model, version).tokenize_seconds.observe(seconds)

    def failed_over(self, model: str, version: str, away_from: str, to: str | None, reason: str) -> None:
        """Another runtime took over, or none was left; the `reason` is for the log."""
        self._of(model, version).counter(self._families.failovers, away_from, to or "none").inc()

    def poison(self, model: str, version: str) -> None:
        """A text that no runtime answers."""
        self._of(model, version).counter(self._families.poison_texts).inc()

    def dropped(self, model: str, version: str, reason: DropReason, documents: int) -> None:
        """A request ended before its answer."""
        self._of(model, version).counter(self._families.dropped_texts, reason).inc(documents)

    def shadowed(self, model: str, version: str, task: str, agreed: int, disagreed: int) -> None:
        """A shadow version's answers were compared."""
        one = self._of(model, version)
        one.counter(self._families.shadow_answers, task, "yes").inc(agreed)
        one.counter(self._families.shadow_answers, task, "no").inc(disagreed)

    # When somebody looks.

    def render(self) -> bytes:
        """Everything, as Prometheus scrapes it."""
        self.settle()
        return generate_latest(_WithoutCreated(self._registry))

    def drift_summary(self) -> dict[str, Any]:
        """The drift of every version, in plain JSON for the page."""
        self.settle()
        return self.drift.summary()

    def settle(self) -> None:
        """Count what waits, know every model that is served, and in the end forget those that are not.

        Worth a call once models are loaded: a report is read for each, which the first request need not wait for.
        """
        served = list(self._sources.models())
        for model in served:
            found = self._of(model.name, model.version).counts
            if found is None or found.tasks is not model.tasks:
                self._adopt(model)
        for counts in self._answer_counts().values():
            counts.settle()
        self._forget({(model.name, model.version) for model in served})

    def _forget(self, served: set[tuple[str, str]]) -> None:
        with self._lock:
            gone = [who for who in self._versions if who not in served]
            for who in gone[: max(0, len(self._versions) - MOST_VERSIONS)]:
                self._versions.pop(who).remove()
                self.drift.forget(*who)

    def _answer_counts(self) -> dict[tuple[str, str], AnswerCounts]:
        with self._lock:
            return {who: one.counts for who, one in self._versions.items() if one.counts is not None}

    def _of(self, model: str, version: str) -> "_Version":
        return self._versions.get((model, version)) or self._new_version(model, version)

    def _new_version(self, model: str, version: str) -> "_Version":
        with self._lock:
            return self._versions.setdefault((model, version), _Version(self._families, model, version))

    def _adopt(self, model: Model) -> AnswerCounts:
        """Begin to count a version's answers, or go on where another folder of the same tasks has taken over."""
        version, tasks = self._of(model.name, model.version), model.tasks
        counts = version.counts
        if counts is not None:
            counts.settle()
        if counts is None or counts.tasks != tasks:
            name, number = model.name, model.version
            counts = AnswerCounts(tasks, lambda rows: self.drift.add(name, number, rows))
        counts.tasks = tasks
        version.counts = counts
        self.drift.watch(model)
        return counts

    def _request(self, route: str, status: int, code: str) -> "_Request":
        families = self._families
        refused = families.refusals.labels(code) if code else None
        count = families.requests.labels(route, str(status), code)
        request = _Request(count, families.request_seconds.labels(route), refused)
        self._requests[route, status, code] = request
        return request


class _Request:
    """The metrics of requests that end alike, looked up once."""

    __slots__ = ("count", "refused", "seconds")

    def __init__(self, count: Counter, seconds: Histogram, refused: Counter | None) -> None:
        self.count = count
        self.seconds = seconds
        self.refused = refused


class _Version:
    """One version's metrics, each looked up once: `labels()` costs as much as counting does."""

    def __init__(self, families: Families, model: str, version: str) -> None:
        self._who = (model, version)
        self._children: dict[tuple[Counter | Histogram, tuple[str, ...]], Any] = {}
        self.counts: AnswerCounts | None = None
        self.queue_seconds = self.histogram(families.queue_seconds)
        self.tokenize_seconds = self.histogram(families.tokenize_seconds)

    def counter(self, family: Counter, *labels: str) -> Counter:
        """The version's own, with these further labels."""
        found: Counter = self._children.get((family, labels)) or self._make(family, labels)
        return found

    def histogram(self, family: Histogram, *labels: str) -> Histogram:
        """The version's own, with these further labels."""
        found: Histogram = self._children.get((family, labels)) or self._make(family, labels)
        return found

    def remove(self) -> None:
        """Take all of its series out of the registry."""
        for family, labels in list(self._children):
            family.remove(*self._who, *labels)

    def _make(self, family: Counter | Histogram, labels: tuple[str, ...]) -> Any:
        return self._children.setdefault((family, labels), family.labels(*self._who, *labels))


class _WithoutCreated(Collector):
    """Leaves out the time that each series began at: as many series again, which nobody asks for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client calls."""
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
