import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_drift import Clock

from polyfold.serve.exchange import Exchange
from polyfold.serve.watch.stats import LATENCIES, SECONDS, Stats


def exchange(seconds, texts=1):
    return Exchange("id", "POST", "/predict", 0.0, texts=texts, seconds=seconds)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 4), st.integers(1, 50)), max_size=60))
def test_rates_are_means_over_the_last_ten_whole_seconds(steps):
    clock = Clock()
    clock.now += 0.25
    stats, started, seen = Stats(clock), clock.now, []
    for wait, texts in steps:
        clock.now += wait
        stats.add(texts)
        seen.append((int(clock.now), texts))
    now = int(clock.now)
    counted = [texts for second, texts in seen if now - SECONDS <= second < now]
    span = min(SECONDS, max(1, now - int(started)))
    assert stats.rates() == (pytest.approx(len(counted) / span), pytest.approx(sum(counted) / span))
    assert stats.uptime_s == clock.now - started


def test_a_steady_load_is_shown_as_it_is_and_fades_after_its_end():
    clock = Clock()
    stats = Stats(clock)
    for _ in range(100 * 30):
        clock.now += 0.01
        stats.add(4)
    assert stats.rates() == (pytest.approx(100, rel=0.01), pytest.approx(400, rel=0.01))
    clock.now += SECONDS + 1
    assert stats.rates() == (0.0, 0.0)


@settings(deadline=None)
@given(st.lists(st.floats(0, 60), min_size=1, max_size=50), st.floats(0, 1))
def test_a_latency_percentile_is_a_latency_that_so_many_did_not_exceed(durations, share):
    stats = Stats(Clock())
    for seconds in durations:
        stats.exchanged(exchange(seconds))
    found = stats.latency_ms(share)
    assert found in [1000.0 * seconds for seconds in durations]
    below = sum(1000.0 * seconds <= found for seconds in durations)
    assert below >= share * len(durations) - 1e-9


def test_latencies_are_of_the_last_thousand_requests_for_texts():
    stats = Stats(Clock())
    assert stats.latency_ms(0.5) is None
    stats.exchanged(exchange(99.0, texts=0))
    assert stats.latency_ms(0.5) is None
    for _ in range(10):
        stats.exchanged(exchange(5.0))
    assert stats.latency_ms(0.5) == 5000.0
    for _ in range(LATENCIES):
        stats.exchanged(exchange(0.001))
    assert stats.latency_ms(1.0) == 1.0
