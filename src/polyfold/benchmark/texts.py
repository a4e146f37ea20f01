"""The texts that everything is timed on: distinct, from a file, or the 600 that come with Polyfold."""

from dataclasses import dataclass
from pathlib import Path

from polyfold.errors import InputError
from polyfold.measure.workloads import distinct_texts
from polyfold.streams import format_of, open_rows

OWN = Path(__file__).with_name("texts.txt")
"""The test texts of the demo data: customer feedback in twelve languages, written for this project."""


@dataclass(frozen=True)
class Texts:
    """`given` texts came from `source`, `distinct` of them differ, and `used` are what is measured on."""

    source: str
    given: int
    distinct: int
    used: tuple[str, ...]


def read_texts(path: Path | None, column: str, most: int) -> Texts:
    """Up to `most` distinct texts of a CSV, JSONL, Parquet or text file, spread evenly over it."""
    source = path or OWN
    texts: list[str] = []
    # The lines of a plain file stand in a column of that name, whatever columns of others are called.
    with open_rows(source, kind := format_of(source, None, "text")) as rows:
        name = "text" if kind == "text" else column
        if rows.columns and name not in rows.columns:
            hint = f"its columns: {', '.join(rows.columns)}; name one with --text"
            raise InputError("there is no such column", file=rows.name, key=name, hint=hint)
        for number, row in enumerate(rows.read([name]), 1):
            value = row.get(name)
            if not isinstance(value, str):
                raise InputError(
                    "no text here", file=rows.name, row=number, key=name, hint="give every row a text"
                )
            texts.append(value)
    words = [text for text in texts if text.strip()]
    if not words:
        raise InputError("there are no texts in it", file=source, hint="give at least one text with words in it")
    used = distinct_texts(words, most)
    return Texts("bundled demo texts" if path is None else path.name, len(texts), len(set(words)), tuple(used))
