"""MiniLM, MiniLMv2 and TinyBERT's attention against the papers' formulas in float64 numpy, text by text."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.losses.layers import layer_pairs
from polyfold.losses.relations import (
    AttentionLoss,
    RelationLoss,
    relation_divergence_sum,
    scaled_products,
    score_error_sum,
)


def softmax_rows(scores):
    exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def head(values, number, heads):
    width = values.shape[-1] // heads
    return values[:, number * width : (number + 1) * width]


def products(first, second, number, heads):
    """Q K^T / sqrt(d) of one head of one document, without its padding."""
    q, k = head(first, number, heads), head(second, number, heads)
    return np.array([[float(np.dot(a, b)) for b in k] for a in q]) / np.sqrt(q.shape[1])


def divergence(student, teacher, heads, lengths):
    """Sum over documents, queries and keys of p log(p / q), meaned over heads; a side is (first, second)."""
    total = 0.0
    for document, length in enumerate(lengths):
        for number in range(heads):
            p = softmax_rows(products(*(side[document, :length] for side in teacher), number, heads))
            q = softmax_rows(products(*(side[document, :length] for side in student), number, heads))
            total += (p * (np.log(p) - np.log(q))).sum() / heads
    return total


def score_error(student, teacher, heads, lengths):
    """TinyBERT's Eq. 7 for each document (a mean over heads and over l x l), times l, summed."""
    total = 0.0
    for document, length in enumerate(lengths):
        errors = [
            products(*(side[document, :length] for side in student), number, heads)
            - products(*(side[document, :length] for side in teacher), number, heads)
            for number in range(heads)
        ]
        total += length * np.mean(np.square(errors))
    return total


def draw(seed, lengths, *widths):
    random = np.random.default_rng(seed)
    shape = len(lengths), max(lengths)
    return [random.normal(0, 1.5, (*shape, width)) for width in widths]


def mask_of(lengths, seq=None):
    return torch.arange(seq or max(lengths)) < torch.tensor(lengths)[:, None]


def found(function, student, teacher, heads, lengths):
    sides = [scaled_products(*(torch.from_numpy(part) for part in side), heads) for side in (student, teacher)]
    return float(function(*sides, mask_of(lengths)))


lengths_of_any_kind = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@settings(deadline=None, max_examples=25)
@given(lengths_of_any_kind, st.sampled_from([1, 2, 4]), st.integers(0, 99))
def test_attention_and_value_relations_are_minilms_for_any_lengths(lengths, heads, seed):
    q, k, tq, tk = draw(seed, lengths, 8, 8, 16, 16)
    for student, teacher in (((q, k), (tq, tk)), ((q, q), (tk, tk))):
        expected = divergence(student, teacher, heads, lengths)
        assert found(relation_divergence_sum, student, teacher, heads, lengths) == pytest.approx(
            expected, rel=1e-9
        )


@settings(deadline=None, max_examples=25)
@given(lengths_of_any_kind, st.sampled_from([1, 3, 6]), st.integers(0, 99))
def test_relation_heads_need_not_be_attention_heads_and_widths_may_differ(lengths, relation_heads, seed):
    values, other = draw(seed, lengths, 12, 30)
    expected = divergence((values, values), (other, other), relation_heads, lengths)
    sides = (values, values), (other, other)
    assert found(relation_divergence_sum, *sides, relation_heads, lengths) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(lengths_of_any_kind, st.sampled_from([1, 2, 4]), st.integers(0, 99))
def test_score_errors_are_tinyberts_mean_over_the_matrix_times_its_rows(lengths, heads, seed):
    q, k, tq, tk = draw(seed, lengths, 8, 8, 16, 16)
    expected = score_error((q, k), (tq, tk), heads, lengths)
    assert found(score_error_sum, (q, k), (tq, tk), heads, lengths) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("function", [relation_divergence_sum, score_error_sum])
def test_padding_is_neither_query_nor_key_and_gets_no_gradient(function):
    lengths = [3, 1, 4]
    q, k, tq, tk = (torch.from_numpy(part) for part in draw(0, lengths, 8, 8, 8, 8))
    short = function(scaled_products(q, k, 2), scaled_products(tq, tk, 2), mask_of(lengths))
    padded = [torch.cat([part, torch.full((3, 5, 8), 1e3, dtype=part.dtype)], dim=1) for part in (q, k, tq, tk)]
    q, k = (part.requires_grad_() for part in padded[:2])
    mask = mask_of(lengths, 9)
    long = function(scaled_products(q, k, 2), scaled_products(*padded[2:], 2), mask)
    assert float(long.detach()) == pytest.approx(float(short), rel=1e-12)
    long.backward()
    for part in (q, k):
        assert torch.count_nonzero(part.grad[~mask]) == 0
        assert torch.isfinite(part.grad).all()
    assert torch.count_nonzero(q.grad[2]) > 0


@pytest.mark.parametrize("function", [relation_divergence_sum, score_error_sum])
def test_sums_over_documents_do_not_depend_on_their_order_or_batch(function):
    lengths = [3, 1, 4, 2]
    parts = [torch.from_numpy(part) for part in draw(1, lengths, 8, 8, 8, 8)]
    mask = mask_of(lengths)

    def total(rows):
        q, k, tq, tk = (part[rows] for part in parts)
        return float(function(scaled_products(q, k, 2), scaled_products(tq, tk, 2), mask[rows]))

    whole = total([0, 1, 2, 3])
    assert whole == pytest.approx(total([2, 0, 3, 1]), rel=1e-12)
    assert whole == pytest.approx(sum(total([row]) for row in range(4)), rel=1e-12)


@pytest.mark.parametrize("function", [relation_divergence_sum, score_error_sum])
def test_a_student_like_its_teacher_has_no_loss_and_no_gradient(function):
    q, k = (torch.from_numpy(part).float().requires_grad_() for part in draw(2, [4, 2], 8, 8))
    scores = scaled_products(q, k, 2)
    loss = function(scores, scores.detach(), mask_of([4, 2]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert q.grad.abs().max() < 1e-6


def test_certain_attention_gives_a_finite_loss_and_gradient():
    q, k, tq, tk = (torch.from_numpy(part).float() * 200 for part in draw(3, [4, 3], 8, 8, 8, 8))
    q.requires_grad_()
    loss = relation_divergence_sum(scaled_products(q, k, 2), scaled_products(tq, tk, 2), mask_of([4, 3]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(q.grad).all()


def test_heads_that_do_not_divide_the_width_are_an_error():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 8"):
        scaled_products(torch.zeros(1, 2, 8), torch.zeros(1, 2, 8), 3)


def test_losses_name_what_they_read():
    assert AttentionLoss().wanted == {"queries", "keys", "values"}
    assert AttentionLoss(value_relations=0).wanted == {"queries", "keys"}
    assert RelationLoss(queries=0, keys=0).wanted == {"values"}


@given(st.integers(1, 24), st.integers(1, 24))
def test_uniform_layers_rise_evenly_and_end_with_both_last(student, teacher):
    pairs = layer_pairs("uniform", student, teacher)
    assert [own for own, _ in pairs] == list(range(student))
    assert pairs[-1] == (student - 1, teacher - 1)
    # Each student layer's depth is that of its teacher's, to within one layer of the teacher.
    for own, other in pairs:
        assert 0 <= (other + 1) / teacher - (own + 1) / student < 1 / teacher
    assert layer_pairs("last", student, teacher) == pairs[-1:]


def test_layers_are_tinyberts_where_they_divide_and_given_ones_as_given():
    assert layer_pairs("uniform", 4, 12) == ((0, 2), (1, 5), (2, 8), (3, 11))
    assert layer_pairs({3: 5, 0: 1}, 4, 12) == ((0, 1), (3, 5))
