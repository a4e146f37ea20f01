"""Answers against what is known of their texts: a server that lies is found out, one that rounds is not."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.service.answers import Counts, Expected
from toys_service import TEXTS, TOY_TASKS, StandIn, item_of, put, toy_expected, whole


def of_another(stand_in, rows, probabilities):
    """The answers of the texts that come next."""
    return whole(stand_in.honest([(row + 1) % len(TEXTS) for row in rows], probabilities))


def in_another_order(stand_in, rows, probabilities):
    """The right answers in the wrong places."""
    return whole(stand_in.honest(rows[::-1], probabilities))


def invented(stand_in, rows, probabilities):
    """Probabilities that no text has."""
    content = stand_in.honest(rows, True)
    for item in content["predictions"]:
        item["probabilities"]["domain"] = dict.fromkeys(item["probabilities"]["domain"], 0.99)
    return whole(content)


def too_few(stand_in, rows, probabilities):
    """An answer is missing."""
    return whole(stand_in.honest(rows[1:], probabilities))


def no_json(stand_in, rows, probabilities):
    """Half of an answer, with the right length of the half."""
    return whole(json.dumps(stand_in.honest(rows, probabilities)).encode()[:-5])


def nothing(stand_in, rows, probabilities):
    """The connection is closed."""
    return None


def no_http(stand_in, rows, probabilities):
    """What comes is no HTTP."""
    return b"\x00" * 100 + b"\r\n\r\n"


def failure(stand_in, rows, probabilities):
    """The server's own mistake."""
    return whole({"error": {"code": "internal"}}, 500)


def twice(stand_in, rows, probabilities):
    """The answer comes two times."""
    return 2 * whole(stand_in.honest(rows, probabilities))


@pytest.mark.parametrize(
    ("lie", "where"),
    [
        (of_another, "mixed_up"), (in_another_order, "mixed_up"), (invented, "wrong"), (too_few, "garbled"),
        (no_json, "garbled"), (nothing, "unanswered"), (no_http, "unanswered"), (failure, "failed"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_every_lie_is_found_and_counted_as_what_it_is(tmp_path, lie, where):
    _, counts = put(tmp_path, StandIn(toy_expected(), lie=lie), count=50, probabilities=True, texts_a_request=4)
    assert counts.sent == 50
    each = 4 if where in ("mixed_up", "wrong") else 1
    assert getattr(counts, where) == 10 * each
    found = {name: getattr(counts, name) for name in ("mixed_up", "wrong", "garbled", "unanswered", "failed")}
    assert sum(found.values()) == 10 * each
    assert counts.lost == (0 if each == 4 else 10)


def test_an_answer_that_comes_twice_is_seen_to(tmp_path):
    # Nothing is asked after it, so that the second copy is nobody's answer.
    _, counts = put(tmp_path, StandIn(toy_expected(), lie=twice), count=5, connections=1)
    assert counts.duplicated == 1 and counts.acknowledged == 5
    _, counts = put(tmp_path, StandIn(toy_expected(), lie=twice), count=40, connections=1, probabilities=True)
    # Each copy moves all later answers by one place: they belong to other texts.
    assert counts.mixed_up >= 30


def test_an_honest_server_is_believed(tmp_path):
    for probabilities in (False, True):
        _, counts = put(tmp_path, StandIn(toy_expected()), count=30, probabilities=probabilities)
        assert counts.acknowledged == counts.texts == 30
        assert counts.compared == (30 if probabilities else 0)
        assert not (counts.mixed_up or counts.wrong or counts.lost or counts.label_differences)


def checked(expected, row, item):
    """The account of one text's answer."""
    counts = Counts()
    expected._check_item(row, item, counts)
    return counts


def near(values):
    """One text with these probabilities, whose labels are those of the toy tasks."""
    labels = {"domain": "billing", "topics": ["price"]}
    return Expected(TOY_TASKS, [labels], [False], np.array([values]), 0.02)


BORDER = near([0.41, 0.40, 0.19, 0.31, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("labels", "verdict"),
    [
        ({"domain": "delivery", "topics": ["price"]}, "label_differences"),
        ({"domain": "billing", "topics": []}, "label_differences"),
        ({"domain": "other", "topics": ["price"]}, "mixed_up"),
        ({"domain": "billing", "topics": ["price", "app"]}, "mixed_up"),
        ({"domain": "no such", "topics": ["price"]}, "mixed_up"),
        ({"domain": "billing"}, "mixed_up"),
    ],
)
def test_only_a_text_on_the_border_may_get_another_label(labels, verdict):
    counts = checked(BORDER, 0, {"labels": labels})
    assert getattr(counts, verdict) == 1
    assert counts.label_differences + counts.mixed_up == 1


def test_labels_must_follow_from_the_probabilities_beside_them():
    item = {"labels": {"domain": "other", "topics": ["price"]}, "probabilities": item_probabilities(BORDER)}
    assert checked(BORDER, 0, item).wrong == 1


def item_probabilities(expected, shift=0.0):
    """The first text's own probabilities, all moved a little."""
    flat = iter((expected.probabilities[0] + shift).tolist())
    return {task.name: {label: next(flat) for label in task.labels} for task in TOY_TASKS}


def test_probabilities_may_differ_by_the_tolerance_and_no_more():
    labels = BORDER.labels[0]
    inside = checked(BORDER, 0, {"labels": labels, "probabilities": item_probabilities(BORDER, 0.019)})
    outside = checked(BORDER, 0, {"labels": labels, "probabilities": item_probabilities(BORDER, 0.03)})
    assert inside.largest_difference == pytest.approx(0.019) and inside.wrong == 0
    assert outside.wrong == 1 and outside.largest_difference == 0.0


def test_where_another_runtime_may_have_taken_over_its_answers_are_right_too():
    other = near([0.30, 0.60, 0.10, 0.31, 0.1, 0.1, 0.1])
    both = replace(BORDER, other=other)
    item = {"labels": {"domain": "billing", "topics": ["price"]}, "probabilities": item_probabilities(other)}
    assert checked(BORDER, 0, item).wrong == 1
    assert checked(both, 0, item).wrong == 0


def test_a_poison_text_must_have_an_error_and_others_must_have_none():
    expected = toy_expected()
    poisoned = replace(expected, poison=frozenset({3}))
    error = {"error": {"code": "inference_failed"}}
    assert checked(poisoned, 3, error).poisoned == 1
    assert checked(poisoned, 3, item_of(expected, 3, True)).wrong == 1
    assert checked(poisoned, 4, error).item_errors == 1


def test_accounts_of_several_loads_add_up():
    first, second = Counts(sent=3, refused=1, refusals={"a": 1}), Counts(sent=4, refusals={"a": 2, "b": 1})
    second.largest_difference = 0.5
    first.add(second)
    assert (first.sent, first.refused, first.largest_difference) == (7, 1, 0.5)
    assert first.refusals == {"a": 3, "b": 1}
