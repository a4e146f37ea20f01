"""`benchmark.json`: everything a benchmark found, typed; tables and plots are drawn from it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polyfold.errors import InputError
from polyfold.measure.rounds import Timing
from polyfold.system import Hardware

JSON, MARKDOWN, HTML = "benchmark.json", "benchmark.md", "benchmark.html"

Precision = Literal["fp32", "bf16", "int8"]
Relation = Literal["given", "exported from", "before quantization"]
Ladder = Literal["batch size", "length", "token budget", "threads"]


class _Part(BaseModel):
    # NaN and infinity are not JSON; a figure that could not be measured is absent.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Bandwidth(_Part):
    """How fast so many bytes are read again and again; from the cache, where they fit into it."""

    megabytes: float
    gigabytes_per_second: float


class Peaks(_Part):
    """What so many threads reach at best: large matrix products by precision, and reads by working set.

    In OpenVINO, as medians over rounds; of several shapes the best. A multiply-add is two operations.
    """

    threads: int
    gigaoperations_per_second: dict[Precision, float]
    bandwidths: tuple[Bandwidth, ...]

    def operations_per_second(self, precisions: tuple[Precision, ...]) -> float:
        """The highest rate of these precisions."""
        return max(self.gigaoperations_per_second[one] for one in precisions) * 1e9

    def bytes_per_second(self, size: int) -> float:
        """The rate for a working set of `size` bytes: that of the largest measured one that is no larger."""
        fitting = [one for one in self.bandwidths if one.megabytes * 1e6 <= size]
        chosen = max(fitting, key=lambda one: one.megabytes) if fitting else self.bandwidths[0]
        return chosen.gigabytes_per_second * 1e9


class Operations(_Part):
    """Operations of a document of n tokens: `fixed` + n x `token` + n² x `pair`; and bytes of weights a batch.

    The weights are those of matrix products and norms: of the token table only the rows looked up are read.
    `source` says whether they were counted in the graph that runs or from the model's configuration.
    """

    fixed: float
    token: float
    pair: float
    weight_bytes: int
    source: Literal["graph", "configuration"]

    def of(self, tokens: float) -> float:
        """Operations of one document."""
        return self.fixed + tokens * self.token + tokens * tokens * self.pair


class Figure(_Part):
    """One speed with its floor: the throughput and the latency that the machine's peaks would allow at best.

    A share is the floor's time over the measured one. `speedup` is over the baseline, in this run.
    """

    timing: Timing
    floor_documents_per_second: float | None = None
    share: float | None = None
    floor_latency_ms: float | None = None
    latency_share: float | None = None
    speedup: float | None = None


class Point(_Part):
    """One rung of a ladder: `value` documents a batch, tokens a document, tokens a batch, or threads."""

    ladder: Ladder
    value: int
    key: str
    figure: Figure


class Arrivals(_Part):
    """Latency from the moment a text was due, under Poisson arrivals at `load` times the one-by-one capacity."""

    load: float
    together: int
    requests: int
    arrivals_per_second: float
    answers_per_second: float
    latency_ms_p50: float
    latency_ms_p99: float
    latency_ms_p999: float | None = None
    latency_ms_most: float
    floor_latency_ms: float | None = None
    latency_share: float | None = None


class Breakdown(_Part):
    """Where the whole predictor's time goes on real texts: documents a second of each part alone.

    `rest_percent` is what planning, padding and deciding (and noise) take of the whole.
    """

    tokenizing: Timing
    model: Timing
    whole_documents_per_second: float
    tokenizing_percent: float
    model_percent: float
    rest_percent: float
    model_share: float | None = None


class Energy(_Part):
    """Energy of the processor's packages while it works, and at rest just before."""

    joules_per_1000_documents: float
    watts: float
    idle_watts: float
    seconds: float
    domains: tuple[str, ...]


class Agreement(_Part):
    """How often an artifact decides as the fp32 model of its weights does, on how many distinct texts.

    `relation` says how that model was found: given; the one exported from, fake quantizers and all; or the one
    before quantization, from which training with fake quantizers may have led away.
    """

    reference: str
    relation: Relation
    runtime: str
    precision: str
    documents: int
    label_agreement_percent: dict[str, float]
    positives_percent: dict[str, float]

    @property
    def least(self) -> float:
        """The lowest agreement of any task."""
        return min(self.label_agreement_percent.values())


class Entry(_Part):
    """One artifact on one runtime: what it is, and all that was measured of it."""

    name: str
    folder: str
    runtime: str
    precision: str
    weights: Literal["trained", "random"]
    family: str
    parameters: int
    trunk_parameters: int
    size_mb: float
    memory_mb: float | None = None
    operations: Operations | None = None
    agreement: tuple[Agreement, ...] = ()
    speed: dict[str, Figure] = Field(default_factory=dict)
    breakdown: Breakdown | None = None
    sweeps: tuple[Point, ...] = ()
    arrivals: tuple[Arrivals, ...] = ()
    energy: Energy | None = None
    notes: tuple[str, ...] = ()


class BaselineFigures(_Part):
    """The baseline's side: fp32 in PyTorch, all cores, inference mode."""

    name: str
    weights: str
    own_tokenizer: bool
    padded_batch_size: int | None
    speed: dict[str, Figure]


class TextsUsed(_Part):
    """The texts measured on: `given` in the source, `distinct` of them, `used`; tokens of the first artifact."""

    source: str
    given: int
    distinct: int
    used: int
    mean_tokens: float
    median_tokens: float
    most_tokens: int


class Power(_Part):
    """What decides the clock and who else uses it; a field is None where the machine does not tell."""

    governors: tuple[str, ...] = ()
    boost: bool | None = None
    energy_preference: str | None = None
    mhz_least: float | None = None
    mhz_most: float | None = None
    mhz_now: float | None = None
    mains: bool | None = None
    virtual: bool | None = None
    cpu_quota: float | None = None
    load_average: tuple[float, float, float] | None = None
    others_percent: float | None = None
    energy_counters: str

    def sentence(self) -> str:
        """What is known, in one line."""
        known = [
            f"governor {', '.join(self.governors)}" if self.governors else "governor not told",
            None if self.boost is None else f"boost {'on' if self.boost else 'off'}",
            None if self.energy_preference is None else f"preference {self.energy_preference}",
            None if self.mhz_now is None else f"{self.mhz_now:,.0f} MHz",
            None if self.mains is None else ("on mains" if self.mains else "on battery"),
            "virtual machine" if self.virtual else None,
            None if self.cpu_quota is None else f"limited to {self.cpu_quota:g} cores",
            None if self.load_average is None else f"load average {self.load_average[0]:.2f}",
            None if self.others_percent is None else f"others use {self.others_percent:.0f} % of the processor",
            f"energy counters: {self.energy_counters}",
        ]
        return "; ".join(part for part in known if part)


class Benchmark(_Part):
    """The whole result."""

    polyfold_version: str
    command: str
    started: str
    seconds: float
    hardware: Hardware
    power_before: Power
    power_after: Power
    stolen_percent: float | None
    texts: TextsUsed
    peaks: tuple[Peaks, ...]
    baseline: BaselineFigures | None
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()


def load_benchmark(path: Path) -> Benchmark:
    """Read `benchmark.json`; InputError where it is none."""
    file = path / JSON if path.is_dir() else path
    try:
        return Benchmark.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise InputError("there is no such file", file=file, hint="run polyfold benchmark first") from None
    except ValidationError as error:
        raise InputError(f"not a benchmark's result: {error.errors()[0]['msg']}", file=file) from None
