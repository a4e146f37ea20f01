"""Which pieces a byte-pair vocabulary makes of which others, so that none is dropped that a kept one is made of.

BPE starts from characters and joins the best pair again and again. Nothing joins across the edges of a piece that
ends up in a text, so inside them everything happens as if the piece stood alone: what it is made of, its chain, is
found by running BPE on its own string. A vocabulary that holds the chain of each of its pieces, with those of the
merges whose three pieces it holds in their old order, cuts every text of kept pieces as the full one does: of the
merges that are left, the best is the one the full vocabulary takes, since that one is left; and at the end none
is left because none was before. (Sennrich et al. 2016, Section 3.2, is where the order of merges comes from.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol


class Chains(Protocol):
    """What a piece is made of."""

    def of(self, piece: str) -> frozenset[str]:
        """Every piece that comes up while this one is put together, itself included."""
        ...


@dataclass(frozen=True)
class ScoredChains:
    """SentencePiece's BPE: any two neighbours join whose sum is a piece, by the best score, then the leftmost.

    Source: sentencepiece, `src/bpe_model.cc`.
    """

    scores: Mapping[str, float]

    def of(self, piece: str) -> frozenset[str]:
        """Every piece that comes up while this one is put together, itself included."""
        symbols, seen = list(piece), set(piece)
        while len(symbols) > 1:
            joined = [left + right for left, right in pairwise(symbols)]
            known = [(-self.scores[whole], place) for place, whole in enumerate(joined) if whole in self.scores]
            if not known:
                break
            place = min(known)[1]
            symbols[place : place + 2] = [joined[place]]
            seen.add(joined[place])
        return frozenset(seen) if symbols == [piece] else frozenset([piece])


@dataclass(frozen=True)
class MergeTable:
    """The `tokenizers` library's BPE: a table of merges in order, the first in the table first.

    `prefix` marks pieces that continue a word and is dropped from the right half of a merge; `suffix` marks those
    that end one. Source: tokenizers, `models/bpe/{model,word}.rs`.
    """

    ranks: Mapping[tuple[str, str], int]
    prefix: str = ""
    suffix: str = ""

    @staticmethod
    def of_model(model: Mapping[str, Any]) -> "MergeTable":
        """The table in a JSON's `model` block, whose merges are pairs, or strings with a space in files of old."""
        ranks = {split_merge(merge): rank for rank, merge in enumerate(model["merges"])}
        return MergeTable(
            ranks, model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
        )

    def joined(self, left: str, right: str) -> str:
        """The piece that a merge makes."""
        return left + right[len(self.prefix) :]

    def of(self, piece: str) -> frozenset[str]:
        """Every piece that comes up while this one is put together, itself included.

        Where its own string does not lead to a piece (merges of bytes, say), all that any merge makes it of stays.
        """
        symbols = self._letters(piece)
        seen = set(symbols)
        while len(symbols) > 1:
            known = [
                (self.ranks[pair], place) for place, pair in enumerate(pairwise(symbols)) if pair in self.ranks
            ]
            if not known:
                break
            place = min(known)[1]
            symbols[place : place + 2] = [self.joined(*symbols[place : place + 2])]
            seen.add(symbols[place])
        return frozenset(seen) if symbols == [piece] else self._ancestors(piece)

    @cached_property
    def _halves(self) -> Mapping[str, frozenset[str]]:
        """Both halves of every merge by the piece it makes."""
        found: dict[str, set[str]] = {}
        for left, right in self.ranks:
            found.setdefault(self.joined(left, right), set()).update((left, right))
        return {piece: frozenset(halves) for piece, halves in found.items()}

    def _ancestors(self, piece: str) -> frozenset[str]:
        seen, queue = {piece}, [piece]
        while queue:
            fresh = self._halves.get(queue.pop(), frozenset()) - seen
            seen |= fresh
            queue += fresh
        return frozenset(seen)

    def _letters(self, piece: str) -> list[str]:
        """The characters of a piece as BPE starts with them, marks of continuation and end put on."""
        inner = bool(self.prefix) and piece.startswith(self.prefix) and piece != self.prefix
        ends = bool(self.suffix) and piece.endswith(self.suffix) and piece != self.suffix
        core = piece[len(self.prefix) if inner else 0 : -len(self.suffix) if ends else None]
        letters = [self.prefix + letter if place or inner else letter for place, letter in enumerate(core)]
        if letters and ends:
            letters[-1] += self.suffix
        return letters


def split_merge(merge: str | Sequence[str]) -> tuple[str, str]:
    """The two halves of one entry of a JSON's `merges`."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def trim_merges(model: Mapping[str, Any], kept: Mapping[str, int]) -> list[Any]:
    """The merges, as written and in their order, whose halves and whole are all among the kept pieces."""
    table = MergeTable.of_model(model)
    return [
        merge
        for merge in model["merges"]
        for left, right in (split_merge(merge),)
        if left in kept and right in kept and table.joined(left, right) in kept
    ]
