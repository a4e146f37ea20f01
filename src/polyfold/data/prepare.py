"""From a recipe's `data` block to a finished folder of three splits: read, check, split, sample, write.

Everything is read and checked before the first byte is written, so a mistake in the data leaves nothing behind.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polyfold.artifact import Artifact, Stage, digest_json
from polyfold.console import warn
from polyfold.data.dataset import SPLITS, Dataset, Documents, Preparation
from polyfold.data.labels import check_learnable, encode, label_column, restrict
from polyfold.data.rows import TEXT, Rows, first, read_rows
from polyfold.data.select import (
    Notes,
    drop_empty,
    in_languages,
    normalised,
    read_unlabelled_texts,
    sample,
    without_duplicates,
)
from polyfold.data.sources import digest_source, read_table
from polyfold.data.spec import DataSpec
from polyfold.data.splits import codes_of, make_splits
from polyfold.errors import InputError
from polyfold.tasks import Task

STAGE_VERSION = 2
TASKS = "tasks.json"
SUMMARY = "summary.json"
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class _Prepared:
    rows: Rows
    split: np.ndarray
    tasks: tuple[Task, ...]
    labels: Mapping[str, np.ndarray]
    unlabelled: Rows | None
    notes: Preparation


def input_files(spec: DataSpec, base: Path) -> dict[str, str]:
    """SHA-256 of every file the spec reads, by the name the recipe gives it."""
    files = digest_source(spec.path, base)
    return files if spec.unlabelled is None else files | digest_source(spec.unlabelled.path, base)


def data_stage(spec: DataSpec, base: Path, seed: int) -> Stage:
    """The stage that `prepare` runs; its key covers the spec, the seed and every file's digest."""
    return Stage(
        kind="data",
        name="data",
        version=STAGE_VERSION,
        spec={**spec.model_dump(mode="json"), "seed": seed},
        inputs=input_files(spec, base),
    )


def training_key(spec: DataSpec, base: Path, seed: int) -> str:
    """The key of all that training sees: choosing other test documents leaves trained models as they are."""
    limits = {split: limit for split, limit in spec.limits.items() if split != "test"}
    seen = spec.model_copy(update={"test_sample_per_language": None, "limits": limits})
    return data_stage(seen, base, seed).key


def prepare(spec: DataSpec, base: Path, root: Path, seed: int) -> Artifact:
    """The prepared data's folder under `root`, reused where an earlier run left it.

    Relative paths in the spec start at `base`. Raises InputError, with nothing written, for anything in the
    data that cannot be used.
    """
    stage = data_stage(spec, base, seed)
    done = stage.finished(root)
    if done is not None:
        return done
    prepared = _assemble(spec, base, seed)
    for warning in prepared.notes.warnings:
        warn(warning)
    return stage.run(root, lambda folder: _write(folder, prepared))


def load_dataset(artifact: Artifact) -> Dataset:
    """Read a prepared folder; the fingerprint covers the documents and tasks, not how they were gathered."""
    files = {name: digest for name, digest in artifact.manifest.files.items() if name != SUMMARY}
    tasks = tuple(Task(**task) for task in json.loads((artifact.path / TASKS).read_bytes()))
    return Dataset(
        tasks=tasks,
        train=_read_split(artifact.path, "train", tasks),
        dev=_read_split(artifact.path, "dev", tasks),
        test=_read_split(artifact.path, "test", tasks),
        unlabelled=_read_split(artifact.path, UNLABELLED, ()),
        fingerprint=digest_json(files),
        max_length=int(artifact.manifest.spec["max_length"]),
    )


def load_preparation(artifact: Artifact) -> Preparation:
    """What preparing left out and warned of."""
    return Preparation.model_validate_json((artifact.path / SUMMARY).read_bytes())


def _assemble(spec: DataSpec, base: Path, seed: int) -> _Prepared:
    notes = Notes()
    rows = _read(spec, base, notes)
    rows = drop_empty(rows, "documents", notes)
    tasks, labels = _tasks_and_labels(spec, rows, notes)
    split = _split(spec, rows, labels, seed, notes)
    kept = np.ones(len(rows), dtype=bool)
    if spec.duplicates == "drop":
        kept &= without_duplicates(rows, split)
        notes.counts["duplicates_dropped"] = int((~kept).sum())
    # Before sampling: what may be distilled on must not hang on which test documents are looked at.
    unlabelled = None
    if spec.unlabelled is not None:
        unlabelled = read_unlabelled_texts(spec, spec.unlabelled, base, (rows, split, seed), notes)
    kept = sample(spec, rows, split, kept, seed, notes)
    rows, split = rows.keep(kept), split[kept]
    labels = {name: values[kept] for name, values in labels.items()}
    for task, named in zip(tasks, spec.tasks, strict=True):
        check_learnable(task, labels[task.name][split == 0], named.source)
    notes.warnings += _coverage_warnings(rows, split, tasks, labels)
    return _Prepared(rows, split, tasks, labels, unlabelled, notes.frozen())


def _read(spec: DataSpec, base: Path, notes: Notes) -> Rows:
    parts = read_table(spec.path, base, spec.columns)
    notes.counts["rows_read"] = {part.file: part.table.num_rows for part in parts}
    rows = read_rows(spec, parts)
    for task in spec.tasks:
        column = label_column(task, parts)
        rows = Rows(rows.table.append_column(f"task:{task.name}", column), rows.files)
    if spec.languages is not None:
        rows = in_languages(rows, spec.languages, spec.language)
        notes.counts["other_languages"] = sum(notes.counts["rows_read"].values()) - len(rows)
    _check_ids(spec, rows)
    _check_lengths(spec, rows)
    return rows


def _check_ids(spec: DataSpec, rows: Rows) -> None:
    if spec.id is None:
        return
    codes, names = codes_of(rows.column("id"))
    if len(names) == len(rows):
        return
    seen = np.zeros(len(rows), dtype=bool)
    seen[np.unique(codes, return_index=True)[1]] = True
    again = first(~seen)
    assert again is not None
    before = first(codes == codes[again])
    assert before is not None
    raise rows.mistake(
        again,
        f"duplicate id, first used in {rows.place(before)}",
        spec.id,
        "every document needs an id of its own; leave `id` out to number them",
    )


def _check_lengths(spec: DataSpec, rows: Rows) -> None:
    lengths = pc.fill_null(pc.utf8_length(rows.column("text")), 0)
    long = first(pc.greater(lengths, spec.max_characters))
    if long is not None:
        raise rows.mistake(
            long,
            f"the text has {lengths[long].as_py():,} characters, more than {spec.max_characters:,}",
            spec.text,
            "was the file read wrongly (a quote left open)? If not, raise `max_characters`",
        )


def _tasks_and_labels(spec: DataSpec, rows: Rows, notes: Notes) -> tuple[tuple[Task, ...], dict[str, np.ndarray]]:
    tasks: list[Task] = []
    labels: dict[str, np.ndarray] = {}
    outside: dict[str, int] = {}
    for named in spec.tasks:
        rows, count = restrict(named, rows)
        if count:
            outside[named.name] = count
            notes.warnings.append(
                f"task '{named.name}': {count} labels in languages that are not the task's count as not labelled"
            )
        task, labels[named.name] = encode(named, rows)
        tasks.append(task)
    notes.counts["labels_outside_task_languages"] = outside
    return tuple(tasks), labels


def _split(spec: DataSpec, rows: Rows, labels: Mapping[str, np.ndarray], seed: int, notes: Notes) -> np.ndarray:
    """The given splits; those that are missing are made from the train rows (all rows, if none is given)."""
    column = rows.column("split")
    given = pc.fill_null(pc.index_in(column, value_set=pa.array(SPLITS, TEXT)), 0).to_numpy().astype(np.int64)
    present = set(pc.unique(column).to_pylist()) - {None}
    if present and "train" not in present:
        raise InputError(
            f"there are no train rows, only {' and '.join(sorted(present))}",
            file=rows.files[0],
            key=spec.split,
            hint="name some rows train, or leave `split` out to have splits made by group",
        )
    # Train first, then test: a label that is rare belongs there before it belongs to dev.
    fractions = {
        name: spec.fractions[name] for name in ("train", "test", "dev") if name not in present - {"train"}
    }
    if len(fractions) > 1:
        pool = np.flatnonzero(given == 0)
        inside = rows.keep(given == 0)
        # Without groups, documents of one text are one group: splits of our own making never leak.
        groups = normalised(inside.column("text")) if spec.group is None else inside.column("group")
        chosen = make_splits(
            groups.to_pylist(),
            inside.column("language").to_pylist(),
            {name: values[pool] for name, values in labels.items()},
            fractions,
            seed,
        )
        given[pool] = np.asarray([SPLITS.index(name) for name in fractions])[chosen]
        if present:
            made = " and ".join(name for name in fractions if name != "train")
            notes.warnings.append(f"the data has no {made} rows: made from the train rows")
    if spec.group is not None:
        _check_groups(rows, given, spec.group)
    return given


def _check_groups(rows: Rows, split: np.ndarray, key: str) -> None:
    codes, names = codes_of(rows.column("group"))
    low = np.full(len(names), len(SPLITS))
    np.minimum.at(low, codes, split)
    crossing = first(split != low[codes])
    if crossing is not None:
        code = codes[crossing]
        raise rows.mistake(
            crossing,
            f"group '{names[code]}' is in {SPLITS[low[code]]} and in {SPLITS[split[crossing]]}",
            key,
            "keep a group in one split, or leave `split` out to have splits made by group",
        )


def _coverage_warnings(
    rows: Rows, split: np.ndarray, tasks: tuple[Task, ...], labels: Mapping[str, np.ndarray]
) -> list[str]:
    """Languages and labels that are evaluated or listed, but never trained."""
    found = []
    languages = np.asarray(rows.column("language").to_pylist(), dtype=object)
    trained = set(languages[split == 0])
    for index, name in enumerate(SPLITS[1:], start=1):
        missing = sorted(set(languages[split == index]) - trained)
        if missing:
            found.append(f"languages in {name} with no training rows: {', '.join(missing)}")
    for task in tasks:
        values = labels[task.name]
        for code, label in enumerate(task.labels):
            has = (values == code) if values.ndim == 1 else (values[:, code] == 1)
            inside = [name for index, name in enumerate(SPLITS) if has[split == index].any()]
            if not inside:
                found.append(f"task '{task.name}': no document has label '{label}'")
            elif "train" not in inside:
                found.append(f"task '{task.name}': label '{label}' is in {' and '.join(inside)}, not in train")
    return found


def _write(folder: Path, prepared: _Prepared) -> dict[str, Any]:
    counts = {}
    for index, name in enumerate(SPLITS):
        inside = prepared.split == index
        table = prepared.rows.keep(inside).table.select(["id", "text", "language", "group"])
        for task in prepared.tasks:
            table = table.append_column(f"task:{task.name}", _stored(prepared.labels[task.name][inside]))
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
        counts[name] = table.num_rows
    if prepared.unlabelled is not None:
        table = prepared.unlabelled.table.select(["id", "text", "language"])
        pq.write_table(table, folder / f"{UNLABELLED}.parquet", compression="zstd")
        counts[UNLABELLED] = table.num_rows
    tasks = [task.model_dump(mode="json") for task in prepared.tasks]
    (folder / TASKS).write_text(json.dumps(tasks, indent=2, ensure_ascii=False), encoding="utf8")
    (folder / SUMMARY).write_text(prepared.notes.model_dump_json(indent=2), encoding="utf8")
    return {"documents": counts, "tasks": {task.name: list(task.labels) for task in prepared.tasks}}


def _stored(labels: np.ndarray) -> pa.Array:
    if labels.ndim == 1:
        return pa.array(labels)
    return pa.FixedSizeListArray.from_arrays(pa.array(labels.reshape(-1)), labels.shape[1])


def _read_split(folder: Path, name: str, tasks: tuple[Task, ...]) -> Documents:
    path = folder / f"{name}.parquet"
    if not path.exists():
        return Documents([], [], [], [], {})
    table = pq.read_table(path)
    ids = table["id"].to_pylist()
    labels = {}
    for task in tasks:
        column = table[f"task:{task.name}"].combine_chunks()
        flat = (column.flatten() if task.multi_label else column).to_numpy()
        labels[task.name] = flat.reshape(len(ids), -1) if task.multi_label else flat
    groups = table["group"].to_pylist() if "group" in table.column_names else ids
    return Documents(ids, table["text"].to_pylist(), table["language"].to_pylist(), groups, labels)
