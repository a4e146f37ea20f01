"""Task columns to label arrays: every cell checked, no label guessed."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polyfold.data.rows import TEXT, Rows, check_utf8, first, is_list, is_text, kind_of, raw_column
from polyfold.data.sources import Part, nearest
from polyfold.data.spec import DEFAULT_DELIMITER, TaskSpec
from polyfold.errors import InputError
from polyfold.tasks import NOT_LABELLED, Task

LISTS = pa.list_(TEXT)
MOST_LABELS = 1000
"""More than this many inferred labels is a column of something else, and would end up in every report."""


def label_column(task: TaskSpec, parts: Sequence[Part]) -> pa.Array:
    """A task's cells over all parts: strings, or lists of strings for multi-label; null = not labelled."""
    read = _multi_label if task.kind == "multi_label" else _single_label
    return pa.concat_arrays([read(task, part) for part in parts])


def restrict(task: TaskSpec, rows: Rows) -> tuple[Rows, int]:
    """Labels in languages that are not the task's become "not labelled"; also their number."""
    if task.languages is None:
        return rows, 0
    name = f"task:{task.name}"
    column = rows.column(name)
    outside = pc.invert(pc.is_in(rows.column("language"), value_set=pa.array(task.languages, TEXT)))
    count = int(pc.sum(pc.and_(outside, pc.is_valid(column))).as_py() or 0)
    kept = pa.array(np.arange(len(column))).filter(pc.invert(outside))
    index = np.full(len(column), -1, dtype=np.int64)
    index[kept.to_numpy()] = kept.to_numpy()
    return rows.put(name, column.take(pa.array(index, mask=index < 0))), count


def encode(task: TaskSpec, rows: Rows) -> tuple[Task, np.ndarray]:
    """The task with its labels, and the label array: int64 [n], or int8 [n, labels]; -1 = not labelled."""
    column = rows.column(f"task:{task.name}")
    multi = task.kind == "multi_label"
    values = pc.list_flatten(column) if multi else column
    labels = task.labels or _inferred(task, values)
    codes = pc.index_in(values, value_set=pa.array(labels, TEXT))
    unknown = first(pc.and_(pc.is_null(codes), pc.is_valid(values)))
    if unknown is not None:
        row = pc.list_parent_indices(column)[unknown].as_py() if multi else unknown
        value = values[unknown].as_py()
        raise rows.mistake(
            row,
            f"unknown label '{value[:60]}'{nearest(value, labels)}",
            task.source,
            f"labels of task '{task.name}': {', '.join(labels)}",
        )
    full = Task(name=task.name, kind=task.kind, labels=labels, languages=task.languages)
    if not multi:
        return full, pc.fill_null(codes, NOT_LABELLED).to_numpy(zero_copy_only=False).astype(np.int64)
    array = np.zeros((len(column), len(labels)), dtype=np.int8)
    array[pc.is_null(column).to_numpy(zero_copy_only=False)] = NOT_LABELLED
    array[pc.list_parent_indices(column).to_numpy(), codes.to_numpy(zero_copy_only=False)] = 1
    return full, array


def check_learnable(task: Task, labels: np.ndarray, source: str) -> None:
    """InputError where the training rows cannot teach this task anything."""
    labelled = labels[task.labelled(labels)]
    if len(labelled) == 0:
        raise InputError(
            f"task '{task.name}' has no labelled training rows",
            key=source,
            hint="label some documents of the train split, or leave the task out",
        )
    if (labelled == labelled[0]).all():
        kept = task.labels[int(labelled[0])] if not task.multi_label else "the same labels"
        raise InputError(
            f"task '{task.name}' has one class only: every labelled training row has '{kept}'",
            key=source,
            hint="a task needs at least two classes in the train split; leave it out otherwise",
        )


def _inferred(task: TaskSpec, values: pa.Array) -> tuple[str, ...]:
    labels = sorted(pc.unique(pc.drop_null(values)).to_pylist())
    if not labels:
        raise InputError(
            f"task '{task.name}' has no labelled rows", key=task.source, hint="is it the right column?"
        )
    if len(labels) == 1 and task.kind == "single_label":
        raise InputError(
            f"task '{task.name}' has one class only: '{labels[0][:60]}'",
            key=task.source,
            hint="a single-label task needs at least two classes; leave it out otherwise",
        )
    if len(labels) > MOST_LABELS:
        raise InputError(
            f"task '{task.name}' has {len(labels)} different labels",
            key=task.source,
            hint=f"is it the right column? At most {MOST_LABELS} are inferred; list more under `labels`",
        )
    return tuple(labels)


def _wrong(task: TaskSpec, part: Part, row: int | None, found: str) -> InputError:
    if task.kind == "single_label":
        hint = f"task '{task.name}' is single_label: one label as text, or null; several need kind: multi_label"
    elif part.plain:
        hint = (
            f"labels with '{task.delimiter or DEFAULT_DELIMITER}' between them, [] for none, empty = not labelled"
        )
    else:
        hint = f"task '{task.name}' is multi_label: a list of labels as text ([] for none), or null; "
        hint += "for delimited text, give the task a delimiter"
    number = None if row is None else row + 1
    return InputError(f"label of the wrong kind: {found}", file=part.file, row=number, key=task.source, hint=hint)


def _single_label(task: TaskSpec, part: Part) -> pa.Array:
    column = raw_column(part, task.source)
    if pa.types.is_null(column.type):
        return column.cast(TEXT)
    if not is_text(column.type):
        raise _wrong(task, part, first(pc.is_valid(column)), kind_of(column.type))
    check_utf8(part, task.source, column)
    column = column.cast(TEXT)
    empty = first(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), False))
    if empty is not None:
        raise _wrong(task, part, empty, "an empty text")
    if part.plain:
        for value in pc.unique(pc.drop_null(column)).to_pylist():
            if value.startswith("[") and _json_list(value) is not None:
                raise _wrong(task, part, first(pc.equal(column, value)), "a list")
    return column


def _multi_label(task: TaskSpec, part: Part) -> pa.Array:
    column = raw_column(part, task.source)
    if pa.types.is_null(column.type):
        return column.cast(LISTS)
    if is_text(column.type) and (part.plain or task.delimiter is not None):
        check_utf8(part, task.source, column)
        return _delimited(task, part, column.cast(TEXT))
    if not is_list(column.type):
        raise _wrong(task, part, first(pc.is_valid(column)), kind_of(column.type))
    inner = column.type.value_type
    if not (is_text(inner) or pa.types.is_null(inner) or pa.types.is_dictionary(inner)):
        filled = pc.fill_null(pc.greater(pc.list_value_length(column), 0), False)
        raise _wrong(task, part, first(filled), f"a list of {kind_of(inner).removeprefix('a ')}s")
    flat = pc.list_flatten(column)
    if not pa.types.is_dictionary(inner):
        check_utf8(part, task.source, flat, pc.list_parent_indices(column))
    values = flat.cast(TEXT)
    bad = first(pc.or_kleene(pc.is_null(values), pc.equal(pc.utf8_trim_whitespace(values), "")))
    if bad is not None:
        row = pc.list_parent_indices(column)[bad].as_py()
        raise _wrong(task, part, row, "a list with a null or an empty text in it")
    return column.cast(LISTS)


def _delimited(task: TaskSpec, part: Part, column: pa.Array) -> pa.Array:
    """Each distinct cell is parsed once: label sets repeat, rows are many."""
    cells = column.dictionary_encode()
    delimiter = task.delimiter or DEFAULT_DELIMITER
    parsed: list[list[str]] = []
    for code, cell in enumerate(cells.dictionary.to_pylist()):
        given = _json_list(cell) if cell.startswith("[") else None
        names = [one.strip() for one in cell.split(delimiter)] if given is None else given
        if not all(isinstance(one, str) and one.strip() for one in names):
            row = first(pc.fill_null(pc.equal(cells.indices, code), False))
            raise _wrong(task, part, row, "a list with something that is not a label in it")
        parsed.append(names)
    return pa.array(parsed, LISTS).take(cells.indices)


def _json_list(cell: str) -> list[Any] | None:
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None
