"""Predictions are columns that look like a list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.predictions import Prediction, Predictions
from polyfold.tasks import Task

SINGLE = Task(name="domain", labels=("a", "b"))
MULTI = Task(name="topics", kind="multi_label", labels=("x", "y", "z"))


def columns(count, seed=0):
    random = np.random.default_rng(seed)
    probabilities = {
        task.name: random.random((count, len(task.labels))).astype(np.float32) for task in (SINGLE, MULTI)
    }
    decided = {task.name: task.decide(probabilities[task.name]) for task in (SINGLE, MULTI)}
    return Predictions((SINGLE, MULTI), probabilities, decided, random.random(count) < 0.5)


@given(st.integers(0, 3000), st.integers(-3000, 3000))
def test_a_row_is_the_row_of_every_column(count, index):
    found = columns(count)
    assert len(found) == count
    if not -count <= index < count:
        with pytest.raises(IndexError):
            found[index]
        return
    one = found[index]
    assert one.labels["domain"] == SINGLE.labels[found.decided["domain"][index]]
    assert one.labels["topics"] == [
        label for label, on in zip(MULTI.labels, found.decided["topics"][index], strict=True) if on
    ]
    for task in (SINGLE, MULTI):
        assert list(one.probabilities[task.name]) == list(task.labels)
        assert list(one.probabilities[task.name].values()) == found.probabilities[task.name][index].tolist()
    assert one.truncated is bool(found.truncated[index])


def test_iterating_slicing_and_comparing_are_a_lists():
    found = columns(2500)
    objects = list(found)
    assert len(objects) == 2500
    assert all(isinstance(one, Prediction) for one in objects)
    assert objects == [found[row] for row in range(2500)]
    assert found == objects
    assert objects == found
    assert found[2:7] == objects[2:7]
    assert found[::-1] == objects[::-1]
    assert list(reversed(found)) == objects[::-1]
    assert found != objects[1:]
    assert found != objects[1:] + objects[:1]
    assert found != columns(2500, seed=1)
    assert found != "predictions"
    assert columns(0) == []


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 130), st.sampled_from([0.0, 0.02, 0.5, 1.0]), st.integers(0, 99))
def test_names_are_those_of_the_decided_labels(count, width, share, seed):
    # More labels than a byte or a word has bits, and as few or as many of them as can apply.
    wide = Task(name="wide", kind="multi_label", labels=tuple(f"label {place}" for place in range(width)))
    narrow = Task(name="narrow", labels=("a", "b", "c"))
    random = np.random.default_rng(seed)
    decided = {
        "wide": (random.random((count, width)) < share).astype(np.int8),
        "narrow": random.integers(0, 3, count),
    }
    probabilities = {"wide": decided["wide"].astype(np.float32), "narrow": np.zeros((count, 3), np.float32)}
    straight = Predictions((wide, narrow), probabilities, decided, np.zeros(count, bool))
    for found in (straight, straight[::-2]):
        right = [
            [label for label, on in zip(wide.labels, row, strict=True) if on] for row in found.decided["wide"]
        ]
        assert found.names("wide") == list(map(tuple, right))
        assert found.names("narrow") == [narrow.labels[place] for place in found.decided["narrow"]]
        assert [one.labels for one in found] == [
            {"wide": labels, "narrow": name} for labels, name in zip(right, found.names("narrow"), strict=True)
        ]
        for task in ("wide", "narrow"):
            answers, codes = found.coded(task)
            assert len(set(answers)) == len(answers)
            assert [answers[code] for code in codes] == found.names(task)


def test_changing_a_predictions_labels_changes_no_other():
    alike = np.ones((3, 3), np.int8)
    found = list(Predictions((MULTI,), {"topics": alike.astype(np.float32)}, {"topics": alike}, np.zeros(3, bool)))
    found[0].labels["topics"].clear()
    assert [one.labels["topics"] for one in found] == [[], ["x", "y", "z"], ["x", "y", "z"]]


def test_a_task_that_is_not_there_has_no_column():
    found = columns(50)
    with pytest.raises(KeyError):
        found.decided["weather"]
