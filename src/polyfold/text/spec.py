"""What a model folder says of its tokenizer, and what every tokenizer offers."""

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from polyfold.text.encoding import Encoding


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
