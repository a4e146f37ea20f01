"""The roofline: no faster than operations over the measured peak, nor than weights over the measured bandwidth.

Williams et al. 2009, "Roofline: an insightful visual performance model". The floor counts a document's own tokens
and no padding, the weights once a batch, and every operation at the fastest precision that the model computes in;
tokenizing, lookups, norms and activations are taken as free. So it lies below what is possible, and a share of
100 % is out of reach; how far below depends on how much of a model is none of these products.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyfold.benchmark.results import Figure, Operations, Peaks, Precision
from polyfold.measure.rounds import Timing


@dataclass(frozen=True)
class Floor:
    """An artifact on a machine: what it has to compute, and at which of the machine's peaks."""

    operations: Operations
    peaks: Peaks
    precisions: tuple[Precision, ...]

    def seconds(self, lengths: Sequence[int] | np.ndarray, batches: int = 1) -> float:
        """The least time for documents of these lengths in so many batches."""
        operations = float(np.sum([self.operations.of(length) for length in np.asarray(lengths)]))
        size = self.operations.weight_bytes
        computing = operations / self.peaks.operations_per_second(self.precisions)
        reading = batches * size / self.peaks.bytes_per_second(size)
        return max(computing, reading)


def precisions_of(precision: str, *, bf16: bool) -> tuple[Precision, ...]:
    """What a model of this name computes in; weights alone in int8 make no integer product."""
    found: list[Precision] = ["fp32"]
    if precision.startswith("int8") and not precision.startswith("int8-weights"):
        found.append("int8")
    # Processors compute fp16 no faster than bf16, where they do at all.
    if bf16 or precision in ("fp16", "bf16"):
        found.append("bf16")
    return tuple(found)


def against_floor(
    timing: Timing,
    throughput_seconds: float | None,
    documents: int,
    latency_seconds: float | None,
    speedup: float | None = None,
) -> Figure:
    """A timing beside the least seconds for `documents` documents, and for one call."""
    floor = documents / throughput_seconds if throughput_seconds else None
    least_ms = latency_seconds * 1000 if latency_seconds else None
    return Figure(
        timing=timing,
        floor_documents_per_second=floor,
        share=timing.documents_per_second / floor if floor else None,
        floor_latency_ms=least_ms,
        latency_share=least_ms / timing.latency_ms_p50 if least_ms else None,
        speedup=speedup,
    )
