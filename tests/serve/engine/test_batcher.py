"""The laws of the batcher: every row is its own text's, whoever else asks, cancels, or waits."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_service import LABELS, LONGEST, Reports, ToyModel, ids_of, logits_of, run

from polyfold.serve.engine import tokenizing
from polyfold.serve.engine.batcher import Batcher
from polyfold.serve.refusals import Refusal
from polyfold.serve.spec import Batching

FAR = 60.0
TEXTS = st.lists(st.text("abc", max_size=8) | st.text("xyz", min_size=60, max_size=70), max_size=6)


class Bench:
    """A batcher over the toy, its gate open unless told."""

    def __init__(self, open_gate=True, queue_tokens=100_000, lanes=1, **batching):
        self.model, self.reports = ToyModel(lanes=lanes), Reports()
        if open_gate:
            self.model.gate.set()
        self.batcher = Batcher(self.model, LONGEST, Batching(**batching), queue_tokens, self.reports)

    def ask(self, texts, seconds=FAR):
        return self.batcher.submit(texts, time.monotonic() + seconds)

    async def at_work(self):
        """Until the model has begun a batch."""
        while not self.model.started:
            await asyncio.sleep(0)

    async def queued(self):
        """Until all that was asked is in the queue: its timer is due before this one."""
        await asyncio.sleep(2 * tokenizing.GATHER_S)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.model.gate.set()
        await self.batcher.stop()


def assert_rows_are_of(answers, texts):
    expected = np.array([logits_of(ids_of(text)) for text in texts]).reshape(-1, LABELS)
    np.testing.assert_array_equal(answers.logits, expected)
    np.testing.assert_array_equal(answers.truncated, [len(text) > LONGEST for text in texts])
    np.testing.assert_array_equal(answers.tokens, [len(ids_of(text)) for text in texts])
    assert not answers.failures


@settings(max_examples=40, deadline=None)
@given(requests=st.lists(TEXTS, max_size=12), budget=st.integers(1, 300))
def test_an_answer_never_depends_on_who_else_asks(requests, budget):
    async def all_at_once():
        async with Bench(token_budget=budget) as bench:
            tickets = [bench.ask(texts) for texts in requests]
            return [await ticket.future for ticket in tickets]

    for texts, answers in zip(requests, run(all_at_once()), strict=True):
        assert_rows_are_of(answers, texts)


@settings(max_examples=40, deadline=None)
@given(requests=st.lists(TEXTS.filter(bool), min_size=1, max_size=10), data=st.data())
def test_cancelled_requests_take_nothing_from_others(requests, data):
    gone = data.draw(st.sets(st.integers(0, len(requests) - 1)))

    async def some_leave():
        async with Bench(open_gate=False, token_budget=100) as bench:
            tickets = [bench.ask(texts) for texts in requests]
            for number in gone:
                tickets[number].cancel()
            bench.model.gate.set()
            await bench.batcher.drained()
            return [None if ticket.future.cancelled() else ticket.future.result() for ticket in tickets]

    for number, (texts, answers) in enumerate(zip(requests, run(some_leave()), strict=True)):
        assert (answers is None) == (number in gone)
        if answers is not None:
            assert_rows_are_of(answers, texts)


def test_equal_texts_in_flight_are_computed_once():
    async def twice():
        async with Bench(open_gate=False) as bench:
            running = bench.ask(["being computed"])
            await bench.at_work()
            tickets = [running, bench.ask(["being computed", "waiting"]), bench.ask(["waiting", "waiting"])]
            bench.model.gate.set()
            answers = [await ticket.future for ticket in tickets]
            return bench.model.batches, answers

    batches, answers = run(twice())
    assert [len(batch) for batch in batches] == [1, 1]
    assert_rows_are_of(answers[0], ["being computed"])
    assert_rows_are_of(answers[1], ["being computed", "waiting"])
    assert_rows_are_of(answers[2], ["waiting", "waiting"])


def test_what_everyone_cancelled_is_never_computed():
    async def nobody_stays():
        async with Bench(open_gate=False) as bench:
            first = bench.ask(["first"])
            await bench.at_work()
            one, two = bench.ask(["shared", "own"]), bench.ask(["shared"])
            await bench.queued()
            one.cancel()
            assert bench.batcher.queue_tokens == len("shared")
            two.cancel()
            assert bench.batcher.queue_tokens == 0
            bench.model.gate.set()
            await first.future
            return bench.model.batches, bench.reports.drops

    batches, drops = run(nobody_stays())
    assert [len(batch) for batch in batches] == [1]
    assert drops == [("cancelled", 2), ("cancelled", 1)]


def test_a_request_whose_time_is_up_is_refused_and_dropped():
    async def too_late():
        async with Bench(open_gate=False) as bench:
            patient = bench.ask(["first"])
            await bench.at_work()
            with pytest.raises(Refusal) as refused:
                await bench.ask(["second"], seconds=0.01).future
            assert bench.batcher.queue_tokens == 0
            bench.model.gate.set()
            await patient.future
            return refused.value, bench.reports.drops

    refusal, drops = run(too_late())
    assert (refusal.status, refusal.code) == (504, "deadline_exceeded")
    assert drops == [("deadline", 1)]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    async def too_many():
        async with Bench(open_gate=False, queue_tokens=20) as bench:
            tickets = [bench.ask(["a" * 10])]
            await bench.at_work()
            tickets += [bench.ask(["b" * 15]), bench.ask(["c" * 5])]
            with pytest.raises(Refusal) as refused:
                await bench.ask(["d"]).future
            # What is waiting already costs nothing more.
            tickets.append(bench.ask(["b" * 15]))
            bench.model.gate.set()
            for ticket in tickets:
                await ticket.future
            assert bench.batcher.pending == 0
            return refused.value

    refusal = run(too_many())
    assert (refusal.status, refusal.code) == (503, "queue_full")
    assert refusal.retry_after_s > 0


@pytest.mark.parametrize("length", [10, 5000])
def test_what_cannot_be_tokenized_fails_its_request_and_is_forgotten(length):
    async def broken():
        async with Bench() as bench:
            bench.batcher._tokenizing._encode = None
            with pytest.raises(TypeError):
                await bench.ask(["x" * length]).future
            return bench.batcher.pending

    assert run(broken()) == 0


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits():
    async def large():
        async with Bench(queue_tokens=5) as bench:
            return await bench.ask(["abc" * 10, "def" * 10]).future

    assert_rows_are_of(run(large()), ["abc" * 10, "def" * 10])


def test_a_bad_text_fails_alone():
    async def one_bad():
        async with Bench() as bench:
            return await bench.ask(["good", "bad!", "fine"]).future

    answers = run(one_bad())
    assert list(answers.failures) == [1]
    assert np.isnan(answers.logits[1]).all()
    np.testing.assert_array_equal(answers.logits[2], logits_of(ids_of("fine")))


def test_many_characters_are_tokenized_beside_the_event_loop_with_the_same_result():
    texts = [f"text {number} " + "z" * 50 for number in range(200)]

    async def many():
        async with Bench() as bench:
            long, short = bench.ask(texts), bench.ask(texts[:3])
            return await long.future, await short.future

    long, short = run(many())
    assert_rows_are_of(long, texts)
    assert_rows_are_of(short, texts[:3])


def test_token_ids_get_the_rows_of_their_texts():
    texts = ["abc", "de", "abc"]

    async def ids():
        async with Bench() as bench:
            ticket = bench.batcher.submit_ids([ids_of(text) for text in texts], time.monotonic() + FAR)
            return await ticket.future, bench.reports.documents_tokenized

    answers, tokenized = run(ids())
    assert_rows_are_of(answers, texts)
    assert tokenized == 0


def test_stopping_refuses_whoever_has_no_answer_yet_and_computes_nothing_more():
    async def stop():
        bench = Bench(open_gate=False)
        running = bench.ask(["running"])
        await bench.at_work()
        waiting = bench.ask(["waiting"])
        stopping = asyncio.ensure_future(bench.batcher.stop())
        await asyncio.sleep(0)
        bench.model.gate.set()
        await stopping
        for ticket in (running, waiting):
            with pytest.raises(Refusal, match="stopped"):
                await ticket.future
        with pytest.raises(Refusal, match="stopped"):
            bench.ask(["late"])
        return bench.model.batches

    assert [len(batch) for batch in run(stop())] == [1]


def test_while_a_lane_is_at_work_few_texts_wait_for_company_in_the_other():
    async def company():
        async with Bench(open_gate=False, lanes=2, max_wait_ms=60_000.0) as bench:
            tickets = [bench.ask(["first"])]
            await bench.at_work()
            tickets += [bench.ask([name]) for name in ("one", "two", "six")]
            await bench.queued()
            waiting = bench.batcher.queue_tokens
            bench.model.gate.set()
            for ticket in tickets:
                await ticket.future
            return waiting, bench.model.batches

    waiting, batches = run(company())
    assert waiting == len("onetwosix")
    assert [len(batch) for batch in batches] == [1, 3]


def test_texts_that_come_while_every_lane_is_at_work_are_tokenized_together_once_one_is_free(monkeypatch):
    # Nothing but the end of a batch has them tokenized.
    monkeypatch.setattr(tokenizing, "GATHER_S", FAR)
    encode, calls = ToyModel.encode, []

    def counted(model, texts):
        calls.append(len(texts))
        return encode(model, texts)

    monkeypatch.setattr(ToyModel, "encode", counted)

    async def together():
        async with Bench(open_gate=False) as bench:
            tickets = [bench.ask(["first"])]
            await bench.at_work()
            for name in ("one", "two", "six"):
                tickets.append(bench.ask([name]))
                await asyncio.sleep(0)
            bench.model.gate.set()
            return [await ticket.future for ticket in tickets]

    for answers, name in zip(run(together()), ("first", "one", "two", "six"), strict=True):
        assert_rows_are_of(answers, [name])
    assert calls == [1, 3]


def test_many_texts_or_a_long_wait_start_the_other_lane():
    async def other_lane(texts, max_wait_ms):
        async with Bench(open_gate=False, lanes=2, max_wait_ms=max_wait_ms) as bench:
            tickets = [bench.ask(["first"])]
            await bench.at_work()
            tickets.append(bench.ask(texts))
            while bench.model.started < 2:
                await asyncio.sleep(0)
            # Both have begun and none has ended: the first is still being computed.
            assert not bench.model.batches
            bench.model.gate.set()
            for ticket in tickets:
                await ticket.future

    run(other_lane([f"many {number}" * 6 for number in range(8)], 60_000.0))
    run(other_lane(["few"], 1.0))


def test_timing_and_padding_are_told():
    async def told():
        async with Bench() as bench:
            answers = await bench.ask(["a" * 7, "b" * 8]).future
            return answers.timing, bench.reports.facts

    timing, facts = run(told())
    assert timing.queue_s >= 0 and timing.tokenize_s >= 0 and timing.infer_s > 0
    assert sum(one.documents for one in facts) == 2
    assert sum(one.tokens for one in facts) == 15
    assert sum(one.padded_tokens for one in facts) == 16
