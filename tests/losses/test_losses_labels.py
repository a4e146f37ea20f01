"""Eq. 1's terms against formulas written out in float64 numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polyfold.losses.labels import LabelLoss, adjusted, multi_label_sum, single_label_sum


@st.composite
def cases(draw, multi_label):
    """Logits, labels and mask of a small batch; unlabelled rows hold garbage that nothing may read."""
    batch, width = draw(st.integers(1, 6)), draw(st.integers(2, 5))
    logits = draw(hnp.arrays(np.float64, (batch, width), elements=st.floats(-30, 30)))
    mask = draw(hnp.arrays(np.bool_, batch))
    if multi_label:
        labels = draw(hnp.arrays(np.int64, (batch, width), elements=st.integers(0, 1))).astype(np.float64)
        labels[~mask] = -1
    else:
        labels = draw(hnp.arrays(np.int64, batch, elements=st.integers(0, width - 1)))
        labels[~mask] = -1
    weights = draw(st.none() | hnp.arrays(np.float64, width, elements=st.floats(0.1, 9.0)))
    return logits, labels, mask, weights


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def tensor(array):
    return None if array is None else torch.from_numpy(array)


@settings(deadline=None)
@given(cases(multi_label=False))
def test_single_label_is_the_weighted_negative_log_probability_summed_over_labelled_documents(case):
    logits, labels, mask, weights = case
    chances = log_softmax(logits)
    scale = np.ones(logits.shape[1]) if weights is None else weights
    expected = sum(-scale[labels[i]] * chances[i, labels[i]] for i in np.flatnonzero(mask))
    found = single_label_sum(tensor(logits), tensor(labels), tensor(mask), tensor(weights))
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(cases(multi_label=True))
def test_multi_label_is_the_bernoulli_cross_entropy_summed_over_labels_and_documents(case):
    logits, labels, mask, weights = case
    scale = np.ones(logits.shape[1]) if weights is None else weights
    expected = 0.0
    for i in np.flatnonzero(mask):
        for j in range(logits.shape[1]):
            # -log sigmoid(x) = log(1 + exp(-x)); a label's weight is on its positives alone.
            expected += scale[j] * labels[i, j] * np.logaddexp(0, -logits[i, j])
            expected += (1 - labels[i, j]) * np.logaddexp(0, logits[i, j])
    found = multi_label_sum(tensor(logits), tensor(labels), tensor(mask), tensor(weights))
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_multi_label_document_counts_for_each_of_its_labels():
    logits, labels = torch.zeros(1, 1), torch.ones(1, 1)
    one = multi_label_sum(logits, labels, torch.tensor([True]))
    nine = multi_label_sum(logits.expand(1, 9), labels.expand(1, 9), torch.tensor([True]))
    assert float(nine) == pytest.approx(9 * float(one))


@settings(deadline=None)
@given(cases(multi_label=False), cases(multi_label=True))
def test_unlabelled_documents_have_exactly_no_gradient(single, multi):
    for function, (logits, labels, mask, weights) in ((single_label_sum, single), (multi_label_sum, multi)):
        values = torch.tensor(logits, requires_grad=True)
        function(values, tensor(labels), tensor(mask), tensor(weights)).backward()
        assert values.grad is not None
        assert torch.count_nonzero(values.grad[~torch.from_numpy(mask)]) == 0
        assert torch.isfinite(values.grad).all()
        if mask.any() and np.abs(logits).max() < 10:
            assert torch.count_nonzero(values.grad[torch.from_numpy(mask)]) > 0


def test_label_smoothing_spreads_its_share_of_the_mass_evenly():
    random = np.random.default_rng(0)
    logits, labels, mask = random.normal(0, 3, (5, 4)), np.array([0, 3, 1, 2, 0]), np.ones(5, dtype=bool)
    target = 0.9 * np.eye(4)[labels] + 0.1 / 4
    expected = -(target * log_softmax(logits)).sum()
    found = single_label_sum(tensor(logits), tensor(labels), tensor(mask), label_smoothing=0.1)
    assert float(found) == pytest.approx(expected)


@settings(deadline=None)
@given(st.floats(0, 3))
def test_logit_adjustment_adds_tau_log_priors_or_log_odds(tau):
    logits, prior = np.array([[0.5, -1.0, 2.0]]), np.array([0.6, 0.3, 0.1])
    single = adjusted(tensor(logits), tensor(prior), tau, multi_label=False)
    multi = adjusted(tensor(logits), tensor(prior), tau, multi_label=True)
    assert np.allclose(single.numpy(), logits + tau * np.log(prior))
    assert np.allclose(multi.numpy(), logits + tau * np.log(prior / (1 - prior)))


def test_a_label_that_never_or_always_occurs_is_adjusted_by_a_finite_amount():
    prior = torch.tensor([0.0, 1.0])
    for multi_label in (False, True):
        assert torch.isfinite(adjusted(torch.zeros(1, 2), prior, 1.0, multi_label)).all()


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="gamma"):
        LabelLoss(gamma=2.0)
