"""A tokenizer's vocabulary as a table, with what must stay in any part of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polyfold.model.merges import Chains

WORD_START = "▁"
"""U+2581, which SentencePiece writes for the space before a word."""


@dataclass(frozen=True)
class Pieces:
    """A tokenizer's vocabulary by model id, `[vocab]` each.

    `texts` holds None where an id has no piece (a hole in the numbering), "" where a row of the embedding table
    belongs to none. `cores` are the characters a piece stands for, without marks of a word's start, continuation
    or end; "" for a part of a character. `special` marks what no trimming may drop: control, unknown, padding,
    byte and added tokens, and rows that no piece stands for. `anchors` marks the pieces with the lowest and
    highest score of a unigram model: both libraries score an unknown character 10 below the lowest score in the
    vocabulary (and SentencePiece a user-defined symbol by the highest), so that the segmentation of every text
    hangs on these two. `chains` tells what a byte-pair piece is made of. `spells_all` is whether a character
    without a piece still has an id, the unknown piece's or its bytes'.
    """

    texts: tuple[str | None, ...]
    cores: tuple[str, ...]
    special: np.ndarray
    anchors: np.ndarray
    chains: Chains | None = None
    spells_all: bool = True

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def present(self) -> np.ndarray:
        """Ids that are rows of the embedding table: bool [vocab]."""
        return np.asarray([text is not None for text in self.texts], dtype=bool)

    @property
    def required(self) -> np.ndarray:
        """Ids that every trimmed vocabulary holds: bool [vocab]."""
        return self.closed(self.special | self.anchors)

    def closed(self, kept: np.ndarray) -> np.ndarray:
        """The kept ids and all that byte-pair pieces among them are made of: bool [vocab]."""
        whole = kept.copy()
        for index in np.flatnonzero(kept) if self.chains is not None else ():
            whole[self.made_of(int(index))] = True
        return whole

    def made_of(self, index: int) -> Sequence[int]:
        """The ids that must stay for this one to come up: its chain of merges, itself included."""
        text = self.texts[index]
        if self.chains is None or not text:
            return [index]
        return [index, *(self._ids[part] for part in self.chains.of(text) if part in self._ids)]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {text: index for index, text in enumerate(self.texts) if text}
