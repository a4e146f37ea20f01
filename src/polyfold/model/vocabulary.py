"""Which pieces of a vocabulary are worth their rows, and the tokenizer with only those.

Most of a multilingual model's parameters are embedding rows, most of them never read on the texts at hand. A
trimmed tokenizer gives the same pieces as the full one on every text whose pieces are all kept:

- Unigram: leaving pieces out only takes paths away from the search, so that a best path of kept pieces stays the
  best, provided that an unknown character costs the same as before (`Pieces.anchors`).
- WordPiece: where the longest match is kept, it is still the longest. One exception: a word of several characters
  that the full vocabulary cannot spell ([UNK]) may become spellable where a dead-end prefix is gone.

Elsewhere the fallback is this. Unigram: the best segmentation by the same scores over the kept pieces, down to
single characters; a character without a piece is the unknown piece, or its bytes where the model has byte pieces.
WordPiece: the longest kept match, piece by piece; a word that cannot be spelled so is [UNK].
"""

import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from polyfold.errors import InputError
from polyfold.model.tokenizer_files import Pieces, read_pieces, write_pieces
from polyfold.text import Tokenizer, TokenizerSpec

_BATCH = 4096

# First words of Unicode names that belong to another script's, or to no script at all (None: always kept).
_SCRIPT_OF_WORD: dict[str, str | None] = {
    "IDEOGRAPHIC": "CJK",
    "KATAKANA-HIRAGANA": "KATAKANA",
    "MODIFIER": None,
    "COMBINING": None,
    "VARIATION": None,
    "MATHEMATICAL": None,
    "DOUBLE-STRUCK": None,
    "FEMININE": None,
    "MASCULINE": None,
    "MICRO": None,
    "KELVIN": None,
    "ANGSTROM": None,
    "OHM": None,
}


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


def count_pieces(tokenizer: Tokenizer, texts: Iterable[str], max_length: int | None = None) -> np.ndarray:
    """How often each id occurs in the texts, special tokens included: int64 [vocab]."""
    counts = np.zeros(tokenizer.vocabulary_size, dtype=np.int64)
    limit = sys.maxsize if max_length is None else max_length
    for chunk in _chunks(texts):
        ids = np.concatenate(tokenizer.encode(chunk, limit).ids)
        counts += np.bincount(ids, minlength=len(counts))
    return counts


def choose_pieces(
    folder: Path,
    spec: TokenizerSpec,
    counts: np.ndarray,
    coverage: float | None = 0.9999,
    size: int | None = None,
    keep_characters: bool = True,
) -> np.ndarray:
    """The old ids to keep, sorted: int64 [kept].

    All special pieces; the most frequent others until they make up `coverage` of the counted tokens (None or 1.0:
    every piece that was seen); with `keep_characters` every single-character piece whose script those are
    written in, and of no script (digits, punctuation, symbols, emoji), since XLM-R and the embedded encoder have
    no byte fallback and a missing character is lost. With `size`, no more than so many in all: the rarest seen
    pieces go first.
    """
    if coverage is not None and not 0.0 < coverage <= 1.0:
        raise InputError(f"{coverage} is no share of the tokens", key="coverage", hint="give 0 < coverage <= 1")
    pieces = read_pieces(folder, spec)
    assert counts.shape == (len(pieces),), "counts come from the tokenizer in this folder"

    order = _by_frequency(np.where(pieces.special, 0, counts), 1.0 if coverage is None else coverage)
    kept = pieces.required.copy()
    if keep_characters:
        kept |= _characters(pieces, {script for index in order for script in _scripts(pieces.core(index))})
    if size is not None:
        room = size - int(kept.sum())
        if room < 0:
            raise InputError(
                f"{size} pieces are fewer than the {int(kept.sum())} that must stay (special ones, characters)",
                key="size",
                hint=f"give at least {int(kept.sum())}, or keep_characters: false",
            )
        order = order[~kept[order]][:room]
    kept[order] = True
    return np.flatnonzero(kept & pieces.present)


def trim_tokenizer(
    folder: Path, spec: TokenizerSpec, keep: np.ndarray, target: Path
) -> tuple[TokenizerSpec, np.ndarray]:
    """Write the trimmed tokenizer into `target`; its spec, and `rows`: the old id of each new id, sorted.

    The new embedding table is `old_table[rows]`. Required pieces stay even if `keep` lacks them; rows of a table
    that is longer than the vocabulary (padded to a round number) are left behind.
    """
    pieces = read_pieces(folder, spec)
    ids = np.asarray(keep, dtype=np.int64)
    assert ids.size == 0 or (ids.min() >= 0 and ids.max() < len(pieces)), "keep holds ids of this tokenizer"
    kept = pieces.required.copy()
    kept[ids] = True
    rows = np.flatnonzero(kept & pieces.present)
    return write_pieces(folder, spec, rows, target), rows


def coverage_report(
    full: Tokenizer, trimmed: Tokenizer, rows: np.ndarray, texts: Iterable[str], max_length: int | None = None
) -> CoverageReport:
    """How many texts the trimmed tokenizer cuts otherwise, and how many have more unknown pieces than before."""
    limit = sys.maxsize if max_length is None else max_length
    documents = changed = gained = before = after = 0
    for chunk in _chunks(texts):
        old = full.encode(chunk, limit).ids
        new = [rows[ids] for ids in trimmed.encode(chunk, limit).ids]
        documents += len(chunk)
        before += sum(len(ids) for ids in old)
        after += sum(len(ids) for ids in new)
        changed += sum(not np.array_equal(a, b) for a, b in zip(old, new, strict=True))
        if (unknown := full.unknown_id) is not None:
            gained += sum(
                int((b == unknown).sum()) > int((a == unknown).sum()) for a, b in zip(old, new, strict=True)
            )
    total = max(documents, 1)
    return CoverageReport(
        documents, full.vocabulary_size, len(rows), changed / total, gained / total, before, after
    )


def script(character: str) -> str | None:
    """The script of a letter or mark (LATIN, CJK, HANGUL, HIRAGANA ...); None for what every script shares.

    The first word of the Unicode name is the script's, with few exceptions; Python has no table of scripts.
    """
    if unicodedata.category(character)[0] not in "LM":
        return None
    words = unicodedata.name(character, "").split()
    if words and words[0] in ("FULLWIDTH", "HALFWIDTH"):
        words = words[1:]
    if not words:
        return None
    return _SCRIPT_OF_WORD.get(words[0], words[0])


def _scripts(text: str) -> set[str]:
    return {name for character in text if (name := script(character)) is not None}


def _characters(pieces: Pieces, scripts: set[str]) -> np.ndarray:
    """Single-character pieces of these scripts or of none, with or without a word mark: bool [vocab]."""
    cores = (pieces.core(index) for index in range(len(pieces)))
    wanted = (len(core) == 1 and (script(core) is None or script(core) in scripts) for core in cores)
    return np.fromiter(wanted, dtype=bool, count=len(pieces))


def _by_frequency(counts: np.ndarray, coverage: float) -> np.ndarray:
    """Ids seen at least once, most frequent first (of equals the lower id), until `coverage` is reached."""
    order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
    cumulated = np.cumsum(counts[order])
    if not len(order) or coverage == 1.0:
        return np.asarray(order)
    enough = int(np.searchsorted(cumulated, coverage * cumulated[-1])) + 1
    return np.asarray(order[:enough])


def _chunks(texts: Iterable[str]) -> Iterator[Sequence[str]]:
    source = iter(texts)
    while chunk := list(islice(source, _BATCH)):
        yield chunk
