"""The report's contract: what a run measured, as one validated value; every other format is drawn from it."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from polyfold.artifact import write_atomically
from polyfold.errors import InputError
from polyfold.metrics import ReliabilityBin
from polyfold.system import Hardware
from polyfold.tasks import Kind

REPORT, MARKDOWN, HTML = "report.json", "report.md", "report.html"
SCHEMA_FILE = Path(__file__).with_name("report.schema.json")

SpeedKey = Annotated[str, StringConstraints(pattern=r"^([0-9]+x[0-9]+|real_text|real_text_vs_padded_128)$")]
"""What was timed: a dense shape (documents x tokens, any that the recipe asks for) or real texts."""

QUALITY_FIELDS = (
    "test_documents", "macro_f1", "macro_f1_ci95", "macro_f1_by_language", "f1_by_label", "calibration_error",
    "reliability", "confusion", "label_agreement_percent", "positives_percent", "degradation_percent",
    "thresholds", "temperatures", "dominated_by", "profile",
)  # fmt: skip
"""Fields of a row that say how good it is; a row with random weights has none of them."""


def _random_rows_have_no_quality(schema: dict[str, Any]) -> None:
    """The rule of `Row._random_is_never_scored`, said in JSON schema for readers that are not Polyfold."""
    schema["if"] = {"properties": {"weights": {"const": "random"}}}
    schema["then"] = {"not": {"anyOf": [{"required": [name]} for name in QUALITY_FIELDS]}}


class _Part(BaseModel):
    # NaN and infinity are not JSON; a figure that could not be measured is absent.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Speed(_Part):
    """Throughput, and the latency of one call: a batch of a dense shape, or one real text."""

    documents_per_second: float = Field(gt=0.0)
    latency_ms_p50: float | None = Field(default=None, ge=0.0)
    latency_ms_p99: float | None = Field(default=None, ge=0.0)


class Gate(_Part):
    """One quality gate checked: `drop` is lost macro-F1 in points (x 100); `language` null means all of them."""

    row: str
    task: str
    language: str | None = None
    allowed_drop: float
    drop: float
    passed: bool


class Cost(_Part):
    """The price behind `cost_usd_per_million_documents`."""

    instance: str | None
    price_per_hour_usd: float = Field(gt=0.0)
    utilization: float = Field(gt=0.0, le=1.0)
    source: str


class TaskSummary(_Part):
    """One task of the data: labelled documents by split, and how often each label occurs in training."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    labelled: dict[str, int]
    train_label_counts: dict[str, int]


class DataSummary(_Part):
    """What the model was trained and tested on, in counts only: no text, no id."""

    documents: dict[str, int]
    documents_by_language: dict[str, dict[str, int]]
    tasks: tuple[TaskSummary, ...]


class TaskProfile(_Part):
    """How a model answers one task: documents by confidence (equal-width bins from 0 to 1) and by label given.

    `without_label` counts the documents that a multi-label task gives no label; other tasks have none.
    """

    mean_confidence: float = Field(ge=0.0, le=1.0)
    confidence: tuple[int, ...]
    labels: dict[str, int]
    without_label: int | None = None


class Profile(_Part):
    """All test documents as the model sees them, labelled or not: what a service compares its texts with.

    `tokens` counts documents of up to `token_bounds[i]` tokens (special ones included, after cutting) and above
    the bound before it; the last count has those above every bound.
    """

    documents: int = Field(ge=0)
    languages: dict[str, int]
    token_bounds: tuple[int, ...]
    tokens: tuple[int, ...]
    tasks: dict[str, TaskProfile]


class Row(_Part):
    """One artifact in one runtime. Quality fields are absent where nothing was scored.

    `mflops_per_document` counts the forward pass of one document of 128 tokens, in millions of floating-point
    operations (a multiplication and an addition are two), whatever precision the runtime computes in.
    """

    model_config = ConfigDict(json_schema_extra=_random_rows_have_no_quality)

    name: str = Field(min_length=1)
    stage: str
    parent: str | None = None
    runtime: Literal["torch", "onnxruntime", "openvino", "tensorrt"]
    precision: str
    weights: Literal["trained", "random"]
    parameters_million: float = Field(ge=0.0)
    trunk_parameters_million: float = Field(ge=0.0)
    mflops_per_document: float | None = Field(default=None, ge=0.0)
    size_mb: float | None = Field(default=None, ge=0.0)
    peak_memory_mb: float | None = Field(default=None, ge=0.0)

    test_documents: int | None = Field(default=None, ge=0)
    macro_f1: dict[str, float] | None = None
    macro_f1_ci95: dict[str, tuple[float, float]] | None = None
    macro_f1_by_language: dict[str, dict[str, float]] | None = None
    f1_by_label: dict[str, dict[str, float]] | None = None
    calibration_error: dict[str, float] | None = None
    reliability: dict[str, tuple[ReliabilityBin, ...]] | None = None
    confusion: dict[str, list[list[int]] | list[list[list[int]]]] | None = None
    label_agreement_percent: dict[str, float] | None = None
    positives_percent: dict[str, float] | None = None
    degradation_percent: float | None = None
    thresholds: dict[str, tuple[float, ...]] | None = None
    temperatures: dict[str, float] | None = None
    dominated_by: str | None = None
    profile: Profile | None = None

    speed: dict[SpeedKey, Speed] = Field(default_factory=dict)
    speedup: dict[SpeedKey, float] = Field(default_factory=dict)
    cost_usd_per_million_documents: float | None = Field(default=None, ge=0.0)
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _random_is_never_scored(self) -> "Row":
        scored = [name for name in QUALITY_FIELDS if getattr(self, name) is not None]
        if self.weights == "random" and scored:
            raise ValueError(f"row '{self.name}' has random weights, yet says how good it is: {scored}")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_absent_quality(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name not in QUALITY_FIELDS or value is not None}

    @property
    def mean_macro_f1(self) -> float | None:
        """Macro-F1 averaged over tasks, 0 to 1."""
        return sum(self.macro_f1.values()) / len(self.macro_f1) if self.macro_f1 else None


class Report(_Part):
    """All that a run measured."""

    name: str
    polyfold_version: str
    recipe_hash: str
    seed: int
    hardware: Hardware
    quality_baseline: str | None = None
    speed_baseline: str | None = None
    rows: tuple[Row, ...] = Field(min_length=1)
    data: DataSummary | None = None
    cost: Cost | None = None
    gates: tuple[Gate, ...] = ()
    warnings: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rows_are_named(self) -> "Report":
        names = [row.name for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError(f"two rows share a name: {names}")
        for baseline in (self.quality_baseline, self.speed_baseline):
            if baseline is not None and baseline not in names:
                raise ValueError(f"the baseline '{baseline}' is not a row; rows are {names}")
        return self

    def row(self, name: str | None) -> Row | None:
        """The row of that name, if there is one."""
        return next((row for row in self.rows if row.name == name), None)

    @property
    def broken_gates(self) -> tuple[Gate, ...]:
        """The gates that did not hold: any makes the run exit with code 1."""
        return tuple(gate for gate in self.gates if not gate.passed)


def schema() -> dict[str, Any]:
    """The contract as a JSON schema (draft 2020-12); `report.schema.json` is this, written by this module."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Made by `python -m polyfold.measure.report`; change polyfold/measure/report.py instead.",
        **Report.model_json_schema(),
    }


def schema_text() -> str:
    """The schema as it is checked in."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def write_report(report: Report, folder: Path) -> None:
    """Write `report.md`, `report.html` and `report.json`, each whole or not at all.

    All are drawn before the first is written, and the JSON comes last: where it is, the others are.
    """
    # Drawn from this module's types, hence imported here and not at the top.
    from polyfold.measure.html import html
    from polyfold.measure.markdown import markdown

    drawings = {MARKDOWN: markdown(report), HTML: html(report)}
    for name, content in drawings.items():
        write_atomically(folder / name, content.encode())
    write_atomically(folder / REPORT, (report.model_dump_json(indent=2) + "\n").encode())


def load_report(folder: Path) -> Report:
    """Read a folder's `report.json`; InputError where there is none or it breaks the contract."""
    path = folder / REPORT
    try:
        return Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            "no report.json here", file=folder, hint="give the folder that `polyfold run` named at its end"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"not a report: {first['msg']}", file=path, key=where or None) from None


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf8")
