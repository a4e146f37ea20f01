"""Fail-over: a broken runtime is left, a poison text is not taken for one."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from polyfold.errors import InputError
from polyfold.predictor import Predictor
from polyfold.serve.engine.runner import BROKEN, POISON, REVIVE_SECONDS, Candidate, Runner, candidates_of
from polyfold.tasks import Task
from toys import WORDS, write_toy_folder

POISON_WORD = WORDS[150]


@dataclass
class Breakable:
    """A real session that can be told to break, or to choke on one token."""

    inner: object
    broken: bool = False
    chokes_on: int | None = None
    calls: int = 0

    def run(self, input_ids, attention_mask):
        self.calls += 1
        if self.broken or (self.chokes_on is not None and (input_ids == self.chokes_on).any()):
            raise RuntimeError("the runtime raised")
        return self.inner.run(input_ids, attention_mask)


@dataclass
class Shop:
    """Opens predictors whose sessions can be broken; `closed` candidates do not open."""

    sessions: dict = field(default_factory=dict)
    closed: set = field(default_factory=set)
    moves: list = field(default_factory=list)
    now: float = 0.0

    def open(self, candidate):
        if candidate.runtime in self.closed:
            raise InputError(f"{candidate.runtime} is closed")
        predictor = Predictor.open(candidate.folder, runtime=candidate.runtime)
        self.sessions[candidate.runtime] = Breakable(predictor.session)
        return replace(predictor, session=self.sessions[candidate.runtime])

    def moved(self, away_from, to, reason):
        self.moves.append((away_from, to, reason))


@pytest.fixture
def shop():
    return Shop()


@pytest.fixture
def runner(shop, toy_folders):
    candidates = candidates_of([toy_folders["openvino"]])[:2]
    assert [one.runtime for one in candidates] == ["openvino", "onnxruntime"]
    return Runner(candidates, shop.open, shop.moved, lambda: shop.now)


def encoded(runner, texts):
    return runner.predictor.tokenizer.encode(texts, runner.predictor.config.max_length)


def expected(folder, texts):
    found = Predictor.open(folder).logits(texts)
    return np.concatenate([found["domain"], found["topics"]], axis=1)


def test_what_a_runner_answers_is_what_the_predictor_gives(runner, toy_folders, toy_texts):
    answered = runner.answer(encoded(runner, toy_texts))
    assert not answered.failures
    np.testing.assert_allclose(answered.logits, expected(toy_folders["openvino"], toy_texts), atol=1e-5)


def test_the_next_runtime_takes_over_in_the_middle_of_a_batch(runner, shop, toy_folders, toy_texts):
    shop.sessions["openvino"].broken = True
    answered = runner.answer(encoded(runner, toy_texts))
    assert not answered.failures
    np.testing.assert_allclose(answered.logits, expected(toy_folders["openvino"], toy_texts), atol=1e-5)
    assert (runner.runtime, runner.failovers, runner.broken) == ("onnxruntime", 1, False)
    assert shop.moves == [("openvino", "onnxruntime", "the runtime raised")]


def test_a_poison_text_fails_alone_and_its_runtime_stays(runner, shop, toy_folders, toy_texts):
    clean = [text for text in toy_texts if POISON_WORD not in text.split()]
    assert len(clean) > 30
    texts = [*clean[:5], POISON_WORD, *clean[5:]]
    shop.sessions["openvino"].chokes_on = int(encoded(runner, [POISON_WORD]).flat[1])
    answered = runner.answer(encoded(runner, texts))
    assert dict(answered.failures) == {5: POISON}
    assert np.isnan(answered.logits[5]).all()
    kept = [row for row in range(len(texts)) if row != 5]
    np.testing.assert_allclose(answered.logits[kept], expected(toy_folders["openvino"], clean), atol=1e-5)
    assert (runner.runtime, runner.failovers) == ("openvino", 0)


def test_a_poison_text_alone_does_not_open_other_runtimes(runner, shop):
    shop.sessions["openvino"].chokes_on = int(encoded(runner, [POISON_WORD]).flat[1])
    assert dict(runner.answer(encoded(runner, [POISON_WORD])).failures) == {0: POISON}
    assert list(shop.sessions) == ["openvino"]


def test_without_a_runtime_left_every_row_fails_and_later_all_are_tried_again(runner, shop, toy_texts):
    shop.closed = {"openvino", "onnxruntime"}
    shop.sessions["openvino"].broken = True
    failed = runner.answer(encoded(runner, toy_texts[:3]))
    assert dict(failed.failures) == dict.fromkeys(range(3), BROKEN)
    assert runner.broken
    assert shop.moves[-1][:2] == ("openvino", None)
    shop.closed = {"openvino"}
    # Not with every batch:
    assert runner.answer(encoded(runner, toy_texts[:1])).failures
    shop.now += REVIVE_SECONDS
    assert not runner.answer(encoded(runner, toy_texts[:1])).failures
    assert (runner.runtime, runner.broken) == ("onnxruntime", False)


def test_a_runtime_that_does_not_open_is_passed_over_at_the_start(shop, toy_folders):
    shop.closed = {"openvino"}
    runner = Runner(candidates_of([toy_folders["openvino"]])[:2], shop.open, shop.moved)
    assert runner.runtime == "onnxruntime"
    assert shop.moves == [("openvino", "onnxruntime", "openvino is closed")]


def test_where_nothing_opens_the_first_ones_reason_is_told(shop, toy_folders):
    shop.closed = {"openvino", "onnxruntime"}
    with pytest.raises(InputError, match="openvino is closed"):
        Runner(candidates_of([toy_folders["openvino"]])[:2], shop.open, shop.moved)


def test_folders_that_stand_in_for_each_other_must_hold_the_same_model(toy_folders, tmp_path):
    other = write_toy_folder(tmp_path / "other", "onnxruntime", tasks=(Task(name="domain", labels=("a", "b")),))
    with pytest.raises(InputError, match="tasks or labels are not those"):
        candidates_of([toy_folders["onnxruntime"], other])


def test_own_runtimes_come_before_what_else_could_open_the_folders(toy_folders):
    found = candidates_of([toy_folders["openvino"], toy_folders["onnxruntime"]])
    assert found[:2] == (
        Candidate(toy_folders["openvino"], "openvino"),
        Candidate(toy_folders["onnxruntime"], "onnxruntime"),
    )
    assert set(found[2:]) == {
        Candidate(toy_folders["openvino"], "onnxruntime"),
        Candidate(toy_folders["onnxruntime"], "openvino"),
    }
