"""What a subject is given to do: dense batches, real texts, or token ids in the batches that real texts make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from polyfold.errors import InputError
from polyfold.measure.rounds import Turns, Work, timed
from polyfold.predictor import Predictor
from polyfold.text import Encoding, Ids, pad, pad_rows
from polyfold.text.shapes import plan_shapes

PADDED_WIDTH = 128

DENSE_CALLS = 16
"""Different dense batches a subject cycles through, so that no cache holds the one answer."""


class IdsSubject(Protocol):
    """A model that takes token ids: all that a baseline has to be."""

    def run_ids(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> object: ...


class Encoder(Protocol):
    """Texts to token ids, and the id that pads them."""

    @property
    def pad_id(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> Encoding: ...


class Subject(IdsSubject, Encoder, Protocol):
    """A model with its tokenizer; `run_texts` is the whole way from texts to answers."""

    def run_texts(self, texts: Sequence[str]) -> object: ...


@dataclass(frozen=True)
class PredictorSubject:
    """A predictor as a subject."""

    predictor: Predictor

    @staticmethod
    def of(predictor: Predictor, token_budget: int, documents: int) -> "PredictorSubject":
        """The predictor with the batches that the baseline gets too: one sorted window, the same budget."""
        return PredictorSubject(replace(predictor, token_budget=token_budget, window=documents))

    @property
    def pad_id(self) -> int:
        """The tokenizer's padding id."""
        return self.predictor.tokenizer.spec.pad_id

    def encode(self, texts: Sequence[str]) -> Encoding:
        """Token ids, cut to the model's own length."""
        return self.predictor.tokenizer.encode(texts, self.predictor.config.max_length)

    def run_ids(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> object:
        """One batch through the runtime."""
        return self.predictor.session.run(input_ids, attention_mask)

    def run_texts(self, texts: Sequence[str]) -> object:
        """Tokenizing, batching, running, calibrating, deciding."""
        return self.predictor.predict(texts)


def distinct_texts(texts: Sequence[str], most: int) -> list[str]:
    """Up to `most` different texts, spread evenly over those given: files are often sorted by language."""
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        raise InputError("there are no texts to measure speed on", hint="give a test split that is not empty")
    return [distinct[place] for place in _places(len(distinct), most)]


def dense_rows(encoding: Encoding, rows: int, width: int) -> list[Ids]:
    """Documents of exactly `width` real tokens: the texts' ids end to end, cut into rows.

    Where the texts end before the rows do they start again one token later, so that rows still differ.
    """
    stream = encoding.flat
    if len(stream) == 0:
        raise InputError("the texts to measure speed on are all empty", hint="give texts with words in them")
    laps = -(-rows * width // len(stream))
    tokens = np.concatenate([np.roll(stream, -lap) for lap in range(laps)])[: rows * width]
    return list(tokens.reshape(rows, width))


def best_batch_size(subject: IdsSubject, encoding: Encoding, pad_id: int, sizes: Sequence[int]) -> int:
    """The size with the highest throughput on documents padded to 128, one call each."""
    subject.run_ids(*_padded_batch(encoding, pad_id, 0, 1))
    rates = {}
    for size in sizes:
        batch = _padded_batch(encoding, pad_id, 0, size)
        rates[size] = size / sum(timed(iter([_run(subject, *batch)]), 0.0))
    return max(rates, key=rates.__getitem__)


def dense_work(
    subject: IdsSubject, encoding: Encoding, shape: tuple[int, int], turns: Turns, calls: int = DENSE_CALLS
) -> Work:
    """`calls` different batches of `shape` (documents, tokens) without padding."""
    batch, width = shape
    ids = np.stack(dense_rows(encoding, batch * calls, width)).reshape(calls, batch, width)
    mask = np.ones((batch, width), dtype=np.int64)
    runs = [_run(subject, one, mask) for one in ids]
    return Work(runs, batch, batch * calls, runs[:1], turns)


def text_work(subject: Subject, texts: Sequence[str], single_texts: int, turns: Turns) -> Work:
    """All texts in one call for throughput, some of them one by one for latency; each length is warmed up."""

    def one(text: str) -> Callable[[], object]:
        return lambda: subject.run_texts([text])

    everything = [lambda: subject.run_texts(texts)]
    singles = [one(text) for text in distinct_texts(texts, single_texts)] if single_texts else []
    return Work(everything, len(texts), len(texts), [*everything, *singles], turns, singles)


def batches_work(subject: IdsSubject, encoding: Encoding, pad_id: int, token_budget: int, turns: Turns) -> Work:
    """Token ids alone: one call is all documents in a predictor's batches, none padded beyond its longest."""
    plan = plan_shapes(encoding.lengths, token_budget, int(encoding.lengths.max(initial=1)))
    batches = [pad_rows(encoding, batch.rows, pad_id) for batch in plan]

    def everything() -> None:
        for batch in batches:
            subject.run_ids(*batch)

    return Work([everything], len(encoding), len(encoding), [everything], turns)


def single_runs(subject: IdsSubject, encoding: Encoding, pad_id: int, most: int) -> list[Callable[[], object]]:
    """Some documents, one by one, as token ids without padding."""
    return [_run(subject, *pad([encoding.ids[row]], pad_id)) for row in _places(len(encoding), most)]


def padded_work(
    subject: IdsSubject, encoding: Encoding, pad_id: int, size: int, documents: int, turns: Turns
) -> Work:
    """At least `documents` documents in batches of `size`, all cut and padded to 128 tokens."""
    count = -(-documents // size)
    batches = [_padded_batch(encoding, pad_id, number * size, size) for number in range(count)]

    def everything() -> None:
        for batch in batches:
            subject.run_ids(*batch)

    return Work([everything], count * size, min(count * size, len(encoding)), (), turns)


def padded_single_runs(
    subject: IdsSubject, encoding: Encoding, pad_id: int, most: int
) -> list[Callable[[], object]]:
    """Some documents, one by one, cut and padded to 128 tokens."""
    return [
        _run(subject, *pad([encoding.ids[row][:PADDED_WIDTH]], pad_id, PADDED_WIDTH))
        for row in _places(len(encoding), most)
    ]


def _run(subject: IdsSubject, input_ids: np.ndarray, attention_mask: np.ndarray) -> Callable[[], object]:
    return lambda: subject.run_ids(input_ids, attention_mask)


def _places(count: int, most: int) -> list[int]:
    places: list[int] = np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
    return places


def _padded_batch(encoding: Encoding, pad_id: int, start: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`size` documents from `start` on, in a circle, cut and padded to 128 tokens."""
    rows = [(start + number) % len(encoding) for number in range(size)]
    return pad([encoding.ids[row][:PADDED_WIDTH] for row in rows], pad_id, PADDED_WIDTH)
