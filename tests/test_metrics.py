"""Laws of the metrics: they equal the field's reference, ignore order, and their fits recover what is known."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, f1_score, multilabel_confusion_matrix

from polyfold.metrics import (
    agreement,
    bootstrap_interval,
    calibration_error,
    confusion,
    degradation_percent,
    f1_by_label,
    fit_temperature,
    flipped,
    macro_f1,
    paired_bootstrap_difference,
    positives_percent,
    reliability,
    share_interval,
    tune_thresholds,
)
from polyfold.tasks import Task

SINGLE = Task(name="single", labels=("a", "b", "c", "d"))
MULTI = Task(name="multi", kind="multi_label", labels=("a", "b", "c"))
BOTH = pytest.mark.parametrize("task", [SINGLE, MULTI], ids=["single", "multi"])


def draw(task, count, seed, flips=0.3):
    """Truth with a rare label, and predictions that differ from it in a share of `flips`."""
    random = np.random.default_rng(seed)
    if task.multi_label:
        truth = (random.random((count, 3)) < [0.5, 0.2, 0.05]).astype(np.int8)
        wrong = random.random((count, 3)) < flips
        return truth, np.where(wrong, 1 - truth, truth).astype(np.int8)
    truth = random.choice(4, count, p=[0.6, 0.25, 0.1, 0.05])
    return truth, np.where(random.random(count) < flips, random.integers(0, 4, count), truth)


def reference(task, truth, predicted, average):
    labels = None if task.multi_label else range(len(task.labels))
    return f1_score(truth, predicted, labels=labels, average=average, zero_division=0)


@BOTH
@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 60), seed=st.integers(0, 10_000))
def test_f1_equals_scikit_learn_even_where_labels_are_absent(task, count, seed):
    truth, predicted = draw(task, count, seed)
    np.testing.assert_allclose(f1_by_label(task, truth, predicted), reference(task, truth, predicted, None))
    assert macro_f1(task, truth, predicted) == pytest.approx(reference(task, truth, predicted, "macro"))


def test_a_label_without_support_counts_only_where_all_labels_are_averaged():
    truth, predicted = np.array([0, 0, 1]), np.array([0, 0, 1])
    assert macro_f1(SINGLE, truth, predicted) == pytest.approx(0.5)
    assert macro_f1(SINGLE, truth, predicted, only_supported=True) == 1.0
    assert macro_f1(SINGLE, truth[:0], predicted[:0], only_supported=True) == 0.0


@BOTH
def test_confusion_equals_scikit_learn(task):
    truth, predicted = draw(task, 200, seed=1)
    if task.multi_label:
        expected = multilabel_confusion_matrix(truth, predicted)
    else:
        expected = confusion_matrix(truth, predicted, labels=range(4))
    np.testing.assert_array_equal(confusion(task, truth, predicted), expected)


@BOTH
def test_the_order_of_documents_changes_nothing(task):
    truth, predicted = draw(task, 500, seed=2)
    order = np.random.default_rng(3).permutation(500)
    logits = np.random.default_rng(4).standard_normal((500, len(task.labels)))
    probabilities = task.probabilities(logits)

    def everything(at):
        return (
            macro_f1(task, truth[at], predicted[at]),
            bootstrap_interval(task, truth[at], predicted[at], seed=0, rounds=50),
            calibration_error(task, probabilities[at], truth[at]),
            fit_temperature(task, logits[at], truth[at]),
            agreement(task, truth[at], predicted[at]),
            tune_thresholds(task, probabilities[at], truth[at]) if task.multi_label else (),
        )

    for straight, shuffled in zip(everything(np.arange(500)), everything(order), strict=True):
        assert shuffled == pytest.approx(straight, abs=1e-6)


@BOTH
def test_the_interval_holds_the_estimate_and_shrinks_like_one_over_the_root_of_n(task):
    widths = []
    for count in (500, 8000):
        truth, predicted = draw(task, count, seed=5)
        low, high = bootstrap_interval(task, truth, predicted, seed=0)
        assert low < macro_f1(task, truth, predicted) < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4.0, rel=0.5)


@BOTH
def test_the_interval_is_that_of_resampling_whole_documents(task):
    truth, predicted = draw(task, 300, seed=6)
    random = np.random.default_rng(7)
    draws = (random.integers(0, 300, 300) for _ in range(1500))
    scores = [macro_f1(task, truth[rows], predicted[rows]) for rows in draws]
    interval = bootstrap_interval(task, truth, predicted, seed=0, rounds=1500)
    width = interval[1] - interval[0]
    np.testing.assert_allclose(interval, np.percentile(scores, [2.5, 97.5]), atol=0.12 * width)


def test_the_interval_of_the_same_seed_is_the_same_and_of_another_is_not():
    truth, predicted = draw(SINGLE, 200, seed=8)
    first, again, other = (bootstrap_interval(SINGLE, truth, predicted, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@BOTH
def test_an_interval_of_nothing_and_of_perfection_are_points(task):
    truth, _ = draw(task, 2000, seed=9)
    assert bootstrap_interval(task, truth[:0], truth[:0], seed=0) == (0.0, 0.0)
    assert bootstrap_interval(task, truth, truth, seed=0) == (1.0, 1.0)


def test_intervals_of_45_000_documents_take_less_than_two_seconds():
    task = Task(name="topics", kind="multi_label", labels=tuple("abcdefghi"))
    random = np.random.default_rng(10)
    truth = (random.random((45_000, 9)) < 0.15).astype(np.int8)
    predicted = np.where(random.random((45_000, 9)) < 0.05, 1 - truth, truth).astype(np.int8)
    start = time.process_time()
    bootstrap_interval(task, truth, predicted, seed=0)
    assert time.process_time() - start < 2.0


@BOTH
def test_the_paired_difference_sees_a_gain_and_not_one_of_a_prediction_over_itself(task):
    truth, worse = draw(task, 2000, seed=11, flips=0.4)
    # Half of the mistakes mended, in the same documents.
    better = np.where(np.random.default_rng(12).random(truth.shape) < 0.5, truth, worse).astype(truth.dtype)
    gain = paired_bootstrap_difference(task, truth, [worse], [better], seed=0)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.value == pytest.approx(macro_f1(task, truth, better) - macro_f1(task, truth, worse))
    assert gain.verdict == "better"
    assert paired_bootstrap_difference(task, truth, [better], [worse], seed=0).verdict == "worse"
    same = paired_bootstrap_difference(task, truth, [worse], [worse], seed=0)
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)
    assert same.verdict == "same"


@BOTH
def test_the_pooled_difference_is_one_of_means_and_that_of_one_seed_given_twice(task):
    truth, first = draw(task, 300, seed=13, flips=0.4)
    _, second = draw(task, 300, seed=13, flips=0.2)
    third = np.where(np.random.default_rng(14).random(truth.shape) < 0.3, truth, first).astype(truth.dtype)
    once = paired_bootstrap_difference(task, truth, [first], [second], seed=0)
    assert paired_bootstrap_difference(task, truth, [first] * 3, [second] * 2, seed=0) == once
    pooled = paired_bootstrap_difference(task, truth, [first, third], [second], seed=0)
    means = macro_f1(task, truth, second) - (macro_f1(task, truth, first) + macro_f1(task, truth, third)) / 2
    assert pooled.value == pytest.approx(means)
    assert pooled.low < pooled.value < pooled.high


@BOTH
def test_a_paired_difference_over_supported_labels_leaves_the_others_out(task):
    truth, first = draw(task, 200, seed=15)
    _, second = draw(task, 200, seed=15, flips=0.1)
    # One more label, which occurs in neither truth nor predictions.
    wider = task.model_copy(update={"labels": (*task.labels, "never")})
    if task.multi_label:
        truths, firsts, seconds = (np.pad(one, ((0, 0), (0, 1))) for one in (truth, first, second))
    else:
        truths, firsts, seconds = truth, first, second
    expected = paired_bootstrap_difference(task, truth, [first], [second], seed=0)
    found = paired_bootstrap_difference(wider, truths, [firsts], [seconds], seed=0, only_supported=True)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert paired_bootstrap_difference(wider, truths, [firsts], [seconds], seed=0).value == pytest.approx(
        expected.value * len(task.labels) / len(wider.labels)
    )


def test_flips_are_documents_with_any_label_changed():
    first = np.array([[0, 1], [1, 1], [0, 0]], dtype=np.int8)
    second = np.array([[1, 0], [1, 1], [0, 1]], dtype=np.int8)
    assert flipped(first, second).tolist() == [True, False, True]
    assert flipped(np.array([2, 0, 1]), np.array([2, 1, 1])).tolist() == [False, True, False]


@settings(max_examples=60, deadline=None)
@given(total=st.integers(1, 5000), part=st.floats(0, 1))
def test_the_interval_of_a_share_equals_scipys(total, part):
    count = round(part * total)
    low, high = share_interval(count, total)
    expected = binomtest(count, total).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0.0 <= low <= count / total <= high <= 1.0
    assert share_interval(0, 0) == (0.0, 1.0)


def sampled(task, count, seed):
    """Logits, and labels drawn from exactly the probabilities that they state."""
    random = np.random.default_rng(seed)
    logits = 1.5 * random.standard_normal((count, len(task.labels)))
    probabilities = task.probabilities(logits)
    if task.multi_label:
        return logits, (random.random(probabilities.shape) < probabilities).astype(np.int8)
    below = probabilities.cumsum(axis=1) < random.random((count, 1))
    return logits, np.minimum(below.sum(axis=1), len(task.labels) - 1)


@BOTH
def test_the_calibration_error_of_calibrated_probabilities_is_near_zero(task):
    logits, truth = sampled(task, 40_000, seed=13)
    assert calibration_error(task, task.probabilities(logits), truth) < 0.015
    assert calibration_error(task, task.probabilities(4.0 * logits), truth) > 0.08
    assert calibration_error(task, task.probabilities(logits[:0]), truth[:0]) == 0.0


@BOTH
def test_reliability_bins_hold_every_prediction_and_lie_on_the_diagonal_if_calibrated(task):
    logits, truth = sampled(task, 40_000, seed=14)
    bins = reliability(task, task.probabilities(logits), truth)
    assert sum(one.count for one in bins) == (truth.size if task.multi_label else len(truth))
    large = [one for one in bins if one.count > 500]
    assert len(large) > 5
    assert all(abs(one.confidence - one.accuracy) < 0.06 for one in large)


def test_certain_and_impossible_probabilities_fall_into_the_outer_bins():
    truth = np.array([[1, 0, 1], [1, 0, 0]], dtype=np.int8)
    assert calibration_error(MULTI, truth.astype(float), truth) == 0.0
    assert calibration_error(MULTI, 1.0 - truth, truth) == 1.0


@BOTH
@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
def test_the_temperature_recovers_a_known_scaling(task, scale):
    logits, truth = sampled(task, 20_000, seed=15)
    assert fit_temperature(task, scale * logits, truth) == pytest.approx(scale, rel=0.05)


@BOTH
def test_the_temperature_stays_in_its_range_and_is_one_where_nothing_can_be_gained(task):
    _, truth = sampled(task, 50, seed=16)
    right = 2.0 * (truth if task.multi_label else np.eye(4)[truth]) - 1.0
    assert fit_temperature(task, right, truth) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(task, -right, truth) == pytest.approx(20.0, rel=1e-3)
    assert fit_temperature(task, np.zeros_like(right), truth) == 1.0
    assert fit_temperature(task, right[:0], truth[:0]) == 1.0


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 40), seed=st.integers(0, 10_000), digits=st.integers(1, 3))
def test_tuned_thresholds_are_the_best_there_are_and_stay_in_their_range(count, seed, digits):
    random = np.random.default_rng(seed)
    # Few digits: many equal probabilities, and some exactly at a limit.
    probabilities = random.random((count, 3)).round(digits)
    truth = (random.random((count, 3)) < probabilities**2).astype(np.int8)
    tuned = tune_thresholds(MULTI, probabilities, truth)
    assert all(0.05 <= threshold <= 0.95 for threshold in tuned)
    best = f1_by_label(MULTI, truth, MULTI.decide(probabilities, tuned))
    for threshold in np.linspace(0.05, 0.95, 181):
        other = f1_by_label(MULTI, truth, MULTI.decide(probabilities, (float(threshold),) * 3))
        assert (best >= other - 1e-12).all()


def test_of_equally_good_thresholds_the_one_nearest_to_a_half_is_taken():
    probabilities = np.array([[0.2, 0.1, 0.8], [0.9, 0.3, 0.9]])
    truth = np.array([[0, 0, 0], [1, 0, 1]], dtype=np.int8)
    assert tune_thresholds(MULTI, probabilities, truth) == pytest.approx((0.5, 0.5, 0.85))


def test_agreement_counts_documents_or_pairs():
    assert agreement(SINGLE, np.array([0, 1, 2, 3]), np.array([0, 1, 2, 0])) == 75.0
    first = np.array([[1, 0, 0], [0, 0, 0]], dtype=np.int8)
    assert agreement(MULTI, first, np.zeros_like(first)) == pytest.approx(100 * 5 / 6)
    assert positives_percent(first) == pytest.approx(100 / 6)
    for task in (SINGLE, MULTI):
        truth, _ = draw(task, 50, seed=17)
        assert agreement(task, truth, truth) == 100.0


def test_degradation_is_the_mean_relative_loss():
    baseline = {"domain": 0.8, "topics": 0.5}
    assert degradation_percent(baseline, {"domain": 0.72, "topics": 0.5}) == pytest.approx(5.0)
    assert degradation_percent(baseline, baseline) == 0.0
    assert degradation_percent(baseline, {"domain": 0.8, "topics": 0.55}) == pytest.approx(-5.0)
    assert degradation_percent({"domain": 0.0}, {"domain": 0.5}) == 0.0
