"""Figures that are looked up when somebody scrapes, so that nothing has to keep them up to date."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from prometheus_client.metrics_core import CounterMetricFamily as Counts
from prometheus_client.metrics_core import GaugeMetricFamily as Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.metrics_core import SummaryMetricFamily as Sums
from prometheus_client.registry import Collector

from polyfold import __version__
from polyfold.serve.watch.answer_counts import AnswerCounts
from polyfold.serve.watch.drift import Drift, Model
from polyfold.serve.watch.metric_families import MODEL

STATES = ("ready", "draining", "stopped", "failed")

Ask: TypeAlias = Callable[[], float]
Answered: TypeAlias = Mapping[tuple[str, str], AnswerCounts]
"""By model and version."""


class Watched(Model, Protocol):
    """What is asked of a served version at every scrape."""

    @property
    def state(self) -> str: ...
    @property
    def runtime(self) -> str: ...
    @property
    def queue_tokens(self) -> int: ...
    @property
    def tokens_per_second(self) -> float: ...


@dataclass(frozen=True)
class Sources:
    """Whom to ask; what is None is left out."""

    models: Callable[[], Iterable[Watched]] = tuple
    connections: Ask | None = None
    requests_in_flight: Ask | None = None
    log_lines_lost: Ask | None = None
    key_reloads_failed: Ask | None = None
    spans_lost: Ask | None = None


class AtScrape(Collector):
    """Gauges of the models and of the process, counts of answers, drift."""

    def __init__(self, sources: Callable[[], Sources], answers: Callable[[], Answered], drift: Drift) -> None:
        self._sources = sources
        self._answers = answers
        self._drift = drift

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client calls."""
        sources = self._sources()
        yield _one("polyfold_build", "The version of Polyfold.", {"version": __version__}, "info")
        yield from _models(sources.models())
        asked = (
            (Gauge, "open_connections", "Connections open now.", sources.connections),
            (Gauge, "requests_in_flight", "Requests without an answer.", sources.requests_in_flight),
            (Counts, "log_lines_lost", "Log lines that could not be written.", sources.log_lines_lost),
            (Counts, "key_reloads_failed", "Changed key files that were broken.", sources.key_reloads_failed),
            (Counts, "spans_lost", "Spans that did not reach the collector.", sources.spans_lost),
        )
        for kind, name, help_text, ask in asked:
            if ask is not None:
                yield kind(f"polyfold_{name}", help_text, value=ask())
        yield from _answer_counts(self._answers())
        yield from _drift(self._drift)


def _one(name: str, help_text: str, labels: dict[str, str], suffix: str) -> Metric:
    family = Gauge(f"{name}_{suffix}", help_text, labels=tuple(labels))
    family.add_metric(list(labels.values()), 1.0)
    return family


def _models(models: Iterable[Watched]) -> Iterator[Metric]:
    tokens = Gauge("polyfold_queue_tokens", "Tokens that wait now.", labels=MODEL)
    speed = Gauge("polyfold_tokens_per_second", "Measured over the last batches.", labels=MODEL)
    runtime = Gauge("polyfold_runtime_info", "1 for the runtime in use.", labels=(*MODEL, "runtime"))
    state = Gauge("polyfold_model_state", "1 for the state it is in, 0 for others.", labels=(*MODEL, "state"))
    for one in models:
        who = [one.name, one.version]
        tokens.add_metric(who, one.queue_tokens)
        speed.add_metric(who, one.tokens_per_second)
        runtime.add_metric([*who, one.runtime], 1.0)
        now = one.state
        for name in STATES:
            state.add_metric([*who, name], float(name == now))
    yield from (tokens, speed, runtime, state)


def _answer_counts(answers: Answered) -> Iterator[Metric]:
    texts = Counts("polyfold_texts", "Texts answered or failed.", labels=MODEL)
    truncated = Counts("polyfold_truncated_texts", "Texts cut to the model's length.", labels=MODEL)
    labels = Counts("polyfold_labels", "Texts given a label.", labels=(*MODEL, "task", "label"))
    sure = Sums("polyfold_confidence", "How sure the answers are, 0 to 1.", labels=(*MODEL, "task"))
    for who, counts in answers.items():
        texts.add_metric(who, counts.texts)
        truncated.add_metric(who, counts.truncated)
        for task in counts.tasks:
            found = counts.by_task[task.name]
            for label, count in zip(task.labels, found.labels.tolist(), strict=True):
                labels.add_metric([*who, task.name, label], count)
            sure.add_metric([*who, task.name], count_value=counts.answered, sum_value=found.confidence_sum)
    yield from (texts, truncated, labels, sure)


def _drift(drift: Drift) -> Iterator[Metric]:
    labels = (*MODEL, "distribution", "task")
    index = Gauge("polyfold_drift_stability_index", "From the test documents; 0.25: drifted.", labels=labels)
    variation = Gauge("polyfold_drift_total_variation", "Share of texts that would have to change.", labels=labels)
    texts = Gauge("polyfold_drift_texts", "Texts in the window.", labels=labels)
    shares = Gauge("polyfold_language_share", "Of the sampled texts.", labels=(*MODEL, "language"))
    for model, version, reading in drift.readings():
        who = [model, version, reading.expected.name, reading.expected.task or ""]
        texts.add_metric(who, reading.texts)
        if reading.distance is not None:
            index.add_metric(who, reading.distance.stability_index)
            variation.add_metric(who, reading.distance.total_variation)
        if reading.expected.name == "language" and reading.texts:
            for language, count in zip(reading.expected.values, reading.served.tolist(), strict=True):
                shares.add_metric([model, version, language], count / reading.texts)
    yield from (index, variation, texts, shares)
