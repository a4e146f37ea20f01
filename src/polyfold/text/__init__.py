"""Texts to token ids, and ids to batches: the same code for training, measuring and serving, without torch."""

from polyfold.text.encoding import Encoding, Frame, Ids, pad, pad_rows, plan_batches
from polyfold.text.spec import Tokenizer, TokenizerSpec
from polyfold.text.tokenizer import JsonTokenizer, SentencePieceTokenizer, UnigramTokenizer, open_tokenizer

__all__ = [
    "Encoding",
    "Frame",
    "Ids",
    "JsonTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "TokenizerSpec",
    "UnigramTokenizer",
    "open_tokenizer",
    "pad",
    "pad_rows",
    "plan_batches",
]
