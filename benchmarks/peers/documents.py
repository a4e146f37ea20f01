"""The texts of the comparison: distinct ones for speed, random ones of the test split for quality.

Speed is timed on the short test sample, the first thousand test documents by id of each language, drawn evenly
over languages and dealt into slices that no text is in twice. Quality is scored on test documents drawn at random:
the short sample, by id, holds two of six domains.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polyfold.artifact import write_atomically
from polyfold.errors import InputError
from polyfold.tasks import Task

LANGUAGES = ("ar", "de", "en", "es", "fr", "ja", "ko", "nl", "pt", "ru", "tr", "zh")
SHORT_SAMPLE = 1000
SEED = 0


@dataclass(frozen=True)
class Sizes:
    """How many documents: a slice, single texts for latency, and each split's share in training and scoring."""

    slice: int = 1200
    singles: int = 500
    train: int = 60_000
    dev: int = 3000
    test: int = 6000


@dataclass(frozen=True)
class Sample:
    """Texts with labels by task in the data's own form: class numbers or 0/1 lists, None where there is none."""

    texts: list[str]
    labels: Mapping[str, list[Any]]

    def truth(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Rows that carry a label for the task, and their labels: int64 [n] and [n] or int8 [n, labels]."""
        rows = np.array([row for row, label in enumerate(self.labels[task.name]) if label is not None], np.int64)
        values = [self.labels[task.name][row] for row in rows]
        if task.multi_label:
            return rows, np.array(values, np.int8).reshape(len(rows), len(task.labels))
        return rows, np.array(values, np.int64)


@dataclass(frozen=True)
class Inputs:
    """Everything that peers are given, written to `folder` for them to read."""

    folder: Path
    slices: list[list[str]]
    singles: list[str]
    train_documents: int
    dev: Sample
    test: Sample


def gather(data: Path, languages: Sequence[str], tasks: Sequence[Task], sizes: Sizes, folder: Path) -> Inputs:
    """Read the samples and write them, with the tasks, as JSON."""
    path = data / "feedback.parquet" if data.is_dir() else data
    if not path.is_file():
        raise InputError("there is no such file", file=path, hint="--data names feedback.parquet or its folder")
    columns = ["id", "text", "lang", "split", *(task.name for task in tasks)]
    missing = set(columns) - set(pq.read_schema(path).names)
    if missing:
        raise InputError(f"there is no column '{min(missing)}'", file=path, hint="a column a task, named like it")
    table = pq.read_table(path, columns=columns, filters=[("lang", "in", list(languages))])
    splits = {name: table.filter(pc.equal(table["split"], name)) for name in ("train", "dev", "test")}
    for name, rows in splits.items():
        if len(rows) == 0:
            raise InputError(f"no document of split '{name}' is in {', '.join(languages)}", file=path)
    dev, test = (
        draw(splits[name], tasks, count, path) for name, count in (("dev", sizes.dev), ("test", sizes.test))
    )
    train = draw(without(splits["train"], {*dev.texts, *test.texts}), tasks, sizes.train, path)
    texts = short_sample(splits["test"])
    slices, singles = deal(texts, sizes.slice), texts[:: max(1, len(texts) // sizes.singles)][: sizes.singles]
    named = [{"name": task.name, "kind": task.kind, "labels": list(task.labels)} for task in tasks]
    contents = {"tasks": named, "speed": {"slices": slices, "singles": singles}}
    for name, sample in (("train", train), ("dev", dev), ("test", test)):
        contents[name] = {"texts": sample.texts, "labels": dict(sample.labels)}
    for name, content in contents.items():
        write_atomically(folder / f"{name}.json", json.dumps(content, ensure_ascii=False).encode())
    return Inputs(folder, slices, singles, len(train.texts), dev, test)


def without(rows: pa.Table, texts: Collection[str]) -> pa.Table:
    """The rows whose text is none of these."""
    return rows.filter(pc.invert(pc.is_in(rows["text"], value_set=pa.array(sorted(texts), pa.string()))))


def draw(rows: pa.Table, tasks: Sequence[Task], count: int, path: Path) -> Sample:
    """So many documents at random, the same ones in every run."""
    chosen = np.random.default_rng(SEED).permutation(len(rows))[:count]
    found = rows.take(chosen)
    labels = {task.name: [_encoded(task, one, path) for one in found[task.name].to_pylist()] for task in tasks}
    return Sample(found["text"].to_pylist(), labels)


def short_sample(rows: pa.Table, each: int = SHORT_SAMPLE) -> list[str]:
    """Distinct texts: of each language the first by id, one language after the other in turn.

    Within a language they are shuffled, so that a slice holds what the whole sample holds.
    """
    rng, seen, by_language = np.random.default_rng(SEED), set[str](), []
    for language in sorted(set(rows["lang"].to_pylist())):
        own = rows.filter(pc.equal(rows["lang"], language)).sort_by("id")["text"].to_pylist()[:each]
        fresh = [text for text in dict.fromkeys(own) if text not in seen]
        seen.update(fresh)
        by_language.append([fresh[place] for place in rng.permutation(len(fresh))])
    # As many of each as the language with the fewest has: every slice is even.
    return [text for texts in zip(*by_language, strict=False) for text in texts]


def deal(texts: Sequence[str], size: int) -> list[list[str]]:
    """Slices of so many texts in their order; what does not fill one is left out, unless it is all there is."""
    whole = len(texts) // size * size or len(texts)
    return [list(texts[start : start + size]) for start in range(0, whole, size)]


def _encoded(task: Task, value: Any, path: Path) -> Any:
    """A label as its number, or a list of labels as zeros and ones; None stays."""
    if value is None:
        return None
    given = value if task.multi_label else [value]
    unknown = [label for label in given if label not in task.labels]
    if unknown:
        raise InputError(
            f"'{unknown[0]}' is no label of the model's", file=path, key=task.name, hint=", ".join(task.labels)
        )
    return [int(label in given) for label in task.labels] if task.multi_label else task.labels.index(value)
