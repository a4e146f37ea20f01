"""Hidden states, embeddings and sentence vectors against float64 numpy, and their laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.losses.hidden import state_angle_sum, state_error_sum
from polyfold.losses.sentence import cosine_sum, similarity_error_sum


def cosine(a, b):
    return float(a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b)))


def draw(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.normal(0, 2, shape) for shape in shapes]


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def mask_of(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def of_positions(kind, student, teacher, lengths):
    """Position by position: TinyBERT's Eq. 8 (a mean over the width), or one minus the cosine."""
    total = 0.0
    for document, length in enumerate(lengths):
        for position in range(length):
            s, t = student[document, position], teacher[document, position]
            total += ((s - t) ** 2).mean() if kind == "mse" else 1 - cosine(s, t)
    return total


FUNCTIONS = {"mse": state_error_sum, "cosine": state_angle_sum}


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 99))
def test_state_losses_are_sums_over_real_positions(kind, lengths, seed):
    shape = (len(lengths), max(lengths), 7)
    student, teacher = draw(seed, shape, shape)
    expected = of_positions(kind, student, teacher, lengths)
    found = FUNCTIONS[kind](*tensors(student, teacher), mask_of(lengths))
    assert float(found) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_padding_changes_no_state_loss_and_gets_no_gradient(kind):
    student, teacher = tensors(*draw(0, (2, 4, 5), (2, 4, 5)))
    mask = mask_of([4, 1])
    changed = student.masked_fill(~mask[..., None], 1e6).requires_grad_()
    loss = FUNCTIONS[kind](changed, teacher, mask)
    assert float(loss.detach()) == float(FUNCTIONS[kind](student, teacher, mask))
    loss.backward()
    assert torch.count_nonzero(changed.grad[~mask]) == 0
    assert torch.count_nonzero(changed.grad[mask]) > 0


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(0, 99))
def test_the_sentence_loss_is_a_sum_of_one_minus_cosine(count, seed):
    student, teacher = draw(seed, (count, 6), (count, 6))
    expected = sum(1 - cosine(a, b) for a, b in zip(student, teacher, strict=True))
    assert float(cosine_sum(*tensors(student, teacher))) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(0, 99))
def test_the_similarity_loss_is_over_ordered_pairs_of_different_documents(count, seed):
    student, teacher = draw(seed, (count, 3), (count, 8))
    expected = sum(
        (cosine(student[i], student[j]) - cosine(teacher[i], teacher[j])) ** 2
        for i in range(count)
        for j in range(count)
        if i != j
    )
    found = float(similarity_error_sum(*tensors(student, teacher)))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_neither_sentence_term_depends_on_the_order_of_the_batch():
    student, teacher = tensors(*draw(4, (5, 6), (5, 6)))
    order = torch.tensor([3, 0, 4, 1, 2])
    for function in (cosine_sum, similarity_error_sum):
        assert float(function(student, teacher)) == pytest.approx(float(function(student[order], teacher[order])))


def test_similarities_are_free_of_turns_and_lengths():
    student, turn = draw(5, (6, 4), (4, 4))
    turn, _ = np.linalg.qr(turn)
    lengths = np.linspace(0.5, 3, 6)[:, None]
    assert float(similarity_error_sum(*tensors(student, lengths * student @ turn))) < 1e-24
    assert float(cosine_sum(*tensors(student, lengths * student))) < 1e-12
