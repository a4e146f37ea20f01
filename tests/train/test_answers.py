"""Several teachers answer as one: who knows answers, the mean of one is itself, the better member weighs more."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polyfold.metrics import negative_log_likelihood
from polyfold.tasks import Task
from polyfold.train.answers import Answer, combine, fit_weights, joined, mean

DOMAIN = Task(name="domain", labels=("a", "b", "c"))
TOPICS = Task(name="topics", kind="multi_label", labels=("x", "y"))
SIZE = 5


@st.composite
def answer_lists(draw, least=1):
    """Some members' answers for five documents, each with a temperature of its own."""
    found = []
    for _ in range(draw(st.integers(least, 4))):
        logits = draw(hnp.arrays(np.float32, (SIZE, 3), elements=st.floats(-5, 5, width=32)))
        covered = draw(hnp.arrays(np.bool_, (SIZE,)))
        temperature = draw(st.floats(0.25, 4.0, width=32))
        found.append(
            Answer(
                torch.from_numpy(np.where(covered[:, None], logits, 0.0).astype(np.float32)),
                torch.from_numpy(covered),
                torch.full((SIZE,), temperature),
            )
        )
    return found


def weights_for(answers, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 1.0, len(answers)).tolist()


def by_hand(answers, weights, document):
    """The mean of one document in float64, by the formula in words: calibrated, averaged, scaled back."""
    known = [(one, share) for one, share in zip(answers, weights, strict=True) if one.covered[document]]
    if not known:
        return None
    total = sum(share for _, share in known)
    temperature = sum(share / total * float(one.temperature[document]) for one, share in known)
    calibrated = sum(
        share / total * one.logits[document].double().numpy() / float(one.temperature[document])
        for one, share in known
    )
    return calibrated * temperature, temperature


@given(answer_lists())
def test_the_mean_is_that_of_the_calibrated_logits_of_those_who_know(answers):
    weights = weights_for(answers)
    found = mean(answers, weights)
    for document in range(SIZE):
        expected = by_hand(answers, weights, document)
        if len(answers) > 1:
            assert bool(found.covered[document]) == (expected is not None)
        if expected is not None:
            logits, temperature = expected
            assert np.allclose(found.logits[document].numpy(), logits, atol=1e-4)
            assert float(found.temperature[document]) == pytest.approx(temperature, rel=1e-4)
    assert torch.isfinite(found.logits).all()


@given(answer_lists(), st.floats(0.1, 10.0))
def test_the_mean_of_one_is_itself_and_so_is_that_of_one_several_times(answers, scale):
    one = answers[0]
    assert mean([one], [scale]) is one
    several = mean([one] * 3, [scale, 1.0, 2.0])
    assert torch.equal(several.covered, one.covered)
    assert torch.allclose(several.logits, one.logits, atol=1e-4)
    assert torch.allclose(several.temperature[one.covered], one.temperature[one.covered])


@given(answer_lists(least=2), st.floats(0.1, 10.0))
def test_the_size_of_the_weights_does_not_matter_only_their_shares(answers, scale):
    weights = weights_for(answers)
    found, scaled = mean(answers, weights), mean(answers, [scale * weight for weight in weights])
    assert torch.allclose(found.logits, scaled.logits, atol=1e-4)


@given(answer_lists(least=2))
def test_a_member_of_weight_zero_is_as_good_as_gone(answers):
    weights = [0.0, *weights_for(answers)[1:]]
    found, without = mean(answers, weights), mean([answers[1], *answers[1:]], [0.0, *weights[1:]])
    assert torch.equal(found.covered, without.covered)
    assert torch.allclose(found.logits[found.covered], without.logits[found.covered], atol=1e-4)


@given(answer_lists())
def test_within_a_member_the_first_that_knows_answers(answers):
    found = joined(answers)
    for document in range(SIZE):
        owner = next((one for one in answers if one.covered[document]), None)
        assert bool(found.covered[document]) == (owner is not None)
        if owner is not None:
            assert torch.equal(found.logits[document], owner.logits[document])


@given(answer_lists(least=2))
def test_a_set_knows_what_any_of_its_members_knows(answers):
    first, *rest = answers
    found = combine([[{"domain": first}], [{"topics": one} for one in rest]], {"domain": (1.0, 5.0)})
    assert set(found) == {"domain", "topics"}
    assert found["domain"] is first
    assert torch.equal(found["topics"].covered, torch.stack([one.covered for one in rest]).any(dim=0))


def member(task, truth, right, seed, covered=None):
    """Answers that name the truth by `right` logits, over noise: the larger, the better the member."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(len(truth), len(task.labels)))
    named = truth * 2.0 - 1.0 if task.multi_label else np.eye(len(task.labels))[truth]
    rows = np.ones(len(truth), dtype=bool) if covered is None else covered
    spread = np.where(rows[:, None], logits + right * named, 0.0)
    return Answer(
        torch.from_numpy(spread.astype(np.float32)), torch.from_numpy(rows), torch.full((len(truth),), 1.5)
    )


def truths(task, count=300):
    random = np.random.default_rng(9)
    return random.integers(0, 2, (count, 2)) if task.multi_label else random.integers(0, 3, count)


def likelihood(task, truth, answers, weights):
    found = mean(answers, weights)
    rows = found.covered.numpy()
    scaled = (found.logits / found.temperature.unsqueeze(1)).double().numpy()
    return negative_log_likelihood(task, scaled[rows], truth[rows])


@pytest.mark.parametrize("task", (DOMAIN, TOPICS), ids=lambda task: task.name)
def test_weights_fitted_on_dev_favour_the_better_member_and_beat_every_member_alone(task):
    truth = truths(task)
    answers = [member(task, truth, right, seed) for seed, right in enumerate((0.0, 3.0, 1.0))]
    weights = fit_weights(task, truth, answers)
    assert sum(weights) == pytest.approx(1.0)
    assert weights[1] > 0.6 > weights[2] > weights[0]
    best = likelihood(task, truth, answers, weights)
    corners = [likelihood(task, truth, [one], [1.0]) for one in answers]
    assert best <= min(corners) + 1e-4
    random = np.random.default_rng(1)
    tried = [likelihood(task, truth, answers, random.dirichlet(np.ones(3)).tolist()) for _ in range(100)]
    assert best <= min(tried) + 1e-4


def test_a_member_that_only_says_nonsense_loses_nearly_all_weight():
    truth = truths(DOMAIN)
    wrong = member(DOMAIN, (truth + 1) % 3, 6.0, 0)
    weights = fit_weights(DOMAIN, truth, [wrong, member(DOMAIN, truth, 6.0, 1)])
    assert weights[0] < 0.01


def test_weights_are_equal_where_nothing_tells_members_apart():
    truth = truths(DOMAIN)
    same = member(DOMAIN, truth, 1.0, 0)
    assert fit_weights(DOMAIN, truth, [same, same]) == pytest.approx((0.5, 0.5))
    nowhere = member(DOMAIN, truth, 1.0, 0, covered=np.zeros(len(truth), dtype=bool))
    assert fit_weights(DOMAIN, truth, [nowhere, nowhere]) == pytest.approx((0.5, 0.5))
    assert fit_weights(DOMAIN, truth, [same]) == (1.0,)


def test_members_that_know_different_documents_are_weighed_by_what_both_know():
    truth = truths(DOMAIN)
    half = np.arange(len(truth)) < len(truth) // 2
    good, bad = member(DOMAIN, truth, 3.0, 0, covered=half), member(DOMAIN, truth, 0.0, 1)
    weights = fit_weights(DOMAIN, truth, [good, bad])
    assert weights[0] > 0.8
    assert likelihood(DOMAIN, truth, [good, bad], weights) <= likelihood(DOMAIN, truth, [good, bad], (0.5, 0.5))
