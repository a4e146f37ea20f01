"""The load generator: arrivals drawn beforehand, latencies from when a request was due, and nothing overlooked."""

import select
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from polyfold.benchmark.arrivals import poisson_arrivals

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.service import jobs
from benchmarks.service.alarm import Alarm
from benchmarks.service.wire import Broken, next_answer, request_of, retry_after_s
from toys_service import TEXTS, Stall, StandIn, put, serving, toy_expected, whole


def test_arrivals_are_those_of_the_poisson_process_however_slow_the_server_is(tmp_path):
    stall = Stall(0.3)
    outcome, counts = put(
        tmp_path, StandIn(toy_expected(), delay=stall), mode="open", rate=300.0, seconds=0.5, count=500, seed=11
    )
    due = outcome.due - outcome.facts["started"]
    np.testing.assert_allclose(due, poisson_arrivals(300.0, 500, 0.5, 11), atol=1e-6)
    assert counts.acknowledged == counts.sent == len(outcome) > 100


def test_a_latency_counts_from_when_the_request_was_due_though_the_server_stalled(tmp_path):
    stall = Stall(0.4)
    outcome, _ = put(
        tmp_path, StandIn(toy_expected(), delay=stall), mode="open", rate=200.0, seconds=0.6, count=500,
        connections=2, most_connections=2,
    )  # fmt: skip
    early = outcome.due < stall.until - 0.05
    # All that were due in the stall wait until its end, also those that found no free connection to be sent on.
    assert early.sum() > 20
    assert (outcome.latencies[early] >= stall.until - outcome.due[early] - 1e-3).all()
    assert outcome.facts["waited_for_connection"] > 10
    assert (outcome.sent[early] - outcome.due[early]).max() > 0.2


def test_an_open_loop_opens_connections_rather_than_let_a_request_wait(tmp_path):
    outcome, counts = put(
        tmp_path, StandIn(toy_expected(), delay=Stall(0.3)), mode="open", rate=150.0, seconds=0.4, count=200,
        connections=2,
    )  # fmt: skip
    assert outcome.facts["waited_for_connection"] == 0
    assert outcome.facts["opened_while_running"] > 10
    assert counts.lost == 0 and counts.acknowledged == len(outcome)


def test_a_connection_that_was_idle_for_long_is_not_used_again(tmp_path):
    given = {"mode": "open", "rate": 20.0, "seconds": 1.0, "count": 40, "connections": 1}
    kept, _ = put(tmp_path, StandIn(toy_expected()), **given)
    dropped, counts = put(tmp_path, StandIn(toy_expected()), idle_s=0.001, **given)
    assert kept.facts["opened_while_running"] <= 5
    assert dropped.facts["opened_while_running"] >= len(dropped) - 5
    assert counts.acknowledged == len(dropped) >= 10 and counts.lost == 0


def test_a_server_that_cannot_keep_up_ends_the_load_and_is_told(tmp_path):
    outcome, counts = put(
        tmp_path, StandIn(toy_expected(), delay=Stall(1.0)), mode="open", rate=500.0, seconds=2.0, count=1000,
        connections=2, most_connections=2, most_waiting=20,
    )  # fmt: skip
    assert outcome.facts["overloaded"] == 1.0
    assert (outcome.ending == jobs.NOT_SENT).sum() > 500
    assert counts.sent == (outcome.ending != jobs.NOT_SENT).sum()


@pytest.mark.parametrize("connections", [1, 3])
def test_a_closed_loop_has_one_request_under_way_on_each_connection(tmp_path, connections):
    stand_in = StandIn(toy_expected())
    outcome, counts = put(tmp_path, stand_in, count=60, connections=connections, texts_a_request=3)
    assert stand_in.most_under_way <= connections
    assert counts.acknowledged == 60 and counts.texts == 180
    assert outcome.facts["connections"] == connections


def test_pipelined_requests_get_their_own_answers(tmp_path):
    _, counts = put(tmp_path, StandIn(toy_expected()), count=80, connections=2, depth=4, probabilities=True)
    assert counts.acknowledged == counts.compared == 80
    assert counts.mixed_up == counts.wrong == counts.lost == 0


def test_a_closed_loop_ends_with_its_time(tmp_path):
    stand_in = StandIn(toy_expected(), delay=lambda: time.sleep(0.02))
    outcome, counts = put(tmp_path, stand_in, count=10_000, seconds=0.3, connections=2)
    assert 0.3 <= outcome.facts["wall_s"] < 10.0
    assert 2 <= counts.sent < 200 and counts.acknowledged == counts.sent


def test_a_refused_client_comes_again_after_the_time_it_was_told(tmp_path):
    def refuse(stand_in, rows, probabilities):
        return whole({"error": {"code": "queue_full"}}, 503, "retry-after: 1\r\n")

    outcome, counts = put(tmp_path, StandIn(toy_expected(), lie=refuse), count=12, retries=5)
    again = outcome.refusals > 0
    assert again.sum() >= 2
    assert counts.acknowledged == 12 and counts.refused == 0
    # In a closed loop a request is due when it was last sent: the waiting is seen in the whole.
    assert outcome.facts["wall_s"] >= 1.0


def test_a_refusal_without_a_further_try_is_counted_by_its_code(tmp_path):
    def refuse(stand_in, rows, probabilities):
        return whole({"error": {"code": "queue_full"}}, 503, "retry-after: 1\r\n")

    outcome, counts = put(tmp_path, StandIn(toy_expected(), lie=refuse), count=20)
    assert counts.refused == 4 and counts.refusals == {"queue_full": 4}
    assert counts.acknowledged == 16 and counts.lost == 0
    assert outcome.refused().sum() == 4


def test_a_server_that_nobody_runs_is_said_to_be_missing(tmp_path):
    with serving(StandIn(toy_expected())) as port:
        pass
    file = tmp_path / "texts.json"
    file.write_text('["a"]')
    job = jobs.Job(port=port, texts=str(file), mode="closed", count=1, seconds=1.0)
    with pytest.raises(ValueError, match="nobody listens"):
        jobs.run(job, tmp_path / "job")


def test_texts_go_in_turn_and_from_the_start_again():
    job = jobs.Job(port=1, texts="", mode="closed", count=9, seconds=1.0, first=3, texts_a_request=4)
    asked = [row for request in range(3) for row in job.rows(request, 10)]
    assert asked == [3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4]


def test_the_alarm_wakes_when_it_is_time_and_not_before():
    alarm = Alarm()
    try:
        for wait in (0.02, 0.0, -1.0, 0.03):
            moment = time.monotonic() + wait
            alarm.set(moment)
            assert select.select([alarm.fd], [], [], 5.0)[0] == [alarm.fd]
            assert time.monotonic() >= moment
            alarm.clear()
            assert select.select([alarm.fd], [], [], 0.0)[0] == []
    finally:
        alarm.close()


def test_answers_are_cut_out_wherever_the_stream_was_broken():
    stream = whole({"a": 1}) + whole(b"", 429, "Retry-After: 7\r\n") + whole({"b": "\r\n\r\n"})
    for cut in range(len(stream)):
        found, start = [], 0
        for data in (stream[:cut], stream):
            while (answer := next_answer(data, start)) is not None:
                found.append(answer)
                start = answer.end
        assert [(one.status, one.body) for one in found] == [
            (200, b'{"a": 1}'), (429, b""), (200, b'{"b": "\\r\\n\\r\\n"}'),
        ]  # fmt: skip
        assert retry_after_s(found[1].head) == 7.0 and retry_after_s(found[0].head) is None


@pytest.mark.parametrize("nonsense", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_what_is_no_answer_is_refused(nonsense):
    with pytest.raises(Broken):
        next_answer(nonsense, 0)


def test_a_request_is_one_that_a_plain_server_understands():
    with serving(StandIn(toy_expected())) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request_of(TEXTS[:2], port, probabilities=True, key="k"))
        data = b""
        while next_answer(data, 0) is None:
            data += connection.recv(65_536)
        assert next_answer(data, 0).status == 200
