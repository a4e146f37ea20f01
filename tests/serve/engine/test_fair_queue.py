"""The laws of the queue: nothing lost, nothing twice, nobody starved, no batch too large."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from polyfold.serve.engine.fair_queue import Entry, FairQueue, Flow

LONGEST = 128
LENGTHS = st.integers(1, LONGEST)


def entry(tokens, owner=None):
    return Entry(np.zeros(tokens, np.int64), 0.0, owner)


def filled(requests):
    """A queue with these requests (lists of lengths), and its entries by request."""
    queue, entries = FairQueue(LONGEST), []
    for number, lengths in enumerate(requests):
        flow = Flow()
        entries.append([entry(length, number) for length in lengths])
        for one in entries[-1]:
            queue.add(flow, one)
    return queue, entries


def batches(queue, budget):
    found = []
    while batch := queue.take(budget):
        found.append(batch)
    return found


def padded_tokens(queue, batch):
    return len(batch) * queue.width(max(one.tokens for one in batch))


@settings(max_examples=200)
@given(st.lists(st.lists(LENGTHS, max_size=20), max_size=12), st.integers(1, 4000))
def test_every_text_is_in_exactly_one_batch_and_batches_fit_the_budget(requests, budget):
    queue, entries = filled(requests)
    found = batches(queue, budget)
    taken = [id(one) for batch in found for one in batch]
    assert sorted(taken) == sorted(id(one) for own in entries for one in own)
    assert all(len(batch) == 1 or padded_tokens(queue, batch) <= budget for batch in found)
    assert (queue.tokens, queue.documents) == (0, 0)


@given(st.integers(50, 400), LENGTHS, LENGTHS)
def test_one_text_does_not_wait_behind_a_large_request(many, long, short):
    queue, (_, (single,)) = filled([[long] * many, [short]])
    budget = 1024
    queue.take(budget)  # the large request's first batch, taken before or with the single text
    seen = 0
    while single.waiting:
        queue.take(budget)
        seen += 1
    assert seen <= 2


@given(st.integers(2, 30), LENGTHS)
def test_a_large_request_is_not_starved_by_a_stream_of_small_ones(many, length):
    queue, (large,) = filled([[length] * many])
    for _ in range(9 * many):
        queue.add(Flow(), entry(length))
        queue.take(length)  # room for one text at a time: the stream alone could fill every batch
    assert not any(one.waiting for one in large)


@given(st.lists(LENGTHS, min_size=1, max_size=40))
def test_texts_of_one_length_and_flow_keep_their_order(lengths):
    queue, (entries,) = filled([lengths])
    order = [one for batch in batches(queue, 256) for one in batch]
    for length in set(lengths):
        assert [one for one in order if one.tokens == length] == [one for one in entries if one.tokens == length]


def test_batches_are_of_like_length():
    random = np.random.default_rng(0)
    lengths = np.minimum(LONGEST, random.geometric(1 / 24, 2000) + 2).tolist()
    queue, (entries,) = filled([lengths])
    found = batches(queue, 2048)
    padded = sum(padded_tokens(queue, batch) for batch in found)
    assert padded <= 1.35 * sum(one.tokens for one in entries)
    # As many to a batch in the order they came would be padded to the longest among them.
    plain = [lengths[start : start + 20] for start in range(0, len(lengths), 20)]
    assert padded < 0.6 * sum(len(part) * queue.width(max(part)) for part in plain)


def test_a_short_text_is_not_padded_to_a_long_one_but_joins_its_neighbour():
    queue, (_, (long,)) = filled([[4], [128]])
    assert long not in queue.take(2048)
    queue, _ = filled([[15], [17]])
    assert len(queue.take(2048)) == 2


class Waiting(RuleBasedStateMachine):
    """Adding, joining, dropping and taking in any order."""

    def __init__(self):
        super().__init__()
        self.queue = FairQueue(LONGEST)
        self.waiting = []

    @rule(lengths=st.lists(LENGTHS, min_size=1, max_size=5))
    def add(self, lengths):
        flow = Flow()
        for length in lengths:
            self.waiting.append(entry(length))
            self.queue.add(flow, self.waiting[-1])

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def join(self, data):
        self.queue.add(Flow(), data.draw(st.sampled_from(self.waiting)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def drop(self, data):
        gone = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.queue.drop(gone)
        assert not self.queue.drop(gone)

    @rule(budget=st.integers(1, 2000))
    def take(self, budget):
        batch = self.queue.take(budget)
        assert bool(batch) == bool(self.waiting)
        for one in batch:
            self.waiting.remove(one)

    @invariant()
    def counts_are_of_what_waits(self):
        assert self.queue.documents == len(self.waiting)
        assert self.queue.tokens == sum(one.tokens for one in self.waiting)
        assert (self.queue.oldest() is None) == (not self.waiting)


TestWaiting = Waiting.TestCase
