"""Plans of an epoch: every document once, within the budget, the same for everybody; sampling temperatures."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.data.batches import (
    BatchSpec,
    drop_tokens,
    encode,
    plan_epoch,
    sampling_weights,
    split_step,
    steps_per_epoch,
)
from polyfold.data.dataset import Documents
from polyfold.tasks import Task
from polyfold.text import open_tokenizer
from polyfold.text.rectangles import RECTANGLE_TOKENS, cheapest_bounds
from toys import WORDS, write_toy_tokenizer

lengths_of_documents = st.lists(st.integers(1, 200), min_size=1, max_size=120).map(np.array)
specs = st.builds(
    BatchSpec,
    documents_per_step=st.integers(1, 50),
    token_budget=st.integers(1, 1000),
    length_grouping=st.sampled_from(["step", "none"]),
)


@settings(deadline=None)
@given(lengths_of_documents, specs, st.integers(0, 2**31), st.integers(0, 5), st.booleans())
def test_an_epoch_holds_every_document_exactly_once_in_steps_of_the_given_size(lengths, spec, seed, epoch, ragged):
    plan = plan_epoch(lengths, None, spec, seed, epoch, ragged)
    assert sorted(np.concatenate([batch for step in plan for batch in step])) == list(range(len(lengths)))
    assert len(plan) == steps_per_epoch(len(lengths), spec)
    sizes = [sum(len(batch) for batch in step) for step in plan]
    assert sizes[:-1] == [spec.documents_per_step] * (len(plan) - 1)
    assert all(len(batch) for step in plan for batch in step)


@settings(deadline=None)
@given(lengths_of_documents, specs, st.integers(0, 100))
def test_padded_tokens_stay_within_the_budget_unless_one_document_alone_is_longer(lengths, spec, seed):
    for step in plan_epoch(lengths, None, spec, seed, 0):
        for batch in step:
            assert len(batch) == 1 or len(batch) * lengths[batch].max() <= spec.token_budget


@given(lengths_of_documents, specs, st.integers(0, 100), st.integers(0, 3))
@settings(deadline=None)
def test_a_plan_depends_on_seed_and_epoch_alone(lengths, spec, seed, epoch):
    np.random.seed(0)
    first = plan_epoch(lengths, None, spec, seed, epoch)
    np.random.seed(1)
    second = plan_epoch(lengths, None, spec, seed, epoch)
    assert all(
        np.array_equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_seeds_and_epochs_give_other_orders():
    lengths = np.ones(64, dtype=np.int64)
    spec = BatchSpec(documents_per_step=8, token_budget=1000)
    orders = {
        tuple(int(i) for step in plan_epoch(lengths, None, spec, seed, epoch) for batch in step for i in batch)
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


@settings(deadline=None)
@given(lengths_of_documents, specs, st.integers(0, 100))
def test_a_ragged_batch_is_within_the_budget_in_the_rectangles_that_it_is_cut_into(lengths, spec, seed):
    step = plan_epoch(lengths, None, spec.model_copy(update={"length_grouping": "step"}), seed, 0, True)[0]
    for batch in step:
        own = lengths[batch]
        assert (np.diff(own) >= 0).all()
        # As the model cuts them: with no budget, since the plan has kept to it.
        bounds = cheapest_bounds(own, own.sum() + own.max() * len(own), RECTANGLE_TOKENS)
        tokens = sum((end - start) * own[end - 1] for start, end in pairwise(bounds))
        assert len(batch) == 1 or tokens <= spec.token_budget + RECTANGLE_TOKENS * len(bounds)


def test_ragged_batches_are_fewer_and_leave_less_padding():
    lengths = np.clip(np.random.default_rng(0).lognormal(3.0, 0.7, 640).round(), 3, 128).astype(np.int64)
    spec = BatchSpec(documents_per_step=64, token_budget=4096)
    plans = [plan_epoch(lengths, None, spec, 0, 0, ragged) for ragged in (False, True)]
    assert [sum(len(step) for step in plan) for plan in plans][1] == len(plans[1]) < sum(map(len, plans[0]))
    for first, second in zip(*plans, strict=True):
        assert sorted(np.concatenate(first)) == sorted(np.concatenate(second))


def test_documents_of_like_length_are_put_together_only_inside_a_step():
    lengths = np.random.default_rng(0).integers(1, 100, 400)
    grouped = BatchSpec(documents_per_step=64, token_budget=512)
    padded = {}
    for grouping in ("step", "none"):
        spec = grouped.model_copy(update={"length_grouping": grouping})
        plan = plan_epoch(lengths, None, spec, 0, 0)
        padded[grouping] = sum(len(b) * int(lengths[b].max()) for step in plan for b in step)
    assert lengths.sum() <= padded["step"] < 1.2 * lengths.sum() < padded["none"]
    # Which documents make a step does not depend on their lengths: the gradient stays unbiased.
    steps = [
        [sorted(np.concatenate(step).tolist()) for step in plan_epoch(some, None, grouped, 0, 0)]
        for some in (lengths, np.ones_like(lengths))
    ]
    assert steps[0] == steps[1]


def test_a_batch_ends_where_its_documents_grow_too_different():
    lengths = np.array([4] * 20 + [90] * 20)
    batches = split_step(np.arange(40), lengths, BatchSpec(token_budget=100_000))
    assert [sorted(set(lengths[batch])) for batch in batches] == [[4], [90]]


DOMAIN = Task(name="domain", labels=("a", "b"))
TOPICS = Task(name="topics", kind="multi_label", labels=("x", "y", "z"))


def make_documents(languages, domain=None, topics=None):
    count = len(languages)
    labels = {
        "domain": np.zeros(count, dtype=np.int64) if domain is None else domain,
        "topics": np.zeros((count, 3), dtype=np.int8) if topics is None else topics,
    }
    texts = [" ".join(WORDS[: 1 + row % 7]) for row in range(count)]
    return Documents([str(row) for row in range(count)], texts, languages, texts, labels)


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=5), st.floats(1.001, 50))
def test_a_language_with_n_documents_is_drawn_in_proportion_to_n_to_the_one_over_t(counts, temperature):
    languages = [f"l{place}" for place, count in enumerate(counts) for _ in range(count)]
    spec = BatchSpec(language_temperature=temperature)
    weights = sampling_weights(make_documents(languages), (DOMAIN, TOPICS), spec)
    assert weights.sum() == pytest.approx(1.0)
    shares = np.array([weights[[lang == f"l{place}" for lang in languages]].sum() for place in range(len(counts))])
    expected = np.array(counts, dtype=float) ** (1 / temperature)
    assert shares == pytest.approx(expected / expected.sum())


def test_a_temperature_of_one_keeps_the_data_as_it_is_and_a_great_one_evens_it_out():
    languages = ["en"] * 90 + ["ja"] * 10
    documents = make_documents(languages)
    assert sampling_weights(documents, (DOMAIN,), BatchSpec()) is None
    weights = sampling_weights(documents, (DOMAIN,), BatchSpec(language_temperature=1e9))
    assert weights[90:].sum() == pytest.approx(0.5)


def test_a_task_with_few_labels_is_drawn_more_often_the_higher_the_temperature():
    domain, topics = np.full(100, -1), np.full((100, 3), -1, dtype=np.int8)
    domain[:80] = 0
    topics[80:95] = 0
    documents = make_documents(["en"] * 100, domain, topics)
    shares = []
    for temperature in (1.5, 3.0, 1e9):
        weights = sampling_weights(documents, (DOMAIN, TOPICS), BatchSpec(task_temperature=temperature))
        assert weights.sum() == pytest.approx(1.0)
        assert (weights > 0).all()
        assert weights[80] / weights[0] == pytest.approx((15 / 80) ** (1 / temperature - 1))
        shares.append(weights[80:95].sum())
    assert 0.15 < shares[0] < shares[1] < shares[2]


def test_a_weighted_epoch_draws_by_the_weights_and_keeps_its_length():
    weights = np.array([0.9] + [0.1 / 99] * 99)
    spec = BatchSpec(documents_per_step=10, language_temperature=2.0)
    drawn = np.concatenate(
        [b for epoch in range(20) for step in plan_epoch(np.ones(100, int), weights, spec, 0, epoch) for b in step]
    )
    assert len(drawn) == 2000
    assert 0.87 < (drawn == 0).mean() < 0.93


def test_a_batch_holds_the_documents_ids_labels_and_masks(tmp_path):
    topics = np.array([[1, 0, 1], [-1, -1, -1], [0, 0, 0], [0, 1, 0]], dtype=np.int8)
    documents = make_documents(["en"] * 4, np.array([1, 0, -1, -1]), topics)
    spec = write_toy_tokenizer(tmp_path)
    tokenizer = open_tokenizer(tmp_path, spec)
    encoded = encode(documents, tokenizer, 16)
    batch = encoded.batch(np.array([3, 0, 1]))
    assert len(encoded) == 4
    assert len(batch) == 3
    assert batch.index.tolist() == [3, 0, 1]
    assert batch.input_ids.shape == batch.attention_mask.shape == (3, 6)
    for place, row in enumerate((3, 0, 1)):
        own = tokenizer.encode([documents.texts[row]], 16).ids[0].tolist()
        assert batch.input_ids[place].tolist() == own + [spec.pad_id] * (6 - len(own))
        assert batch.attention_mask[place].tolist() == [1] * len(own) + [0] * (6 - len(own))
    assert batch.label_mask["domain"].tolist() == [False, True, True]
    assert batch.labels["domain"].dtype == torch.int64
    assert batch.labels["domain"][1:].tolist() == [1, 0]
    assert batch.label_mask["topics"].tolist() == [True, True, False]
    assert batch.labels["topics"].dtype == torch.float32
    assert batch.labels["topics"][:2].tolist() == [[0, 1, 0], [1, 0, 1]]
    same = batch.to("cpu")
    assert torch.equal(same.labels["topics"], batch.labels["topics"])


def test_dropped_tokens_are_a_share_of_the_inner_ones_and_everything_else_stays(tmp_path):
    documents = make_documents(["en"] * 300)
    encoded = encode(documents, open_tokenizer(tmp_path, write_toy_tokenizer(tmp_path)), 16)
    assert encoded.unknown_id == 3
    batch = encoded.batch(np.arange(300))
    torch.manual_seed(0)
    noisy = drop_tokens(batch, 0.3, encoded.unknown_id)
    changed = noisy.input_ids != batch.input_ids
    ends = (batch.input_ids == 0) | (batch.input_ids == 1) | (batch.input_ids == 2)
    assert not changed[ends].any()
    assert (noisy.input_ids[changed] == 3).all()
    assert 0.25 < float(changed.sum() / (~ends).sum()) < 0.35
    for name in ("attention_mask", "index"):
        assert torch.equal(getattr(noisy, name), getattr(batch, name))
    assert torch.equal(drop_tokens(batch, 0.0, 3).input_ids, batch.input_ids)


@pytest.mark.parametrize(
    "wrong", [{"documents_per_step": 0}, {"token_budget": 0}, {"language_temperature": 0.5}, {"tokens": 5}]
)
def test_a_spec_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BatchSpec(**wrong)
