"""Bulk prediction, file in, file out: what `polyfold predict` does."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from polyfold.console import progress_bar
from polyfold.errors import InputError
from polyfold.overlap import one_ahead
from polyfold.predictions import Predictions
from polyfold.predictor import Predictor
from polyfold.streams import (
    STANDARD,
    Coded,
    Column,
    Columns,
    Row,
    Rows,
    SourceFormat,
    TargetFormat,
    format_of,
    open_rows,
    open_target,
)
from polyfold.tasks import Task

DIGITS = 6
"""Decimal places of a written probability: float32 logits give no more."""


class BulkSpec(BaseModel):
    """Which columns to read, what to write.

    `id` names the column that is carried along; without it a column called `id` is, else `id` is the row's number.
    `keep` carries more input columns, or "all" but the text; the text itself only with `include_text`.
    Predicted columns are `prefix` + task; with `probabilities`, also `prefix` + task:label. In CSV a multi-label
    task's labels are joined by `label_delimiter`. `chunk_rows` rows are computed while as many are read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = "text"
    id: str | None = None
    source_format: SourceFormat | None = None
    target_format: TargetFormat | None = None
    tasks: tuple[str, ...] | None = None
    thresholds: dict[str, dict[str, float] | float] | None = None
    probabilities: bool = False
    include_text: bool = False
    keep: tuple[str, ...] | Literal["all"] = ()
    prefix: str = ""
    label_delimiter: str = Field(default="|", min_length=1)
    chunk_rows: int = Field(default=8192, ge=1)


@dataclass(frozen=True)
class BulkSummary:
    """What was done: documents scored, how many of them were cut, and how long it took, files included."""

    documents: int
    truncated: int
    seconds: float

    @property
    def documents_per_second(self) -> float:
        """Throughput with reading and writing."""
        return self.documents / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class _Columns:
    """Where each output column comes from: the input (`carried`, id first), or the model (`chosen` tasks).

    Without an id column (`id` is None), rows are numbered.
    """

    text: str
    id: str | None
    carried: tuple[str, ...]
    chosen: tuple[Task, ...]
    schema: pa.Schema


def predict_file(
    predictor: Predictor, source: Path | str, target: Path | str, spec: BulkSpec | None = None
) -> BulkSummary:
    """Score every document of `source` into `target`; "-" is standard input (plain lines) or output (JSONL).

    The target appears whole and at once, or, after an error, not at all; only standard output is written as it
    goes.
    """
    spec = spec or BulkSpec()
    source, target = Path(source), Path(target)
    started = perf_counter()
    read_as = format_of(source, spec.source_format, "text")
    write_as = _target_format(target, spec.target_format)
    if str(source) != STANDARD and source.resolve() == target.resolve():
        raise InputError("source and target are the same file", file=source, hint="name another target")
    # Wrong task names and thresholds are told before the first row is read.
    predictor.predict([], spec.tasks, spec.thresholds)
    documents = truncated = 0
    with open_rows(source, read_as) as rows:
        columns = _columns(predictor, rows, spec)
        joined = {spec.prefix + task.name: spec.label_delimiter for task in columns.chosen if task.multi_label}
        with (
            open_target(target, write_as, columns.schema, joined) as write,
            progress_bar("predict", rows.total) as bar,
            closing(one_ahead(_chunks(rows, columns, spec))) as chunks,
        ):
            for chunk in chunks:
                texts = [row[columns.text] for row in chunk]
                found = predictor.predict(texts, spec.tasks, spec.thresholds)
                write(_output(documents + 1, chunk, found, columns, spec))
                documents += len(chunk)
                truncated += int(found.truncated.sum())
                bar.advance(len(chunk), f"{documents / (perf_counter() - started):.0f} documents/s")
            if not documents:
                raise InputError("there are no documents in it", file=rows.name, hint="give at least one")
    return BulkSummary(documents, truncated, perf_counter() - started)


def _target_format(target: Path, given: TargetFormat | None) -> TargetFormat:
    kind = format_of(target, given, "jsonl", target=True)
    assert kind != "text"
    return kind


def _columns(predictor: Predictor, rows: Rows, spec: BulkSpec) -> _Columns:
    """Check the input's columns and decide the output's, all before anything is computed."""
    known = rows.columns
    # An empty JSONL has no columns; that it has no documents is said later.
    text = "text" if not known else spec.text
    named = [name for name in (text, spec.id) if name is not None]
    named += [] if spec.keep == "all" else list(spec.keep)
    for name in named if known else ():
        if name not in known:
            raise InputError(
                "there is no such column", file=rows.name, key=name, hint=f"columns: {', '.join(known)}"
            )
    own_id = spec.id or ("id" if "id" in known and text != "id" else None)
    kept = [name for name in known if name != text] if spec.keep == "all" else list(spec.keep)
    carried = ([own_id] if own_id else []) + kept + ([text] if spec.include_text and known else [])
    carried = list(dict.fromkeys(carried))
    chosen = tuple(task for task in predictor.tasks if spec.tasks is None or task.name in spec.tasks)
    fields = [] if own_id else [pa.field("id", pa.int64())]
    fields += [rows.schema.field(name) for name in carried]
    fields += _predicted_fields(chosen, spec)
    fields.append(pa.field(spec.prefix + "truncated", pa.bool_()))
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                "a kept column and a predicted one have this name",
                file=rows.name,
                key=name,
                hint="give a prefix for the predicted columns, such as 'predicted_'",
            )
    return _Columns(text, own_id, tuple(carried), chosen, pa.schema(fields))


def _predicted_fields(tasks: Sequence[Task], spec: BulkSpec) -> list[pa.Field]:
    fields = []
    for task in tasks:
        if task.multi_label:
            for label in task.labels:
                if spec.label_delimiter in label:
                    raise InputError(
                        f"the label '{label}' of task '{task.name}' holds the delimiter '{spec.label_delimiter}'",
                        hint="choose another label delimiter",
                    )
        kind = pa.list_(pa.string()) if task.multi_label else pa.string()
        fields.append(pa.field(spec.prefix + task.name, kind))
        if spec.probabilities:
            fields += [pa.field(f"{spec.prefix}{task.name}:{label}", pa.float64()) for label in task.labels]
    return fields


def _chunks(rows: Rows, columns: _Columns, spec: BulkSpec) -> Iterator[list[Row]]:
    """Checked rows, `chunk_rows` at a time."""
    wanted = list(dict.fromkeys([columns.text, *columns.carried]))
    stream = _checked(rows, columns, rows.read(wanted), everything=spec.keep == "all")
    while chunk := list(islice(stream, spec.chunk_rows)):
        yield chunk


def _checked(rows: Rows, columns: _Columns, stream: Iterator[Row], *, everything: bool) -> Iterator[Row]:
    known = set(rows.columns)
    for number, row in enumerate(stream, 1):
        text = row.get(columns.text)
        if not isinstance(text, str):
            problem = "no text here" if text is None else f"the text is {type(text).__name__}, not a string"
            hint = 'an empty text is written ""'
            raise InputError(problem, file=rows.name, row=number, key=columns.text, hint=hint)
        if everything and not known.issuperset(row):
            new = next(name for name in row if name not in known)
            raise InputError(
                "the first row has no such key, so it has no column",
                file=rows.name,
                row=number,
                key=new,
                hint="name the columns to keep, or give every row the same keys",
            )
        if columns.id is not None and row.get(columns.id) is None:
            raise InputError("no id here", file=rows.name, row=number, key=columns.id, hint="give every row one")
        yield row


def _output(first: int, chunk: list[Row], found: Predictions, columns: _Columns, spec: BulkSpec) -> Columns:
    """The output's columns for a chunk whose first row has this number."""
    output: dict[str, Column] = {}
    if columns.id is None:
        output["id"] = range(first, first + len(chunk))
    output |= {name: [row.get(name) for row in chunk] for name in columns.carried}
    for task in columns.chosen:
        output[spec.prefix + task.name] = Coded(*found.coded(task.name))
        if spec.probabilities:
            rounded = np.round(found.probabilities[task.name].astype(np.float64), DIGITS)
            for label, values in zip(task.labels, rounded.T, strict=True):
                output[f"{spec.prefix}{task.name}:{label}"] = values
    output[spec.prefix + "truncated"] = found.truncated
    return output
