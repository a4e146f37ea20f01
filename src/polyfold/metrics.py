"""F1, intervals, calibration and agreement over label arrays: numpy only, so serving can use them too.

Label arrays are those of `tasks.py`: int64 [n] for single-label, int8 [n, labels] for multi-label tasks. Every
function takes labelled documents only; none depends on the order of the documents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from polyfold.tasks import Task

LEAST_TEMPERATURE, GREATEST_TEMPERATURE = 0.05, 20.0
LEAST_THRESHOLD, GREATEST_THRESHOLD = 0.05, 0.95

# Resampled counts held at once: 4 million int64 are 32 MB.
_CHUNK_ELEMENTS = 4_000_000


@dataclass(frozen=True)
class Difference:
    """How much better the second prediction is than the first, and the interval of that difference."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Literal["better", "worse", "same"]:
        """Better or worse only where the whole interval lies on that side of 0."""
        return "better" if self.low > 0.0 else "worse" if self.high < 0.0 else "same"


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions of like confidence: their mean confidence, how often they were right, and how many they are."""

    confidence: float
    accuracy: float
    count: int


def f1_by_label(task: Task, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each label, float [labels]; 0 where a label has neither support nor predictions."""
    matched, given, support = _counts(task, truth, predicted)
    return _f1(matched, given, support)


def macro_f1(task: Task, truth: np.ndarray, predicted: np.ndarray, *, only_supported: bool = False) -> float:
    """Mean F1 over all the task's labels, or `only_supported`: over those that occur in `truth`.

    The latter is for slices (one language, say) in which some labels do not occur and cannot be measured.
    """
    matched, given, support = _counts(task, truth, predicted)
    values = _f1(matched, given, support)
    chosen = values[support > 0] if only_supported else values
    return float(chosen.mean()) if len(chosen) else 0.0


def confusion(task: Task, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts [labels, labels] (truth by row), or for multi-label [labels, 2, 2] (absent, present by row)."""
    labels = len(task.labels)
    if not task.multi_label:
        cells = truth.astype(np.int64) * labels + predicted
        return np.bincount(cells, minlength=labels * labels).reshape(labels, labels)
    cells = truth.astype(np.int64) * 2 + predicted
    return np.stack([np.bincount(cells[:, i], minlength=4).reshape(2, 2) for i in range(labels)])


def bootstrap_interval(
    task: Task,
    truth: np.ndarray,
    predicted: np.ndarray,
    seed: int,
    rounds: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of macro-F1 over documents (Efron and Tibshirani 1993, section 13.3).

    Drawing n documents with replacement is a multinomial draw over the distinct (truth, predicted) pairs, so a
    round costs as much as there are such pairs, not documents. Rare labels that vanish from a round pull its
    macro-F1 down; the interval is widened to hold the point estimate where that would push it out.
    """
    if len(truth) == 0:
        return 0.0, 0.0
    every = np.ones(len(task.labels), dtype=bool)
    (scores,) = _resampled_scores(task, truth, (predicted,), seed, rounds, every)
    point = macro_f1(task, truth, predicted)
    low, high = _percentiles(scores, level)
    return min(low, point), max(high, point)


def paired_bootstrap_difference(
    task: Task,
    truth: np.ndarray,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    seed: int,
    rounds: int = 1000,
    only_supported: bool = False,
) -> Difference:
    """Macro-F1 of `second` minus that of `first`, with its 95 % interval over the same resampled documents.

    Each side is one prediction, or one a training seed: their scores are averaged in every round, so that the
    interval is that of a difference of means. `only_supported` averages over the labels that occur in `truth`
    (the same ones in every round), as `macro_f1` does.
    """
    if len(truth) == 0:
        return Difference(0.0, 0.0, 0.0)

    def mean(predictions: Sequence[np.ndarray]) -> float:
        return float(np.mean([macro_f1(task, truth, one, only_supported=only_supported) for one in predictions]))

    point = mean(second) - mean(first)
    chosen = _counts(task, truth, truth)[2] > 0 if only_supported else np.ones(len(task.labels), dtype=bool)
    if not chosen.any():
        return Difference(0.0, 0.0, 0.0)
    scores = _resampled_scores(task, truth, (*first, *second), seed, rounds, chosen)
    before, after = np.mean(scores[: len(first)], axis=0), np.mean(scores[len(first) :], axis=0)
    low, high = _percentiles(after - before, 0.95)
    return Difference(point, min(low, point), max(high, point))


def flipped(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which documents are decided otherwise, a multi-label one in any of its labels: bool [n]."""
    assert first.shape == second.shape, f"{first.shape} against {second.shape}"
    different = first != second
    return np.asarray(different if different.ndim == 1 else different.any(axis=1))


def share_interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, `count` of `total` (Wilson 1927, eq. 2): of use at 0 and at 1 too.

    With nothing counted of nothing it is all that a share may be.
    """
    if total == 0:
        return 0.0, 1.0
    squared = 1.959963984540054**2
    share = count / total
    centre = (share + squared / (2 * total)) / (1 + squared / total)
    half = np.sqrt(squared * (share * (1 - share) / total + squared / (4 * total**2))) / (1 + squared / total)
    # At the ends the formula gives exactly 0 and 1, but for rounding.
    low = 0.0 if count == 0 else max(0.0, float(centre - half))
    high = 1.0 if count == total else min(1.0, float(centre + half))
    return low, high


def confidence(task: Task, probabilities: np.ndarray) -> np.ndarray:
    """How sure each document's answer is, float [n]: of its label, or for multi-label of its least sure decision.

    A yes or no is as sure as the larger of p and 1 - p. A multi-label document has one figure, not one a label, so
    that documents can be counted; and its least sure decision, since a mean over many labels is always near 1.
    """
    if not task.multi_label:
        return np.asarray(probabilities.max(axis=1))
    return np.asarray(np.maximum(probabilities, 1.0 - probabilities).min(axis=1))


def confidence_counts(values: np.ndarray, bins: int = 15) -> np.ndarray:
    """Documents by confidence in equal-width bins from 0 to 1, int64 [bins]."""
    return np.bincount(np.minimum((values * bins).astype(np.int64), bins - 1), minlength=bins)


def label_counts(task: Task, predicted: np.ndarray) -> np.ndarray:
    """How many documents were given each label, int64 [labels]."""
    if task.multi_label:
        return np.asarray((predicted == 1).sum(axis=0))
    return np.bincount(predicted, minlength=len(task.labels))


def calibration_error(task: Task, probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error in equal-width bins (Guo et al. 2017, eq. 3).

    Single-label: of the most probable label. Multi-label: the mean over labels of each one's binary error.
    """
    if len(truth) == 0:
        return 0.0
    if not task.multi_label:
        return _binary_calibration_error(*_top_label(probabilities, truth), bins)
    errors = [_binary_calibration_error(probabilities[:, i], truth[:, i], bins) for i in range(len(task.labels))]
    return float(np.mean(errors))


def reliability(
    task: Task, probabilities: np.ndarray, truth: np.ndarray, bins: int = 15
) -> tuple[ReliabilityBin, ...]:
    """The reliability diagram's points, empty bins left out; multi-label pools its (document, label) pairs."""
    if task.multi_label:
        confidence, right = probabilities.ravel(), truth.ravel()
    else:
        confidence, right = _top_label(probabilities, truth)
    count, confident, correct = _binned(confidence, right, bins)
    return tuple(
        ReliabilityBin(float(confident[i] / count[i]), float(correct[i] / count[i]), int(count[i]))
        for i in np.flatnonzero(count)
    )


def fit_temperature(task: Task, logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature of least negative log-likelihood, between 0.05 and 20 (Guo et al. 2017, section 4.2).

    The likelihood is convex in 1/T, hence has one minimum in log T, which a golden-section search finds. It
    returns 1 where no temperature does better (no documents, constant logits).
    """
    if len(truth) == 0:
        return 1.0
    scores = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(task, scores / np.exp(log_temperature), truth)

    best = _golden_section(loss, float(np.log(LEAST_TEMPERATURE)), float(np.log(GREATEST_TEMPERATURE)))
    return float(np.exp(best)) if loss(best) < loss(0.0) else 1.0


def tune_thresholds(task: Task, probabilities: np.ndarray, truth: np.ndarray) -> tuple[float, ...]:
    """Each label's threshold of greatest F1, from 0.05 to 0.95; of equally good ones that nearest to 0.5."""
    assert task.multi_label, "only multi-label tasks have thresholds"
    return tuple(_best_threshold(probabilities[:, i], truth[:, i]) for i in range(len(task.labels)))


def agreement(task: Task, first: np.ndarray, second: np.ndarray) -> float:
    """Percent of documents (single-label) or of (document, label) pairs (multi-label) decided alike."""
    assert first.shape == second.shape, f"'{task.name}': {first.shape} against {second.shape}"
    return 100.0 * float(np.mean(first == second)) if first.size else 100.0


def positives_percent(predicted: np.ndarray) -> float:
    """Percent of a multi-label task's (document, label) pairs that are positive.

    It stands beside the agreement: a head that never fires agrees with everything.
    """
    return 100.0 * float(np.mean(predicted > 0)) if predicted.size else 0.0


def degradation_percent(baseline: Mapping[str, float], row: Mapping[str, float]) -> float:
    """Mean over tasks of the relative loss of macro-F1, in percent; negative where the row is better.

    A task on which the baseline scores 0 has nothing to lose and counts as 0.
    """
    assert set(baseline) == set(row), f"different tasks: {sorted(baseline)} against {sorted(row)}"
    losses = [(value - row[task]) / value if value > 0 else 0.0 for task, value in baseline.items()]
    return 100.0 * float(np.mean(losses)) if losses else 0.0


def _counts(task: Task, truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, predictions and support of each label: int64 [labels] each."""
    if task.multi_label:
        matched = ((truth == 1) & (predicted == 1)).sum(axis=0)
    else:
        matched = np.bincount(truth[truth == predicted], minlength=len(task.labels))
    return matched, label_counts(task, predicted), label_counts(task, truth)


def _f1(matched: np.ndarray, given: np.ndarray, support: np.ndarray) -> np.ndarray:
    # Predictions and support together are 2 TP + FP + FN: where that is 0, so is the numerator.
    return np.asarray(2.0 * matched / np.maximum(given + support, 1))


def _resampled_scores(
    task: Task, truth: np.ndarray, predictions: tuple[np.ndarray, ...], seed: int, rounds: int, chosen: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Macro-F1 over the `chosen` labels of each prediction in each round, float [rounds] each.

    Every prediction meets the same draws of documents.
    """
    documents, labels = len(truth), len(task.labels)
    columns = [np.reshape(array, (documents, -1)).astype(np.int64) for array in (truth, *predictions)]
    # Sorted distinct rows: the draws do not depend on the order of the documents.
    distinct, occurrences = np.unique(np.concatenate(columns, axis=1), axis=0, return_counts=True)
    sides = np.split(distinct, len(columns), axis=1)
    present = [side if task.multi_label else np.eye(labels, dtype=np.int64)[side[:, 0]] for side in sides]
    support, *given = [side.astype(np.float64) for side in present]

    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK_ELEMENTS // len(distinct))
    scores: list[list[np.ndarray]] = [[] for _ in predictions]
    for start in range(0, rounds, step):
        size = min(step, rounds - start)
        draws = generator.multinomial(documents, occurrences / documents, size=size).astype(np.float64)
        for side, collected in zip(given, scores, strict=True):
            values = _f1(draws @ (support * side), draws @ side, draws @ support)
            collected.append(values[:, chosen].mean(axis=1))
    return tuple(np.concatenate(collected) for collected in scores)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)


def _top_label(probabilities: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == truth


def _binned(confidence: np.ndarray, right: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each bin the count, the sum of confidences and the number right: [bins] each."""
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return (
        np.bincount(place, minlength=bins),
        np.bincount(place, weights=confidence, minlength=bins),
        np.bincount(place, weights=right.astype(np.float64), minlength=bins),
    )


def _binary_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    _, confident, correct = _binned(confidence, right, bins)
    return float(np.abs(confident - correct).sum() / len(confidence))


def negative_log_likelihood(task: Task, logits: np.ndarray, truth: np.ndarray) -> float:
    """The mean negative log-likelihood of the labels, in nats: a document's, or for multi-label a decision's."""
    if task.multi_label:
        # -log sigmoid of the logit's correct side, stable for large values.
        signed = np.where(truth == 1, logits, -logits)
        return float(np.logaddexp(0.0, -signed).mean())
    shifted = logits - logits.max(axis=1, keepdims=True)
    right = np.take_along_axis(shifted, truth.astype(np.int64)[:, None], axis=1)[:, 0]
    return float((np.log(np.exp(shifted).sum(axis=1)) - right).mean())


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a function with one valley, to 1e-6 of its argument (Kiefer 1953)."""
    ratio = (np.sqrt(5.0) - 1.0) / 2.0
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > 1e-6:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return float((low + high) / 2.0)


def _best_threshold(probability: np.ndarray, truth: np.ndarray) -> float:
    values = np.unique(probability)
    # Only between two neighbouring values does a decision change; midpoints stay clear of both.
    middles = np.clip((values[1:] + values[:-1]) / 2.0, LEAST_THRESHOLD, GREATEST_THRESHOLD)
    candidates = np.unique(np.concatenate([middles, [LEAST_THRESHOLD, 0.5, GREATEST_THRESHOLD]]))
    order = np.argsort(probability, kind="stable")
    positives_above = np.concatenate([np.cumsum((truth[order] == 1)[::-1])[::-1], [0]])
    below = np.searchsorted(probability[order], candidates, side="left")
    scores = _f1(positives_above[below], len(probability) - below, np.full_like(below, positives_above[0]))
    best = candidates[scores >= scores.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])
