import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_drift import answers_of

from polyfold.serve.engine.answers import Failure
from polyfold.serve.watch.answer_counts import GATHERED, AnswerCounts
from toys import TOY_TASKS

LABELS = sum(len(task.labels) for task in TOY_TASKS)
FAILURE = Failure("inference_failed", "!")


def request(random, count):
    """Random answers, a tenth of them failed."""
    logits = random.normal(0, 3, (count, LABELS)).astype(np.float32)
    parts, start = [], 0
    for task in TOY_TASKS:
        parts.append(task.probabilities(logits[:, start : start + len(task.labels)]))
        start += len(task.labels)
    probabilities = np.concatenate(parts, axis=1)
    failed = random.random(count) < 0.1
    probabilities[failed] = np.nan
    failures = dict.fromkeys(np.flatnonzero(failed).tolist(), FAILURE)
    return answers_of(probabilities, random.integers(2, 60, count), failures, random.random(count) < 0.3)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 30) | st.just(GATHERED), max_size=12), st.integers(0, 99))
def test_counts_do_not_depend_on_how_texts_came_in_requests(sizes, seed):
    requests = [request(np.random.default_rng([seed, place]), size) for place, size in enumerate(sizes)]
    told = []
    counts = AnswerCounts(TOY_TASKS, told.append)
    for one in requests:
        counts.add(one)
    counts.settle()
    assert counts.texts == sum(sizes)
    assert counts.truncated == sum(one.truncated.sum() for one in requests)
    assert counts.answered == counts.texts - sum(len(one.failures) for one in requests)
    assert sum(len(rows.tokens) for rows in told) == counts.answered
    start = 0
    for task in TOY_TASKS:
        columns = slice(start, start + len(task.labels))
        start = columns.stop
        labels, confidence = np.zeros(len(task.labels)), 0.0
        for one in requests:
            for row in range(len(one.tokens)):
                if row in one.failures:
                    continue
                values = one.probabilities[row, columns]
                decided = task.decide(values[None])[0]
                labels += decided if task.multi_label else np.eye(len(task.labels))[decided]
                confidence += min(max(p, 1 - p) for p in values) if task.multi_label else max(values)
        assert counts.by_task[task.name].labels.tolist() == labels.tolist()
        assert counts.by_task[task.name].confidence_sum == pytest.approx(confidence, rel=1e-4)


def test_rows_are_counted_by_themselves_once_enough_have_come():
    told = []
    counts = AnswerCounts(TOY_TASKS, told.append)
    one = request(np.random.default_rng(0), 1)
    for _ in range(GATHERED - 1):
        counts.add(one)
    assert (told, counts.texts) == ([], 0)
    counts.add(one)
    assert (len(told), counts.texts) == (1, GATHERED)
    counts.settle()
    assert len(told) == 1
