"""Open-loop arrivals: waiting counts, nothing is left out, and queueing theory agrees."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.benchmark.arrivals import (
    Time,
    measure_arrivals,
    poisson_arrivals,
    serve_open_loop,
    service_rate,
    wait_until,
)


@dataclass
class Clockwork:
    """A clock that moves only when it is read, slept on, or worked on."""

    moment: float = 0.0
    served: list = field(default_factory=list)

    def now(self):
        self.moment += 1e-5
        return self.moment

    def rest(self, seconds):
        self.moment += seconds

    @property
    def time(self):
        return Time(self.now, self.rest)

    def work(self, seconds, each=0.0):
        def serve(rows):
            self.served.append(list(rows))
            self.moment += seconds + each * len(rows)

        return serve


def test_arrivals_are_poisson_by_seed():
    due = poisson_arrivals(50.0, 20_000, 1e9, seed=3)
    gaps = np.diff(due)
    # An exponential's mean and deviation are both 1/rate; 20,000 draws are good for about one per cent.
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.03)
    # As many gaps are above the mean as e^-1 says.
    assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), abs=0.02)
    assert np.array_equal(due, poisson_arrivals(50.0, 20_000, 1e9, seed=3))
    assert not np.array_equal(due, poisson_arrivals(50.0, 20_000, 1e9, seed=4))


def test_arrivals_end_with_their_seconds_but_there_is_always_one():
    assert poisson_arrivals(100.0, 10_000, 2.0, seed=0)[-1] <= 2.0
    assert len(poisson_arrivals(100.0, 10_000, 2.0, seed=0)) == pytest.approx(200, rel=0.3)
    assert len(poisson_arrivals(0.001, 10, 1e-9, seed=0)) == 1


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(0.0, 0.05), min_size=1, max_size=60),
    st.floats(1e-4, 0.02),
    st.integers(1, 8),
)
def test_every_request_is_served_once_in_order_and_no_sooner_than_it_can_be(gaps, seconds, together):
    due, clock = np.cumsum(gaps), Clockwork()
    latencies = serve_open_loop(due, clock.work(seconds), together, clock.time)
    assert [row for rows in clock.served for row in rows] == list(range(len(due)))
    assert max(len(rows) for rows in clock.served) <= together
    assert (latencies >= seconds).all()
    # First come, first served: answers come in the order of arrivals.
    assert (np.diff(due + latencies) >= -1e-9).all()


def test_a_stall_is_felt_by_everybody_who_was_due_meanwhile():
    """Of ten requests due every 10 ms the first takes a second: a closed loop would call nine of them quick."""
    clock = Clockwork()

    def serve(rows):
        clock.moment += 1.0 if rows[0] == 0 else 0.001

    latencies = serve_open_loop(np.arange(10) * 0.01, serve, 1, clock.time)
    assert latencies[0] == pytest.approx(1.0, abs=0.01)
    assert (latencies[1:] > 0.9).all()


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_the_mean_wait_of_a_fixed_service_is_pollaczek_and_khinchines(load):
    seconds, clock = 0.01, Clockwork()
    due = poisson_arrivals(load / seconds, 20_000, 1e9, seed=1)
    waits = serve_open_loop(due, clock.work(seconds), 1, clock.time) - seconds
    assert waits.mean() == pytest.approx(load * seconds / (2 * (1 - load)), rel=0.15)
    # A request finds the worker idle with probability 1 - load.
    assert (waits < 1e-4).mean() == pytest.approx(1 - load, abs=0.02)


def test_taking_what_waits_together_survives_a_load_that_one_by_one_does_not():
    due = poisson_arrivals(200.0, 4000, 1e9, seed=2)
    alone, together = Clockwork(), Clockwork()
    one_by_one = serve_open_loop(due, alone.work(0.009, 0.001), 1, alone.time)
    batched = serve_open_loop(due, together.work(0.009, 0.001), 32, together.time)
    assert one_by_one[-1] > 10.0
    assert np.percentile(batched, 99) < 0.1


def test_waiting_never_ends_early():
    clock = Clockwork()
    for moment in (0.5, 0.5005, 0.6, 0.1):
        wait_until(moment, clock.time)
        assert clock.moment >= moment


def test_a_load_is_measured_on_the_texts_in_turn():
    seen = []
    found = measure_arrivals(["a", "b"], seen.extend, 0.5, 500.0, 1, limits=(21, 5.0), seed=0)
    assert seen == ["a", "b"] * 10 + ["a"]
    assert (found.requests, found.load, found.together) == (21, 0.5, 1)
    assert 0 < found.latency_ms_p50 <= found.latency_ms_p99 <= found.latency_ms_most
    assert found.latency_ms_p999 is None
    assert service_rate(["a", "b"], seen.extend) > 0
