"""Texts to count pieces on, beside the run's own: a text, CSV, TSV, JSONL or Parquet file, read as a stream."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from polyfold.artifact import digest_file
from polyfold.errors import InputError
from polyfold.model.vocabulary import Text
from polyfold.streams import format_of, open_rows

UNKNOWN_LANGUAGE = "und"
"""BCP 47's code for a text whose language nobody told."""


class CorpusSpec(BaseModel):
    """A file of texts: of `.txt` every line is one, of any other format the column `text`.

    `language` names the column with each text's language; without it the texts' languages are unknown. `limit`
    reads the first so many. A relative path starts at the recipe's folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1)
    text: str = "text"
    language: str | None = None
    limit: int | None = Field(default=None, ge=1)


def corpus_files(spec: CorpusSpec, base: Path) -> dict[str, str]:
    """The file's SHA-256 by the path the recipe gives; InputError where there is none, or of no known format."""
    return {spec.path: digest_file(_place(spec, base))}


def read_corpus(spec: CorpusSpec, base: Path) -> Iterator[Text]:
    """Every text with its language; empty ones are left out. InputError for a missing column or no text at all."""
    place = _place(spec, base)
    columns = [spec.text] if spec.language is None else [spec.text, spec.language]
    found = False
    with open_rows(place, format_of(place, None, "text")) as rows:
        for column in columns:
            if column not in rows.columns:
                raise InputError(
                    "there is no such column",
                    file=place,
                    key=column,
                    hint=f"columns of this file: {', '.join(rows.columns[:20])}",
                )
        for row, values in enumerate(islice(rows.read(columns), spec.limit), start=1):
            text = values.get(spec.text)
            language = UNKNOWN_LANGUAGE if spec.language is None else values.get(spec.language)
            for name, value in ((spec.text, text), (spec.language, language)):
                if value is not None and not isinstance(value, str):
                    raise InputError("not text", file=place, row=row, key=name, hint="name a column of strings")
            if text and text.strip():
                found = True
                yield language or UNKNOWN_LANGUAGE, text
    if not found:
        raise InputError("the corpus has no text", file=place, hint="is this the right column?")


def _place(spec: CorpusSpec, base: Path) -> Path:
    place = base / spec.path
    if place.is_dir():
        raise InputError("is a folder where a file is needed", file=place, hint="name one of its files")
    if not place.is_file():
        raise InputError(
            "there is no such corpus",
            file=place,
            key="corpus",
            hint="give a .txt, .csv, .tsv, .jsonl or .parquet file; relative paths start at the recipe's folder",
        )
    format_of(place, None, "text")
    return place
