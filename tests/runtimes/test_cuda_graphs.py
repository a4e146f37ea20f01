"""The laws of buckets: the cheapest one that fits, and a filled batch answers as it did."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyfold.runtimes.cuda_graphs import Bucket, GraphRunner, bucket_of, fill, rectangles
from polyfold.runtimes.varlen import Packed, PackedClassifier, pack, padding_of, unflat
from toys_families import VOCAB, family_model
from toys_gpu import gpu_model

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine")
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=40)


def batch_of(lengths, pad_id=None, seed=0):
    mask = (np.arange(max(lengths)) < np.asarray(lengths)[:, None]).astype(np.int64)
    return pack(np.where(mask == 1, np.random.default_rng(seed).integers(4, VOCAB, mask.shape), 1), mask, pad_id)


def answers(module, batch: Packed, device="cpu"):
    with torch.inference_mode():
        return module(*unflat(batch.flat().to(device), len(batch.ids)), batch.longest)


@given(lengths=LENGTHS)
def test_the_bucket_is_the_cheapest_of_those_that_hold_the_batch(lengths):
    batch, buckets = batch_of(lengths), rectangles(40)
    found = bucket_of(batch, buckets)
    holding = [one for one in buckets if one.holds(batch)]
    # 32 documents of 40 tokens are the largest rectangle: what is within it always finds a bucket.
    assert (found is None) == (not holding) == (len(lengths) > 32)
    if found is not None:
        assert found.tokens == min(one.tokens for one in holding)


@given(lengths=LENGTHS.filter(lambda lengths: len(lengths) <= 32))
def test_filling_keeps_the_documents_and_adds_only_documents_of_one_token(lengths):
    batch = batch_of(lengths)
    bucket = bucket_of(batch, rectangles(40))
    filled = fill(batch, bucket)
    assert (len(filled.ids), filled.documents, filled.longest) == (bucket.tokens, bucket.documents, bucket.longest)
    np.testing.assert_array_equal(filled.ids[: len(batch.ids)], batch.ids)
    np.testing.assert_array_equal(filled.positions[: len(batch.ids)], batch.positions)
    sizes = np.diff(filled.starts)
    assert sizes.tolist() == lengths + [1] * (bucket.documents - len(lengths))
    assert filled.starts[-1] <= bucket.tokens
    assert filled.starts.dtype == np.int32


@pytest.mark.parametrize("lengths", [[3], [7, 4, 1], [16] * 4])
def test_a_filled_batch_gets_the_same_logits(lengths):
    classifier = family_model("xlm-roberta").classifier
    batch = batch_of(lengths, padding_of(classifier))
    filled = fill(batch, Bucket(tokens=80, documents=6, longest=16))
    module = PackedClassifier(classifier)
    torch.testing.assert_close(answers(module, filled)[: len(lengths)], answers(module, batch))


def test_a_length_is_a_bucket_of_its_own_where_documents_are_cut():
    assert {one.longest for one in rectangles(100)} == {16, 32, 64, 100}
    assert {one.longest for one in rectangles(8)} == {8}


@NO_GPU
def test_a_replayed_graph_answers_as_the_model_does():
    device = torch.device("cuda")
    classifier = gpu_model().classifier
    module = PackedClassifier(classifier).cast(device, torch.bfloat16)
    with torch.inference_mode():
        runner = GraphRunner(module, device, rectangles(16))
        for lengths in ([3], [7, 4, 1], [3], [16] * 4):
            batch = batch_of(lengths, padding_of(classifier))
            torch.testing.assert_close(runner.run(batch), answers(module, batch, "cuda"), rtol=0.02, atol=0.02)
        assert runner.run(batch_of([16] * 33)) is None
