"""Texts to token ids, and ids to batches: the same code for training, measuring and serving, without torch."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from polyfold.errors import InputError

Ids = np.ndarray
"""One document's token ids, special tokens included: int64 [seq]."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class TokenizerSpec(BaseModel):
    """Which tokenizer a model folder holds: a `tokenizers` JSON, or a SentencePiece model.

    The fields after `pad_id` describe a SentencePiece model only; a JSON holds them itself. `offset` is added to
    every piece id, `begin_id` and `end_id` (after the offset) frame the document, `unk_id` is the model's id of
    the unknown piece where it is not simply the piece's own id plus the offset, and `extra` counts the rows of
    the embedding table behind the last piece. XLM-R is offset 1, begin 0, pad 1, end 2, unk 3, extra 1 (<mask>).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["tokenizers", "sentencepiece"]
    file: str
    pad_id: int
    offset: int = 0
    begin_id: int | None = None
    end_id: int | None = None
    unk_id: int | None = None
    extra: int = 0


@dataclass(frozen=True)
class Encoding:
    """Token ids a document, and which documents were cut to fit."""

    ids: list[Ids]
    truncated: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens a document, special tokens included: int64 [n]."""
        return np.fromiter((len(ids) for ids in self.ids), dtype=np.int64, count=len(self.ids))

    def take(self, indices: Sequence[int] | np.ndarray) -> "Encoding":
        """The chosen documents, in that order."""
        return Encoding([self.ids[i] for i in indices], self.truncated[np.asarray(indices, dtype=np.int64)])


class Tokenizer(Protocol):
    """Texts to ids. Any string is a text: empty ones, NUL and lone surrogates included.

    A document longer than `max_length` tokens loses its end, never its special tokens, and is marked truncated.
    `encode` changes nothing in the tokenizer, so threads may share one.
    """

    spec: TokenizerSpec

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def unknown_id(self) -> int | None: ...

    def encode(self, texts: Sequence[str], max_length: int) -> Encoding: ...


class JsonTokenizer:
    """A Hugging Face `tokenizers` JSON, run by its own library."""

    def __init__(self, folder: Path, spec: TokenizerSpec) -> None:
        from tokenizers import Tokenizer as Backend

        self.spec = spec
        path = folder / spec.file
        try:
            self._backend = Backend.from_str(path.read_text(encoding="utf8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the tokenizer: {error}", file=path) from None
        except Exception as error:  # noqa: BLE001  (the Rust library raises bare Exception)
            raise InputError(f"not a tokenizers JSON: {error}", file=path) from None
        self._backend.no_padding()
        # Cut here and not by the library: its truncation is a setting of the shared object (two threads with
        # different lengths would clash), is silently off where the special tokens alone fill max_length, and
        # keeps everything it cut off in memory.
        self._backend.no_truncation()
        probe = self._backend.encode("a")
        inner = [place for place, special in enumerate(probe.special_tokens_mask) if not special]
        first, last = (inner[0], inner[-1] + 1) if inner else (len(probe.ids), len(probe.ids))
        self._begin, self._end = list(probe.ids[:first]), list(probe.ids[last:])

    @cached_property
    def vocabulary_size(self) -> int:
        """Rows the embedding table needs: the greatest id plus one, since a WordPiece numbering may have holes."""
        return int(max(self._backend.get_vocab(with_added_tokens=True).values())) + 1

    @cached_property
    def unknown_id(self) -> int | None:
        """The id that stands for what the vocabulary cannot spell."""
        model = json.loads(self._backend.to_str())["model"]
        if "unk_id" in model:
            return None if model["unk_id"] is None else int(model["unk_id"])
        token = model.get("unk_token")
        return None if token is None else self._backend.token_to_id(token)

    def encode(self, texts: Sequence[str], max_length: int) -> Encoding:
        """Ids framed by the special tokens of the JSON's own post-processor."""
        encoded = self._backend.encode_batch_fast(_encodable(texts), add_special_tokens=False)
        return _frame([one.ids for one in encoded], self._begin, self._end, max_length, self.spec.pad_id)


class SentencePieceTokenizer:
    """A SentencePiece model, run by its own library: several times faster than the JSON route."""

    def __init__(self, folder: Path, spec: TokenizerSpec) -> None:
        import sentencepiece

        self.spec = spec
        path = folder / spec.file
        try:
            self._backend = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise InputError(f"not a SentencePiece model: {error}", file=path) from None

    @property
    def vocabulary_size(self) -> int:
        """Rows the embedding table needs."""
        return int(self._backend.vocab_size()) + self.spec.offset + self.spec.extra

    @property
    def unknown_id(self) -> int:
        """The id that stands for what the vocabulary cannot spell."""
        if self.spec.unk_id is not None:
            return self.spec.unk_id
        return int(self._backend.unk_id()) + self.spec.offset

    def encode(self, texts: Sequence[str], max_length: int) -> Encoding:
        """Ids framed by `begin_id` and `end_id`."""
        begin = [] if self.spec.begin_id is None else [self.spec.begin_id]
        end = [] if self.spec.end_id is None else [self.spec.end_id]
        pieces: list[list[int]] = self._backend.encode(_encodable(texts), out_type=int)
        if self.spec.offset or self.spec.unk_id is not None:
            offset, unknown, unknown_id = self.spec.offset, int(self._backend.unk_id()), self.unknown_id
            # The unknown piece is the only one from a text that does not follow the offset (XLM-R: 0 -> 3).
            pieces = [[unknown_id if p == unknown else p + offset for p in one] for one in pieces]
        return _frame(pieces, begin, end, max_length, self.spec.pad_id)


def _encodable(texts: Sequence[str]) -> list[str]:
    """Both libraries take UTF-8: surrogate pairs become the character they mean, lone surrogates U+FFFD."""
    return [
        text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if not text.isascii() and _SURROGATE.search(text)
        else text
        for text in texts
    ]


def _frame(
    pieces: Sequence[list[int]], begin: list[int], end: list[int], max_length: int, pad_id: int
) -> Encoding:
    """Cut to fit and add the special tokens; where there are none, an empty document is one padding token."""
    room = max_length - len(begin) - len(end)
    if room < 1:
        raise InputError(
            f"{max_length} tokens leave no room for text beside the {len(begin) + len(end)} special tokens",
            key="max_length",
            hint=f"give at least {len(begin) + len(end) + 1}",
        )
    ids = [np.asarray((begin + one[:room] + end) or [pad_id], dtype=np.int64) for one in pieces]
    return Encoding(ids, np.asarray([len(one) > room for one in pieces], dtype=bool))


def open_tokenizer(folder: Path, spec: TokenizerSpec) -> Tokenizer:
    """The tokenizer of a model folder."""
    match spec.kind:
        case "tokenizers":
            return JsonTokenizer(folder, spec)
        case "sentencepiece":
            return SentencePieceTokenizer(folder, spec)


def plan_batches(lengths: np.ndarray, token_budget: int, most: int | None = None) -> list[np.ndarray]:
    """Group documents of like length so that documents times longest stays within `token_budget`.

    Every document is in exactly one batch, shortest first; one longer than the budget is a batch of its own.
    Padding is waste: on short texts this makes four to five times fewer tokens than padding to 128.
    """
    order = np.argsort(lengths, kind="stable")
    batches: list[np.ndarray] = []
    start = 0
    for position in range(len(order)):
        # Sorted, so this document is the longest so far.
        count = position - start + 1
        full = count * int(lengths[order[position]]) > token_budget or (most is not None and count > most)
        if full and count > 1:
            batches.append(order[start:position])
            start = position
    if start < len(order):
        batches.append(order[start:])
    return batches


def pad(ids: Sequence[Ids], pad_id: int, length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded `input_ids` and `attention_mask`, both int64 [batch, seq]; `length` pads further."""
    longest = max((len(one) for one in ids), default=1)
    width = max(longest, length or 0, 1)
    input_ids = np.full((len(ids), width), pad_id, dtype=np.int64)
    attention_mask = np.zeros((len(ids), width), dtype=np.int64)
    for row, one in enumerate(ids):
        input_ids[row, : len(one)] = one
        attention_mask[row, : len(one)] = 1
    return input_ids, attention_mask
