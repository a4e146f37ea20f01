"""From rounds to figures: medians, ratios within a round, ceilings, and the highest load that holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from .load import BULK_TEXTS
from .results import Free, Load, ModelLoad, Turn


@dataclass(frozen=True)
class Spread:
    """A figure over rounds."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        """Of at least one round."""
        return Spread(median(values), min(values), max(values))


@dataclass(frozen=True)
class Ceiling:
    """What the cores could answer at most: all their time, divided by what a request costs without any waiting.

    `model_us` is a text's processor time in the offline predictor, tokenizing included; `http_us` a request's in
    a server whose model costs nothing, less what that model costs offline; `generator_us` a request's in the load
    generator, on the same machine. Microseconds.
    """

    texts_a_request: int
    model_us: float
    http_us: float
    generator_us: float
    cores: int

    @property
    def texts_per_second(self) -> float:
        """At most."""
        request_us = self.texts_a_request * self.model_us + self.http_us + self.generator_us
        return self.cores * 1e6 / request_us * self.texts_a_request


@dataclass(frozen=True)
class Level:
    """One rate of the open loop over all rounds."""

    rate: float
    percent_of_offline: float
    achieved: float
    p50_ms: Spread
    p99_ms: Spread
    holds: bool


def offline_rate(model: ModelLoad) -> Spread:
    """Texts a second of the predictor."""
    return Spread.of([one.texts_per_second for one in model.offline])


def turns_of(model: ModelLoad, contestant: str) -> list[Turn]:
    """A contestant's, by round."""
    return [turn for turn in model.turns if turn.contestant == contestant]


def loads_of(turns: Sequence[Turn], kind: str) -> list[Load]:
    """All loads of a kind."""
    return [load for turn in turns for load in turn.loads if load.kind == kind]


def by_round(model: ModelLoad, contestant: str, kind: str, figure: Callable[[Load], float | None]) -> list[float]:
    """A figure of each round's load of this kind, where it has one."""
    found = (figure(load) for load in loads_of(turns_of(model, contestant), kind))
    return [value for value in found if value is not None]


def p99(load: Load) -> float | None:
    """Milliseconds, where anything was answered."""
    return None if load.latency_ms is None else load.latency_ms.p99


def p50(load: Load) -> float | None:
    """Milliseconds, where anything was answered."""
    return None if load.latency_ms is None else load.latency_ms.p50


def percent_in_round(model: ModelLoad, contestant: str, kind: str) -> list[float]:
    """Texts a second in percent of what the predictor did in the same round."""
    offline = {one.round: one.texts_per_second for one in model.offline}
    return [
        100.0 * load.texts_per_second / offline[turn.round]
        for turn in turns_of(model, contestant)
        for load in turn.loads
        if load.kind == kind
    ]


def over_offline_ms(model: ModelLoad, contestant: str) -> list[float]:
    """By how much a lone request's median is above the predictor's for a single text, in the same round."""
    offline = {one.round: one.single_ms_p50 for one in model.offline}
    return [
        load.latency_ms.p50 - offline[turn.round]
        for turn in turns_of(model, contestant)
        for load in turn.loads
        if load.kind == "lone" and load.latency_ms is not None
    ]


def levels(model: ModelLoad, contestant: str, most_p99_ms: float) -> list[Level]:
    """The rates of the open loop, rising; one holds where all was answered, and the median p99 is in time."""
    turns = turns_of(model, contestant)
    loads = [load for load in loads_of(turns, "open") if load.latency_ms is not None]
    offline = offline_rate(model).median
    found = []
    for rate in sorted({load.rate for load in loads if load.rate is not None}):
        mine = [load for load in loads if load.rate == rate]
        late = Spread.of([load.latency_ms.p99 for load in mine if load.latency_ms])
        whole = all(not (load.overloaded or load.tally.bad or load.tally.refused) for load in mine)
        found.append(
            Level(
                rate=rate,
                percent_of_offline=100.0 * rate / offline,
                achieved=median(load.texts_per_second for load in mine),
                p50_ms=Spread.of([load.latency_ms.p50 for load in mine if load.latency_ms]),
                p99_ms=late,
                holds=whole and len(mine) == len(turns) and late.median <= most_p99_ms,
            )
        )
    return found


def highest(found: Sequence[Level]) -> Level | None:
    """The highest rate that holds with every lower one; None where not even the lowest does."""
    best = None
    for one in found:
        if not one.holds:
            break
        best = one
    return best


def ceiling(model: ModelLoad, texts_a_request: int, cores: int) -> Ceiling | None:
    """From the rounds' medians; None where the model that costs nothing was not measured."""
    costs = [
        (
            1e6 * max(0.0, load.server_cpu_s / done - texts_a_request * one.offline_cpu_s_a_text),
            1e6 * load.generator_cpu_s / done,
        )
        for one, load in _free_loads(model.free, texts_a_request)
        if (done := load.tally.acknowledged)
    ]
    if not costs:
        return None
    return Ceiling(
        texts_a_request=texts_a_request,
        model_us=1e6 * median(one.cpu_s_a_text for one in model.offline),
        http_us=median(http for http, _ in costs),
        generator_us=median(generator for _, generator in costs),
        cores=cores,
    )


def _free_loads(free: Sequence[Free], texts_a_request: int) -> list[tuple[Free, Load]]:
    return [(one, load) for one in free for load in one.loads if load.texts_a_request == texts_a_request]


def ceilings(model: ModelLoad, cores: int) -> dict[int, Ceiling]:
    """For one text and for 32 a request."""
    found = {count: ceiling(model, count, cores) for count in (1, BULK_TEXTS)}
    return {count: one for count, one in found.items() if one is not None}
