"""Which pieces of a vocabulary are worth their rows, and the tokenizer with only those.

Most of a multilingual model's parameters are embedding rows, most of them never read on the texts at hand. A
trimmed tokenizer gives the same pieces as the full one on every text whose pieces are all kept:

- Unigram: leaving pieces out only takes paths away from the search, so that a best path of kept pieces stays the
  best, provided that an unknown character costs the same as before (`Pieces.anchors`).
- BPE: what a kept piece is made of is kept with it, so that every merge of the full run is still there, and the
  best of those that are left (`merges.py`).
- WordPiece: where the longest match is kept, it is still the longest. One exception: a word of several characters
  that the full vocabulary cannot spell ([UNK]) may become spellable where a dead-end prefix is gone.

Elsewhere the fallback is this. Unigram: the best segmentation by the same scores over the kept pieces, down to
single characters; a character without a piece is the unknown piece, or its bytes where the model has byte pieces.
BPE: the merges that are left, down to single characters or bytes, and so on. WordPiece: the longest kept match,
piece by piece; a word that cannot be spelled so is [UNK].
"""

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from polyfold.errors import InputError
from polyfold.model.pieces import Pieces
from polyfold.model.scripts import scripts_in
from polyfold.model.tokenizer_files import read_pieces, write_pieces
from polyfold.text import Ids, Tokenizer, TokenizerSpec

_BATCH = 4096

Text = tuple[str, str]
"""A text with its language before it."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class CoverageReport:
    """What trimming did to some texts; shares are of documents, 0..1."""

    documents: int
    pieces_before: int
    pieces_after: int
    changed_share: float
    gained_unknown_share: float
    tokens_before: int
    tokens_after: int


@dataclass(frozen=True)
class Changes:
    """Which texts a trimmed tokenizer cuts otherwise, and which have more unknown pieces than before: bool [n]."""

    changed: np.ndarray
    gained_unknown: np.ndarray


def count_pieces(tokenizer: Tokenizer, texts: Iterable[str], max_length: int | None = None) -> np.ndarray:
    """How often each id occurs in the texts, special tokens included: int64 [vocab]."""
    counts = count_by_language(tokenizer, (("", text) for text in texts), max_length)
    return counts.get("", np.zeros(tokenizer.vocabulary_size, dtype=np.int64))


def count_by_language(
    tokenizer: Tokenizer, texts: Iterable[Text], max_length: int | None = None
) -> dict[str, np.ndarray]:
    """How often each id occurs in the texts of each language, special tokens included: int64 [vocab] each."""
    counts: dict[str, np.ndarray] = {}
    limit = sys.maxsize if max_length is None else max_length
    for chunk in _chunks(texts):
        encoded = tokenizer.encode([text for _, text in chunk], limit).ids
        ids_of: dict[str, list[Ids]] = {}
        for (language, _), ids in zip(chunk, encoded, strict=True):
            ids_of.setdefault(language, []).append(ids)
        for language, some in ids_of.items():
            found = np.bincount(np.concatenate(some), minlength=tokenizer.vocabulary_size)
            counts[language] = counts[language] + found if language in counts else found.astype(np.int64)
    return counts


def choose_pieces(
    pieces: Pieces,
    counts: np.ndarray,
    coverage: float | None = 0.9999,
    size: int | None = None,
    keep_characters: bool = True,
    scripts: Collection[str] | None = None,
    keep_scripts: bool = False,
) -> np.ndarray:
    """The old ids to keep, sorted: int64 [kept].

    All special pieces; the most frequent others until they make up `coverage` of the counted tokens (None or
    1.0: every piece that was seen); whatever byte-pair pieces are made of. With `counts` [languages, vocab] the
    coverage is met within each language, and a small language is not starved by a large one. With
    `keep_characters` every single-character piece of the given `scripts` (None: of those that the frequent pieces
    are written in), and of no script (digits, punctuation, symbols, emoji): XLM-R and the embedded encoder have no
    byte fallback, and a missing character is lost. With `keep_scripts` longer pieces in these scripts as well,
    seen or not: no text in them is cut otherwise. With `size`, no more than so many in all: the coverage, the
    same one in every language, is lowered until they fit.
    """
    if coverage is not None and not 0.0 < coverage <= 1.0:
        raise InputError(f"{coverage} is no share of the tokens", key="coverage", hint="give 0 < coverage <= 1")
    groups = np.atleast_2d(counts)
    assert groups.shape[1] == len(pieces), "counts come from the tokenizer of these pieces"

    order = _by_level(np.where(pieces.special, 0, groups), 1.0 if coverage is None else coverage)
    kept = pieces.required
    if scripts is None:
        scripts = {name for index in order for name in scripts_in(pieces.cores[index])}
    if keep_scripts:
        kept = pieces.closed(kept | _written_in(pieces, scripts))
    elif keep_characters:
        kept = pieces.closed(kept | (_written_in(pieces, scripts) & _characters(pieces)))
    if size is None:
        kept[order] = True
        kept = pieces.closed(kept)
    else:
        _fill(kept, order, pieces, size)
    return np.flatnonzero(kept & pieces.present)


def trim_tokenizer(
    folder: Path, spec: TokenizerSpec, keep: np.ndarray, target: Path
) -> tuple[TokenizerSpec, np.ndarray]:
    """Write the trimmed tokenizer into `target`; its spec, and `rows`: the old id of each new id, sorted.

    The new embedding table is `old_table[rows]`. Required pieces, and what kept ones are made of, stay even if
    `keep` lacks them; rows of a table that is longer than the vocabulary (padded to a round number) are left
    behind.
    """
    pieces = read_pieces(folder, spec)
    check_spelling(pieces, folder / spec.file)
    ids = np.asarray(keep, dtype=np.int64)
    assert ids.size == 0 or (ids.min() >= 0 and ids.max() < len(pieces)), "keep holds ids of this tokenizer"
    kept = pieces.required
    kept[ids] = True
    rows = np.flatnonzero(pieces.closed(kept) & pieces.present)
    return write_pieces(folder, spec, rows, target), rows


def check_spelling(pieces: Pieces, file: Path) -> None:
    """InputError where a text could not be tokenized any more once a piece of it is gone."""
    if not pieces.spells_all:
        raise InputError(
            "the vocabulary has no unknown token and no bytes to fall back to, so a text with a dropped character "
            "could not be tokenized any more",
            file=file,
            hint="give the tokenizer an unknown token, or leave the trim_vocabulary step out for this backbone",
        )


def check_room(size: int, required: int) -> None:
    """InputError where a vocabulary is to be smaller than what must stay of it."""
    if size < required:
        raise InputError(
            f"{size} pieces are fewer than the {required} that must stay (special ones, characters)",
            key="size",
            hint=f"give at least {required}, or keep_characters: false",
        )


def changes(old: Sequence[Ids], new: Sequence[Ids], rows: np.ndarray, unknown: int | None) -> Changes:
    """Compare the full tokenizer's ids with the trimmed one's on the same texts; `unknown` is an old id."""
    renamed = [rows[ids] for ids in new]
    pairs = list(zip(old, renamed, strict=True))
    changed = np.asarray([not np.array_equal(a, b) for a, b in pairs], dtype=bool)
    if unknown is None:
        return Changes(changed, np.zeros(len(pairs), dtype=bool))
    gained = np.asarray([int((b == unknown).sum()) > int((a == unknown).sum()) for a, b in pairs], dtype=bool)
    return Changes(changed, gained)


def coverage_report(
    full: Tokenizer, trimmed: Tokenizer, rows: np.ndarray, texts: Iterable[str], max_length: int | None = None
) -> CoverageReport:
    """How many texts the trimmed tokenizer cuts otherwise, and how many have more unknown pieces than before."""
    limit = sys.maxsize if max_length is None else max_length
    documents = changed = gained = before = after = 0
    for chunk in _chunks(texts):
        old, new = full.encode(chunk, limit).ids, trimmed.encode(chunk, limit).ids
        found = changes(old, new, rows, full.unknown_id)
        documents += len(chunk)
        before += sum(len(ids) for ids in old)
        after += sum(len(ids) for ids in new)
        changed += int(found.changed.sum())
        gained += int(found.gained_unknown.sum())
    total = max(documents, 1)
    return CoverageReport(
        documents, full.vocabulary_size, len(rows), changed / total, gained / total, before, after
    )


def _written_in(pieces: Pieces, scripts: Collection[str]) -> np.ndarray:
    """Pieces of letters of these scripts alone, or of no letters: bool [vocab]."""
    return np.asarray([scripts_in(core) <= set(scripts) for core in pieces.cores], dtype=bool)


def _characters(pieces: Pieces) -> np.ndarray:
    """Pieces of one character, with or without a word mark: bool [vocab]."""
    return np.asarray([len(core) == 1 for core in pieces.cores], dtype=bool)


def _by_level(groups: np.ndarray, coverage: float) -> np.ndarray:
    """Ids in the order in which a rising coverage takes them in, up to `coverage`: int64 [kept].

    A piece comes in at the least coverage at which any language (a row of `groups`) needs it: the share of the
    language's tokens that its more frequent pieces make up. Of equals the more frequent, then the lower id.
    """
    levels = np.full(groups.shape[1], np.inf)
    for counts in groups:
        order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        if len(order):
            before = np.cumsum(counts[order]) - counts[order]
            levels[order] = np.minimum(levels[order], before / counts.sum())
    order = np.lexsort((-groups.sum(axis=0), levels))
    return np.asarray(order[: int((levels < coverage).sum())])


def _fill(kept: np.ndarray, order: np.ndarray, pieces: Pieces, size: int) -> None:
    """Take pieces in this order, with what they are made of, as long as they fit."""
    check_room(size, int(kept.sum()))
    room = size - int(kept.sum())
    for index in order:
        fresh = {part for part in pieces.made_of(int(index)) if not kept[part]}
        if len(fresh) <= room:
            kept[list(fresh)] = True
            room -= len(fresh)
        if room == 0:
            return


def _chunks(items: Iterable[Item]) -> Iterator[Sequence[Item]]:
    source = iter(items)
    while chunk := list(islice(source, _BATCH)):
        yield chunk
