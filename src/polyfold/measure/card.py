"""The model card: the README.md that stands in an artifact's folder and on a hub's page."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from polyfold.measure.markdown import escape
from polyfold.measure.report import Report, Row
from polyfold.measure.tables import figure, points, speed_keys, speed_title
from polyfold.tasks import Task

CARD = "README.md"


class CardFacts(BaseModel):
    """What a card says beyond the report: what the artifact is called, made from and may be used under."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact_name: str
    languages: tuple[str, ...]
    base_model: str | None = None
    license: str | None = None
    dataset_name: str = "the recipe's data"
    made_by: tuple[str, ...] = ()


def model_card(facts: CardFacts, report: Report, row: Row, tasks: Sequence[Task]) -> str:
    """The card of the artifact that `row` measured; a row without quality gives a card that says so."""
    sections = (
        _front_matter(facts, row, tasks),
        _introduction(facts, row, tasks),
        _usage(facts, tasks),
        _results(report, row),
        _making(facts, report, row),
        _limits(facts, report, row),
    )
    return "\n".join(line for section in sections for line in section).rstrip() + "\n"


def _front_matter(facts: CardFacts, row: Row, tasks: Sequence[Task]) -> Iterator[str]:
    content: dict[str, Any] = {
        "language": list(facts.languages),
        "license": facts.license,
        "library_name": "polyfold",
        "pipeline_tag": "text-classification",
        "base_model": facts.base_model,
        "tags": ["polyfold", "text-classification", "multilingual", "multi-task", row.runtime, row.precision],
    }
    if row.macro_f1:
        results = _index(facts, row, tasks)
        content["model-index"] = [{"name": facts.artifact_name, "results": results}]
    known = {key: value for key, value in content.items() if value not in (None, [])}
    yield "---"
    yield yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=110).rstrip()
    yield "---"
    yield ""


def _index(facts: CardFacts, row: Row, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """One result a task over all languages, and one a task and language."""
    results = []
    for task in tasks:
        overall = (row.macro_f1 or {}).get(task.name)
        if overall is None:
            continue
        by_language = (row.macro_f1_by_language or {}).get(task.name, {})
        for config, value in [("all", overall), *by_language.items()]:
            results.append(
                {
                    "task": {"type": "text-classification", "name": task.name},
                    "dataset": {
                        "name": f"{facts.dataset_name} ({config})",
                        "type": facts.dataset_name,
                        "config": config,
                        "split": "test",
                    },
                    "metrics": [{"type": "f1", "name": "macro-F1", "value": round(value, 4)}],
                }
            )
    return results


def _introduction(facts: CardFacts, row: Row, tasks: Sequence[Task]) -> Iterator[str]:
    yield f"# {escape(facts.artifact_name)}"
    yield ""
    count = f"{len(tasks)} task{'s' if len(tasks) != 1 else ''}"
    tongues = f"{len(facts.languages)} language{'s' if len(facts.languages) != 1 else ''}"
    yield (
        f"One encoder, {count}, {tongues} ({', '.join(map(escape, facts.languages))}): a text classifier in "
        f"{row.precision} for {row.runtime} with {figure(row.parameters_million)} million parameters, made with "
        "Polyfold."
    )
    yield ""
    yield "| task | kind | labels |"
    yield "|---|---|---|"
    for task in tasks:
        kind = "any number of labels" if task.multi_label else "exactly one label"
        yield f"| {escape(task.name)} | {kind} | {escape(', '.join(task.labels))} |"
    yield ""


def _usage(facts: CardFacts, tasks: Sequence[Task]) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "```python"
    yield "from polyfold import Predictor"
    yield ""
    yield 'predictor = Predictor.open("path/to/this/folder")'
    yield 'for prediction in predictor.predict(["a text", "ein Text"]):'
    yield "    print(prediction)"
    yield "```"
    yield ""
    if any(task.multi_label for task in tasks):
        yield (
            "Temperatures and thresholds were fitted on the development split and are applied by the predictor."
        )
        yield ""


def _results(report: Report, row: Row) -> Iterator[str]:
    yield "## Results"
    yield ""
    if not row.macro_f1:
        why = "its weights are random" if row.weights == "random" else "nothing was scored in this run"
        yield f"There are no quality figures: {why}."
        yield ""
    else:
        yield f"Macro-F1 x 100 on {row.test_documents or 0:,} test documents:"
        yield ""
        yield "| task | macro-F1 | 95 % interval | ECE x 100 |"
        yield "|---|---:|---:|---:|"
        for task, value in row.macro_f1.items():
            low, high = (row.macro_f1_ci95 or {}).get(task, (None, None))
            error = (row.calibration_error or {}).get(task)
            yield f"| {escape(task)} | {points(value)} | {points(low)}–{points(high)} | {points(error)} |"
        yield ""
    if row.degradation_percent is not None and report.quality_baseline:
        loss = f"{row.degradation_percent:.2f} % (mean relative loss of macro-F1)"
        yield f"Degradation against {escape(report.quality_baseline)}: {loss}."
        yield ""
    for key in speed_keys(report):
        if key in row.speed:
            speedup = f", {figure(row.speedup[key])}x the speed baseline" if key in row.speedup else ""
            yield f"- {speed_title(key)}: {figure(row.speed[key].documents_per_second)} documents/s{speedup}"
    if row.speed:
        yield ""
        yield f"Measured on {escape(report.hardware.processor)}, {report.hardware.cores} cores."
        yield ""


def _making(facts: CardFacts, report: Report, row: Row) -> Iterator[str]:
    yield "## How it was made"
    yield ""
    for step in facts.made_by or (row.stage,):
        yield f"1. {escape(step)}"
    yield ""
    yield (
        f"Recipe `{report.recipe_hash}`, seed {report.seed}, Polyfold {report.polyfold_version}; "
        "the same recipe and seed make it again."
    )
    yield ""


def _limits(facts: CardFacts, report: Report, row: Row) -> Iterator[str]:
    yield "## Limits"
    yield ""
    if row.dominated_by:
        yield (
            f"- In the same run `{escape(row.dominated_by)}` was at least as fast and at least as good: prefer it."
        )
    for gate in report.broken_gates:
        if gate.row == row.name:
            where = f"{gate.task}, {gate.language}" if gate.language else gate.task
            yield (
                f"- It broke the quality gate on {escape(where)}: {gate.drop:.2f} points lost, "
                f"{gate.allowed_drop:.2f} allowed."
            )
    for task, values in (row.macro_f1_by_language or {}).items():
        if len(values) > 1:
            worst = min(values, key=lambda language: values[language])
            value = points(values[worst])
            yield f"- Weakest language of {escape(task)}: {escape(worst)}, macro-F1 x 100 {value}."
    yield "- Texts in other languages, of other kinds or from other sources than its data were not tested."
    yield "- Figures come from one seed; another seed moves them."
