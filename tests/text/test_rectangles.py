"""Cutting rising lengths into rectangles: all of them, within the budget, as cheap as any other way."""

from itertools import combinations, pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.text.rectangles import cheapest_bounds

rising = st.lists(st.integers(1, 60), min_size=1, max_size=9).map(lambda some: np.array(sorted(some)))


def cost(bounds, lengths, cut_tokens):
    return sum((end - start) * lengths[end - 1] + cut_tokens for start, end in pairwise(bounds))


def allowed(bounds, lengths, budget):
    return all(end - start == 1 or (end - start) * lengths[end - 1] <= budget for start, end in pairwise(bounds))


@settings(deadline=None)
@given(rising, st.integers(1, 300), st.integers(0, 100))
def test_no_other_way_to_cut_within_the_budget_is_cheaper(lengths, budget, cut_tokens):
    bounds = cheapest_bounds(lengths, budget, cut_tokens)
    assert bounds[0] == 0
    assert bounds[-1] == len(lengths)
    assert all(start < end for start, end in pairwise(bounds))
    assert allowed(bounds, lengths, budget)
    inner = range(1, len(lengths))
    others = [[0, *some, len(lengths)] for size in range(len(lengths)) for some in combinations(inner, size)]
    least = min(cost(other, lengths, cut_tokens) for other in others if allowed(other, lengths, budget))
    assert cost(bounds, lengths, cut_tokens) == least


def test_cuts_that_cost_nothing_leave_no_padding_and_dear_ones_are_not_made():
    lengths = np.array([3, 3, 5, 9, 9, 9])
    assert cheapest_bounds(lengths, 1000, 1) == [0, 2, 3, 6]
    assert cheapest_bounds(lengths, 1000, 10_000) == [0, 6]
