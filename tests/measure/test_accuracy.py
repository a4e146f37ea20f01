import numpy as np
import pytest
from toy_run import LANGUAGES, TASKS, make_documents, make_logits

from polyfold import metrics
from polyfold.measure.accuracy import Quality, label_agreement, score
from polyfold.measure.report import QUALITY_FIELDS
from polyfold.train.evaluate import calibrate

# No threshold stands at 0.5, no temperature at 1.
TUNED = tuple(
    task.model_copy(
        update={"temperature": 0.5, "thresholds": (0.4,) * len(task.labels) if task.multi_label else None}
    )
    for task in TASKS
)


@pytest.fixture(scope="module")
def logits(documents):
    return make_logits(documents, noise=0.7, seed=5)


def test_scores_are_those_of_the_labelled_documents_only(documents, logits):
    quality = score(TUNED, documents, logits, seed=0)
    for task in TUNED:
        rows = documents.labelled(task)
        assert 0 < rows.sum() < len(documents)
        truth = documents.labels[task.name][rows]
        predicted = task.decide(task.probabilities(logits[task.name][rows]))
        assert quality.macro_f1[task.name] == pytest.approx(metrics.macro_f1(task, truth, predicted))
        low, high = quality.macro_f1_ci95[task.name]
        assert low < quality.macro_f1[task.name] < high
        by_label = quality.f1_by_label[task.name]
        assert tuple(by_label) == task.labels
        assert np.mean(list(by_label.values())) == pytest.approx(quality.macro_f1[task.name])
        each = len(task.labels) if task.multi_label else 1
        assert np.sum(quality.confusion[task.name]) == rows.sum() * each


def test_what_an_unlabelled_document_is_given_changes_nothing(documents, logits):
    other = {name: values.copy() for name, values in logits.items()}
    for task in TUNED:
        other[task.name][~documents.labelled(task)] *= -3.0
    assert score(TUNED, documents, other, seed=0) == score(TUNED, documents, logits, seed=0)


def test_the_order_of_documents_changes_no_score(documents, logits):
    order = np.random.default_rng(0).permutation(len(documents))
    shuffled = score(TUNED, documents.take(order), {k: v[order] for k, v in logits.items()}, seed=0)
    straight = score(TUNED, documents, logits, seed=0)
    assert shuffled.macro_f1_ci95 == straight.macro_f1_ci95
    assert shuffled.macro_f1_by_language == straight.macro_f1_by_language
    assert shuffled.calibration_error == pytest.approx(straight.calibration_error)


def test_the_tasks_own_temperature_and_thresholds_are_applied_and_reported(documents, logits):
    plain, tuned = score(TASKS, documents, logits, seed=0), score(TUNED, documents, logits, seed=0)
    assert tuned.temperatures == {task.name: 0.5 for task in TASKS}
    assert plain.thresholds == {"topics": (0.5,) * 9}
    assert tuned.thresholds == {"topics": (0.4,) * 9}
    assert tuned.macro_f1["topics"] != plain.macro_f1["topics"]
    assert tuned.calibration_error["domain"] != plain.calibration_error["domain"]
    # A temperature never changes which label is the most probable.
    assert tuned.macro_f1["domain"] == plain.macro_f1["domain"]


def test_a_languages_score_is_that_of_its_documents_alone_over_the_labels_they_carry(documents, logits):
    quality = score(TUNED, documents, logits, seed=0)
    rows = np.flatnonzero(np.asarray(documents.languages) == "ja")
    alone = score(TUNED, documents.take(rows), {k: v[rows] for k, v in logits.items()}, seed=0)
    for task in TUNED:
        assert set(quality.macro_f1_by_language[task.name]) == set(LANGUAGES)
        assert quality.macro_f1_by_language[task.name]["ja"] == pytest.approx(alone.macro_f1[task.name])
    # Japanese documents of two classes only, all right: the classes nobody uses there do not count.
    few = documents.take(np.flatnonzero(documents.labels["sentiment"] < 2))
    perfect = {task.name: 20.0 * values for task, values in zip(TASKS, _truth(few), strict=True)}
    assert score(TASKS, few, perfect, seed=0).macro_f1_by_language["sentiment"]["ja"] == 1.0


def _truth(documents):
    for task in TASKS:
        values = documents.labels[task.name]
        yield 2.0 * (values == 1) - 1.0 if task.multi_label else np.eye(len(task.labels))[values]


def test_a_task_that_no_document_is_labelled_for_is_left_out(documents, logits):
    labels = {**documents.labels, "sentiment": np.full(len(documents), -1)}
    blind = documents.take(np.arange(len(documents)))
    blind = type(blind)(blind.ids, blind.texts, blind.languages, blind.groups, labels)
    quality = score(TUNED, blind, logits, seed=0)
    assert set(quality.macro_f1) == {"domain", "topics"} == set(quality.reliability)
    assert calibrate(TASKS, blind, logits)[1] == TASKS[1]


def test_every_measured_field_is_a_quality_field_of_a_row():
    assert set(Quality.model_fields) <= set(QUALITY_FIELDS)


def test_calibration_on_dev_makes_dev_better_and_test_better_calibrated():
    dev, test = make_documents(1500, seed=6), make_documents(1500, seed=7)
    dev_logits, test_logits = make_logits(dev, 0.7, seed=8), make_logits(test, 0.7, seed=9)
    tuned = calibrate(TASKS, dev, dev_logits)
    before, after = score(TASKS, dev, dev_logits, seed=0), score(tuned, dev, dev_logits, seed=0)
    unseen_before, unseen_after = score(TASKS, test, test_logits, seed=0), score(tuned, test, test_logits, seed=0)
    for task in tuned:
        assert task.temperature != 1.0
        assert after.macro_f1[task.name] >= before.macro_f1[task.name]
        assert unseen_after.calibration_error[task.name] < 0.5 * unseen_before.calibration_error[task.name]
    assert after.macro_f1["topics"] > before.macro_f1["topics"]
    assert [task.thresholds is not None for task in tuned] == [False, False, True]


def test_agreement_is_whole_with_oneself_and_shows_how_often_a_head_fires(logits):
    same = label_agreement(TUNED, logits, logits)
    assert same.label_agreement_percent == {task.name: 100.0 for task in TASKS}
    assert set(same.positives_percent) == {"topics"}
    silent = {name: values - 50.0 for name, values in logits.items()}
    never = label_agreement(TUNED, silent, silent)
    assert never.label_agreement_percent["topics"] == 100.0
    assert never.positives_percent["topics"] == 0.0
