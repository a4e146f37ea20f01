"""All rows of a source as one table, each knowing its file and row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polyfold.data.dataset import UNDETERMINED
from polyfold.data.sources import Part, nearest
from polyfold.data.spec import SPLIT_NAMES, DataSpec, UnlabelledSpec
from polyfold.errors import InputError

TEXT = pa.large_string()


@dataclass(frozen=True)
class Rows:
    """A table with the columns id, text, language, group, split, part, row and one a task (`task:NAME`).

    Columns other than part and row may be null. `files` names the parts; `row` counts from 1.
    """

    table: pa.Table
    files: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> pa.Array:
        """One column as a single array."""
        return self.table[name].combine_chunks()

    def keep(self, kept: np.ndarray | pa.Array) -> "Rows":
        """The rows where the mask is true, in their order."""
        return Rows(self.table.filter(pa.array(kept)).combine_chunks(), self.files)

    def put(self, name: str, values: pa.Array) -> "Rows":
        """The same rows with a column set."""
        position = self.table.column_names.index(name)
        return Rows(self.table.set_column(position, name, values), self.files)

    def mistake(self, index: int, problem: str, key: str | None, hint: str) -> InputError:
        """What is wrong with one row, by its file, row and id: never by its text."""
        file = self.files[self.table["part"][index].as_py()]
        name = self.table["id"][index].as_py()
        row = self.table["row"][index].as_py()
        named = f" (id '{name}')" if name is not None else ""
        return InputError(f"{problem}{named}", file=file, row=row, key=key, hint=hint)

    def place(self, index: int) -> str:
        """A row's file, number and id, for a warning."""
        file = self.files[self.table["part"][index].as_py()]
        return f"{file} row {self.table['row'][index].as_py()} (id '{self.table['id'][index].as_py()}')"


def first(mask: np.ndarray | pa.Array) -> int | None:
    """The index of the first true value, if any."""
    found = np.flatnonzero(np.asarray(mask))
    return int(found[0]) if len(found) else None


def read_rows(spec: DataSpec, parts: Sequence[Part]) -> Rows:
    """The named columns of every part, as text; task columns are read by `labels.label_column`."""
    several = len(parts) > 1
    tables = []
    for index, part in enumerate(parts):
        count = part.table.num_rows
        rows = pa.array(np.arange(1, count + 1))
        numbered = [f"{part.split or index}:{row}" if several else str(row) for row in range(1, count + 1)]
        own = pa.array(numbered, TEXT)
        ids = own if spec.id is None else _filled(part, spec.id)
        groups = ids if spec.group is None else text_column(part, spec.group, whole_numbers=True)
        columns = {
            "id": ids,
            "text": text_column(part, spec.text),
            "language": _languages(part, spec.language),
            # A document of no group is a group of its own.
            "group": pc.if_else(pc.is_valid(groups), groups, _prefixed("id=", ids)),
            "split": _splits(part, spec.split),
            "part": pa.array(np.full(count, index, dtype=np.int32)),
            "row": rows,
        }
        tables.append(pa.table(columns))
    return Rows(pa.concat_tables(tables).combine_chunks(), tuple(part.file for part in parts))


def read_unlabelled(spec: UnlabelledSpec, parts: Sequence[Part]) -> Rows:
    """The texts of an unlabelled source, with ids of our own."""
    tables = []
    for index, part in enumerate(parts):
        count = part.table.num_rows
        ids = [f"unlabelled:{index}:{row}" for row in range(1, count + 1)]
        columns = {
            "id": pa.array(ids, TEXT),
            "text": text_column(part, spec.text),
            "language": _languages(part, spec.language),
            "part": pa.array(np.full(count, index, dtype=np.int32)),
            "row": pa.array(np.arange(1, count + 1)),
        }
        tables.append(pa.table(columns))
    return Rows(pa.concat_tables(tables).combine_chunks(), tuple(part.file for part in parts))


def raw_column(part: Part, name: str) -> pa.Array:
    """A column as it was read; InputError lists the columns there are."""
    if name not in part.names:
        shown = ", ".join(part.names[:20]) + (", ..." if len(part.names) > 20 else "")
        problem = f"there is no such column{nearest(name, part.names)}"
        raise InputError(problem, file=part.file, key=name, hint=f"columns of this file: {shown}")
    column = part.table[name].combine_chunks()
    if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
        # Arrow 26 casts list views to wrong lists; they are rare enough to go through Python.
        return pa.array(column.to_pylist(), pa.list_(column.type.value_type))
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def kind_of(kind: pa.DataType) -> str:
    """An Arrow type in the words of a message."""
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "a number"
    if is_list(kind):
        return "a list"
    return "text" if is_text(kind) else "neither text nor a list"


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def text_column(part: Part, name: str, whole_numbers: bool = False) -> pa.Array:
    """A column of strings; `whole_numbers` (ids, groups) may also be integers."""
    column = raw_column(part, name)
    if pa.types.is_null(column.type) or (whole_numbers and pa.types.is_integer(column.type)):
        return column.cast(TEXT)
    if not is_text(column.type):
        row = first(pc.is_valid(column))
        raise InputError(
            f"{kind_of(column.type)} where text is needed",
            file=part.file,
            row=None if row is None else row + 1,
            key=name,
            hint="name the column that holds text" + (" or whole numbers" if whole_numbers else ""),
        )
    check_utf8(part, name, column)
    return column.cast(TEXT)


def check_utf8(part: Part, name: str, column: pa.Array, rows: pa.Array | None = None) -> None:
    """Parquet files may carry bytes that are not UTF-8 in string columns: name the first such row.

    `rows` gives the row (from 0) of each value, where the values come out of lists.
    """
    try:
        column.validate(full=True)
        return
    except pa.ArrowInvalid:
        cells = column.cast(pa.large_string(), safe=False) if not pa.types.is_large_string(column.type) else column
    for index, cell in enumerate(cells.view(pa.large_binary())):
        value = cell.as_py()
        try:
            (value or b"").decode("utf8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"invalid UTF-8 at byte {error.start} of this cell",
                file=part.file,
                row=1 + (index if rows is None else rows[index].as_py()),
                key=name,
                hint="write the file again with UTF-8 text",
            ) from None
    raise InputError("damaged column", file=part.file, key=name, hint="write the file again")


def _prefixed(prefix: str, names: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(prefix, TEXT), names, pa.scalar("", TEXT))


def _filled(part: Part, name: str) -> pa.Array:
    column = text_column(part, name, whole_numbers=True)
    row = first(pc.is_null(column))
    if row is not None:
        raise InputError(
            "the id is missing",
            file=part.file,
            row=row + 1,
            key=name,
            hint="give every document one, or leave `id` out",
        )
    return column


def _languages(part: Part, name: str | None) -> pa.Array:
    count = part.table.num_rows
    if name is None:
        return pa.array([UNDETERMINED] * count, TEXT)
    if name == "language" and name not in part.names:
        raise InputError(
            f"there is no such column{nearest(name, part.names)}",
            file=part.file,
            key=name,
            hint=f"columns of this file: {', '.join(part.names)}; name one, or `language: null` if none says it",
        )
    column = text_column(part, name)
    row = first(pc.is_null(column))
    if row is not None:
        raise InputError(
            "the language is missing",
            file=part.file,
            row=row + 1,
            key=name,
            hint=f"write a code (en, pt, zh), or '{UNDETERMINED}' where it is unknown",
        )
    return column


def _splits(part: Part, name: str | None) -> pa.Array:
    """Our names for the splits; null where the source says none."""
    if name is None:
        return pa.array([part.split] * part.table.num_rows, TEXT)
    column = text_column(part, name)
    known = pa.array(list(SPLIT_NAMES), TEXT)
    index = pc.index_in(column, value_set=known)
    row = first(pc.is_null(index))
    if row is not None:
        value = column[row].as_py()
        found = "the split is missing" if value is None else f"unknown split '{value[:40]}'"
        raise InputError(found, file=part.file, row=row + 1, key=name, hint=f"allowed: {', '.join(SPLIT_NAMES)}")
    return pa.array([SPLIT_NAMES[one] for one in SPLIT_NAMES], TEXT).take(index)
