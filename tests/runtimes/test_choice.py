"""The race of runtimes: who takes part, whose answers are right, who wins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfold.errors import InputError
from polyfold.runtimes import choice
from polyfold.runtimes.choice import Candidate, Choice, Trial, candidates, check, choose, first_of, objection
from polyfold.runtimes.choice import time_rounds as timed
from polyfold.runtimes.probes import WHOLE, Probe, probe_batches
from polyfold.runtimes.session import SessionSpec
from polyfold.text import open_tokenizer
from toys import TOY_MAX_LENGTH, TOY_TASKS, write_toy_tokenizer

ORT, OV = Candidate(runtime="onnxruntime"), Candidate(runtime="openvino")
OPEN_IN = ("onnxruntime", "openvino", "tensorrt")
PROBES = [Probe(str(rows), np.zeros((rows, 4), np.int64), np.ones((rows, 4), np.int64)) for rows in (1, 90)]


class Stub:
    """A session with made-up answers: `answers` are the right ones put through `change`."""

    def __init__(self, change=lambda logits: logits, cost=0.0, clock=None):
        self.change, self.cost, self.clock, self.calls = change, cost, clock, 0

    def run(self, input_ids, attention_mask):
        self.calls += 1
        if self.clock is not None:
            self.clock.now += self.cost
        return {name: self.change(values) for name, values in right(len(input_ids)).items()}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


def right(documents, seed=0):
    """Logits of a model that is mostly sure, by task."""
    random = np.random.default_rng(seed)
    return {task.name: random.normal(0, 3, (documents, len(task.labels))).astype(np.float32) for task in TOY_TASKS}


def test_the_reference_comes_first_and_every_candidate_once():
    for bf16 in (False, True):
        for device in ("cpu", "cuda"):
            found = candidates(OPEN_IN, SessionSpec(bf16=bf16, device=device), cores=8, physical=4)
            assert found[0] == ORT
            assert len(set(found)) == len(found)
            assert len({one.title for one in found}) == len(found)
            assert any(one.bf16 for one in found) == bf16
            assert {one.device for one in found} == ({"cpu"} if device == "cpu" else {"cpu", "cuda"})


def test_one_thread_leaves_nothing_to_try_about_threads():
    assert candidates(OPEN_IN, SessionSpec(threads=1), cores=8, physical=4) == [ORT, OV]
    assert candidates(OPEN_IN, SessionSpec(), cores=1, physical=1) == [ORT, OV]
    several = candidates(OPEN_IN, SessionSpec(threads=4), cores=8, physical=4)
    assert all(one.threads is None for one in several)
    assert [one.threads for one in candidates(["openvino"], SessionSpec(), 8, 4) if one.threads] == [4]


def test_a_model_of_one_runtime_has_one_candidate():
    assert candidates(["openvino"], SessionSpec(), cores=1, physical=1) == [OV]
    assert candidates(["torch"], SessionSpec(), cores=8, physical=4) == [Candidate(runtime="torch")]


def test_a_candidates_spec_is_the_callers_with_its_own_settings():
    asked = SessionSpec(threads=3, bf16=True, streams=2, device="cuda")
    gpu = Candidate(runtime="tensorrt", bf16=True, device="cuda").spec(asked)
    assert gpu == SessionSpec(bf16=True, device="cuda")
    assert ORT.spec(asked) == SessionSpec(threads=3)
    assert Candidate(runtime="openvino", threads=1, bf16=True).spec(asked) == SessionSpec(
        threads=1, bf16=True, streams=2
    )


@given(seed=st.integers(0, 1000), size=st.floats(0, 0.01))
def test_rounding_is_no_objection(seed, size):
    ours = right(90, seed)
    noise = np.random.default_rng(seed + 1)
    theirs = {name: (one + noise.normal(0, size, one.shape)).astype(np.float32) for name, one in ours.items()}
    assert objection(TOY_TASKS, ours, theirs) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda logits: logits[:, ::-1], "drift"),
        (np.zeros_like, "drift"),
        (lambda logits: logits * 3, "drift"),
        (lambda logits: logits * 1.4, "of its answers"),
        (lambda logits: logits + np.where(np.arange(logits.shape[1]) == 0, 1.2, 0), "of its answers"),
        (lambda logits: np.where(np.arange(len(logits))[:, None] < 3, -logits, logits), "of its answers"),
        (lambda logits: np.full_like(logits, np.nan), "not numbers"),
        (lambda logits: logits[:, :-1], "shape"),
    ],
)
def test_other_answers_are_an_objection(change, words):
    ours = right(90)
    said = objection(TOY_TASKS, ours, {name: change(values) for name, values in ours.items()})
    assert said is not None
    assert words in said


def test_a_close_call_may_fall_either_way_but_not_a_clear_one():
    (task, _) = TOY_TASKS
    ours = np.tile(np.float32([3.0, 2.99, 0.0]), (50, 1)) + np.float32(np.arange(50)[:, None])
    flipped = ours + np.float32([0.0, 0.02, 0.0])
    assert (flipped.argmax(1) != ours.argmax(1)).all()
    assert objection([task], {"domain": ours}, {"domain": flipped}) is None
    clear = ours + np.float32([0.0, 1.0, 0.0])
    assert objection([task], {"domain": ours}, {"domain": clear}) is not None


def trial(candidate, *ms, refused=None):
    return Trial(candidate=candidate, median_ms={str(place): one for place, one in enumerate(ms)}, refused=refused)


def test_the_fastest_wins_and_a_tie_goes_to_the_earlier():
    assert first_of([trial(ORT, 2, 4), trial(OV, 1, 4)]) == OV
    assert first_of([trial(ORT, 2, 4), trial(OV, 1.99, 3.99)]) == ORT
    assert first_of([trial(ORT, 2, 4), trial(OV, 1, 1, refused="wrong")]) == ORT
    with pytest.raises(InputError, match="openvino: wrong"):
        first_of([trial(OV, refused="wrong")])


def test_who_answers_otherwise_never_wins_however_fast(monkeypatch):
    monkeypatch.setattr(choice, "SETTLE_S", 0.0)
    sessions = {ORT: Stub(), OV: Stub(lambda logits: -logits)}
    found = choose(sessions, TOY_TASKS, PROBES, {}, list(sessions))
    assert found.chosen == ORT
    assert sessions[OV].calls == len(PROBES)
    (out,) = [one for one in found.trials if one.refused]
    assert out.candidate == OV
    assert "drift" in out.refused
    assert f"openvino is out: {out.refused}" in found.note


def test_who_cannot_run_is_out_unless_it_is_the_reference():
    def broken(logits):
        raise RuntimeError("no kernel for this\nand more")

    found = check({ORT: Stub(), OV: Stub(broken)}, TOY_TASKS, PROBES)
    assert found == {ORT: None, OV: "it cannot run: no kernel for this"}
    with pytest.raises(RuntimeError, match="no kernel"):
        check({ORT: Stub(broken), OV: Stub()}, TOY_TASKS, PROBES)


def test_only_rivals_can_win_and_the_others_referee():
    gpu = Candidate(runtime="onnxruntime", device="cuda")
    sessions = {ORT: Stub(), gpu: Stub()}
    assert choose(sessions, TOY_TASKS, PROBES, {}, [gpu]).chosen == gpu
    with pytest.raises(InputError, match="no kernel"):
        choose({ORT: Stub()}, TOY_TASKS, PROBES, {gpu: "no kernel"}, [gpu])


@pytest.mark.parametrize(("cost", "rounds"), [(0.0, choice.MOST_ROUNDS), (1.0, choice.LEAST_ROUNDS)])
def test_rounds_are_interleaved_and_end_with_the_time(cost, rounds):
    clock = Clock()
    sessions = {ORT: Stub(cost=2 * cost, clock=clock), OV: Stub(cost=cost, clock=clock)}
    found = timed(sessions, PROBES, clock, clock.wait)
    # One unmeasured call a turn wakes a candidate up.
    assert [session.calls for session in sessions.values()] == [rounds * (len(PROBES) + 1)] * 2
    assert found[ORT] == {probe.name: pytest.approx(2e3 * cost) for probe in PROBES}
    assert found[OV] == {probe.name: pytest.approx(1e3 * cost) for probe in PROBES}


def test_a_choice_survives_its_json():
    chosen = Choice(chosen=OV, trials=(trial(ORT, 2, 4), trial(OV, 1, 4)))
    assert Choice.model_validate_json(chosen.model_dump_json()) == chosen
    assert chosen.note.startswith("runtime: openvino, fastest of 2 measured now (0 1.00 ms, 1 4.00 ms)")


@pytest.mark.parametrize("documents", [1, 12, WHOLE, 10 * WHOLE])
def test_probes_are_one_text_and_then_batches_of_rising_length(tmp_path, documents):
    tokenizer = open_tokenizer(tmp_path, write_toy_tokenizer(tmp_path))
    one, *batches = probe_batches(tokenizer, 128, documents)
    assert len(one.input_ids) == 1
    assert sum(len(batch.input_ids) for batch in batches) == min(documents, WHOLE)
    widths = [batch.input_ids.shape[1] for batch in batches]
    assert widths == sorted(widths)
    assert all(batch.input_ids.shape == batch.attention_mask.shape for batch in batches)
    short = probe_batches(tokenizer, TOY_MAX_LENGTH, documents)
    assert max(probe.input_ids.shape[1] for probe in short) <= TOY_MAX_LENGTH
