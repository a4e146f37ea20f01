"""Where SentencePiece and `tokenizers` read the same character map alike: a class for every code point.

A precompiled character map (NFKC with a few changes, as a rule) is a trie of UTF-8 sequences and what becomes of
them. SentencePiece takes the longest sequence at each place of a text. `tokenizers` goes by grapheme clusters
(UAX 29): one of fewer than six bytes is replaced as a whole by what the *shortest* sequence at its start becomes,
so that a mark behind a mapped character is lost; in a longer one every character is replaced by itself, so that
Hangul written in single letters is not composed. Both do the same where every cluster that begins with a mapped
character is that character alone, and no sequence of two or more characters of the map is in the text.
"""

import struct
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CODE_POINTS = 0x110000
WORD_START = "▁"

ODD, SECOND, JOINING, MAPPED, MARK = 1, 2, 4, 8, 16
"""Bits of a class: never alike; second in a sequence of the map; may go on in a cluster; changed by the map; a
mark, or made one by the map."""

_WHITE_SPACE = "\t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
# Characters that begin a cluster with whatever follows (Grapheme_Cluster_Break=Prepend).
_PREPEND = (
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\U000110bd\U000110cd\U000111c2"
    "\U000111c3\U000113d1\U0001193f\U00011941\U00011a3a\U00011a84\U00011a85\U00011a86\U00011a87\U00011a88"
    "\U00011a89\U00011d46\U00011f02"
)
# What goes on in a cluster beside marks (categories M*) and unassigned code points, which a newer Unicode may make
# marks: Hangul letters, joiners, halfwidth sound marks, skin tones, tags.
_ALSO_JOINING = (
    (0x1100, 0x1200), (0x200C, 0x200E), (0xA960, 0xA980), (0xD7B0, 0xD800), (0xFF9E, 0xFFA0), (0x1F3FB, 0x1F400),
    (0xE0000, 0xE1000),
)  # fmt: skip
_LEADS = ((0x01, 0x80, 0), (0xC2, 0xE0, 1), (0xE0, 0xF0, 2), (0xF0, 0xF5, 3))
"""UTF-8's first bytes, from and to, and how many bytes follow."""


@dataclass(frozen=True)
class CharacterMap:
    """What a map does to single characters (`singles`), and the first two of its longer sequences (`pairs`)."""

    singles: Mapping[str, str]
    pairs: np.ndarray

    @staticmethod
    def read(blob: bytes) -> "CharacterMap":
        """Read the trie: its size in bytes, the units of a double array (darts-clone), then NUL-ended strings."""
        if not blob:
            return CharacterMap({}, np.empty(0, np.int64))
        (size,) = struct.unpack_from("<I", blob)
        units = np.frombuffer(blob, "<u4", count=size // 4, offset=4).astype(np.int64)
        text = blob[4 + size :]
        root = _children(units, np.zeros(1, np.int64))
        _, first, nodes = _characters(units, root)
        leaves = (units[nodes] >> 8) & 1 == 1
        singles = {}
        for code, place in zip(first[leaves].tolist(), _children(units, nodes[leaves]).tolist(), strict=True):
            start = int(units[place]) & 0x7FFFFFFF
            singles[chr(code)] = text[start : text.index(b"\0", start)].decode("utf8")
        rows, second, _ = _characters(units, _children(units, nodes))
        return CharacterMap(singles, np.sort(pair(first[rows], second)))


@dataclass(frozen=True)
class CharacterClasses:
    """A class for every code point (uint8 [0x110000]) and the pairs that begin a sequence of the map."""

    table: np.ndarray
    pairs: np.ndarray

    @staticmethod
    def of(characters: CharacterMap, marks: str) -> "CharacterClasses":
        """`marks` are characters of which it shall be told which texts hold them, written or made by the map."""
        table = _unicode_classes()
        for character, value in characters.singles.items():
            odd = character in _PREPEND or "  " in value or any(one in value for one in WORD_START + _WHITE_SPACE)
            marked = any(one in value for one in marks)
            table[ord(character)] |= MAPPED | (ODD if odd else 0) | (MARK if marked else 0)
        table[[ord(one) for one in marks]] |= MARK
        # NUL ends the map's strings and so is best left alone; surrogates are no characters; a mark that is
        # written is a space to one library, and to the other only sometimes.
        table[[0, ord(WORD_START)]] |= ODD
        table[0xD800:0xE000] |= ODD
        for space in _WHITE_SPACE:
            # One library splits at all white space, the other at what the map makes a space.
            table[ord(space)] |= 0 if space in characters.singles else ODD
        table[characters.pairs & 0x1FFFFF] |= SECOND
        return CharacterClasses(table, characters.pairs)

    def sort_out(self, texts: Sequence[str], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of texts (of these lengths in characters) that might not be read alike, and of those with marks."""
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
        classes = self.table[codes]
        places = np.flatnonzero(classes & (ODD | SECOND | JOINING | MARK))
        if len(places) == 0:
            return places, places
        found = classes[places]
        # The text before is looked at too where a text begins with a mark: it is then taken for odd in vain.
        before = np.maximum(places - 1, 0)
        lost = (found & JOINING != 0) & (classes[before] & MAPPED != 0)
        odd = (found & ODD != 0) | lost
        second = np.flatnonzero((found & SECOND != 0) & ~odd)
        if len(second):
            wanted = pair(codes[before[second]].astype(np.int64), codes[places[second]].astype(np.int64))
            spots = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
            odd[second] = self.pairs[spots] == wanted
        rows = np.searchsorted(np.cumsum(lengths), places, side="right")
        return np.unique(rows[odd]), np.unique(rows[found & MARK != 0])


def pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two code points as one number."""
    return (first << 21) | second


def _unicode_classes() -> np.ndarray:
    categories = [unicodedata.category(chr(code)) for code in range(0x20000)]
    table = np.zeros(CODE_POINTS, dtype=np.uint8)
    table[: len(categories)] = [JOINING if one[0] == "M" or one == "Cn" else 0 for one in categories]
    for start, stop in _ALSO_JOINING:
        table[start:stop] = JOINING
    return table


def _children(units: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Where a node's children begin: the child by a byte is this number XOR the byte."""
    held = units[nodes]
    return nodes ^ ((held >> 10) << ((held & 0x200) >> 6))


def _characters(units: np.ndarray, bases: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All characters that go on from nodes: the node's row, the code point, and the node it leads to."""
    rows, codes, nodes = [], [], []
    for start, stop, following in _LEADS:
        row, byte, node = _step(units, bases, np.arange(start, stop))
        code = byte if not following else byte & (0x3F >> following)
        for _ in range(following):
            inner, byte, node = _step(units, _children(units, node), np.arange(0x80, 0xC0))
            row, code = row[inner], (code[inner] << 6) | (byte & 0x3F)
        rows.append(row)
        codes.append(code)
        nodes.append(node)
    return np.concatenate(rows), np.concatenate(codes), np.concatenate(nodes)


def _step(units: np.ndarray, bases: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One byte further from every node: row, byte and node of each child there is."""
    children = bases[:, None] ^ labels
    there = children < len(units)
    # A unit's label is its lowest byte; the highest bit marks a value, which is no child.
    there &= units[np.where(there, children, 0)] & 0x800000FF == labels
    rows, columns = np.nonzero(there)
    return rows, labels[columns], children[rows, columns]
