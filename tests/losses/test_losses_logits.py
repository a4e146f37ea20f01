"""Eq. 2's divergences against formulas written out in float64 numpy, and the laws they obey."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polyfold.losses.logits import multi_label_divergence_sum, single_label_divergence_sum

BOTH = (single_label_divergence_sum, multi_label_divergence_sum)


@st.composite
def cases(draw):
    """Student and teacher logits, a mask and a temperature."""
    shape = draw(st.integers(1, 5)), draw(st.integers(2, 5))
    student, teacher = (draw(hnp.arrays(np.float64, shape, elements=st.floats(-20, 20))) for _ in range(2))
    return student, teacher, draw(hnp.arrays(np.bool_, shape[0])), draw(st.floats(0.5, 10))


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def torched(case):
    student, teacher, mask, temperature = case
    return torch.from_numpy(student), torch.from_numpy(teacher), torch.from_numpy(mask), temperature


@settings(deadline=None)
@given(cases())
def test_single_label_is_f_squared_times_kl_of_the_softened_softmaxes(case):
    student, teacher, mask, temperature = case
    q, p = softmax(teacher / temperature), softmax(student / temperature)
    expected = temperature**2 * (q * (np.log(q) - np.log(p)))[mask].sum()
    assert float(single_label_divergence_sum(*torched(case))) == pytest.approx(expected, rel=1e-8, abs=1e-8)


@settings(deadline=None)
@given(cases())
def test_multi_label_is_f_squared_times_the_kl_of_two_coins_a_label(case):
    student, teacher, mask, temperature = case
    expected = 0.0
    for i in np.flatnonzero(mask):
        for x, y in zip(teacher[i] / temperature, student[i] / temperature, strict=True):
            q, p = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-y))
            not_q, not_p = 1 / (1 + np.exp(x)), 1 / (1 + np.exp(y))
            expected += q * np.log(q / p) + not_q * np.log(not_q / not_p)
    found = float(multi_label_divergence_sum(*torched(case)))
    assert found == pytest.approx(temperature**2 * expected, rel=1e-7, abs=1e-7)


@settings(deadline=None)
@given(cases())
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient_and_no_other_has_less(case):
    student, teacher, mask, temperature = torched(case)
    for divergence in BOTH:
        assert float(divergence(student, teacher, mask, temperature)) >= -1e-9
        same = teacher.clone().requires_grad_()
        loss = divergence(same, teacher, mask, temperature)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0.0, abs=1e-9)
        assert torch.allclose(same.grad, torch.zeros_like(same), atol=1e-9)


def gradient(divergence, student, teacher, temperature):
    values = student.clone().requires_grad_()
    divergence(values, teacher, torch.ones(len(values), dtype=torch.bool), temperature).backward()
    return values.grad


@pytest.mark.parametrize("divergence", BOTH)
def test_the_size_of_the_gradient_is_free_of_the_temperature(divergence):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    sizes = [float(gradient(divergence, student, teacher, f).norm()) for f in (10.0, 100.0, 1000.0)]
    assert sizes[0] == pytest.approx(sizes[2], rel=0.1)
    assert sizes[1] == pytest.approx(sizes[2], rel=0.01)
    difference = student - teacher
    if divergence is single_label_divergence_sum:
        # Hinton et al. (2015), eq. 4: matching logits of zero mean, one part in the number of labels.
        limit = (difference - difference.mean(dim=1, keepdim=True)) / 3
    else:
        limit = difference / 4
    assert torch.allclose(gradient(divergence, student, teacher, 1e4), limit, atol=1e-3)


def test_multi_label_treats_labels_as_independent_and_single_label_does_not():
    """A constant added to all of a document's logits changes nothing under a softmax, and much under sigmoids."""
    student, mask = torch.zeros(1, 3), torch.tensor([True])
    teacher = student + 2.0
    assert float(single_label_divergence_sum(student, teacher, mask, 1.0)) == pytest.approx(0.0, abs=1e-6)
    assert float(multi_label_divergence_sum(student, teacher, mask, 1.0)) > 0.5
    parts = [multi_label_divergence_sum(student[:, [i]], teacher[:, [i]], mask, 1.0) for i in range(3)]
    assert float(sum(parts)) == pytest.approx(float(multi_label_divergence_sum(student, teacher, mask, 1.0)))


@pytest.mark.parametrize("divergence", BOTH)
def test_logits_of_any_size_give_finite_losses_and_gradients(divergence):
    student, teacher = torch.tensor([[400.0, -400.0]]), torch.tensor([[-400.0, 400.0]])
    loss = divergence(student, teacher, torch.tensor([True]), 1.0)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient(divergence, student, teacher, 1.0)).all()
