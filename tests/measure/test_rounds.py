"""Turns on one clock: every work gets its own, in between each other's, and the figures are the clock's."""

import time

import pytest

from polyfold.measure.rounds import Turns, Work, take_turns


def work(log, name, turns, seconds=0.0, singles=()):
    def call():
        log.append(name)
        time.sleep(seconds)

    return Work([call], 4, 4, [call], turns, singles)


def test_turns_are_interleaved_after_every_warm_up():
    log = []
    found = take_turns({"a": work(log, "a", Turns(3, 0.0)), "b": work(log, "b", Turns(2, 0.0))})
    assert "".join(log) == "ab" + "ab" + "ab" + "a"
    assert (found["a"].rounds, found["b"].rounds) == (3, 2)


def test_no_turn_is_begun_after_a_works_most_seconds_but_for_the_first():
    log = []
    found = take_turns({"slow": work(log, "slow", Turns(50, 0.0, 0.0), 0.001)})
    assert (found["slow"].rounds, len(log)) == (1, 2)


def test_rates_are_documents_over_the_clocks_seconds():
    found = take_turns({"slow": work([], "slow", Turns(3, 0.01), 0.002)})["slow"]
    assert found.documents_per_second_least <= found.documents_per_second <= found.documents_per_second_most
    assert found.documents_per_second_most <= 4 / 0.002
    assert found.latency_ms_p50 >= 2.0
    assert found.calls >= 3


def test_latencies_are_those_of_the_singles_where_there_are_some():
    found = take_turns({"both": work([], "both", Turns(2, 0.0), 0.005, singles=[lambda: None])})["both"]
    assert found.latency_ms_p50 < 5.0
    assert found.calls == 2
    assert found.speed.documents_per_second == pytest.approx(found.documents_per_second)
