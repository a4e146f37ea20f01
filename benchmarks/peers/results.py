"""peers.json: what was measured of every peer, or why nothing was."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from polyfold.metrics import agreement, macro_f1, tune_thresholds
from polyfold.system import Hardware
from polyfold.tasks import Task

from .documents import Sample

Scores = Mapping[str, np.ndarray]
Thresholds = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Scored:
    """A peer's probabilities of both samples, by task [n, labels]."""

    dev: Scores
    test: Scores


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Speed(_Part):
    """Documents a second by round, of which `documents_per_second` is the median."""

    documents_per_second: float
    least: float
    most: float
    rounds: tuple[float, ...]
    batch_size: int | None
    batch_sizes_tried: dict[str, float]


class Latency(_Part):
    """Milliseconds of single texts, all rounds together."""

    p50_ms: float
    p99_ms: float
    texts: int


class Footprint(_Part):
    """Seconds from a bare process to a loaded model, MB (1e6 bytes) resident, on disk, and of the environment."""

    load_seconds: float
    prepare_seconds: float | None
    resident_mb: float | None
    peak_mb: float | None
    disk_mb: float
    environment_mb: float


class Quality(_Part):
    """Macro-F1 (0..1) by task; agreement with the fp32 reference where the weights are the same."""

    macro_f1: dict[str, float]
    mean_macro_f1: float
    label_agreement_percent: dict[str, float] | None


class PeerResult(_Part):
    """One peer. `failed` tells why it is missing figures, in the words of whatever went wrong."""

    name: str
    title: str
    group: Literal["peer", "polyfold"]
    weights: Literal["shared", "fitted", "own"]
    failed: str | None = None
    versions: dict[str, str] = {}
    speed: Speed | None = None
    speedup: float | None = None
    latency: Latency | None = None
    footprint: Footprint | None = None
    quality: Quality | None = None


class Protocol(_Part):
    """What was done, in figures."""

    documents_a_slice: int
    slices: int
    rounds: int
    seconds: float
    train_documents: int
    dev_documents: int
    test_documents: int
    languages: tuple[str, ...]
    scored: bool


class PeersFile(_Part):
    """All of peers.json; every speed in it is of this one run."""

    command: str
    hardware: Hardware
    protocol: Protocol
    reference: str
    peers: tuple[PeerResult, ...]


def speed_of(rates: Sequence[float], batch_size: int | None, tried: Mapping[str, float]) -> Speed:
    """Medians and extremes over rounds."""
    return Speed(
        documents_per_second=round(median(rates), 2),
        least=round(min(rates), 2),
        most=round(max(rates), 2),
        rounds=tuple(round(rate, 2) for rate in rates),
        batch_size=batch_size,
        batch_sizes_tried={size: round(rate, 2) for size, rate in tried.items()},
    )


def latency_of(spent_ms: Sequence[float]) -> Latency:
    """Percentiles of all single texts."""
    p50, p99 = np.percentile(np.asarray(spent_ms), [50, 99])
    return Latency(p50_ms=round(float(p50), 3), p99_ms=round(float(p99), 3), texts=len(spent_ms))


def speedups(rates: Mapping[str, Sequence[float]], reference: str) -> dict[str, float]:
    """By peer the median over rounds of its rate divided by the reference's in the same round."""
    if reference not in rates:
        return {}
    base = rates[reference]
    return {
        name: round(median(own / other for own, other in zip(values, base, strict=True)), 3)
        for name, values in rates.items()
        if len(values) == len(base)
    }


def thresholds_of(tasks: Iterable[Task], dev: Sample, scores: Scores) -> Thresholds:
    """Those of the multi-label tasks that are best on dev: tuned for every peer alike, whoever made it."""
    found = {}
    for task in tasks:
        if task.multi_label:
            rows, truth = dev.truth(task)
            found[task.name] = tune_thresholds(task, scores[task.name][rows], truth)
    return found


def decide(tasks: Iterable[Task], scores: Scores, thresholds: Thresholds) -> dict[str, np.ndarray]:
    """Labels by task, in the data's own form."""
    return {task.name: task.decide(scores[task.name], thresholds.get(task.name)) for task in tasks}


def quality_of(
    tasks: Sequence[Task], dev: Sample, test: Sample, scored: Scored, reference: Scored | None
) -> Quality:
    """Macro-F1 against the truth; how often labels are the reference's, under the reference's thresholds."""
    thresholds = thresholds_of(tasks, dev, scored.dev)
    labels, scores = decide(tasks, scored.test, thresholds), {}
    for task in tasks:
        rows, truth = test.truth(task)
        scores[task.name] = round(macro_f1(task, truth, labels[task.name][rows]), 5)
    alike = None
    if reference is not None:
        thresholds = thresholds_of(tasks, dev, reference.dev)
        theirs, ours = (decide(tasks, one.test, thresholds) for one in (reference, scored))
        alike = {task.name: round(agreement(task, theirs[task.name], ours[task.name]), 3) for task in tasks}
    return Quality(
        macro_f1=scores,
        mean_macro_f1=round(float(np.mean(list(scores.values()))), 5),
        label_agreement_percent=alike,
    )
