"""`polyfold compare`: two artifacts on the texts of a recipe's data, or of a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from polyfold.artifact import write_atomically
from polyfold.data.dataset import UNDETERMINED, Documents
from polyfold.errors import InputError
from polyfold.measure.compare import Comparison, Flip, compare
from polyfold.measure.compare_views import comparison_html, comparison_markdown
from polyfold.predictor import Predictor
from polyfold.streams import format_of, open_rows, open_target
from polyfold.tasks import Task

JSON, MARKDOWN, HTML = "comparison.json", "comparison.md", "comparison.html"


@dataclass(frozen=True)
class Texts:
    """Documents to compare on, the tasks their labels belong to, and where they come from, in words."""

    documents: Documents
    tasks: tuple[Task, ...]
    source: str


@dataclass(frozen=True)
class Outputs:
    """The files to write; `include_text` puts the texts themselves into the list of flips."""

    json_file: Path | None = None
    folder: Path | None = None
    flips: Path | None = None
    include_text: bool = False


def compare_folders(first: Path, second: Path, texts: Texts, outputs: Outputs) -> Comparison:
    """Compare two model folders, of whatever runtime, and write what was asked for."""
    if outputs.flips is not None:
        # A wrong suffix is told before anything is computed.
        format_of(outputs.flips, None, "csv", target=True)
    predictors = [Predictor.open(folder) for folder in (first, second)]
    found, flips = compare(predictors[0], predictors[1], texts.documents, texts.tasks, texts.source)
    content = found.model_dump_json(indent=2).encode()
    if outputs.json_file is not None:
        write_atomically(outputs.json_file, content)
    if outputs.folder is not None:
        write_atomically(outputs.folder / JSON, content)
        write_atomically(outputs.folder / MARKDOWN, comparison_markdown(found).encode())
        write_atomically(outputs.folder / HTML, comparison_html(found).encode())
    if outputs.flips is not None:
        write_flips(outputs.flips, flips, texts.documents, include_text=outputs.include_text)
    return found


def recipe_texts(path: Path, changes: Sequence[str], split: str) -> Texts:
    """One split of a recipe's data, prepared in a folder of its own that is gone afterwards."""
    from polyfold.data.prepare import load_dataset, prepare
    from polyfold.recipe import load_recipe

    recipe = load_recipe(path, changes)
    with TemporaryDirectory() as scratch:
        data = load_dataset(prepare(recipe.data, path.parent, Path(scratch), recipe.seed))
    return Texts(data.split(split), data.tasks, f"{split} documents of {recipe.name}")


def file_texts(path: Path, text: str, language: str | None, identity: str | None) -> Texts:
    """The texts of a CSV, JSONL, Parquet or text file, without labels.

    Columns called `language` and `id` are used where they exist and no others are named.
    """
    with open_rows(path, format_of(path, None, "text")) as rows:
        columns = rows.columns
        chosen = {"text": text, "language": language or "language", "id": identity or "id"}
        for given, name in ((True, text), (language is not None, language), (identity is not None, identity)):
            if given and name not in columns:
                hint = f"its columns: {', '.join(columns) or 'none'}"
                raise InputError("there is no such column", file=rows.name, key=name, hint=hint)
        wanted = {role: name for role, name in chosen.items() if name in columns}
        texts, languages, ids = [], [], []
        for number, row in enumerate(rows.read(list(wanted.values())), 1):
            value = row.get(text)
            if not isinstance(value, str):
                raise InputError("no text here", file=rows.name, row=number, key=text, hint="give every row one")
            texts.append(value)
            languages.append(str(row.get(wanted.get("language", "")) or UNDETERMINED))
            own = row.get(wanted.get("id", ""))
            ids.append(str(number if own is None else own))
    return Texts(Documents(ids, texts, languages, ids), (), str(path))


def write_flips(path: Path, flips: Sequence[Flip], documents: Documents, *, include_text: bool) -> None:
    """One line a changed answer: the document's id and language, and what was and is answered."""
    names = ["id", "language", "task", "first", "second", "truth", *(["text"] if include_text else [])]
    schema = pa.schema([(name, pa.string()) for name in names])
    kind = format_of(path, None, "csv", target=True)
    assert kind != "text"
    remaining = iter(flips)
    with open_target(path, kind, schema, {}) as write:
        while chunk := list(islice(remaining, 8192)):
            lines = [_line(flip, documents) for flip in chunk]
            write({name: [line[name] for line in lines] for name in names})


def _line(flip: Flip, documents: Documents) -> dict[str, str | None]:
    return {
        "id": documents.ids[flip.row],
        "language": documents.languages[flip.row],
        "task": flip.task,
        "first": flip.first,
        "second": flip.second,
        "truth": flip.truth,
        "text": documents.texts[flip.row],
    }
