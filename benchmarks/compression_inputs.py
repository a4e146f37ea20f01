"""What lies in a folder of compression results, validated, and its rows brought to one form to compare."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from compression_speed import SPEED, STRUCTURES, SpeedFile
from polyfold.compress.prune_spec import Prune
from polyfold.errors import InputError
from polyfold.measure.compare import Comparison
from polyfold.measure.report import REPORT, Report, Row, load_report
from polyfold.metrics import degradation_percent
from polyfold.recipe import load_recipe
from polyfold.study.ablate import Ablation
from results_page import read_content

# A report keeps no spread of a row's speed; of two turns of one model on a shared machine one is this much slower.
SPEED_NOISE = 0.05
# Two files that hold the same weights differ by some bytes of settings: costs this much apart are the same.
SAME_COST = 0.001
FP32_BYTES = 4


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Pruned(_File):
    """One way to prune: dev macro-F1 by task; FLOPs of a document of 128 tokens, parameters without heads."""

    dev_macro_f1: dict[str, float]
    rounds: int
    flops_before: int
    flops_after: int
    parameters_before: int
    parameters_after: int


class Whole(_File):
    """What was pruned."""

    dev_macro_f1: dict[str, float]


class DevFile(_File):
    """dev.json: a pruning run that was scored on dev alone."""

    recipe: str
    scored_on: str
    teacher: Whole
    rows: dict[str, Pruned]


class Trimmed(_File):
    """A tokenizer trimmed in one way: shares 0..1 of test texts, megabytes of embedding tables."""

    tokenizer: str
    counted: str
    setting: str
    pieces: int
    table_mb: dict[str, float]
    changed: float
    gained_unknown: float
    tokens_ratio: float


class VocabularyFile(_File):
    """vocabulary.json."""

    command: str
    test_texts: int
    results: tuple[Trimmed, ...]


class SizeFile(_File):
    """model_size.json: megabytes of the parts of a folder, by pieces and form."""

    goal_mb: float
    size_mb: dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class Inputs:
    """Everything that the folder holds, and the main run's report beside it; None for what is not there (yet)."""

    ablation: Ablation | None
    losses: Report | None
    encoder: Report | None
    transformer: DevFile | None
    quantization: Report | None
    reference: Report | None
    reference_int8: Comparison | None
    vocabulary: VocabularyFile | None
    model_size: SizeFile | None
    speed: SpeedFile | None
    structures: dict[str, dict[str, Any]]
    feedback: Report | None


def read_inputs(folder: Path) -> Inputs:
    """Read what there is; InputError where there is nothing, or where a file is not what it should be."""
    found = Inputs(
        ablation=read_content(folder / "losses" / "ablation.json", Ablation),
        losses=_report(folder / "losses"),
        encoder=_report(folder / "pruning-encoder"),
        transformer=read_content(folder / "pruning-transformer" / "dev.json", DevFile),
        quantization=_report(folder / "quantization"),
        reference=_report(folder / "reference"),
        reference_int8=read_content(folder / "reference" / "int8.json", Comparison),
        vocabulary=read_content(folder / "vocabulary.json", VocabularyFile),
        model_size=read_content(folder / "model_size.json", SizeFile),
        speed=read_content(folder / SPEED, SpeedFile),
        structures=_structures(folder / STRUCTURES),
        feedback=_report(folder.resolve().parent / "feedback"),
    )
    if not any(part for name, part in vars(found).items() if name != "feedback"):
        raise InputError(
            "there are no results of compression here", file=folder, hint="give the folder they lie in"
        )
    return found


def _structures(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(path.read_bytes()) if path.is_file() else {}
    return found


def _report(folder: Path) -> Report | None:
    return load_report(folder) if (folder / REPORT).is_file() else None


@dataclass(frozen=True)
class Ratio:
    """A measured ratio with the least and the most that it may be."""

    value: float
    least: float
    most: float


@dataclass(frozen=True)
class Scored:
    """One row of a table: quality 0..1 by task, and its costs where they are known.

    `rounds` is how often it was cut and trained on afterwards: training is a cost too, and buys quality.
    """

    name: str
    macro_f1: Mapping[str, float]
    degradation_percent: float | None
    mflops: float | None
    size_mb: float | None
    speedup: Mapping[str, Ratio]
    rounds: int | None = None

    @property
    def mean(self) -> float:
        """Macro-F1 averaged over tasks."""
        return sum(self.macro_f1.values()) / len(self.macro_f1)


def dominates(other: Scored, row: Scored) -> bool:
    """Whether `other` is as good as `row`, takes no more FLOPs, bytes, rounds or time, and is better somewhere.

    Slower or faster is only what is so beyond the spread of both measurements; what one of the two lacks is not
    compared.
    """
    ours, theirs = (row.mflops, row.size_mb), (other.mflops, other.size_mb)
    costs = [two / one for one, two in zip(ours, theirs, strict=True) if one and two is not None]
    speeds = [(row.speedup[key], other.speedup[key]) for key in row.speedup if key in other.speedup]
    if other.mean < row.mean or any(cost > 1 + SAME_COST for cost in costs):
        return False
    if any(two.most < one.least for one, two in speeds):
        return False
    if other.rounds is not None and row.rounds is not None and other.rounds > row.rounds:
        return False
    faster = any(two.least > one.most for one, two in speeds)
    return faster or other.mean > row.mean or any(cost < 1 - SAME_COST for cost in costs)


def dominators(rows: Sequence[Scored]) -> dict[str, str]:
    """By row the best of those that dominate it; rows that none dominates are left out."""
    found = {}
    for row in rows:
        better = [other for other in rows if other is not row and dominates(other, row)]
        if better:
            found[row.name] = max(better, key=lambda other: other.mean).name
    return found


def pruned_encoder(report: Report, rounds: Mapping[str, int], speed: SpeedFile | None) -> list[Scored]:
    """The teacher and what pruning made of it, under the names of their lines."""
    teacher = _baseline(report)
    rows = [teacher, *(row for row in report.rows if row.stage == "prune" and row.macro_f1)]
    scored = [_scored(row, _line(row), _measured(speed, f"encoder/{_line(row)}")) for row in rows]
    return [replace(row, rounds=0 if row is scored[0] else rounds.get(row.name)) for row in scored]


def rounds_by_line(report: Report, recipes: Path) -> dict[str, int]:
    """How often each line was cut, as the report's recipe says; nothing where there is no such recipe."""
    path = recipes / f"{report.name}.yaml"
    if not path.is_file():
        return {}
    recipe = load_recipe(path)
    steps = {student.name: recipe.steps(student.name) for student in recipe.students}
    return {
        name: sum(step.schedule.rounds for step in own if isinstance(step, Prune)) for name, own in steps.items()
    }


def pruned_transformer(content: DevFile, speed: SpeedFile | None) -> list[Scored]:
    """The teacher and what pruning made of it, by dev macro-F1; a size is that of the encoder in fp32."""
    first = next(iter(content.rows.values()))
    whole = content.teacher.dev_macro_f1
    rows = [("teacher", whole, first.flops_before, first.parameters_before, 0)]
    rows += [
        (name, one.dev_macro_f1, one.flops_after, one.parameters_after, one.rounds)
        for name, one in content.rows.items()
    ]
    return [
        Scored(
            name=name,
            macro_f1=macro_f1,
            degradation_percent=degradation_percent(whole, macro_f1) if rounds else None,
            mflops=flops / 1e6,
            size_mb=parameters * FP32_BYTES / 1e6,
            speedup=_measured(speed, f"transformer/{name}"),
            rounds=rounds,
        )
        for name, macro_f1, flops, parameters, rounds in rows
    ]


def quantized(report: Report) -> list[tuple[str, Scored]]:
    """Every export that was scored, with its runtime; a speed-up is against the fp32 export in that runtime."""
    exports = [row for row in report.rows if row.stage == "export" and row.macro_f1]
    found: list[tuple[str, Scored]] = []
    for row in exports:
        whole = next((one for one in exports if (one.runtime, one.precision) == (row.runtime, "fp32")), None)
        speedup = {}
        base = whole.speed if whole is not None else {}
        for key, speed in row.speed.items():
            if key in base and key != "real_text_vs_padded_128":
                ratio = speed.documents_per_second / base[key].documents_per_second
                spread = SPEED_NOISE if row is not whole else 0.0
                speedup[key] = Ratio(ratio, ratio * (1 - spread), ratio * (1 + spread))
        found.append((row.runtime, _scored(row, _short(row), speedup)))
    return found


def trimmed(report: Report) -> list[tuple[Row, Row]]:
    """Each different result of trimming with the row that it was made from; lines that share it count once."""
    pairs: dict[str, tuple[Row, Row]] = {}
    for row in report.rows:
        parent = report.row(row.parent)
        if row.stage == "trim_vocabulary" and row.macro_f1 and parent is not None and parent.macro_f1:
            pairs.setdefault(json.dumps([row.macro_f1, parent.macro_f1, row.size_mb]), (parent, row))
    return list(pairs.values())


def students(report: Report) -> list[Scored]:
    """The teacher and its students as they were trained."""
    rows = [_baseline(report), *(row for row in report.rows if row.stage == "student" and row.macro_f1)]
    return [_scored(row, row.name, {}) for row in rows]


def tasks_of(rows: Iterable[Scored]) -> tuple[str, ...]:
    """All tasks, in the order of the first row that has them."""
    return tuple(dict.fromkeys(task for row in rows for task in row.macro_f1))


def _baseline(report: Report) -> Row:
    row = report.row(report.quality_baseline)
    if row is None or not row.macro_f1:
        raise InputError(f"the report '{report.name}' has no scored teacher", hint="measure a run with one")
    return row


def _scored(row: Row, name: str, speedup: Mapping[str, Ratio]) -> Scored:
    assert row.macro_f1
    return Scored(name, row.macro_f1, row.degradation_percent, row.mflops_per_document, row.size_mb, speedup)


def _measured(speed: SpeedFile | None, name: str) -> dict[str, Ratio]:
    if speed is None or name not in speed.structures:
        return {}
    found = speed.structures[name].speed.items()
    return {key: Ratio(one.speedup, one.speedup_least, one.speedup_most) for key, one in found}


def _line(row: Row) -> str:
    return row.name.partition(".")[0]


def _short(row: Row) -> str:
    """An export's name as a table has it: its line, and how it differs from the line's other exports."""
    how = [part for part in row.name.split(".") if part not in _STEPS and not part.startswith(row.runtime)]
    return " ".join([*how, f"({row.precision})"])


_STEPS = ("trim_vocabulary", "int8_ptq", "int8_qat", "prune", "bf16")
