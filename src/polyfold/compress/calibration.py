"""Calibration: from what passes through a model on real texts to the range of each quantizer of activations."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from polyfold.model.placement import Hook, Placement
from polyfold.model.quantized import Range, add_hook

BINS = 2048
"""Bins of a histogram, as in Migacz 2017; of the signed ones for percentiles as well."""

LEVELS = 128
"""Magnitudes that signed int8 can hold; entropy calibration compares with a histogram of so many bins."""

Samples = Sequence[tuple[Tensor, Tensor]]
"""Batches of input_ids and attention_mask, int64 [batch, seq]."""


class Calibration(BaseModel):
    """How ranges are found on `documents` training documents.

    `min_max`: all that was seen. `mean_min_max`: smallest and largest value of each batch of eight documents,
    averaged, so that one strange document cannot stretch a range. `percentile`: all but the rarest values.
    `entropy`: the range whose int8 histogram loses least information (Migacz, "8-bit inference with TensorRT",
    2017).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["min_max", "mean_min_max", "percentile", "entropy"] = "mean_min_max"
    percentile: float = Field(default=99.99, gt=50.0, le=100.0)
    documents: int = Field(default=512, ge=8)


@dataclass(frozen=True)
class Extent:
    """Smallest and largest value of each batch that passed one place."""

    lows: tuple[float, ...]
    highs: tuple[float, ...]


class _Watch(nn.Module):
    """A hook that looks at what passes and changes nothing."""

    def __init__(self, look: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.look = look

    def forward(self, values: Tensor) -> Tensor:
        self.look(values.detach().float())
        return values


def find_ranges(
    module: nn.Module, placement: Placement, samples: Samples, spec: Calibration
) -> dict[tuple[Hook, str], Range]:
    """The range of every activation quantizer of `placement` on a hooked module without quantizers."""
    places = {(one.tensor, one.grid) for one in placement.activations}
    tensors = sorted({tensor for tensor, _ in places}, key=str)
    extents = _extents(module, tensors, samples)
    match spec.method:
        case "min_max":
            found = {tensor: Range(min(one.lows), max(one.highs)) for tensor, one in extents.items()}
        case "mean_min_max":
            found = {tensor: Range(_mean(one.lows), _mean(one.highs)) for tensor, one in extents.items()}
        case "percentile" | "entropy":
            return _from_histograms(module, places, extents, samples, spec)
    return {(tensor, grid): found[tensor] for tensor, grid in places}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values, dtype=np.float64))


def _extents(module: nn.Module, tensors: Iterable[Hook], samples: Samples) -> dict[Hook, Extent]:
    found: dict[Hook, list[tuple[float, float]]] = {tensor: [] for tensor in tensors}

    def look_at(tensor: Hook) -> Callable[[Tensor], None]:
        return lambda values: found[tensor].append((float(values.min()), float(values.max())))

    watch(module, {tensor: look_at(tensor) for tensor in found}, samples)
    return {tensor: Extent(*zip(*pairs, strict=True)) for tensor, pairs in found.items()}


def _from_histograms(
    module: nn.Module,
    places: Iterable[tuple[Hook, str]],
    extents: Mapping[Hook, Extent],
    samples: Samples,
    spec: Calibration,
) -> dict[tuple[Hook, str], Range]:
    """A second pass counts values in bins between what the first pass found to be the ends."""
    whole = {tensor: Range(min(one.lows), max(one.highs)) for tensor, one in extents.items()}
    signed = {tensor: np.zeros(BINS) for tensor in whole}
    sizes = {tensor: np.zeros(BINS) for tensor in whole}

    def look_at(tensor: Hook) -> Callable[[Tensor], None]:
        limits = whole[tensor]

        def look(values: Tensor) -> None:
            signed[tensor] += histogram(values, limits.low, limits.high)
            # Every grid holds zero, so zeros (of padding, of ReLU) say nothing about where to clip; counted, they
            # drown all the rest (0.43 of a logit's deviation on the embedded encoder, without them 0.10).
            counted = values[values != 0] if spec.method == "entropy" else values
            sizes[tensor] += histogram(counted.abs(), 0.0, max(-limits.low, limits.high))

        return look

    watch(module, {tensor: look_at(tensor) for tensor in whole}, samples)
    found = {}
    for tensor, grid in places:
        limits = whole[tensor]
        largest = max(-limits.low, limits.high)
        if spec.method == "entropy":
            limit = entropy_threshold(sizes[tensor], largest)
            found[tensor, grid] = Range(max(limits.low, -limit), min(limits.high, limit))
        elif grid == "int8":
            limit = percentile_of(sizes[tensor], 0.0, largest, spec.percentile)
            found[tensor, grid] = Range(-limit, limit)
        else:
            low = percentile_of(signed[tensor], limits.low, limits.high, 100.0 - spec.percentile)
            found[tensor, grid] = Range(
                low, percentile_of(signed[tensor], limits.low, limits.high, spec.percentile)
            )
    return found


def watch(module: nn.Module, looks: Mapping[Hook, Callable[[Tensor], None]], samples: Samples) -> None:
    """Run the samples through a hooked module, looking at each place as they pass."""
    handles = [add_hook(module, tensor, _Watch(look)) for tensor, look in looks.items()]
    with torch.no_grad():
        for batch in samples:
            module(*batch)
    for handle in handles:
        handle.remove()


def histogram(values: Tensor, low: float, high: float) -> np.ndarray:
    """Counts in `BINS` equal bins from `low` to `high`, float64; equal ends put all into the first bin."""
    if high <= low or not values.numel():
        counts = np.zeros(BINS)
        counts[0] = values.numel()
        return counts
    return torch.histc(values, BINS, low, high).double().cpu().numpy()


def percentile_of(counts: np.ndarray, low: float, high: float, percentile: float) -> float:
    """The value below which so many percent of a histogram lie, as if each bin were filled evenly."""
    cumulated = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    edges = np.linspace(low, high, len(counts) + 1)
    if percentile >= 100.0:
        return float(edges[-1])
    last = int(np.searchsorted(cumulated, percentile / 100.0, side="left"))
    if last == 0:
        return float(edges[0])
    below, above = cumulated[last - 1], cumulated[last]
    inside = (percentile / 100.0 - below) / (above - below)
    return float(edges[last - 1] + inside * (edges[last] - edges[last - 1]))


def entropy_threshold(counts: np.ndarray, largest: float) -> float:
    """The magnitude to clip at: least KL divergence between the clipped histogram and its int8 form.

    Migacz 2017, "8-bit inference with TensorRT", the pseudocode of the calibration's slides. What lies beyond the
    threshold is counted into the last bin of the reference P; Q is the part below it, merged into 128 bins and
    spread again over those of its bins that are not empty. Where Q is zero and P is not, the divergence is
    infinite.
    """
    if not counts.any():
        return largest
    divergences = [_divergence(counts, kept) for kept in range(LEVELS, len(counts) + 1)]
    kept = LEVELS + int(np.argmin(divergences))
    return (kept + 0.5) * largest / len(counts) if kept < len(counts) else largest


def _divergence(counts: np.ndarray, kept: int) -> float:
    reference = counts[:kept].copy()
    reference[-1] += counts[kept:].sum()
    inside = counts[:kept]
    # The last of the merged bins takes what is left over.
    starts = np.arange(LEVELS) * (kept // LEVELS)
    widths = np.diff(np.append(starts, kept))
    filled = (inside > 0).astype(np.float64)
    totals, bins = np.add.reduceat(inside, starts), np.add.reduceat(filled, starts)
    levels = np.divide(totals, bins, out=np.zeros_like(totals), where=bins > 0)
    candidate = np.repeat(levels, widths) * filled
    if candidate.sum() == 0.0:
        return float("inf")
    p, q = reference / reference.sum(), candidate / candidate.sum()
    used = p > 0
    if (q[used] == 0).any():
        return float("inf")
    return float(np.sum(p[used] * np.log(p[used] / q[used])))
