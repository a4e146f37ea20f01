"""Workloads: distinct texts, batches without padding, the same documents on every way."""

import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from polyfold.errors import InputError
from polyfold.measure.rounds import Turns
from polyfold.measure.workloads import (
    batches_work,
    best_batch_size,
    dense_rows,
    dense_work,
    distinct_texts,
    padded_work,
    single_runs,
)
from polyfold.text import Encoding


@dataclass
class Slow:
    """Takes a fixed time a call and remembers its input."""

    seconds: float = 0.0
    seen: list = field(default_factory=list)

    def run_ids(self, input_ids, attention_mask):
        self.seen.append((input_ids, attention_mask))
        time.sleep(self.seconds)


def test_the_best_batch_size_is_the_one_of_highest_throughput(onnx_predictor, toy_texts):
    encoding = onnx_predictor.tokenizer.encode(toy_texts, 16)
    assert best_batch_size(Slow(0.01), encoding, 1, (1, 2, 8)) == 8


def test_texts_are_distinct_and_spread_over_the_file():
    texts = [f"text {i // 2}" for i in range(200)]
    chosen = distinct_texts(texts, 10)
    assert len(set(chosen)) == len(chosen) == 10
    assert (chosen[0], chosen[-1]) == ("text 0", "text 99")
    assert distinct_texts(texts, 1000) == list(dict.fromkeys(texts))


def test_dense_rows_differ_even_when_the_texts_run_out():
    encoding = Encoding.of([np.arange(10), np.arange(10, 16)])
    rows = dense_rows(encoding, 12, 8)
    assert {len(row) for row in rows} == {8}
    assert len({row.tobytes() for row in rows}) == 12


def test_nothing_to_measure_on_is_an_input_error():
    with pytest.raises(InputError, match="no texts"):
        distinct_texts([], 10)
    with pytest.raises(InputError, match="all empty"):
        dense_rows(Encoding.of([np.empty(0, np.int64)]), 1, 8)


def test_every_way_runs_each_document_whole(onnx_predictor, toy_texts):
    encoding = onnx_predictor.tokenizer.encode(toy_texts, 16)
    tokens = int(encoding.lengths.sum())
    turns = Turns(1, 0.0)
    ways = {
        "batches": lambda subject: batches_work(subject, encoding, 1, 100, turns),
        "padded": lambda subject: padded_work(subject, encoding, 1, 7, len(toy_texts), turns),
    }
    for build in ways.values():
        subject = Slow()
        work = build(subject)
        for call in work.calls:
            call()
        assert sum(int(mask.sum()) for _, mask in subject.seen) >= tokens
        assert work.documents == len(toy_texts)
    subject = Slow()
    for call in single_runs(subject, encoding, 1, 1000):
        call()
    assert [mask.size for _, mask in subject.seen] == encoding.lengths.tolist()


def test_dense_work_counts_the_documents_it_runs(onnx_predictor, toy_texts):
    encoding = onnx_predictor.tokenizer.encode(toy_texts, 16)
    subject = Slow()
    work = dense_work(subject, encoding, (3, 8), Turns(1, 0.0), calls=4)
    for call in work.calls:
        call()
    assert (work.documents_per_call, work.documents) == (3, 12)
    assert all(ids.shape == (3, 8) and mask.all() for ids, mask in subject.seen)
    assert len({ids.tobytes() for ids, _ in subject.seen}) == 4
