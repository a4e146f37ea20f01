"""A look at prepared data before anything is trained on it: counts, lengths, gaps, duplicates, leaks.

Nothing here holds or prints a text: documents are named by id.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from polyfold.data.dataset import SPLITS, Dataset, Documents, Preparation
from polyfold.data.select import normalised
from polyfold.data.splits import codes_of
from polyfold.tasks import Kind, Task

SHOWN_IDS = 5
PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "longest": 100}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lengths(_Frozen):
    """Percentiles of a length; `longest` is the 100th."""

    p50: int
    p90: int
    p95: int
    p99: int
    longest: int


class TaskCheck(_Frozen):
    """One task: documents (or positives, for multi-label) a split, language and label.

    `labelled` counts documents with any answer, an empty set included; `unlabelled_share` is of all documents.
    """

    kind: Kind
    counts: dict[str, dict[str, dict[str, int]]]
    labelled: dict[str, int]
    unlabelled_share: dict[str, float]
    labels_in_one_split_only: dict[str, str]
    labels_never_seen: tuple[str, ...]


class Leak(_Frozen):
    """Documents that two splits share: how many distinct ones, and the ids of a few pairs."""

    splits: tuple[str, str]
    count: int
    ids: tuple[tuple[str, str], ...]


class Duplicates(_Frozen):
    """Exact duplicates after NFC and trimming: extra copies a split, and the same text labelled differently."""

    within: dict[str, int]
    across: tuple[Leak, ...]
    conflicting: dict[str, int]
    conflicting_ids: dict[str, tuple[tuple[str, str], ...]]


class DataCheck(_Frozen):
    """All that `polyfold data check` found; `documents` counts by split and language."""

    fingerprint: str
    documents: dict[str, dict[str, int]]
    tasks: dict[str, TaskCheck]
    characters: dict[str, Lengths]
    tokens: dict[str, Lengths] | None
    duplicates: Duplicates
    group_leaks: tuple[Leak, ...]
    languages_without_training_rows: dict[str, tuple[str, ...]]
    preparation: Preparation
    warnings: tuple[str, ...]


def check(
    dataset: Dataset,
    preparation: Preparation | None = None,
    token_lengths: Mapping[str, np.ndarray] | None = None,
) -> DataCheck:
    """Count and compare everything; `token_lengths` (int [n] a split) come from the tokenizer, if there is one."""
    preparation = preparation or Preparation()
    names = [*SPLITS, *(["unlabelled"] if len(dataset.unlabelled) else [])]
    documents = {name: _count(dataset.split(name).languages) for name in names}
    tasks = {task.name: _check_task(task, dataset) for task in dataset.tasks}
    duplicates = _duplicates(dataset)
    groups = _leaks([dataset.split(name).groups for name in SPLITS], dataset)
    without = {
        name: tuple(sorted(set(documents[name]) - set(documents["train"])))
        for name in SPLITS[1:]
        if set(documents[name]) - set(documents["train"])
    }
    characters = {
        name: _lengths(pc.utf8_length(pa.array(dataset.split(name).texts, pa.large_string())).to_numpy())
        for name in names
        if len(dataset.split(name))
    }
    tokens = None
    if token_lengths is not None:
        tokens = {name: _lengths(values) for name, values in token_lengths.items() if len(values)}
    found = list(preparation.warnings)
    found += [one for one in _warnings(tasks, duplicates, groups, without) if one not in found]
    return DataCheck(
        fingerprint=dataset.fingerprint,
        documents=documents,
        tasks=tasks,
        characters=characters,
        tokens=tokens,
        duplicates=duplicates,
        group_leaks=groups,
        languages_without_training_rows=without,
        preparation=preparation,
        warnings=tuple(found),
    )


def render(found: DataCheck) -> RenderableType:
    """The check as tables for a terminal."""
    parts: list[RenderableType] = [_documents_table(found)]
    parts += [_task_table(name, task) for name, task in found.tasks.items()]
    parts.append(_lengths_table("Characters", found.characters))
    if found.tokens is not None:
        parts.append(_lengths_table("Tokens", found.tokens))
    parts.append(_findings_table(found))
    parts += [Text(f"warning: {warning}", style="yellow") for warning in found.warnings]
    return Group(*parts)


def _count(values: Sequence[str]) -> dict[str, int]:
    codes, names = codes_of(values)
    return dict(zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True))


def _check_task(task: Task, dataset: Dataset) -> TaskCheck:
    counts, labelled, unlabelled = {}, {}, {}
    for name in SPLITS:
        documents = dataset.split(name)
        counts[name] = _label_counts(task, documents)
        labelled[name] = int(documents.labelled(task).sum())
        unlabelled[name] = round(1.0 - labelled[name] / len(documents), 6) if len(documents) else 0.0
    inside = {
        label: [name for name in SPLITS if any(row[label] for row in counts[name].values())]
        for label in task.labels
    }
    return TaskCheck(
        kind=task.kind,
        counts=counts,
        labelled=labelled,
        unlabelled_share=unlabelled,
        labels_in_one_split_only={label: names[0] for label, names in inside.items() if len(names) == 1},
        labels_never_seen=tuple(label for label, names in inside.items() if not names),
    )


def _label_counts(task: Task, documents: Documents) -> dict[str, dict[str, int]]:
    codes, languages = codes_of(documents.languages)
    values = documents.labels[task.name]
    if task.multi_label:
        rows, columns = np.nonzero(values == 1)
    else:
        rows = np.flatnonzero(documents.labelled(task))
        columns = values[rows]
    table = np.zeros((len(languages), len(task.labels)), dtype=np.int64)
    np.add.at(table, (codes[rows], columns), 1)
    return {
        language: dict(zip(task.labels, row.tolist(), strict=True))
        for language, row in zip(languages, table, strict=True)
    }


def _lengths(values: np.ndarray) -> Lengths:
    # A length that a document really has, not one between two.
    at = np.percentile(values, list(PERCENTILES.values()), method="higher")
    return Lengths(**{name: int(value) for name, value in zip(PERCENTILES, at, strict=True)})


def _duplicates(dataset: Dataset) -> Duplicates:
    texts = [normalised(pa.array(dataset.split(name).texts, pa.large_string())) for name in SPLITS]
    codes, distinct = codes_of(pa.concat_arrays(texts))
    bounds = np.cumsum([0, *(len(one) for one in texts)])
    pieces = [codes[start:end] for start, end in pairwise(bounds)]
    within = {name: len(piece) - len(np.unique(piece)) for name, piece in zip(SPLITS, pieces, strict=True)}
    ids = [one for name in SPLITS for one in dataset.split(name).ids]
    counts: dict[str, int] = {}
    examples: dict[str, tuple[tuple[str, str], ...]] = {}
    for task in dataset.tasks:
        values = np.concatenate([dataset.split(name).labels[task.name] for name in SPLITS])
        pairs = _conflicts(task, values, codes, len(distinct))
        counts[task.name] = len(pairs)
        examples[task.name] = tuple((ids[a], ids[b]) for a, b in pairs[:SHOWN_IDS])
    return Duplicates(within=within, across=_shared(pieces, dataset), conflicting=counts, conflicting_ids=examples)


def _conflicts(task: Task, labels: np.ndarray, texts: np.ndarray, distinct: int) -> np.ndarray:
    """For each text with two different answers to a task, two documents that differ: rows [n, 2]."""
    rows = np.flatnonzero(task.labelled(labels))
    first = np.full(distinct, len(labels))
    np.minimum.at(first, texts[rows], rows)
    reference = first[texts[rows]]
    differs = labels[rows] != labels[reference]
    odd = np.flatnonzero(differs.any(axis=1) if differs.ndim == 2 else differs)
    _, once = np.unique(texts[rows[odd]], return_index=True)
    return np.stack([reference[odd[once]], rows[odd[once]]], axis=1)


def _leaks(values: Sequence[Sequence[str]], dataset: Dataset) -> tuple[Leak, ...]:
    codes, _ = codes_of([one for split in values for one in split])
    bounds = np.cumsum([0, *(len(split) for split in values)])
    return _shared([codes[a:b] for a, b in pairwise(bounds)], dataset)


def _shared(pieces: Sequence[np.ndarray], dataset: Dataset) -> tuple[Leak, ...]:
    """What any two splits have in common."""
    found = []
    for a, b in combinations(range(len(SPLITS)), 2):
        both, in_a, in_b = np.intersect1d(pieces[a], pieces[b], return_indices=True)
        if not len(both):
            continue
        left, right = dataset.split(SPLITS[a]).ids, dataset.split(SPLITS[b]).ids
        pairs = zip(in_a[:SHOWN_IDS], in_b[:SHOWN_IDS], strict=True)
        ids = tuple((left[i], right[j]) for i, j in pairs)
        found.append(Leak(splits=(SPLITS[a], SPLITS[b]), count=len(both), ids=ids))
    return tuple(found)


def _warnings(
    tasks: Mapping[str, TaskCheck],
    duplicates: Duplicates,
    groups: Sequence[Leak],
    without: Mapping[str, tuple[str, ...]],
) -> list[str]:
    found = [
        f"languages in {name} with no training rows: {', '.join(languages)}" for name, languages in without.items()
    ]
    for name, task in tasks.items():
        found += [f"task '{name}': no document has label '{label}'" for label in task.labels_never_seen]
        found += [
            f"task '{name}': label '{label}' is in {split} only"
            for label, split in task.labels_in_one_split_only.items()
            if split == "train"
        ]
        found += [
            f"task '{name}': label '{label}' is in {split}, not in train"
            for label, split in task.labels_in_one_split_only.items()
            if split != "train"
        ]
        conflicts = duplicates.conflicting[name]
        if conflicts:
            found.append(f"task '{name}': {conflicts} texts occur with different labels")
    found += [
        f"{leak.count} texts are in both {leak.splits[0]} and {leak.splits[1]}" for leak in duplicates.across
    ]
    found += [f"{leak.count} groups are in both {leak.splits[0]} and {leak.splits[1]}" for leak in groups]
    return found


def _documents_table(found: DataCheck) -> Table:
    table = Table(title="Documents", title_justify="left")
    table.add_column("language")
    for name in found.documents:
        table.add_column(name, justify="right")
    for language in sorted({one for counts in found.documents.values() for one in counts}):
        table.add_row(Text(language), *(f"{counts.get(language, 0):,}" for counts in found.documents.values()))
    table.add_section()
    table.add_row("all", *(f"{sum(counts.values()):,}" for counts in found.documents.values()))
    return table


def _task_table(name: str, task: TaskCheck) -> Table:
    """Labels by language over all splits, as in the paper's Table 1, with each split's sums below."""
    table = Table(title=f"Task {name} ({task.kind})", title_justify="left")
    labels = list(next((row for rows in task.counts.values() for row in rows.values()), {}))
    table.add_column("language")
    for label in labels:
        table.add_column(Text(label), justify="right")
    languages = sorted({language for rows in task.counts.values() for language in rows})
    for language in languages:
        sums = [sum(rows.get(language, {}).get(label, 0) for rows in task.counts.values()) for label in labels]
        table.add_row(Text(language), *(f"{one:,}" for one in sums))
    table.add_section()
    for split, rows in task.counts.items():
        share = f"{100 * task.unlabelled_share[split]:.1f} % unlabelled"
        table.add_row(f"{split} ({share})", *(f"{sum(row[label] for row in rows.values()):,}" for label in labels))
    return table


def _lengths_table(title: str, lengths: Mapping[str, Lengths]) -> Table:
    table = Table(title=f"{title} a document", title_justify="left")
    table.add_column("split")
    for name in PERCENTILES:
        table.add_column(name, justify="right")
    for split, one in lengths.items():
        table.add_row(split, *(f"{value:,}" for value in one.model_dump().values()))
    return table


def _findings_table(found: DataCheck) -> Table:
    table = Table(title="Findings", title_justify="left")
    for column in ("what", "count", "ids"):
        table.add_column(column)
    table.add_row("documents without text, left out", str(found.preparation.empty), "")
    for split, count in found.duplicates.within.items():
        table.add_row(f"further copies of a text within {split}", f"{count:,}", "")
    for what, leaks in (("texts", found.duplicates.across), ("groups", found.group_leaks)):
        for leak in leaks:
            pairs = "; ".join(" = ".join(pair) for pair in leak.ids)
            table.add_row(f"{what} in both {leak.splits[0]} and {leak.splits[1]}", f"{leak.count:,}", Text(pairs))
        if not leaks:
            table.add_row(f"{what} in two splits", "0", "")
    for task, count in found.duplicates.conflicting.items():
        pairs = "; ".join(" / ".join(pair) for pair in found.duplicates.conflicting_ids[task])
        table.add_row(Text(f"texts with different labels for {task}"), f"{count:,}", Text(pairs))
    return table
