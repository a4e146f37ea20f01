"""What the sections of the page on compression share: a section's parts, cells, commands."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from compression_inputs import Ratio, Scored
from compression_speed import DENSE, REAL
from polyfold.measure.report import Report
from polyfold.measure.tables import ABSENT
from polyfold.study.ablate import Ablation
from results_page import not_measured
from summarize import Figure

# The most that a compressed model may lose, as in benchmarks/summarize.py.
MOST_DEGRADATION_PERCENT = 2.6
EARNS, DEAR = "earns its place", "loses too much"
OWN_FOLDER = ("feedback", "reference", "quantization")
SPEED_KEYS: Mapping[str, str] = {
    DENSE: "dense 32 × 128", REAL: "real lengths", "32x128": "dense 32 × 128", "real_text": "real texts",
}  # fmt: skip


@dataclass
class Section:
    """A part of the page: its lines, its one-line conclusions, its figures, its plots by file name."""

    title: str
    lines: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)
    plots: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, value: float, command: str, goal: str | None = None) -> None:
        """One figure; a name stands once."""
        assert name not in self.figures, f"two figures are named '{name}'"
        self.figures[name] = Figure(round(value, 4), goal, command)

    def missing(self, file: str) -> "Section":
        """The section as it stands while the file it is made from is not there."""
        self.lines = not_measured(file)
        return self


def run_command(report: Report) -> str:
    """How a report was made."""
    folder = "recipes" if report.name == "feedback" else "recipes/compression"
    # Runs that share a backbone or a teacher share a folder, so that it is made once.
    out = report.name if report.name in OWN_FOLDER else "compression"
    return f"polyfold run {folder}/{report.name}.yaml --out runs/{out}"


def ablation_command(found: Ablation) -> str:
    """How the ablation was made."""
    seeds = ",".join(map(str, found.seeds))
    reseeded = " --reseed-teacher" if found.teacher_per_seed else ""
    recipe = f"recipes/compression/{found.name}.yaml"
    return f"polyfold ablate {recipe} --each {found.each} --seeds {seeds}{reseeded} --out runs/compression"


def points(value: float) -> str:
    """Macro-F1 x 100."""
    return f"{100 * value:.1f}"


def lost(row: Scored) -> str:
    """Degradation in percent."""
    return f"{row.degradation_percent:.2f}" if row.degradation_percent is not None else ABSENT


def ratio_cell(ratio: Ratio | None) -> str:
    """A speed-up with its spread."""
    return f"{ratio.value:.2f} ({ratio.least:.2f}–{ratio.most:.2f})" if ratio is not None else ABSENT


def loss_in_words(row: Scored) -> str:
    """Degradation as a sentence has it."""
    percent = row.degradation_percent or 0.0
    return f"{abs(percent):.2f} % {'lost' if percent >= 0 else 'gained'}"
