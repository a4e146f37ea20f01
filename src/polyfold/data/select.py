"""Which documents stay: languages, empties, duplicates, samples, and the texts without labels."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polyfold.data.dataset import SPLITS, Preparation
from polyfold.data.rows import TEXT, Rows, first, read_unlabelled
from polyfold.data.sources import read_table
from polyfold.data.spec import DataSpec, UnlabelledSpec
from polyfold.data.splits import codes_of, shuffle_keys
from polyfold.errors import InputError


@dataclass
class Notes:
    """Counts gathered while preparing; they end as a `Preparation`."""

    counts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def frozen(self) -> Preparation:
        """As it is written beside the data."""
        return Preparation(**self.counts, warnings=tuple(self.warnings))


def normalised(texts: pa.Array) -> pa.Array:
    """Texts as duplicates are told: NFC, without white space around them."""
    return pc.utf8_trim_whitespace(pc.utf8_normalize(texts, form="NFC"))


def in_languages(rows: Rows, languages: tuple[str, ...], key: str | None) -> Rows:
    """The rows in these languages; InputError lists the languages there are where none is."""
    column = rows.column("language")
    present = pc.unique(column).to_pylist()
    kept = rows.keep(pc.is_in(column, value_set=pa.array(languages, TEXT)))
    if len(kept) == 0:
        raise InputError(
            f"no document is in {', '.join(languages)}",
            file=rows.files[0],
            key=key,
            hint=f"languages of this data: {', '.join(sorted(present)[:40])}",
        )
    return kept


def drop_empty(rows: Rows, what: str, notes: Notes) -> Rows:
    """The rows that have a text; how many had none is counted and warned of."""
    empty = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(rows.column("text"), "")), "")
    index = first(empty)
    if index is None:
        return rows
    kept = rows.keep(pc.invert(empty))
    count = len(rows) - len(kept)
    if len(kept) == 0:
        raise rows.mistake(index, f"all {what} are empty", None, "is `text` the right column?")
    if what == "documents":
        notes.counts["empty"] = count
    notes.warnings.append(f"{count} {what} without text were left out; the first: {rows.place(index)}")
    return kept


def without_duplicates(rows: Rows, split: np.ndarray) -> np.ndarray:
    """Which rows stay: a text only in test before dev before train, and there once a language.

    Test keeps its texts so that figures stay comparable and training never sees them.
    """
    texts, _ = codes_of(normalised(rows.column("text")))
    languages, _ = codes_of(rows.column("language"))
    last = np.zeros(int(texts.max(initial=0)) + 1, dtype=np.int64)
    np.maximum.at(last, texts, split)
    kept = split == last[texts]
    where = np.flatnonzero(kept)
    key = texts[where] * (int(languages.max(initial=0)) + 1) + languages[where]
    once = np.zeros(len(rows), dtype=bool)
    once[where[np.unique(key, return_index=True)[1]]] = True
    return once


def sample(spec: DataSpec, rows: Rows, split: np.ndarray, kept: np.ndarray, seed: int, notes: Notes) -> np.ndarray:
    """Apply `test_sample_per_language`, then `limits`: which rows stay."""
    before = kept
    kept = kept.copy()
    if spec.test_sample_per_language is not None:
        inside = np.flatnonzero(kept & (split == SPLITS.index("test")))
        ids, _ = codes_of(rows.column("id").take(pa.array(inside)))
        languages, _ = codes_of(rows.column("language").take(pa.array(inside)))
        order = np.lexsort((ids, languages))
        starts = np.searchsorted(languages[order], languages[order], side="left")
        kept[inside[order[np.arange(len(order)) - starts >= spec.test_sample_per_language]]] = False
    for name, limit in spec.limits.items():
        inside = np.flatnonzero(kept & (split == SPLITS.index(name)))
        keys = shuffle_keys(rows.column("id").take(pa.array(inside)).to_pylist(), seed)
        kept[inside[np.argsort(keys, kind="stable")[limit:]]] = False
    counts = {name: int((before & ~kept & (split == i)).sum()) for i, name in enumerate(SPLITS)}
    notes.counts["not_sampled"] = {name: count for name, count in counts.items() if count}
    return kept


def read_unlabelled_texts(
    data: DataSpec, spec: UnlabelledSpec, base: Path, labelled: tuple[Rows, np.ndarray, int], notes: Notes
) -> Rows:
    """Texts to distil on; none that dev or test holds, none too long, none twice."""
    documents, split, seed = labelled
    columns = [spec.text] + ([spec.language] if spec.language is not None else [])
    rows = read_unlabelled(spec, read_table(spec.path, base, columns))
    if spec.languages is not None:
        rows = in_languages(rows, spec.languages, spec.language)
    left_out: dict[str, int] = {}
    before = len(rows)
    rows = drop_empty(rows, "unlabelled texts", notes)
    left_out["empty"], before = before - len(rows), len(rows)
    rows = rows.keep(pc.less_equal(pc.utf8_length(rows.column("text")), data.max_characters))
    left_out["too_long"], before = before - len(rows), len(rows)
    texts = normalised(rows.column("text"))
    held_out = normalised(documents.keep(split > 0).column("text"))
    rows_kept = pc.invert(pc.is_in(texts, value_set=held_out)).to_numpy(zero_copy_only=False)
    left_out["in_dev_or_test"] = int((~rows_kept).sum())
    once = np.zeros(len(rows), dtype=bool)
    once[np.unique(codes_of(texts)[0], return_index=True)[1]] = True
    left_out["duplicates"] = int((rows_kept & ~once).sum())
    rows = rows.keep(rows_kept & once)
    if spec.limit is not None and len(rows) > spec.limit:
        keys = shuffle_keys(rows.column("id").to_pylist(), seed)
        chosen = np.zeros(len(rows), dtype=bool)
        chosen[np.argsort(keys, kind="stable")[: spec.limit]] = True
        left_out["not_sampled"] = len(rows) - spec.limit
        rows = rows.keep(chosen)
    notes.counts["unlabelled_left_out"] = {reason: count for reason, count in left_out.items() if count}
    return rows
