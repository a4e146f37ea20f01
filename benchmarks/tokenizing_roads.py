"""What tokenizing.py times: Polyfold's tokenizers, the libraries under them, and stand-ins that answer at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyfold.predictor import TOKEN_BUDGET, Predictor
from polyfold.tasks import Task
from polyfold.text import Encoding, JsonTokenizer, Tokenizer, TokenizerSpec, open_tokenizer
from polyfold.text.unigram import Unigram

MAX_LENGTH = 128
"""Tokens a document is cut to where no model says otherwise."""


@dataclass(frozen=True)
class Bare:
    """SentencePiece's own processor over a vocabulary, and how its numbers become ours."""

    backend: Any
    begin: int
    end: int
    offset: int = 0
    unknown_id: int | None = None

    @staticmethod
    def of(path: Path, spec: TokenizerSpec) -> "Bare | None":
        """The processor of a tokenizer's file; None where that library cannot run it."""
        import sentencepiece

        if spec.kind == "sentencepiece":
            backend = sentencepiece.SentencePieceProcessor(model_file=str(path))
            return Bare(backend, spec.begin_id is not None, spec.end_id is not None, spec.offset, spec.unk_id)
        unigram = Unigram.read(path, spec)
        if unigram is None:
            return None
        backend = sentencepiece.SentencePieceProcessor(model_proto=unigram.sentencepiece())
        return Bare(backend, len(unigram.frame.begin), len(unigram.frame.end))

    def differences(self, texts: Sequence[str], right: Encoding) -> int:
        """Documents for which it gives other numbers than `right` between the special tokens; cut ones aside."""
        unknown = int(self.backend.unk_id())
        stands = unknown + self.offset if self.unknown_id is None else self.unknown_id
        different = 0
        for found, ids, cut in zip(self.backend.encode(list(texts)), right.ids, right.truncated, strict=True):
            own = [stands if piece == unknown else piece + self.offset for piece in found]
            different += not cut and own != ids[self.begin : len(ids) - self.end].tolist()
        return different


@dataclass(frozen=True)
class Source:
    """A tokenizer opened for each number of threads, the libraries alone, and a predictor where there is a model.

    `library` is there for a JSON, `bare` for what SentencePiece can run.
    """

    spec: TokenizerSpec
    tokenizers: Mapping[int, Tokenizer]
    library: JsonTokenizer | None
    bare: Bare | None
    predictor: Predictor | None

    @staticmethod
    def open(folder: Path, spec: TokenizerSpec, threads: Sequence[int], predictor: Predictor | None) -> "Source":
        """Everything loaded once."""
        opened = {count: open_tokenizer(folder, spec, count) for count in threads}
        library = JsonTokenizer(folder, spec) if spec.kind == "tokenizers" else None
        return Source(spec, opened, library, Bare.of(folder / spec.file, spec), predictor)

    @property
    def max_length(self) -> int:
        """Where documents are cut."""
        return MAX_LENGTH if self.predictor is None else self.predictor.config.max_length


@dataclass(frozen=True)
class AtOnce:
    """A session that answers the same for every batch, without computing."""

    logits: Mapping[str, np.ndarray]

    @staticmethod
    def of(tasks: Sequence[Task], most: int = TOKEN_BUDGET) -> "AtOnce":
        """Random logits for up to `most` documents a batch."""
        rng = np.random.default_rng(0)
        drawn = {task.name: rng.normal(0, 3, (most, len(task.labels))) for task in tasks}
        return AtOnce({name: values.astype(np.float32) for name, values in drawn.items()})

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
        """Logits by task, float32 [batch, labels]."""
        return {name: values[: len(input_ids)] for name, values in self.logits.items()}


class Known:
    """A tokenizer that has seen all texts: any run of them, in their order, is a slice of what it knows."""

    def __init__(self, inner: Tokenizer, texts: Sequence[str], max_length: int) -> None:
        self.spec = inner.spec
        self.vocabulary_size, self.unknown_id = inner.vocabulary_size, inner.unknown_id
        self.encoding = inner.encode(texts, max_length)
        self._rows = {text: row for row, text in enumerate(texts)}
        assert len(self._rows) == len(texts)

    def encode(self, texts: Sequence[str], max_length: int) -> Encoding:
        """What is known of these neighbours."""
        if not texts:
            return self.encoding.take([])
        start = self._rows[texts[0]]
        end = start + len(texts)
        offsets = self.encoding.offsets[start : end + 1]
        flat = self.encoding.flat[offsets[0] : offsets[-1]]
        return Encoding(flat, offsets - offsets[0], self.encoding.truncated[start:end])
