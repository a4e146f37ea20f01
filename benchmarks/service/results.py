"""The forms of load.json, faults.json and soak.json: what was measured, before anything is concluded from it."""

from pydantic import BaseModel, ConfigDict

from polyfold.benchmark.results import Power
from polyfold.system import Hardware

from .answers import Counts

LOAD, FAULTS, SOAK = "load.json", "faults.json", "soak.json"


class Form(BaseModel):
    """Frozen, and nothing in it that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tally(Form):
    """`Counts` as they are written down, without what is zero."""

    sent: int
    acknowledged: int
    refused: int = 0
    failed: int = 0
    unanswered: int = 0
    unreachable: int = 0
    garbled: int = 0
    duplicated: int = 0
    texts: int = 0
    compared: int = 0
    item_errors: int = 0
    poisoned: int = 0
    mixed_up: int = 0
    wrong: int = 0
    label_differences: int = 0
    largest_difference: float = 0.0
    refusals: dict[str, int] = {}

    @staticmethod
    def of(counts: Counts) -> "Tally":
        """Written down."""
        return Tally(**vars(counts))

    @property
    def lost(self) -> int:
        """Requests without their answer: none came, or what came cannot be read."""
        return self.unanswered + self.garbled + self.failed

    @property
    def bad(self) -> int:
        """What must never be: lost, mixed-up, wrong or duplicated answers, and errors of single texts."""
        return self.lost + self.mixed_up + self.wrong + self.duplicated + self.item_errors


class Latency(Form):
    """Milliseconds from when a request was due; `late` is how far behind the generator itself was in sending."""

    p50: float
    p90: float
    p99: float
    most: float
    late_p50: float
    late_p99: float


class Load(Form):
    """One load on one server. `level` is its place among the rising loads of an open loop.

    `stood_still_s` is how late the generator's own clock was at most: long where the whole machine was stopped.
    """

    kind: str
    level: int | None = None
    rate: float | None = None
    texts_a_request: int
    connections: int
    depth: int = 1
    probabilities: bool = False
    seconds: float
    tally: Tally
    latency_ms: Latency | None
    server_cpu_s: float
    generator_cpu_s: float
    waited_for_connection: int
    opened_while_running: int
    overloaded: bool
    stood_still_s: float

    @property
    def requests_per_second(self) -> float:
        """Answered with 2xx."""
        return self.tally.acknowledged / self.seconds

    @property
    def texts_per_second(self) -> float:
        """Answered with 2xx."""
        return self.requests_per_second * self.texts_a_request


class Turn(Form):
    """One contestant in one round, its server started anew."""

    contestant: str
    round: int
    begun: str
    ready_s: float
    memory_before_mb: float
    memory_after_mb: float
    loads: tuple[Load, ...]


class Offline(Form):
    """The predictor itself in one round: texts in one call after another, and one at a time."""

    round: int
    begun: str
    texts_per_second: float
    cpu_s_a_text: float
    single_ms_p50: float
    single_ms_p99: float


class Free(Form):
    """The model that costs nothing, served by Polyfold, and offline: seconds of processor a text."""

    round: int
    offline_cpu_s_a_text: float
    loads: tuple[Load, ...]


class ModelLoad(Form):
    """All rounds with one model; `failed` tells of contestants that could not be measured, and why.

    `shape_difference` is the largest of a probability between a text alone and in a batch, both offline.
    """

    name: str
    folder: str
    precision: str
    runtime: str
    texts: int
    mean_tokens: float
    shape_difference: float
    base_texts_per_second: float
    fractions: tuple[float, ...]
    offline: tuple[Offline, ...]
    free: tuple[Free, ...]
    turns: tuple[Turn, ...]
    failed: dict[str, str]


class Protocol(Form):
    """How it was measured."""

    rounds: int
    seconds: float
    lone_requests: int
    tolerance: float
    most_p99_ms: float
    titles: dict[str, str]
    options: tuple[str, ...]


class LoadFile(Form):
    """load.json. `resumed` counts the turns that an earlier, interrupted call of the same command left.

    `code` is a digest of Polyfold's source and of the benchmark's, here and in the other files.
    """

    command: str
    hardware: Hardware
    versions: dict[str, str]
    code: str
    begun: str
    seconds: float
    resumed: int
    stolen_percent: float | None
    power_before: Power
    power_after: Power
    protocol: Protocol
    models: tuple[ModelLoad, ...]


class FaultRow(Form):
    """One fault. `excused` are requests without an answer that the fault itself explains: their server was killed.
    `lost` is what nothing explains: acknowledged and not what it should be, or simply gone."""

    name: str
    fault: str
    injected: str
    command: str
    code: str
    tally: Tally
    excused: int
    lost: int
    recovered_s: float | None
    survived: bool
    limit_ms: float
    p99_before_ms: float | None
    p99_fault_ms: float | None
    facts: dict[str, float | str]
    problem: str | None = None


class FaultsFile(Form):
    """faults.json."""

    hardware: Hardware
    versions: dict[str, str]
    model: str
    rate: float
    rows: tuple[FaultRow, ...]


class Sample(Form):
    """Memory after so many requests."""

    requests: int
    resident_mb: float
    open_files: int


class SoakFile(Form):
    """soak.json. The slope is bytes of resident memory a request, by least squares over the samples after the
    first `warm` requests, with its 95 % confidence interval."""

    command: str
    hardware: Hardware
    versions: dict[str, str]
    code: str
    begun: str
    model: str
    requests: int
    seconds: float
    connections: int
    depth: int
    requests_per_second: float
    warm: int
    samples: tuple[Sample, ...]
    bytes_a_request: float
    bytes_a_request_low: float
    bytes_a_request_high: float
    tally: Tally
    exit_code: int
