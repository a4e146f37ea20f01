"""Tasks: probabilities, decisions, which documents are labelled, and definitions that contradict themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polyfold.tasks import NOT_LABELLED, Task

SINGLE = Task(name="domain", labels=("a", "b", "c"))
MULTI = Task(name="topics", kind="multi_label", labels=("x", "y", "z"))

shapes = st.tuples(st.integers(1, 8), st.just(3))
logits_of_three = hnp.arrays(np.float32, shapes, elements=st.floats(-500, 500, width=32))


@settings(deadline=None)
@given(logits_of_three, st.floats(0.05, 20))
def test_single_label_probabilities_are_a_distribution_and_a_temperature_keeps_their_order(logits, temperature):
    task = SINGLE.model_copy(update={"temperature": temperature})
    chances = task.probabilities(logits)
    assert np.isfinite(chances).all()
    assert chances.sum(axis=1) == pytest.approx(1.0)
    decided = task.decide(chances)
    assert decided.dtype == np.int64
    assert np.take_along_axis(logits, decided[:, None], 1)[:, 0] == pytest.approx(logits.max(axis=1), abs=1e-5)


@settings(deadline=None)
@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(-30, 30)), st.floats(0.5, 5))
def test_probabilities_are_softmax_and_sigmoid_of_the_logits_over_the_temperature(logits, temperature):
    softened = np.exp(logits / temperature)
    single = SINGLE.model_copy(update={"temperature": temperature}).probabilities(logits)
    multi = MULTI.model_copy(update={"temperature": temperature}).probabilities(logits)
    assert single == pytest.approx(softened / softened.sum(axis=1, keepdims=True))
    assert multi == pytest.approx(1 / (1 + 1 / softened))


def test_multi_label_decides_by_given_thresholds_before_its_own_before_a_half():
    chances = np.array([[0.5, 0.49, 0.7], [0.2, 0.9, 0.1]])
    tuned = MULTI.model_copy(update={"thresholds": (0.6, 0.3, 0.7)})
    assert MULTI.decide(chances).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert tuned.decide(chances).tolist() == [[0, 1, 1], [0, 1, 0]]
    assert tuned.decide(chances, (0.1, 0.95, 0.05)).tolist() == [[1, 0, 1], [1, 0, 1]]
    assert MULTI.decide(chances).dtype == np.int8


def test_a_document_is_labelled_unless_its_label_is_null_and_no_topic_at_all_is_a_label():
    assert SINGLE.labelled(np.array([0, NOT_LABELLED, 2])).tolist() == [True, False, True]
    topics = np.array([[0, 0, 0], [-1, -1, -1], [1, 0, 1]], dtype=np.int8)
    assert MULTI.labelled(topics).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": ("a", "a")}, "names a label twice"),
        ({"labels": ("a",)}, "one class only"),
        ({"labels": ()}, "labels"),
        ({"thresholds": (0.5,)}, "1 thresholds for 3 labels"),
        ({"temperature": 0.0}, "temperature"),
        ({"name": "two words"}, "name"),
        ({"kind": "ordinal"}, "kind"),
        ({"weight": 1.0}, "weight"),
    ],
)
def test_a_definition_that_contradicts_itself_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Task(**{"name": "domain", "labels": ("a", "b", "c"), **wrong})


def test_a_multi_label_task_may_have_one_label_and_a_task_survives_json():
    task = Task(name="urgent", kind="multi_label", labels=("yes",), thresholds=(0.3,), languages=("en", "ja"))
    assert task.multi_label
    assert Task.model_validate_json(task.model_dump_json()) == task
