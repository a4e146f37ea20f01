"""The JSON of an answer says what the numbers say, however many rows it was made from."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from polyfold.serve.engine.answers import Answers, Failure, Timing
from polyfold.serve.http.answers_json import FEW, PLACES, items_of, with_failures
from polyfold.serve.http.questions import Question
from polyfold.tasks import Task
from toys import TOY_TASKS

WIDTH = sum(len(task.labels) for task in TOY_TASKS)
PROBABILITY = st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.7, 1.0])
ROWS = st.integers(1, 3 * FEW).flatmap(lambda rows: arrays.arrays(np.float32, (rows, WIDTH), elements=PROBABILITY))


def asked(thresholds=None):
    domain, topics = TOY_TASKS
    split = len(domain.labels)
    return [
        Question(domain, slice(0, split), None),
        Question(topics, slice(split, WIDTH), thresholds or topics.thresholds),
    ]


def answers_of(probabilities, failures=None):
    rows = len(probabilities)
    cut = np.arange(rows) % 2 == 0
    return Answers(probabilities, probabilities, cut, np.full(rows, 3), Timing(0.0, 0.0, 0.0), failures or {})


@given(ROWS, st.booleans())
def test_rows_together_say_what_each_says_alone(probabilities, wanted):
    together = items_of(answers_of(probabilities), asked(), probabilities=wanted)
    for place, item in enumerate(together):
        row = slice(place, place + 1)
        whole = answers_of(probabilities)
        alone = Answers(
            whole.logits[row], probabilities[row], whole.truncated[row], whole.tokens[row], whole.timing
        )
        assert items_of(alone, asked(), probabilities=wanted) == [item]


@given(ROWS, st.none() | st.tuples(*[PROBABILITY] * len(TOY_TASKS[1].labels)))
def test_labels_are_what_the_tasks_decide(probabilities, thresholds):
    items = items_of(answers_of(probabilities), asked(thresholds), probabilities=False)
    assert len(items) == len(probabilities)
    for question in asked(thresholds):
        decided = question.task.decide(probabilities[:, question.columns], question.thresholds)
        for item, found in zip(items, decided, strict=True):
            labels = question.task.labels
            expected = (
                labels[found]
                if question.thresholds is None
                else [label for label, applies in zip(labels, found, strict=True) if applies]
            )
            assert item["labels"][question.task.name] == expected
            assert "probabilities" not in item


@given(ROWS)
def test_probabilities_survive_json_to_the_last_place_they_are_given(probabilities):
    items = orjson.loads(orjson.dumps(items_of(answers_of(probabilities), asked(), probabilities=True)))
    for row, item in zip(probabilities, items, strict=True):
        given_back = [value for task in TOY_TASKS for value in item["probabilities"][task.name].values()]
        assert np.abs(np.array(given_back) - row).max() <= 0.5 * 10.0**-PLACES + 1e-12
        assert all(round(value, PLACES) == value for value in given_back)


@pytest.mark.parametrize("rows", [1, FEW, FEW + 1, 3 * FEW])
def test_a_row_that_failed_says_why_and_its_neighbours_are_as_without_it(rows):
    probabilities = np.random.default_rng(rows).random((rows, WIDTH)).astype(np.float32)
    whole = items_of(answers_of(probabilities), asked(), probabilities=True)
    for place in range(rows):
        damaged = probabilities.copy()
        damaged[place] = np.nan
        failure = {place: Failure("inference_failed", "no")}
        items = items_of(answers_of(damaged, failure), asked(), probabilities=True)
        assert items[place] == {"error": {"code": "inference_failed", "message": "no"}}
        assert [*items[:place], *items[place + 1 :]] == [*whole[:place], *whole[place + 1 :]]
        assert b"NaN" not in orjson.dumps(items)
        assert b"null" not in orjson.dumps(items)


def test_a_multi_label_task_of_one_label_is_a_list_too():
    task = Task(name="spam", kind="multi_label", labels=("yes",))
    question = Question(task, slice(0, 1), (0.5,))
    for rows in (1, FEW + 1):
        items = items_of(answers_of(np.full((rows, 1), 0.5, np.float32)), [question], probabilities=False)
        assert {tuple(item["labels"]["spam"]) for item in items} == {("yes",)}


@given(st.lists(st.booleans(), max_size=20))
def test_answers_and_failures_stand_in_the_order_of_the_texts(good):
    failures = {place: Failure("not_a_text", str(place)) for place, fine in enumerate(good) if not fine}
    items = [{"place": place} for place, fine in enumerate(good) if fine]
    found = with_failures(items, failures, len(good))
    assert len(found) == len(good)
    for place, item in enumerate(found):
        assert item == {"place": place} if good[place] else item["error"]["message"] == str(place)
