"""What the sections of the page on speed share: goals, figures with their floors, a section's parts, cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from growth_report import ALLOWED
from polyfold.benchmark.results import Figure as Measured
from polyfold.benchmark.tables import percent
from polyfold.measure.markdown import escape
from polyfold.measure.tables import ABSENT, Table, figure
from results_page import grid, not_measured
from speed_inputs import BENCHMARK, COLD_START, GPU, GROWTH, STUDENT, TOKENIZING, TRAINING


@dataclass(frozen=True)
class Goal:
    """What was asked of a figure, in words and as it is written, and the file that the figure comes from."""

    what: str
    wanted: str
    file: str


_PADDED = "real_text_vs_padded_128"
GOALS: Mapping[str, Goal] = {
    "minilm.speedup.32x128": Goal("MiniLM-L6 int8, dense 32 × 128, over XLM-R", ">= 32", BENCHMARK),
    f"minilm.speedup.{_PADDED}": Goal(
        "MiniLM-L6 int8, real texts, over XLM-R padded to 128 (aim: 160)", ">= 130", BENCHMARK
    ),
    "minilm.speedup.real_text": Goal("MiniLM-L6 int8, real texts, over XLM-R unpadded", ">= 32", BENCHMARK),
    "student.speedup.32x128": Goal("the best student, dense 32 × 128, over XLM-R", ">= 200", BENCHMARK),
    f"student.speedup.{_PADDED}": Goal(
        "the best student, real texts, over XLM-R padded to 128 (aim: 1000)", ">= 800", BENCHMARK
    ),
    "student.degradation_percent": Goal("the best student: degradation, %", "<= 2.6", STUDENT),
    "minilm.latency_ms_p50.real_text": Goal("MiniLM-L6 int8, one real text, p50, ms", "<= 2.5", BENCHMARK),
    "student.latency_ms_p50.real_text": Goal("the best student, one real text, p50, ms", "<= 0.5", BENCHMARK),
    "tokenizing_and_decoding.documents_per_second": Goal(
        "tokenizing and decoding alone, documents/s", ">= 150000", TOKENIZING
    ),
    "cold_start_s": Goal("from a new process to the first prediction, s", "<= 1.5", COLD_START),
    "resident_mb": Goal("resident memory of a serving process, MB", "<= 300", COLD_START),
    "growth.memory.bytes_per_document": Goal(
        "peak memory for each further document, bytes", f"<= {ALLOWED:g}", GROWTH
    ),
    "training.cached_over_plain": Goal(
        "an epoch with cached logits over a plain one, seconds", "<= 1.05", TRAINING
    ),
    "gpu.minilm_l6.best_speedup": Goal("MiniLM-L6 on a GPU, over XLM-R in fp32 there", ">= 60", GPU),
}


@dataclass(frozen=True)
class Figure:
    """One number, what it should be, what the machine's peaks would allow at best, and how to measure it again.

    The floor has the figure's own unit: of a speed-up it is the one that a model at its floor would have. The
    share is the floor's time over the measured one.
    """

    value: float
    goal: str | None
    floor: float | None
    share_of_floor: float | None
    command: str


@dataclass(frozen=True)
class Bound:
    """A floor in the unit of the figure beside it, and the share of it that was reached (0..1)."""

    floor: float
    share: float


@dataclass
class Section:
    """A part of the page: lines, one-line conclusions, figures, why some have no floor, and plots by file name."""

    title: str
    lines: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    unbounded: dict[str, str] = field(default_factory=dict)
    plots: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float, command: str, bound: Bound | str) -> None:
        """One figure, under a name that stands once, with its floor or with the reason why it has none."""
        assert name not in self.figures, f"two figures are named '{name}'"
        goal = GOALS[name].wanted if name in GOALS else None
        floor = share = None
        if isinstance(bound, Bound):
            floor, share = shortened(bound.floor), shortened(bound.share)
        else:
            self.unbounded[name] = bound
        self.figures[name] = Figure(shortened(value), goal, floor, share, command)

    def table(self, table: Table, title: str | None = None) -> None:
        """A table of the benchmark's own, under a smaller heading."""
        if table.rows:
            cells = [[escape(cell) for cell in row] for row in table.rows]
            self.lines += [f"### {title or table.title}", ""]
            self.lines += grid([escape(name) for name in table.columns], cells, range(table.text_columns))
            self.lines += [escape(table.note), ""] if table.note else []

    def missing(self, file: str, end: str = "") -> "Section":
        """The section as it stands while the file it is made from is not there."""
        self.lines = not_measured(file, end)
        return self


NO_COUNT = "the benchmark worked out no floor for this artifact (its notes say why)"
QUALITY = "a label agreement, a macro-F1, a count of differences is no speed: no peak of the machine bounds it"
MEMORY = "megabytes are no time; what a model needs at least is not worked out"


def shortened(value: float) -> float:
    """Six digits: no clock tells more."""
    return float(f"{value:.6g}")


def rate_bound(one: Measured) -> Bound | str:
    """Of a throughput."""
    if one.floor_documents_per_second is None or one.share is None:
        return NO_COUNT
    return Bound(one.floor_documents_per_second, one.share)


def latency_bound(one: Measured) -> Bound | str:
    """Of a p50."""
    if one.floor_latency_ms is None or one.latency_share is None:
        return NO_COUNT
    return Bound(one.floor_latency_ms, one.latency_share)


def speedup_bound(one: Measured) -> Bound | str:
    """Of a speed-up: that of the throughput's floor over the same baseline, which is as far away."""
    if one.share is None or one.speedup is None:
        return NO_COUNT
    return Bound(one.speedup / one.share, one.share)


def told(value: float) -> str:
    """Four digits, so that a figure just beside its goal is seen to be."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def spread_cell(median: float, least: float, most: float) -> str:
    """A median with the least and the most of the rounds."""
    return f"{figure(median)} ({figure(least)}–{figure(most)})"


def share_cell(share: float | None) -> str:
    """A share in percent."""
    return ABSENT if share is None else f"{percent(share)} %"


def in_words(parts: Sequence[str]) -> str:
    """Parts of a sentence that are there."""
    return ", ".join(part for part in parts if part)
