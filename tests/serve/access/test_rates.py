"""Rates and quotas: never more than allowed in any window, and nobody waits in vain or for nothing."""

import copy
from itertools import accumulate, combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.serve.access.keys import Allowance
from polyfold.serve.access.rates import DAY_S, Meter
from polyfold.serve.refusals import Refusal

# Sums of steps on the clock are exact to about this many tokens.
ROUNDING = 1e-6

rates = st.floats(0.01, 1e4)
sizes = st.integers(1, 50)
starts = st.floats(0, 1e9)
gaps = st.lists(st.just(0.0) | st.floats(0, 2) | st.floats(0, 1e5), min_size=1, max_size=40)


def refusal(meter, allowance, texts, now):
    """What `spend` says: None where it lets through."""
    try:
        meter.spend(allowance, texts, now)
    except Refusal as said:
        return said
    return None


def admitted(allowance, moments, costs):
    """The moments and costs that were let through."""
    meter = Meter()
    return [(at, cost) for at, cost in zip(moments, costs, strict=True) if not refusal(meter, allowance, cost, at)]


def worst_excess(through, rate, size):
    """How much more than burst + rate x seconds came through in the worst window between two admissions."""
    total = list(accumulate((cost for _, cost in through), initial=0))
    return max(
        (
            total[last + 1] - total[first] - (size + rate * (through[last][0] - through[first][0]))
            for first, last in combinations_with_replacement(range(len(through)), 2)
        ),
        default=0,
    )


@settings(deadline=None)
@given(rates, sizes, starts, gaps)
def test_no_window_lets_more_requests_through_than_burst_and_rate(rate, size, start, steps):
    moments = list(accumulate(steps, initial=start))
    through = admitted(Allowance(requests_per_second=rate, burst=size), moments, [1] * len(moments))
    assert worst_excess(through, rate, size) <= ROUNDING * max(1, rate)


@settings(deadline=None)
@given(rates, sizes, starts, gaps, st.data())
def test_no_window_lets_more_texts_through_than_burst_and_rate(rate, size, start, steps, data):
    moments = list(accumulate(steps, initial=start))
    costs = [data.draw(st.integers(0, size)) for _ in moments]
    through = admitted(Allowance(texts_per_second=rate, burst_texts=size), moments, costs)
    assert worst_excess(through, rate, size) <= ROUNDING * max(1, rate)


@settings(deadline=None)
@given(rates, sizes, starts, st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_a_clock_that_jumps_never_lets_more_through(rate, size, start, jumps):
    moments = [max(0.0, moment) for moment in accumulate(jumps, initial=start)]
    through = admitted(Allowance(requests_per_second=rate, burst=size), moments, [1] * len(moments))
    assert len(through) <= size + rate * (max(moments) - min(moments)) + ROUNDING


@settings(deadline=None)
@given(rates, sizes, starts, st.integers(1, 100))
def test_while_the_clock_stands_still_one_burst_passes_and_no_more(rate, size, now, asked):
    allowance = Allowance(requests_per_second=rate, burst=size)
    assert len(admitted(allowance, [now] * asked, [1] * asked)) == min(asked, size)


@settings(deadline=None)
@given(rates, sizes, starts, gaps)
def test_whoever_waits_as_long_as_told_is_let_in_and_not_much_earlier(rate, size, start, steps):
    allowance, meter = Allowance(requests_per_second=rate, burst=size), Meter()
    for now in accumulate(steps, initial=start):
        said = refusal(meter, allowance, 1, now)
        if said is None:
            continue
        assert (said.status, said.code) == (429, "rate_limited")
        assert 0 < said.retry_after_s <= 1 / rate + 1e-3
        early = now + said.retry_after_s - 1e-3
        if early > now:
            assert refusal(copy.deepcopy(meter), allowance, 1, early) is not None
        assert refusal(copy.deepcopy(meter), allowance, 1, now + said.retry_after_s) is None


@settings(deadline=None)
@given(st.integers(1, 100), starts, st.lists(st.tuples(st.floats(0, DAY_S), st.integers(1, 100)), max_size=30))
def test_no_day_that_begins_with_a_text_lets_more_than_the_quota_through(quota, start, asked):
    allowance, meter, now = Allowance(texts_per_day=quota), Meter(), start
    began, used = None, 0
    for gap, texts in asked:
        now += gap
        said = refusal(meter, allowance, texts, now)
        if began is None or now - began >= DAY_S:
            began, used = now, 0
        if said is None:
            used += texts
            assert used <= quota
        elif texts <= quota:
            assert (said.status, said.code) == (429, "quota_exhausted")
            assert used + texts > quota
            assert abs(now + said.retry_after_s - (began + DAY_S)) < 1e-3
            assert refusal(copy.deepcopy(meter), allowance, texts, now + said.retry_after_s) is None
        else:
            assert (said.status, said.code) == (413, "too_many_texts")
        if said is not None and used == 0:
            began = None


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 12)), max_size=30))
def test_a_refused_request_costs_nothing(asked):
    allowance = Allowance(requests_per_second=1, burst=3, texts_per_second=5, burst_texts=10, texts_per_day=30)
    tried, only_admitted, now = Meter(), Meter(), 50.0
    for gap, texts in asked:
        now += gap
        if refusal(tried, allowance, texts, now) is None:
            assert refusal(only_admitted, allowance, texts, now) is None
    for texts in range(11):
        later = [refusal(copy.deepcopy(meter), allowance, texts, now) for meter in (tried, only_admitted)]
        assert len({said and said.code for said in later}) == 1


@pytest.mark.parametrize(
    "allowance",
    [Allowance(texts_per_second=1, burst_texts=4), Allowance(texts_per_day=4)],
    ids=["at once", "a day"],
)
def test_more_texts_than_can_ever_fit_are_not_sent_to_wait(allowance):
    said = refusal(Meter(), allowance, 5, 0.0)
    assert (said.status, said.code, said.retry_after_s) == (413, "too_many_texts", None)
    assert "4" in said.message
    assert refusal(Meter(), allowance, 4, 0.0) is None


def test_texts_that_got_no_answer_come_back_to_the_quota_of_their_own_day_only():
    allowance, meter = Allowance(texts_per_day=10), Meter()
    meter.spend(allowance, 8, 0.0)
    meter.give_back(8, 0.0)
    meter.spend(allowance, 10, 1.0)
    meter.spend(allowance, 10, DAY_S)
    meter.give_back(10, 1.0)
    assert refusal(meter, allowance, 1, DAY_S + 1).code == "quota_exhausted"


def test_without_an_allowance_nothing_is_limited():
    meter = Meter()
    assert [refusal(meter, Allowance(), 10**9, 0.0) for _ in range(100)] == [None] * 100


def test_a_tighter_allowance_holds_at_once_and_counts_no_more_than_its_own_bucket():
    meter = Meter()
    for _ in range(10):
        meter.spend(Allowance(requests_per_second=10), 1, 0.0)
    assert refusal(meter, Allowance(requests_per_second=1), 1, 0.0).retry_after_s >= 1
    assert refusal(meter, Allowance(requests_per_second=1), 1, 1.0 + 1e-5) is None
