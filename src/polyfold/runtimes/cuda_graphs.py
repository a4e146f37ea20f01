"""CUDA graphs for small batches: a batch is filled up to one of a few sizes, whose kernels are launched as one.

A small encoder on a large GPU waits for its launches: six layers are some sixty kernels of a few microseconds
each. A recorded graph replays them all at once, but only in the shapes it was recorded in. So a batch goes into
the smallest *bucket* that holds it; the rest of the bucket are documents of one token, whose logits nobody reads.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polyfold.runtimes.varlen import Packed, unflat

BATCHES = (1, 2, 4, 8, 16, 32)
LENGTHS = (16, 32, 64, 128, 256, 512)
WARM_UPS = 3
"""Calls before recording, in which libraries choose their kernels and allocate their workspaces."""

Forward = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""Ids [tokens], positions [tokens], starts [documents + 1] and the longest to logits [documents, labels]."""


@dataclass(frozen=True, order=True)
class Bucket:
    """A size that graphs are recorded in; they are ordered by what they cost, tokens before all."""

    tokens: int
    documents: int
    longest: int

    def holds(self, batch: Packed) -> bool:
        """Whether the batch fits, each document that fills it up having one token."""
        filling = self.documents - batch.documents
        return filling >= 0 and batch.longest <= self.longest and len(batch.ids) + filling <= self.tokens


def rectangles(
    max_length: int, batches: Sequence[int] = BATCHES, lengths: Sequence[int] = LENGTHS
) -> list[Bucket]:
    """A bucket for every number of documents and every length that a model of `max_length` may meet."""
    # The length at which documents are cut is the commonest of all among the long ones.
    used = [length for length in lengths if length < max_length] + [max_length]
    return [Bucket(batch * length, batch, length) for batch in batches for length in used]


def bucket_of(batch: Packed, buckets: Iterable[Bucket]) -> Bucket | None:
    """The cheapest bucket that holds the batch; None where it is too large for all of them."""
    return min((one for one in buckets if one.holds(batch)), default=None)


def fill(batch: Packed, bucket: Bucket) -> Packed:
    """The batch filled up to its bucket: real documents first, one-token ones, and a tail that is nobody's.

    The tail passes through the layers that see single tokens and is never attended to. Ids and positions of the
    filling are those of the first token, which are valid in any model.
    """
    assert bucket.holds(batch)
    spare = bucket.tokens - len(batch.ids)
    real = len(batch.ids)
    extra = np.arange(1, bucket.documents - batch.documents + 1) + real
    return Packed(
        np.concatenate([batch.ids, np.full(spare, batch.ids[0])]),
        np.concatenate([batch.positions, np.full(spare, batch.positions[0])]),
        np.concatenate([batch.starts, extra]).astype(np.int32),
        bucket.longest,
    )


@dataclass(frozen=True)
class Recorded:
    """A graph with the buffers it reads and the one it writes."""

    graph: torch.cuda.CUDAGraph
    flat: Tensor
    logits: Tensor


class GraphRunner:
    """Runs batches through recorded graphs, recording each bucket's when it is first met; all share their memory.

    One thread at a time may use it: a graph's buffers are overwritten by the next batch of its bucket.
    """

    def __init__(self, forward: Forward, device: torch.device, buckets: Sequence[Bucket]) -> None:
        assert device.type == "cuda", "graphs are a GPU's"
        self._forward = forward
        self._device = device
        self._buckets = tuple(buckets)
        self._recorded: dict[Bucket, Recorded] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, batch: Packed) -> Tensor | None:
        """Logits [documents, labels] on the device, overwritten by the next call; None where no bucket fits."""
        bucket = bucket_of(batch, self._buckets)
        return None if bucket is None else self._replay(bucket, fill(batch, bucket).flat(), batch.documents)

    def resident(self, batch: Packed) -> Callable[[], Tensor] | None:
        """A call that computes this batch again from a copy of its inputs on the device."""
        bucket = bucket_of(batch, self._buckets)
        if bucket is None:
            return None
        flat = fill(batch, bucket).flat().to(self._device)
        return lambda: self._replay(bucket, flat, batch.documents)

    def _replay(self, bucket: Bucket, flat: Tensor, documents: int) -> Tensor:
        recorded = self._recorded.get(bucket)
        if recorded is None:
            recorded = self._recorded[bucket] = self._record(bucket, flat)
        recorded.flat.copy_(flat)
        recorded.graph.replay()
        return recorded.logits[:documents]

    def _record(self, bucket: Bucket, flat: Tensor) -> Recorded:
        flat = flat.to(self._device, copy=True)
        inputs = (*unflat(flat, bucket.tokens), bucket.longest)
        # Warmed up on a stream of its own, as torch asks for before a recording.
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._forward(*inputs)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._forward(*inputs)
        return Recorded(graph, flat, logits)
