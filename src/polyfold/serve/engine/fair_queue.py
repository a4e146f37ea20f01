"""Texts that wait for one model, and which of them make the next batch.

Whose turn it is follows start-time fair queuing (Goyal, Vin and Cheng, "Start-time Fair Queuing", 1996): every
request is a flow, a text's tag is where its flow stood when it came, and a flow moves on by the tokens it asked
for. So a request of one text does not wait behind a thousand texts of another, and the other still gets its share.

Who goes with it is chosen by length: all that waits is cut into batches of like length that take the least time
together, and the one that holds that text is next. Texts of one width go first come first served by the same tags.
Nothing here reads a clock, starts a thread or knows a model.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

import numpy as np

from polyfold.text.shapes import FEW_WIDTHS, ROWS, padded_rows

Payload = TypeVar("Payload")

BATCH_TOKENS = 40
"""What a batch costs beside its tokens, in tokens: MiniLM-L6 in int8, on one core, takes 0.6 ms longer than its
tokens alone would and 0.7 ms for having another shape than the batch before, at 32 tokens a millisecond."""

LEAST_SHARE = 1 / 8
"""Of the work, for a flow that new ones keep overtaking. Virtual time follows the text whose turn it is, and would
stand still under a stream of requests that each start where it stands; so it also moves with what was done."""


@dataclass(slots=True)
class Flow:
    """One request: `finish` is where its next text would stand, in tokens of virtual time."""

    finish: float = 0.0


@dataclass(slots=True, eq=False)
class Entry(Generic[Payload]):
    """One distinct text: token ids (int64 [seq]), when it came (seconds), and what its owner wants with it."""

    ids: np.ndarray
    arrived: float
    payload: Payload
    waiting: bool = field(default=False, init=False)

    @property
    def tokens(self) -> int:
        """Its length."""
        return len(self.ids)


@dataclass(slots=True)
class _Bucket(Generic[Payload]):
    """Texts of one width: by tag, then by arrival. What was dropped, or came twice, is skipped when met."""

    heap: list[tuple[float, int, Entry[Payload]]] = field(default_factory=list)
    documents: int = 0
    tokens: int = 0

    def first(self) -> tuple[float, int, Entry[Payload]] | None:
        while self.heap and not self.heap[0][2].waiting:
            heappop(self.heap)
        return self.heap[0] if self.heap else None


class FairQueue(Generic[Payload]):
    """Not thread-safe: whoever shares it holds a lock. `longest` is what the model reads, in tokens."""

    def __init__(self, longest: int, widths: Sequence[int] = FEW_WIDTHS) -> None:
        self._widths = [*(width for width in widths if width < longest), longest]
        self._buckets: list[_Bucket[Payload]] = [_Bucket() for _ in self._widths]
        self._now = 0.0
        self._numbers = count()
        self.tokens = 0
        self.documents = 0

    def add(self, flow: Flow, entry: Entry[Payload]) -> None:
        """Let a text wait. The same text, waiting already, also gets a place in this flow's turn.

        Then it is computed once, when the first of its flows is due: joining another never makes anyone later.
        """
        bucket = self._bucket(entry)
        start = max(self._now, flow.finish)
        flow.finish = start + entry.tokens
        heappush(bucket.heap, (start, next(self._numbers), entry))
        if not entry.waiting:
            entry.waiting = True
            self._count(bucket, entry, 1)

    def drop(self, entry: Entry[Payload]) -> bool:
        """Forget a text that is still waiting; False where it was taken before."""
        if not entry.waiting:
            return False
        self._leave(self._bucket(entry), entry)
        return True

    def oldest(self) -> float | None:
        """When the text whose turn it is came; None where none waits."""
        head = self._head()
        return None if head is None else self._buckets[head].heap[0][2].arrived

    def take(self, token_budget: int) -> list[Entry[Payload]]:
        """The next batch, at least one text if any waits, at most `token_budget` tokens with padding."""
        head = self._head()
        if head is None:
            return []
        self._now = max(self._now, self._buckets[head].heap[0][0])
        taken = [self._pop(head)]
        for place, number in self._companions(head, token_budget):
            taken += [self._pop(place) for _ in range(number)]
        self._now += LEAST_SHARE * sum(entry.tokens for entry in taken)
        return taken

    def width(self, tokens: int) -> int:
        """What texts of so many tokens are padded to in a batch of their own."""
        return self._widths[bisect_left(self._widths, tokens)]

    def _companions(self, head: int, token_budget: int) -> list[tuple[int, int]]:
        """Which buckets give how many texts to the batch of the one just taken from bucket `head`.

        Batches of neighbouring widths are joined where that costs less padding than it saves batches. The one that
        holds `head` is filled from its own bucket first, then from the widest to the narrowest.
        """
        narrowest, widest = self._group(head, token_budget)
        waiting = sum(self._buckets[place].documents for place in range(narrowest, widest + 1))
        room = min(waiting, token_budget // self._widths[widest] - 1)
        room = _worth(max(1, room + 1), self._widths[widest]) - 1
        found = []
        for place in [head, *(place for place in range(widest, narrowest - 1, -1) if place != head)]:
            number = min(self._buckets[place].documents, room)
            if number > 0:
                found.append((place, number))
                room -= number
        return found

    def _group(self, head: int, token_budget: int) -> tuple[int, int]:
        """The narrowest and the widest bucket of the batches that `head` belongs to.

        Of all ways to cut the buckets into groups, the one whose batches take the least time: dynamic programming
        over the widest bucket of the last group.
        """
        filled = [place for place, bucket in enumerate(self._buckets) if bucket.documents or place == head]
        documents = [self._buckets[place].documents + (place == head) for place in filled]
        best, begin = [0.0], [0]
        for end, place in enumerate(filled, start=1):
            width = self._widths[place]
            most = max(1, token_budget // width)
            rows, cost = 0, float("inf")
            start = end
            for first in range(end - 1, -1, -1):
                rows += documents[first]
                option = best[first] + rows * width + BATCH_TOKENS * -(-rows // most)
                if option < cost:
                    cost, start = option, first
            best.append(cost)
            begin.append(start)
        end = len(filled)
        while filled[begin[end]] > head:
            end = begin[end]
        return filled[begin[end]], filled[end - 1]

    def _head(self) -> int | None:
        """The bucket that holds the text whose turn it is."""
        firsts = [
            (first[0], first[1], place)
            for place, bucket in enumerate(self._buckets)
            if (first := bucket.first()) is not None
        ]
        return min(firsts)[2] if firsts else None

    def _pop(self, place: int) -> Entry[Payload]:
        bucket = self._buckets[place]
        first = bucket.first()
        assert first is not None
        heappop(bucket.heap)
        self._leave(bucket, first[2])
        return first[2]

    def _leave(self, bucket: _Bucket[Payload], entry: Entry[Payload]) -> None:
        entry.waiting = False
        self._count(bucket, entry, -1)

    def _count(self, bucket: _Bucket[Payload], entry: Entry[Payload], sign: int) -> None:
        bucket.documents += sign
        bucket.tokens += sign * entry.tokens
        self.documents += sign
        self.tokens += sign * entry.tokens

    def _bucket(self, entry: Entry[Payload]) -> _Bucket[Payload]:
        """Of the narrowest width that holds it; ids longer than the model reads are never put here."""
        return self._buckets[bisect_left(self._widths, entry.tokens)]


def _worth(rows: int, width: int) -> int:
    """So many documents, or fewer where a runtime would fill the batch up for more than another batch costs."""
    above = padded_rows(rows, rows if rows > ROWS[-1] else ROWS[-1])
    return rows if (above - rows) * width <= BATCH_TOKENS else ROWS[bisect_right(ROWS, rows) - 1]
