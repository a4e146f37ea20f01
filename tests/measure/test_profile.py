import numpy as np
import pytest
from toy_run import LANGUAGES, TASKS, make_documents, make_lengths, make_logits

from polyfold.measure.profile import TOKEN_BOUNDS, profile
from polyfold.measure.report import Row

DOCUMENTS = make_documents(500, seed=1)
LENGTHS = make_lengths(DOCUMENTS)
LOGITS = make_logits(DOCUMENTS, noise=0.7, seed=2)


@pytest.fixture(scope="module")
def found():
    return profile(TASKS, DOCUMENTS, LENGTHS, LOGITS)


def test_every_document_is_counted_once_whether_it_is_labelled_or_not(found):
    assert not all(DOCUMENTS.labelled(task).all() for task in TASKS)
    assert found.documents == 500 == sum(found.tokens) == sum(found.languages.values())
    assert set(found.languages) == set(LANGUAGES)
    assert set(found.tasks) == {task.name for task in TASKS}
    for task in TASKS:
        one = found.tasks[task.name]
        assert sum(one.confidence) == 500
        assert tuple(one.labels) == task.labels
        if not task.multi_label:
            assert (sum(one.labels.values()), one.without_label) == (500, None)


def test_a_length_is_counted_up_to_its_bound(found):
    for place, bound in enumerate(TOKEN_BOUNDS):
        assert sum(found.tokens[: place + 1]) == (bound >= LENGTHS).sum()
    assert found.tokens[-1] == (TOKEN_BOUNDS[-1] < LENGTHS).sum() > 0


def test_labels_are_those_that_the_tasks_own_thresholds_give():
    strict = tuple(
        task.model_copy(update={"thresholds": (0.99,) * len(task.labels)}) if task.multi_label else task
        for task in TASKS
    )
    found = profile(strict, DOCUMENTS, LENGTHS, LOGITS)
    for task in strict:
        decided = task.decide(task.probabilities(LOGITS[task.name]))
        for place, label in enumerate(task.labels):
            given = decided[:, place] == 1 if task.multi_label else decided == place
            assert found.tasks[task.name].labels[label] == given.sum()
    assert found.tasks["topics"].without_label == 500


def test_confidence_is_that_of_the_label_or_of_the_least_sure_decision():
    sure = {task.name: np.full((500, len(task.labels)), -9.0) for task in TASKS}
    for values in sure.values():
        values[:, 0] = 9.0
    assert all(one.mean_confidence > 0.999 for one in profile(TASKS, DOCUMENTS, LENGTHS, sure).tasks.values())
    sure["topics"][:, 3] = 0.0
    tasks = profile(TASKS, DOCUMENTS, LENGTHS, sure).tasks
    assert tasks["topics"].mean_confidence == pytest.approx(0.5)
    assert tasks["topics"].confidence[7] == 500
    assert tasks["domain"].confidence[-1] == 500


def test_an_empty_split_has_an_empty_profile():
    empty = make_documents(0, seed=1)
    found = profile(TASKS, empty, np.empty(0, np.int64), {task.name: np.empty((0, 1)) for task in TASKS})
    assert (found.documents, found.tasks, sum(found.tokens)) == (0, {}, 0)


def test_a_row_of_an_older_report_has_none_and_is_read_all_the_same(toy_report):
    old = toy_report.rows[4].model_dump(mode="json")
    assert old.pop("profile")["documents"] > 0
    assert Row(**old).profile is None
    assert "profile" not in Row(**old).model_dump(mode="json")
