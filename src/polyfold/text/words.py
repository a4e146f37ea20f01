"""Words cut as `tokenizers` cuts them, without its holding the vocabulary.

One text in a hundred is not SentencePiece's (see `UnigramTokenizer`), but the whole JSON takes 45 MB in its own
library with 45,000 pieces, and 250 MB with 250,000. What that library does with a text falls into two halves, and
neither needs all of it. First it takes out special tokens, normalizes what is between, and splits that into words:
`Splitter` has it do so with the same JSON and an empty vocabulary, where every word is one unknown token. Then it
looks for the best pieces of each word: `Cutter` has it do so with those pieces only that stand somewhere in the
words at hand.

The second gives the same pieces as the whole vocabulary does, to the last bit. `tokenizers` goes through a word's
characters from left to right, and at each through the pieces that stand there, from short to long; only a strictly
better path replaces another (`Unigram::encode_optimized`). A piece that stands nowhere in the word is never met:
without it the same sums are made in the same order. Three more things of the vocabulary have a say: the
score of an unknown character, which is the lowest score less 10, so that a piece of lowest score is always there;
the unknown piece, whose neighbours of its kind are made one with it, and which is always there too; and whether
unknown characters made one are a piece, which would stand in the word. Ids are only names, on which nothing
depends. Scores are handed on digit by digit, as the file has them, since the library's reading of a decimal is not
always the nearest double.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Part = int | str
"""A token's id, or a word that is yet to be cut."""

TOGETHER = 4096
"""Characters of words cut with one small vocabulary, and substrings looked up at a time: it bounds memory."""

_NO_WORD = " "
"""The name of the only piece when texts are split: words hold no space."""

_EMPTY: Mapping[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": None,
}


@dataclass(frozen=True)
class Splitter:
    """Texts to words and special tokens: `form` is a JSON of its added tokens, normalizer and pre-tokenizer."""

    form: str
    special: Mapping[str, int]

    def parts(self, texts: Sequence[str]) -> list[list[Part]]:
        """Each text's words as the model is given them, and ids of the special tokens it spells."""
        # The quick call leaves out what a token spells.
        found = self._backend.encode_batch(texts, add_special_tokens=False)
        return [
            [self._ids.get(index, word) for index, word in zip(one.ids, one.tokens, strict=True)] for one in found
        ]

    @cached_property
    def _backend(self) -> Any:
        model = {"type": "Unigram", "unk_id": 0, "vocab": [[_NO_WORD, 0.0]], "byte_fallback": False}
        return _library(json.dumps({**_EMPTY, **json.loads(self.form), "model": model}))

    @cached_property
    def _ids(self) -> dict[int, Part]:
        """The ids the empty vocabulary gives special tokens, to those of the JSON."""
        names = self._backend.get_vocab(with_added_tokens=True)
        return {index: self.special[name] for name, index in names.items() if name != _NO_WORD}


@dataclass(frozen=True)
class Cutter:
    """Words to ids.

    `backend` is the SentencePiece model, which knows the pieces; `digits` are their scores as the file has them
    (bytes [vocab]); `reach` the length of the longest piece that begins with a character (uint16 [0x110000]);
    `unknown` and `lowest` the ids of the unknown piece and of a piece of lowest score.
    """

    backend: Any
    digits: np.ndarray
    reach: np.ndarray
    unknown: int
    lowest: int

    def cut(self, words: Iterable[str]) -> dict[str, list[int]]:
        """Each word's ids; a word given twice is cut once."""
        return {word: ids for some in _together(dict.fromkeys(words)) for word, ids in self._cut(some)}

    def _cut(self, words: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
        numbers = [self.unknown, *sorted({self.lowest, *self._within(words)} - {self.unknown})]
        entries = (
            f"[{json.dumps(self.backend.id_to_piece(index))},{digits.decode()}]"
            for index, digits in zip(numbers, self.digits[numbers].tolist(), strict=True)
        )
        model = f'{{"type":"Unigram","unk_id":0,"byte_fallback":false,"vocab":[{",".join(entries)}]}}'
        small = _library(f'{json.dumps(_EMPTY)[:-1]},"model":{model}}}')
        for word, one in zip(words, small.encode_batch_fast(words, add_special_tokens=False), strict=True):
            yield word, [numbers[index] for index in one.ids]

    def _within(self, words: Sequence[str]) -> set[int]:
        """Ids of all pieces that are somewhere in the words."""
        found: set[int] = set()
        candidates: set[str] = set()
        for word in words:
            reach = self.reach[np.frombuffer(word.encode("utf-32-le"), dtype="<u4")].tolist()
            for start, longest in enumerate(reach):
                stops = range(start + 1, min(start + longest, len(word)) + 1)
                candidates.update([word[start:stop] for stop in stops])
                if len(candidates) > TOGETHER:
                    found.update(map(self.backend.piece_to_id, candidates))
                    candidates = set()
        found.update(map(self.backend.piece_to_id, candidates))
        return found


def reaches(firsts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """How long the longest piece is that begins with a character: uint16 [0x110000], of first code points."""
    reach = np.zeros(0x110000, dtype=np.uint16)
    np.maximum.at(reach, firsts, lengths.astype(np.uint16))
    return reach


def _together(words: Iterable[str]) -> Iterator[list[str]]:
    """The words in groups of about `TOGETHER` characters."""
    group: list[str] = []
    size = 0
    for word in words:
        group.append(word)
        size += len(word)
        if size >= TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group


def _library(text: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(text)
