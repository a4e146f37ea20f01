"""Speed, always beside a baseline in the same run: rounds of all subjects take turns, so noise hits all alike.

The report's four keys: dense "BxW" shapes (every position a real token of distinct texts, ids already made),
"real_text" (both sides get the same distinct texts in length-sorted token-budget batches) and
"real_text_vs_padded_128" (the baseline pads and cuts to 128 tokens, at its own best batch size, as the paper's
protocol does: four to five times of that figure is padding). Subjects are measured on real text through the whole
predictor, tokenizing included; the baseline gets token ids for nothing, which favours it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from time import perf_counter
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from polyfold.console import progress_bar
from polyfold.errors import InputError
from polyfold.measure.report import Speed
from polyfold.predictor import TOKEN_BUDGET, Predictor
from polyfold.text import Encoding, Ids, pad, plan_batches

REAL_TEXT = "real_text"
PADDED = "real_text_vs_padded_128"
PADDED_WIDTH = 128

DENSE_CALLS = 16
"""Different dense batches a subject cycles through, so that no cache holds the one answer."""


class SpeedSpec(BaseModel):
    """What is measured and for how long.

    Each subject gets `rounds` turns a key, each of at least `round_seconds` and one whole pass. The baseline is
    many times slower, so it gets `baseline_rounds` turns and starts no other one after `baseline_seconds` at a
    key; against the padded baseline it runs `padded_documents` (the cost of a padded document does not depend on
    its text). `documents` distinct texts are drawn evenly over those given; `single_texts` of them are timed one
    at a time for the latency on real text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shapes: tuple[tuple[int, int], ...] = ((1, 128), (32, 128))
    real_text: bool = True
    rounds: int = Field(default=5, ge=1)
    round_seconds: float = Field(default=1.0, ge=0.0)
    baseline_rounds: int = Field(default=2, ge=1)
    baseline_seconds: float = Field(default=60.0, ge=0.0)
    documents: int = Field(default=512, ge=1)
    padded_documents: int = Field(default=64, ge=1)
    single_texts: int = Field(default=100, ge=1)
    token_budget: int = Field(default=TOKEN_BUDGET, ge=1)
    batch_sizes: tuple[int, ...] = Field(default=(8, 32, 64), min_length=1)


class Timing(BaseModel):
    """One key's figures: medians over rounds; latencies are percentiles over all calls.

    A call is one batch for a dense shape and one text for the real-text keys. `documents` is how many distinct
    documents the throughput was measured on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents_per_second: float
    documents_per_second_least: float
    documents_per_second_most: float
    latency_ms_p50: float
    latency_ms_p99: float
    documents: int
    rounds: int
    calls: int

    @property
    def speed(self) -> Speed:
        """The part of it that the report's contract holds."""
        return Speed(
            documents_per_second=self.documents_per_second,
            latency_ms_p50=self.latency_ms_p50,
            latency_ms_p99=self.latency_ms_p99,
        )


@dataclass(frozen=True)
class SpeedReport:
    """Figures by subject and key, the baseline's own, and the ratios of their throughputs.

    `baseline_batch_size` is the best of those tried for the padded baseline; None where that was not measured.
    """

    subjects: dict[str, dict[str, Timing]]
    baseline: dict[str, Timing]
    baseline_batch_size: int | None

    @property
    def speedup(self) -> dict[str, dict[str, float]]:
        """By subject and key: documents a second over the baseline's in this run."""
        return {
            name: {
                key: speed.documents_per_second / self.baseline[key].documents_per_second
                for key, speed in speeds.items()
            }
            for name, speeds in self.subjects.items()
        }


class IdsSubject(Protocol):
    """A model that takes token ids: all that a baseline has to be."""

    def run_ids(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> object: ...


class Encoder(Protocol):
    """Texts to token ids, and the id that pads them."""

    @property
    def pad_id(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> Encoding: ...


class Subject(IdsSubject, Encoder, Protocol):
    """A model with its tokenizer; `run_texts` is the whole way from texts to answers."""

    def run_texts(self, texts: Sequence[str]) -> object: ...


@dataclass(frozen=True)
class PredictorSubject:
    """A predictor as a subject; build it with `of`, which sets the spec's token budget."""

    predictor: Predictor

    @staticmethod
    def of(predictor: Predictor, spec: SpeedSpec) -> "PredictorSubject":
        """The predictor with the batches that the baseline gets too: one sorted window, the same budget."""
        return PredictorSubject(replace(predictor, token_budget=spec.token_budget, window=spec.documents))

    @property
    def pad_id(self) -> int:
        """The tokenizer's padding id."""
        return self.predictor.tokenizer.spec.pad_id

    def encode(self, texts: Sequence[str]) -> Encoding:
        """Token ids, cut to the model's own length."""
        return self.predictor.tokenizer.encode(texts, self.predictor.config.max_length)

    def run_ids(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> object:
        """One batch through the runtime."""
        return self.predictor.session.run(input_ids, attention_mask)

    def run_texts(self, texts: Sequence[str]) -> object:
        """Tokenizing, batching, running, calibrating, deciding."""
        return self.predictor.predict(texts)


@dataclass(frozen=True)
class _Work:
    """What one turn does: `calls`, in a circle, and, where a call is not one latency, `singles` after them."""

    calls: Sequence[Callable[[], object]]
    documents_per_call: int
    documents: int
    warm_up: Sequence[Callable[[], object]]
    singles: Sequence[Callable[[], object]] = ()


@dataclass
class _Clock:
    """The turns one work has had."""

    work: _Work
    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._calls = cycle(self.work.calls)
        self._singles = cycle(self.work.singles)

    def turn(self, seconds: float) -> None:
        """At least one call, and more until `seconds` have passed; then the same for the singles."""
        times = _timed(self._calls, seconds)
        self.rates.append(self.work.documents_per_call * len(times) / sum(times))
        single = _timed(self._singles, seconds) if self.work.singles else []
        self.latencies += single if self.work.singles else times
        self.seconds += sum(times) + sum(single)

    def timing(self) -> Timing:
        """The figures of all turns."""
        p50, p99 = np.percentile(self.latencies, [50, 99]) * 1000
        return Timing(
            documents_per_second=float(np.median(self.rates)),
            documents_per_second_least=min(self.rates),
            documents_per_second_most=max(self.rates),
            latency_ms_p50=float(p50),
            latency_ms_p99=float(p99),
            documents=self.work.documents,
            rounds=len(self.rates),
            calls=len(self.latencies),
        )


def measure_speed(
    subjects: Mapping[str, Subject],
    baseline: IdsSubject,
    texts: Sequence[str],
    spec: SpeedSpec,
    baseline_encoder: Encoder | None = None,
) -> SpeedReport:
    """Measure all subjects and the baseline under every key of the spec.

    Without an encoder of its own the baseline gets the first subject's token ids; the caller marks it so.
    """
    assert subjects
    encoder = baseline_encoder or next(iter(subjects.values()))
    chosen = distinct_texts(texts, spec.documents)
    encoding = encoder.encode(chosen)
    found: dict[str, dict[str, Timing]] = {name: {} for name in subjects}
    own: dict[str, Timing] = {}
    batch_size = None
    keys = len(spec.shapes) + (2 if spec.real_text else 0)
    with progress_bar("measure speed", keys) as bar:
        for batch, width in spec.shapes:
            key = f"{batch}x{width}"
            dense = {
                name: _dense_work(one, one.encode(chosen), batch, width, DENSE_CALLS)
                for name, one in subjects.items()
            }
            calls = min(DENSE_CALLS, spec.baseline_rounds)
            against = {key: _dense_work(baseline, encoding, batch, width, calls)}
            speeds = _take_turns(dense, against, spec, own)
            for name, speed in speeds.items():
                found[name][key] = speed
            bar.advance(1, key)
        if spec.real_text:
            batch_size = best_batch_size(baseline, encoding, encoder.pad_id, spec.batch_sizes)
            real = {name: _text_work(one, chosen, spec) for name, one in subjects.items()}
            against = {
                REAL_TEXT: _batches_work(baseline, encoding, encoder.pad_id, spec),
                PADDED: _padded_work(baseline, encoding, encoder.pad_id, spec, batch_size),
            }
            for name, speed in _take_turns(real, against, spec, own).items():
                # A subject's side of both keys is one and the same measurement.
                found[name] |= {REAL_TEXT: speed, PADDED: speed}
            bar.advance(2, REAL_TEXT)
    return SpeedReport(found, own, batch_size)


def distinct_texts(texts: Sequence[str], most: int) -> list[str]:
    """Up to `most` different texts, spread evenly over those given: files are often sorted by language."""
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        raise InputError("there are no texts to measure speed on", hint="give a test split that is not empty")
    places = np.linspace(0, len(distinct) - 1, min(most, len(distinct))).round().astype(int)
    return [distinct[place] for place in places]


def dense_rows(encoding: Encoding, rows: int, width: int) -> list[Ids]:
    """Documents of exactly `width` real tokens: the texts' ids end to end, cut into rows.

    Where the texts end before the rows do they start again one token later, so that rows still differ.
    """
    stream = np.concatenate([np.empty(0, np.int64), *encoding.ids])
    if len(stream) == 0:
        raise InputError("the texts to measure speed on are all empty", hint="give texts with words in them")
    laps = -(-rows * width // len(stream))
    tokens = np.concatenate([np.roll(stream, -lap) for lap in range(laps)])[: rows * width]
    return list(tokens.reshape(rows, width))


def best_batch_size(subject: IdsSubject, encoding: Encoding, pad_id: int, sizes: Sequence[int]) -> int:
    """The size with the highest throughput on documents padded to 128, one call each."""
    subject.run_ids(*_padded_batch(encoding, pad_id, 0, 1))
    rates = {}
    for size in sizes:
        batch = _padded_batch(encoding, pad_id, 0, size)
        rates[size] = size / sum(_timed(iter([_run(subject, *batch)]), 0.0))
    return max(rates, key=rates.__getitem__)


def _take_turns(
    works: Mapping[str, _Work], baselines: Mapping[str, _Work], spec: SpeedSpec, own: dict[str, Timing]
) -> dict[str, Timing]:
    """Rounds in which every subject has a turn, and the baseline too while it may; its figures go into `own`."""
    clocks = {name: _Clock(work) for name, work in works.items()}
    against = {key: _Clock(work) for key, work in baselines.items()}
    for clock in (*against.values(), *clocks.values()):
        for call in clock.work.warm_up:
            call()
    for number in range(max(spec.rounds, spec.baseline_rounds)):
        for clock in against.values():
            if number == 0 or (number < spec.baseline_rounds and clock.seconds < spec.baseline_seconds):
                clock.turn(spec.round_seconds)
        for clock in clocks.values() if number < spec.rounds else ():
            clock.turn(spec.round_seconds)
    own |= {key: clock.timing() for key, clock in against.items()}
    return {name: clock.timing() for name, clock in clocks.items()}


def _timed(calls: Iterator[Callable[[], object]], seconds: float) -> list[float]:
    """Seconds of each call: one at least, then more until `seconds` are spent."""
    times: list[float] = []
    spent = 0.0
    for call in calls:
        started = perf_counter()
        call()
        times.append(perf_counter() - started)
        spent += times[-1]
        if spent >= seconds:
            break
    return times


def _run(subject: IdsSubject, input_ids: np.ndarray, attention_mask: np.ndarray) -> Callable[[], object]:
    return lambda: subject.run_ids(input_ids, attention_mask)


def _dense_work(subject: IdsSubject, encoding: Encoding, batch: int, width: int, calls: int) -> _Work:
    """`calls` different batches without padding."""
    ids = np.stack(dense_rows(encoding, batch * calls, width)).reshape(calls, batch, width)
    mask = np.ones((batch, width), dtype=np.int64)
    runs = [_run(subject, one, mask) for one in ids]
    return _Work(runs, batch, batch * calls, warm_up=runs[:1])


def _text_work(subject: Subject, texts: list[str], spec: SpeedSpec) -> _Work:
    """All texts in one call for throughput, some of them one by one for latency; each length is warmed up."""

    def one(text: str) -> Callable[[], object]:
        return lambda: subject.run_texts([text])

    everything = [lambda: subject.run_texts(texts)]
    singles = [one(text) for text in distinct_texts(texts, spec.single_texts)]
    return _Work(everything, len(texts), len(texts), [*everything, *singles], singles)


def _batches_work(subject: IdsSubject, encoding: Encoding, pad_id: int, spec: SpeedSpec) -> _Work:
    """The baseline's side of real text: one call is all documents in length-sorted token-budget batches."""
    plan = plan_batches(encoding.lengths, spec.token_budget)
    batches = [pad([encoding.ids[row] for row in batch], pad_id) for batch in plan]

    def everything() -> None:
        for batch in batches:
            subject.run_ids(*batch)

    singles = [_run(subject, *pad([ids], pad_id)) for ids in _spread(encoding, spec.single_texts)]
    return _Work([everything], len(encoding), len(encoding), singles[:1], singles)


def _padded_work(subject: IdsSubject, encoding: Encoding, pad_id: int, spec: SpeedSpec, size: int) -> _Work:
    """The padded baseline: `padded_documents`, rounded up to whole batches of its best size."""
    count = -(-spec.padded_documents // size)
    batches = [_padded_batch(encoding, pad_id, number * size, size) for number in range(count)]

    def everything() -> None:
        for batch in batches:
            subject.run_ids(*batch)

    singles = [
        _run(subject, *pad([ids[:PADDED_WIDTH]], pad_id, PADDED_WIDTH))
        for ids in _spread(encoding, spec.single_texts)
    ]
    return _Work([everything], count * size, min(count * size, len(encoding)), (), singles)


def _spread(encoding: Encoding, most: int) -> list[Ids]:
    places = np.linspace(0, len(encoding) - 1, min(most, len(encoding))).round().astype(int)
    return [encoding.ids[place] for place in places]


def _padded_batch(encoding: Encoding, pad_id: int, start: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`size` documents from `start` on, in a circle, cut and padded to 128 tokens."""
    rows = [(start + number) % len(encoding) for number in range(size)]
    return pad([encoding.ids[row][:PADDED_WIDTH] for row in rows], pad_id, PADDED_WIDTH)
