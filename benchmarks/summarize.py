"""The figures of a run in one JSON file: each with its value, its goal and the command that makes it.

    python benchmarks/summarize.py RUN_DIR --demo DEMO_RUN_DIR --out docs/results/feedback/summary.json

Reads the report that `polyfold run` left in RUN_DIR and copies it (JSON, Markdown, HTML) beside the summary, so
that what is published is what was measured. A figure's name is MODEL.PRECISION.WHAT: the model is `teacher` (the
teacher itself, compressed or not) or a student's name; `best` is the int8 row that the goal of at most 2.6 % is
about.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyfold.artifact import MANIFEST, Artifact, write_atomically
from polyfold.errors import InputError
from polyfold.measure.report import HTML, MARKDOWN, REPORT, Report, Row, load_report
from polyfold.measure.verdicts import is_int8

# What one embedded encoder was seen to reach on this data, macro-F1 x 100: the teacher must be above it.
TEACHER_GOALS: Mapping[str, float] = {"domain": 86.4, "sentiment": 55.8, "topics": 64.9}
MOST_DEGRADATION_PERCENT = 2.6
LEAST_AGREEMENT_PERCENT = 99.5
LEAST_AGREEMENT_BF16_PERCENT = 99.0
MOST_DEMO_MINUTES = 10.0


@dataclass(frozen=True)
class Figure:
    """One number, what it should be (None: nothing was asked), and how to measure it again."""

    value: float
    goal: str | None
    command: str


def summarize(report: Report, command: str) -> dict[str, Figure]:
    """Quality, fidelity, speed and size of the teacher and of every int8 model in OpenVINO."""
    teacher = report.row(report.quality_baseline)
    if teacher is None or not teacher.macro_f1:
        raise InputError("the report has no scored teacher", hint="measure a run with a trained teacher")
    models = [row for row in report.rows if is_int8(row) and row.runtime == "openvino" and row.macro_f1]
    if not models:
        raise InputError(
            "the report has no int8 model in OpenVINO", hint="compress by int8_qat and export to openvino"
        )
    best = best_of(models)
    figures: dict[str, Figure] = {}

    def add(name: str, value: float, goal: str | None = None) -> None:
        assert name not in figures, f"two figures are named '{name}'"
        figures[name] = Figure(round(value, 4), goal, command)

    whole = f"teacher.{plain(teacher.precision)}"
    for task, macro_f1 in teacher.macro_f1.items():
        goal = f">= {TEACHER_GOALS[task]}" if task in TEACHER_GOALS else None
        add(f"{whole}.macro_f1_x100.{task}", 100 * macro_f1, goal)
    if teacher.size_mb is not None:
        add(f"{whole}.size_mb", teacher.size_mb)
    for row in models:
        for what, value, wanted in figures_of(row):
            add(f"{model_of(row, report)}.{plain(row.precision)}.{what}", value, wanted)
    for what, value, _ in figures_of(best):
        if what == "degradation_percent":
            add(f"best.{what}", value, f"<= {MOST_DEGRADATION_PERCENT}")
        elif what.startswith("speedup."):
            add(f"best.{what}", value)
    return figures


def figures_of(row: Row) -> Iterator[tuple[str, float, str | None]]:
    """Name, value and goal of each figure of an int8 row."""
    least = LEAST_AGREEMENT_BF16_PERCENT if "bf16" in row.precision else LEAST_AGREEMENT_PERCENT
    for task, value in (row.macro_f1 or {}).items():
        yield f"macro_f1_x100.{task}", 100 * value, None
    if row.degradation_percent is not None:
        yield "degradation_percent", row.degradation_percent, None
    for task, value in (row.label_agreement_percent or {}).items():
        yield f"label_agreement_percent.{task}", value, f">= {least}"
    for key, value in row.speedup.items():
        yield f"speedup.{key}", value, None
    if row.size_mb is not None:
        yield "size_mb", row.size_mb, None


def best_of(models: Sequence[Row]) -> Row:
    """The fastest row on real texts of those that hold the goal; where none does, the one that lost least."""

    def loss(row: Row) -> float:
        return float("inf") if row.degradation_percent is None else row.degradation_percent

    holding = [row for row in models if loss(row) <= MOST_DEGRADATION_PERCENT]
    if holding:
        return max(holding, key=lambda row: (row.speedup.get("real_text", 0.0), -loss(row)))
    return min(models, key=loss)


def model_of(row: Row, report: Report) -> str:
    """The student, or the teacher, that a row was made from: the first such stage up its chain of parents."""
    current: Row | None = row
    while current is not None and current.stage not in ("teacher", "student"):
        current = report.row(current.parent)
    if current is None:
        raise InputError(f"row '{row.name}' comes from no teacher or student of this report")
    return "teacher" if current.stage == "teacher" else current.name


def plain(precision: str) -> str:
    """A precision as a part of a figure's name: `int8+bf16` is int8_bf16."""
    return re.sub(r"[^a-z0-9]+", "_", precision.lower())


def demo_minutes(folder: Path) -> float:
    """Minutes of work of the run whose report lies in `folder`: the seconds its stages' manifests hold, summed.

    Only the stages of that very report count, whatever else lies there. A stage that was killed and resumed tells
    of its last attempt alone, so the run must have been made in one go.
    """
    wanted = load_report(folder).recipe_hash
    stages = {
        one.manifest.key: one for one in (Artifact.open(path.parent) for path in folder.glob(f"*/{MANIFEST}"))
    }
    ends = [
        one for one in stages.values() if one.manifest.stage == "measure" and one.manifest.spec["hash"] == wanted
    ]
    if not ends:
        raise InputError("the stages behind this report are gone", file=folder, hint="run it again")
    keys = {*ends[0].manifest.parents, ends[0].manifest.key}
    missing = keys - set(stages)
    if missing:
        raise InputError(f"{len(missing)} of the report's stages are gone", file=folder, hint="run it again")
    # Preparing the data keeps no time of its own: it takes a second or two.
    return sum(float(stages[key].manifest.info.get("seconds", 0.0)) for key in keys) / 60


def write_summary(figures: Mapping[str, Figure], target: Path) -> None:
    """Write the figures, sorted by name."""
    content = {
        name: {"value": one.value, "goal": one.goal, "command": one.command} for name, one in figures.items()
    }
    write_atomically(target, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def copy_report(run: Path, target: Path) -> None:
    """Copy the three forms of the report into a folder."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (REPORT, MARKDOWN, HTML):
        if not (run / name).is_file():
            raise InputError(f"no {name} here", file=run, hint="draw it: polyfold report RUN_DIR")
    for name in (REPORT, MARKDOWN, HTML):
        shutil.copyfile(run / name, target / name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Summarize the run named on the command line; 2 where that cannot be done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="the run's folder, with report.json")
    parser.add_argument("--demo", type=Path, required=True, help="a demo run's folder, made in one go")
    parser.add_argument("--out", type=Path, required=True, help="the summary; the report is copied beside it")
    parser.add_argument("--command", help="what made the run [default: polyfold run recipes/NAME.yaml]")
    given = parser.parse_args(arguments)
    try:
        report = load_report(given.run)
        figures = summarize(report, given.command or f"polyfold run recipes/{report.name}.yaml")
        minutes = round(demo_minutes(given.demo), 2)
        figures["demo.minutes"] = Figure(minutes, f"<= {MOST_DEMO_MINUTES:g}", "make demo")
        copy_report(given.run, given.out.parent)
        write_summary(figures, given.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(figures)} figures: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
