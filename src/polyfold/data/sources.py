"""Tables from files: CSV, JSONL, Parquet, folders of them, and `datasets` folders and hub ids.

A table knows the file it came from, so that row `i` of it is document `i + 1` of that file in every message.
No message quotes a document.
"""

import csv
import difflib
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polyfold.artifact import digest_file
from polyfold.data.spec import SPLIT_NAMES
from polyfold.errors import InputError, MissingExtra

SUFFIXES = (".csv", ".jsonl", ".parquet")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ALLOWED = "allowed: a .csv, .jsonl or .parquet file, a folder of them or saved by `datasets`, or a hub id"


@dataclass(frozen=True)
class Part:
    """The rows of one file or of one split: `names` are all its columns, `table` holds the wanted ones.

    `plain` says that every cell is text (CSV), so that a list is written inside a cell.
    """

    file: str
    table: pa.Table
    names: tuple[str, ...]
    split: str | None = None
    plain: bool = False


def read_table(path: str | Mapping[str, str], base: Path, wanted: Sequence[str] | None = None) -> tuple[Part, ...]:
    """Read what a recipe's `path` names; relative paths start at `base`, the recipe's folder."""
    if not isinstance(path, str):
        parts = [
            Part(part.file, part.table, part.names, split, part.plain)
            for split, file in path.items()
            for part in (_read_file(_local_file(file, base), file, wanted),)
        ]
        return tuple(parts)
    place = base / path
    if place.is_dir():
        return _read_folder(place, path, wanted)
    if _is_hub_id(path, place):
        return _from_datasets(_load_from_hub(path, place), path, wanted)
    return (_read_file(_local_file(path, base), path, wanted),)


def digest_source(path: str | Mapping[str, str], base: Path) -> dict[str, str]:
    """SHA-256 of every file behind a recipe's `path`; of the rows, for a hub id."""
    if not isinstance(path, str):
        return {file: digest_file(_local_file(file, base)) for file in path.values()}
    place = base / path
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file())
        return {f"{path}/{file.relative_to(place).as_posix()}": digest_file(file) for file in files}
    if _is_hub_id(path, place):
        parts = _from_datasets(_load_from_hub(path, place), path, None)
        return {part.file: _digest_table(part.table) for part in parts}
    return {path: digest_file(_local_file(path, base))}


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' where one of `known` looks like `word`, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _local_file(path: str, base: Path) -> Path:
    place = base / path
    if place.is_dir():
        raise InputError("is a folder where a file is needed", file=place, hint=ALLOWED)
    if not place.exists():
        beside = place.parent.iterdir() if place.parent.is_dir() else iter(())
        close = nearest(place.name, (one.name for one in beside))
        raise InputError(f"no such file{close}", file=place, hint=ALLOWED)
    if place.suffix.lower() not in SUFFIXES:
        raise InputError(f"cannot read files of kind '{place.suffix}'", file=place, hint=ALLOWED)
    if place.stat().st_size == 0:
        raise InputError("the file is empty", file=place, hint="give a file with at least one document")
    return place


def _read_file(place: Path, name: str, wanted: Sequence[str] | None) -> Part:
    match place.suffix.lower():
        case ".csv":
            return _read_csv(place, name, wanted)
        case ".jsonl":
            return _read_jsonl(place, name, wanted)
        case _:
            return _read_parquet(place, name, wanted)


def _no_rows(name: str) -> InputError:
    return InputError("the file has no rows", file=name, hint="give a file with at least one document")


# --- CSV ---------------------------------------------------------------------------------------------------


def _read_csv(place: Path, name: str, wanted: Sequence[str] | None) -> Part:
    """Python's own reader rather than Arrow's: Arrow's messages quote the row, and count lines, not documents."""
    content = place.read_bytes()
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(_decode(content, name, _csv_row), newline=""), strict=True)
    try:
        rows.extend(row for row in reader if row)
    except csv.Error as error:
        raise InputError(
            f"not valid CSV: {error}",
            file=name,
            row=max(len(rows), 1),
            hint='put a text with commas, quotes or line breaks in "double quotes", and double a quote inside',
        ) from None
    header = rows.pop(0) if rows else []
    if not rows:
        raise _no_rows(name)
    twice = [column for column, count in Counter(header).items() if count > 1]
    if twice:
        raise InputError("the header names this column twice", file=name, key=twice[0], hint="rename one")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise InputError(
                f"{len(row)} cells where the header has {len(header)}",
                file=name,
                row=number,
                hint='put a text with commas or line breaks in "double quotes"',
            )
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    chosen = [column for column in header if wanted is None or column in wanted]
    columns = {column: _null_if_empty(pa.array(cells[column], pa.large_string())) for column in chosen}
    return Part(name, pa.table(columns), tuple(header), plain=True)


def _null_if_empty(column: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)


def _decode(content: bytes, name: str, row_at: Callable[[str], int | None]) -> str:
    skipped = len(BYTE_ORDER_MARK) if content.startswith(BYTE_ORDER_MARK) else 0
    try:
        return content[skipped:].decode("utf8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"invalid UTF-8 at byte {error.start + skipped}",
            file=name,
            row=row_at(content[skipped : skipped + error.start].decode("utf8")),
            hint="save the file as UTF-8",
        ) from None


def _csv_row(before: str) -> int | None:
    """The row a cut-off file ends in: its rows, less the header, where the last one has at least begun."""
    rows = [row for row in csv.reader(io.StringIO(before + "x", newline="")) if row]
    return len(rows) - 1 or None


def _line(before: str) -> int | None:
    return before.count("\n") + 1


# --- JSONL -------------------------------------------------------------------------------------------------


def _read_jsonl(place: Path, name: str, wanted: Sequence[str] | None) -> Part:
    records: list[dict[str, Any]] = []
    for line in _decode(place.read_bytes(), name, _line).split("\n"):
        if not line.strip():
            continue
        row = len(records) + 1
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            problem = f"not valid JSON: {error.msg} at character {error.pos + 1} of the line"
            raise InputError(problem, file=name, row=row, hint="one JSON object a line") from None
        except (ValueError, RecursionError):
            raise InputError("not usable JSON: a number too long or lists too deep", file=name, row=row) from None
        if not isinstance(record, dict):
            raise InputError(f"{_kind(record)}, not an object", file=name, row=row, hint="one JSON object a line")
        records.append(record)
    if not records:
        raise _no_rows(name)
    names = tuple(dict.fromkeys(key for record in records for key in record))
    chosen = [key for key in names if wanted is None or key in wanted]
    columns = {key: _json_column([record.get(key) for record in records], name, key) for key in chosen}
    return Part(name, pa.table(columns), names)


def _json_column(values: list[Any], file: str, key: str) -> pa.Array:
    try:
        return pa.array(values)
    except UnicodeEncodeError:
        row = next(i for i, value in enumerate(values, start=1) if not _encodable(value))
        problem = "not valid Unicode: half of a surrogate pair"
        raise InputError(problem, file=file, row=row, key=key, hint="write the whole character") from None
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        kinds = [_kind(value) for value in values]
        usual = Counter(kind for kind in kinds if kind != "null").most_common(1)[0][0]
        odd = next((i for i, kind in enumerate(kinds, start=1) if kind not in ("null", usual)), None)
        found = f"{kinds[odd - 1]} where most rows have {usual}" if odd else "values that fit no column"
        raise InputError(found, file=file, row=odd, key=key, hint="one kind of value a column") from None


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    """A JSON value's kind, in words; a list of a wrong or mixed kind says so."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            inside = {_kind(one) for one in value} - {"null"}
            return "a list" if inside <= {"text"} else f"a list of {' and '.join(sorted(inside))}"
        case _:
            return "an object"


# --- Parquet -----------------------------------------------------------------------------------------------


def _read_parquet(place: Path, name: str, wanted: Sequence[str] | None) -> Part:
    try:
        with pq.ParquetFile(place) as file:
            names = tuple(file.schema_arrow.names)
            chosen = [column for column in names if wanted is None or column in wanted]
            # Without a wanted column there is still the number of rows; the missing column is named later.
            table = file.read(columns=chosen)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(
            f"corrupt, or not Parquet: {reason}", file=name, hint="write or download the file again"
        ) from None
    if table.num_rows == 0 and chosen:
        raise _no_rows(name)
    return Part(name, table, names)


# --- folders and `datasets` --------------------------------------------------------------------------------


def _read_folder(place: Path, name: str, wanted: Sequence[str] | None) -> tuple[Part, ...]:
    if (place / "dataset_dict.json").exists() or (place / "dataset_info.json").exists():
        return _from_datasets(_load_from_disk(place), name, wanted)
    pattern = re.compile(rf"({'|'.join(SPLIT_NAMES)})([-_.].*)?")
    parts = []
    for file in sorted(place.iterdir()):
        named = pattern.fullmatch(file.stem)
        if file.suffix.lower() in SUFFIXES and named:
            shown = f"{name}/{file.name}"
            part = _read_file(_local_file(file.name, place), shown, wanted)
            parts.append(Part(shown, part.table, part.names, SPLIT_NAMES[named[1]], part.plain))
    if not parts:
        raise InputError(
            "no train, dev or test file in this folder",
            file=place,
            hint=f"name them train, dev and test with {', '.join(SUFFIXES)}, or save it with `datasets`",
        )
    return tuple(parts)


def _is_hub_id(path: str, place: Path) -> bool:
    if place.exists() or place.suffix.lower() in SUFFIXES:
        return False
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*|[A-Za-z0-9][\w-]*", path) is not None


def _load_from_disk(place: Path) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtra("datasets", "train") from None
    try:
        return datasets.load_from_disk(str(place))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(
            f"not a folder that `datasets` can read ({type(error).__name__})",
            file=place,
            hint="save it again with Dataset.save_to_disk",
        ) from None


def _load_from_hub(path: str, place: Path) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtra("datasets", "train") from None
    try:
        return datasets.load_dataset(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"there is no {place}, and no data set of this name could be loaded from the hub "
            f"({type(error).__name__})",
            file=path,
            hint=f"check the name and the connection; {ALLOWED}",
        ) from None


def _from_datasets(loaded: Any, name: str, wanted: Sequence[str] | None) -> tuple[Part, ...]:
    import datasets

    if isinstance(loaded, datasets.Dataset):
        return (_from_dataset(loaded, name, None, wanted),)
    known = {split: rows for split, rows in loaded.items() if split in SPLIT_NAMES}
    if not known:
        raise InputError(
            f"its splits are {', '.join(loaded)}", file=name, hint=f"allowed: {', '.join(SPLIT_NAMES)}"
        )
    return tuple(
        _from_dataset(rows, f"{name} [{split}]", SPLIT_NAMES[split], wanted) for split, rows in known.items()
    )


def _from_dataset(rows: Any, name: str, split: str | None, wanted: Sequence[str] | None) -> Part:
    names = tuple(rows.column_names)
    chosen = [column for column in names if wanted is None or column in wanted]
    features = rows.features
    table = rows.select_columns(chosen).with_format("arrow")[:]
    columns = {column: _named_labels(table[column], features[column]) for column in chosen}
    return Part(name, pa.table(columns) if columns else table, names, split)


def _named_labels(column: pa.ChunkedArray, feature: Any) -> pa.Array | pa.ChunkedArray:
    """A ClassLabel's names for its numbers, alone or in a list; `datasets` writes -1 for "no label"."""
    import datasets

    inner = getattr(feature, "feature", None)
    if isinstance(feature, datasets.ClassLabel):
        numbers = pc.if_else(pc.less(column, 0), pa.scalar(None, column.type), column)
        return pa.array(feature.names, pa.large_string()).take(numbers)
    if isinstance(inner, datasets.ClassLabel):
        names = [None if one is None else [inner.names[i] for i in one] for one in column.to_pylist()]
        return pa.array(names, pa.list_(pa.large_string()))
    return column


def _digest_table(table: pa.Table) -> str:
    digest = hashlib.sha256(str(table.schema.remove_metadata()).encode())
    sink = io.BytesIO()
    for batch in table.replace_schema_metadata(None).combine_chunks().to_batches(max_chunksize=4096):
        sink.seek(0)
        sink.truncate()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        digest.update(sink.getbuffer())
    return digest.hexdigest()
