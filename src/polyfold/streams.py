"""Rows streamed from and to CSV, JSONL, Parquet and plain text: memory does not grow with the file.

A finished file appears under its name at once and whole; until then it is a hidden draft beside it.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from json.encoder import encode_basestring
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polyfold.errors import InputError

SourceFormat = Literal["csv", "tsv", "jsonl", "parquet", "text"]
TargetFormat = Literal["csv", "tsv", "jsonl", "parquet"]

SUFFIXES: Mapping[str, SourceFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
}
DELIMITERS = {"csv": ",", "tsv": "\t"}
TRUTH = {True: "true", False: "false"}

LONGEST_FIELD = 2**30
"""Characters in a CSV field; Python's own 131,072 would refuse texts that JSONL takes."""

STANDARD = "-"
"""Stands for standard input or output where a path is expected."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """A stream of rows. `schema` gives each column's Arrow type; `total` is their number, where it is known.

    A JSONL file's columns are its first object's keys. `read(columns)` may be called once; it yields rows that
    hold at least those columns.
    """

    name: str
    schema: pa.Schema
    total: int | None
    read: Callable[[Sequence[str]], Iterator[Row]]

    @property
    def columns(self) -> list[str]:
        """The columns' names, in the file's order."""
        return list(self.schema.names)


def format_of(path: Path, given: str | None, standard: SourceFormat, *, target: bool = False) -> SourceFormat:
    """The format told, or the one a path's suffix means; `standard` for standard input or output."""
    if given is not None:
        return next(kind for kind in SUFFIXES.values() if kind == given)
    if str(path) == STANDARD:
        return standard
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None or (target and kind == "text"):
        known = [suffix for suffix, kind in SUFFIXES.items() if not (target and kind == "text")]
        raise InputError(
            f"the suffix '{path.suffix}' names no format",
            file=path,
            hint=f"use one of {', '.join(known)}, or say the format",
        )
    return kind


@contextmanager
def open_rows(source: Path, kind: SourceFormat) -> Iterator[Rows]:
    """Open a file, or standard input, as a stream of rows."""
    name = "standard input" if str(source) == STANDARD else str(source)
    if kind == "parquet":
        with _open_parquet(source, name) as rows:
            yield rows
        return
    if str(source) == STANDARD:
        yield _text_rows(sys.stdin.buffer, name, kind, None)
        return
    try:
        with source.open("rb") as file:
            yield _text_rows(file, name, kind, _count_lines(file))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        if error.filename != str(source):
            raise
        raise InputError(f"cannot open it: {error.strerror}", file=name, hint="check the path") from None


def _count_lines(file: BinaryIO) -> int:
    """Lines of a file, for the progress bar alone: a CSV record may span several."""
    lines, last = 0, b"\n"
    while block := file.read(2**20):
        lines, last = lines + block.count(b"\n"), block[-1:]
    file.seek(0)
    return lines + (last != b"\n")


def _text_rows(file: BinaryIO, name: str, kind: SourceFormat, total: int | None) -> Rows:
    if kind == "text":
        return Rows(
            name, pa.schema([("id", pa.int64()), ("text", pa.string())]), total, lambda _: _lines(file, name)
        )
    if kind == "jsonl":
        stream = _json_objects(file, name)
        first = next(stream, None)
        names = list(first) if first is not None else []
        head = [] if first is None else [first]
        return Rows(name, _strings(names), total, lambda _: chain(head, stream))
    csv.field_size_limit(LONGEST_FIELD)
    records = _csv_records(csv.reader(_decoded(file), strict=True, delimiter=DELIMITERS[kind]), name)
    header = next(records, None)
    if header is None:
        raise InputError("the file is empty", file=name, hint="its first line must name the columns")
    _distinct(header, name)
    known = None if total is None else max(total - 1, 0)
    return Rows(name, _strings(header), known, lambda _: _csv_rows(records, header, name))


def _strings(names: Iterable[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def _distinct(names: Sequence[str], file: str) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise InputError("two columns have this name", file=file, key=name, hint="rename one of them")


def _decoded(file: BinaryIO) -> Iterator[str]:
    """Lines with their ends, so that a decoding error is known to its line."""
    for number, line in enumerate(file):
        yield line.decode("utf-8-sig" if number == 0 else "utf-8")


def _not_utf8(name: str, row: int) -> InputError:
    return InputError("not valid UTF-8", file=name, row=row, hint="save the file as UTF-8")


def _csv_records(reader: Iterator[list[str]], name: str) -> Iterator[list[str]]:
    """Records of a CSV, the header first; blank lines are none."""
    row = 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except UnicodeDecodeError:
            raise _not_utf8(name, row) from None
        except csv.Error as error:
            raise InputError(f"not valid CSV: {error}", file=name, row=row, hint="check the quotes") from None
        if fields:
            yield fields
            row += 1


def _csv_rows(records: Iterator[list[str]], header: list[str], name: str) -> Iterator[Row]:
    for row, fields in enumerate(records, 1):
        if len(fields) != len(header):
            raise InputError(
                f"{len(fields)} fields where the header names {len(header)}",
                file=name,
                row=row,
                hint="quote fields that hold the delimiter or a line break",
            )
        yield dict(zip(header, fields, strict=True))


def _json_objects(file: BinaryIO, name: str) -> Iterator[Row]:
    row = 1
    lines = _decoded(file)
    while True:
        try:
            line = next(lines)
            if not line.strip():
                continue
            value = json.loads(line)
        except StopIteration:
            return
        except UnicodeDecodeError:
            raise _not_utf8(name, row) from None
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"not valid JSON: {error}", file=name, row=row, hint="one JSON object a line"
            ) from None
        if not isinstance(value, dict):
            raise InputError("not a JSON object", file=name, row=row, hint="one JSON object a line")
        yield value
        row += 1


def _lines(file: BinaryIO, name: str) -> Iterator[Row]:
    """Every line is a document, a blank one too, so that line numbers stay document numbers."""
    row = 1
    lines = _decoded(file)
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except UnicodeDecodeError:
            raise _not_utf8(name, row) from None
        yield {"id": row, "text": line.removesuffix("\n").removesuffix("\r")}
        row += 1


@contextmanager
def _open_parquet(source: Path, name: str) -> Iterator[Rows]:
    if str(source) == STANDARD:
        raise InputError("Parquet cannot be streamed", file=name, hint="give a file, or stream JSONL")
    try:
        file = pq.ParquetFile(source)
    except FileNotFoundError:
        raise InputError("there is no such file", file=name, hint="check the path") from None
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(name, error) from None
    with file:
        schema = file.schema_arrow
        _distinct(schema.names, name)
        yield Rows(name, schema, file.metadata.num_rows, lambda columns: _parquet_rows(file, name, columns))


def _parquet_rows(file: pq.ParquetFile, name: str, columns: Sequence[str]) -> Iterator[Row]:
    row = 1
    # Row group by row group: over all of them at once pyarrow keeps what it has read, 100 MB in a million texts.
    groups = ([group] for group in range(file.num_row_groups))
    batches = chain.from_iterable(file.iter_batches(1024, group, list(columns)) for group in groups)
    try:
        for batch in batches:
            # Column by column: Arrow's own rows take three times as long.
            values = [column.to_pylist() for column in batch.columns]
            names = batch.schema.names
            yield from (dict(zip(names, cells, strict=True)) for cells in zip(*values, strict=True))
            row += batch.num_rows
    except UnicodeDecodeError:
        raise _not_utf8(name, row) from None
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(name, error) from None


def _corrupt(name: str, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"corrupt, or not Parquet: {reason}", file=name, hint="write or download the file again")


@dataclass(frozen=True)
class Coded:
    """A column of few different values: row i holds `values[codes[i]]`. Each value is written out once."""

    values: Sequence[Any]
    codes: np.ndarray

    def spread(self, cells: Iterable[Any]) -> list[Any]:
        """Every row's cell, given each value's."""
        return list(np.fromiter(cells, dtype=object, count=len(self.values))[self.codes].tolist())


Column = Sequence[Any] | np.ndarray | Coded
Columns = Mapping[str, Column]
"""Rows side by side: a column's values under its name, all of one length."""

Write = Callable[[Columns], None]


@contextmanager
def open_target(target: Path, kind: TargetFormat, schema: pa.Schema, joined: Mapping[str, str]) -> Iterator[Write]:
    """A function that appends rows, given as columns of these names, to a file or standard output.

    `joined` names the columns of lists that CSV holds as one cell, and the delimiter between their items. The
    file takes its name when the block ends well; after an error nothing is left.
    """
    if str(target) == STANDARD:
        if kind == "parquet":
            raise InputError(
                "Parquet cannot be streamed", file="standard output", hint="name a file, or use JSONL"
            )
        text = io.TextIOWrapper(sys.stdout.buffer, "utf8", errors="backslashreplace", newline="")
        try:
            yield _text_writer(text, kind, schema, joined)
            text.flush()
        finally:
            # Standard output is not ours to close.
            text.detach()
        return
    with _draft(target) as draft:
        if kind == "parquet":
            with pq.ParquetWriter(draft, schema) as writer:
                yield lambda columns: writer.write_table(_table(columns, schema))
        else:
            with draft.open("w", encoding="utf8", errors="backslashreplace", newline="") as text:
                yield _text_writer(text, kind, schema, joined)


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    if target.is_dir():
        raise InputError("this is a folder", file=target, hint="name a file")
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
    except OSError as error:
        raise InputError(
            f"cannot write here: {error.strerror}", file=target, hint="choose another place"
        ) from None
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _text_writer(file: TextIO, kind: TargetFormat, schema: pa.Schema, joined: Mapping[str, str]) -> Write:
    names = list(schema.names)
    if kind == "jsonl":
        # One template a line: building and dumping a dict a row would take longer than a small model does.
        keys = [json.dumps(name, ensure_ascii=False).replace("%", "%%") for name in names]
        template = "{" + ", ".join(f"{key}: %s" for key in keys) + "}\n"
        # A lone surrogate leaves as the JSON escape it came as: that is what "backslashreplace" writes.
        return lambda columns: file.writelines(
            template % row for row in zip(*(_json_cells(columns[name]) for name in names), strict=True)
        )
    writer = csv.writer(file, delimiter=DELIMITERS[kind], lineterminator="\n")
    writer.writerow(names)
    return lambda columns: writer.writerows(
        zip(*(_csv_cells(columns[name], joined.get(name)) for name in names), strict=True)
    )


def _values(column: Sequence[Any] | np.ndarray) -> tuple[Sequence[Any], set[type]]:
    """A column's values as Python's own, and their types."""
    values = column.tolist() if isinstance(column, np.ndarray) else column
    return values, set(map(type, values))


def _json_cells(column: Column) -> Iterable[str]:
    """Values as JSON, those of one plain type without asking each what it is."""
    if isinstance(column, Coded):
        return column.spread(_json_cells(column.values))
    values, types = _values(column)
    if types == {str}:
        return map(encode_basestring, values)
    if types == {bool}:
        return map(TRUTH.__getitem__, values)
    if types == {int} or (types == {float} and all(map(isfinite, values))):
        return map(repr, values)
    return (json.dumps(value, ensure_ascii=False, default=str) for value in values)


def _csv_cells(column: Column, delimiter: str | None) -> Iterable[Any]:
    """Values in a CSV: null is empty, truth is JSON's, other lists and objects are JSON."""
    if isinstance(column, Coded):
        return column.spread(_csv_cells(column.values, delimiter))
    values, types = _values(column)
    if types == {bool}:
        return map(TRUTH.__getitem__, values)
    if types <= {str} or types == {int} or (types == {float} and all(map(isfinite, values))):
        return values
    if types <= {list, tuple} and delimiter is not None:
        return map(delimiter.join, values)
    return ("" if value is None else _plain(value) for value in values)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value.encode("utf8", "backslashreplace").decode("utf8")
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _table(columns: Columns, schema: pa.Schema) -> pa.Table:
    """Columns as Arrow; what is no string in a column of strings (an id in JSONL, say) becomes one."""
    return pa.Table.from_arrays([_array(columns[field.name], field.type) for field in schema], schema=schema)


def _array(column: Column, kind: pa.DataType) -> pa.Array:
    if isinstance(column, Coded):
        return _array(column.values, kind).take(pa.array(column.codes))
    if pa.types.is_string(kind):
        column = [None if value is None else _plain(value) for value in column]
    return pa.array(column, kind)
