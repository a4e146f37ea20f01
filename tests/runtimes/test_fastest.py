"""`runtime: auto` on real sessions: measured once a machine, never wrong, overridable."""

import time
from dataclasses import dataclass, field
from functools import partial

import pytest

from polyfold.artifact import read_config
from polyfold.errors import InputError
from polyfold.predictor import Predictor
from polyfold.runtimes import choice, fastest
from polyfold.runtimes.fastest import choose_and_open, record_file
from polyfold.runtimes.onnxruntime import OnnxRuntimeSession
from polyfold.runtimes.opening import open_session, runtimes_of
from polyfold.runtimes.openvino import OpenVinoSession
from polyfold.runtimes.session import SessionSpec
from toys import TOY_TASKS, toy_graph, write_toy_folder

ONE_THREAD = SessionSpec(threads=1)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """A cache of the test's own, and races of a few rounds."""
    monkeypatch.setenv("POLYFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "MOST_ROUNDS", choice.LEAST_ROUNDS)
    return tmp_path / "cache" / fastest.CACHE


@dataclass
class Slowed:
    """A session that takes its time."""

    inner: object

    def run(self, input_ids, attention_mask):
        time.sleep(0.01)
        return self.inner.run(input_ids, attention_mask)


@dataclass
class Watched:
    """Opens `folder` and remembers on what; one in `slow` takes its time, one in `elsewhere` opens that folder."""

    folder: object
    slow: tuple = ()
    elsewhere: dict = field(default_factory=dict)
    opened: list = field(default_factory=list)

    def __call__(self, spec, runtime):
        self.opened.append(runtime)
        folder = self.elsewhere.get(runtime, self.folder)
        session = open_session(folder, *read_config(folder), spec, runtime)
        return Slowed(session) if runtime in self.slow else session

    def auto(self, spec=ONE_THREAD):
        config, tasks = read_config(self.folder)
        return choose_and_open(self.folder, config, tasks, spec, runtimes_of(config), self)


@pytest.fixture
def folder(toy_folders):
    return toy_folders["onnxruntime"]


def records(cache):
    return sorted(cache.glob("*.json"))


def test_the_second_start_opens_what_the_first_one_measured(folder, own_cache):
    first, second = Watched(folder, slow=("onnxruntime",)), Watched(folder)
    measured, remembered = first.auto(), second.auto()
    assert first.opened == ["onnxruntime", "openvino"]
    assert second.opened == ["openvino"]
    assert isinstance(measured.session, OpenVinoSession)
    assert measured.choice.measured_here
    assert not remembered.choice.measured_here
    assert remembered.choice == measured.choice.model_copy(update={"measured_here": False})
    assert len(records(own_cache)) == 1


@pytest.mark.parametrize(("slow", "winner"), [("onnxruntime", OpenVinoSession), ("openvino", OnnxRuntimeSession)])
def test_the_faster_one_is_chosen(folder, slow, winner):
    assert isinstance(Watched(folder, slow=(slow,)).auto().session, winner)


def test_a_graph_that_answers_otherwise_is_never_chosen_however_fast(folder, tmp_path):
    wrong = write_toy_folder(tmp_path / "wrong", "onnxruntime", graph=toy_graph(TOY_TASKS, seed=5))
    opened = Watched(folder, slow=("onnxruntime",), elsewhere={"openvino": wrong}).auto()
    assert opened.choice.chosen.runtime == "onnxruntime"
    (out,) = [trial for trial in opened.choice.trials if trial.refused]
    assert out.candidate.runtime == "openvino"
    assert "task 'domain'" in out.refused
    assert "openvino is out" in opened.choice.note


def test_what_cannot_be_opened_is_left_out_with_its_reason(folder, tmp_path):
    broken = write_toy_folder(tmp_path / "broken", "onnxruntime")
    (broken / "onnx" / "model.onnx").write_bytes(b"no graph")
    found = Watched(folder, elsewhere={"openvino": broken}).auto().choice
    assert found.chosen.runtime == "onnxruntime"
    assert [trial.candidate.runtime for trial in found.trials if "cannot read" in (trial.refused or "")] == [
        "openvino"
    ]


def test_a_reference_that_cannot_be_opened_is_the_users_to_know(tmp_path):
    broken = write_toy_folder(tmp_path / "broken", "onnxruntime")
    (broken / "onnx" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="cannot load"):
        Watched(broken).auto()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"chosen": {"runtime": "abacus"}, "trials": []}'])
def test_a_damaged_record_is_measured_anew(folder, own_cache, damage):
    Watched(folder).auto()
    (record,) = records(own_cache)
    record.write_bytes(damage)
    again = Watched(folder)
    assert again.auto().choice.measured_here
    assert len(again.opened) == 2
    assert not Watched(folder).auto().choice.measured_here


def test_a_home_that_cannot_be_written_is_no_error(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("POLYFOLD_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert Watched(folder).auto().choice.measured_here


def test_a_record_that_cannot_be_written_is_no_error(folder, own_cache):
    record = record_file(folder, *read_config(folder), ONE_THREAD)
    record.mkdir()
    assert Watched(folder).auto().choice.measured_here
    assert record.is_dir()


def test_other_options_another_model_and_other_tasks_have_records_of_their_own(folder, tmp_path):
    config, tasks = read_config(folder)
    name = partial(record_file, folder, config, tasks)
    assert name(ONE_THREAD) == name(ONE_THREAD.model_copy(update={"cache_dir": tmp_path}))
    other = write_toy_folder(tmp_path / "other", "onnxruntime", graph=toy_graph(TOY_TASKS, seed=5))
    names = [
        name(ONE_THREAD),
        name(SessionSpec()),
        name(SessionSpec(threads=1, bf16=True)),
        record_file(folder, config, tasks[:1], ONE_THREAD),
        record_file(other, *read_config(other), ONE_THREAD),
    ]
    assert len(set(names)) == len(names)


def test_a_choice_that_can_no_longer_be_opened_is_made_anew(folder, tmp_path):
    broken = write_toy_folder(tmp_path / "broken", "onnxruntime")
    (broken / "onnx" / "model.onnx").write_bytes(b"no graph")
    assert Watched(folder, slow=("onnxruntime",)).auto().choice.chosen.runtime == "openvino"
    later = Watched(folder, elsewhere={"openvino": broken})
    assert later.auto().choice.chosen.runtime == "onnxruntime"
    assert later.opened == ["openvino", "onnxruntime", "openvino"]


def test_one_candidate_is_opened_without_a_race(folder, own_cache):
    config, tasks = read_config(folder)
    alone = Watched(folder)
    opened = choose_and_open(folder, config, tasks, ONE_THREAD, ["openvino"], alone)
    assert alone.opened == ["openvino"]
    assert opened.choice.trials == ()
    assert opened.choice.note == "runtime: openvino"
    assert not own_cache.exists()


def test_a_predictor_says_what_was_chosen_and_a_named_runtime_wins(folder, own_cache, toy_texts):
    auto = Predictor.open(folder, runtime="auto", threads=1)
    assert auto.choice.measured_here
    assert not Predictor.open(folder, runtime="auto", threads=1).choice.measured_here
    named = {name: Predictor.open(folder, runtime=name, threads=1) for name in ("onnxruntime", "openvino")}
    assert isinstance(named["onnxruntime"].session, OnnxRuntimeSession)
    assert isinstance(named["openvino"].session, OpenVinoSession)
    assert isinstance(Predictor.open(folder, threads=1).session, OnnxRuntimeSession)
    labels = [[one.labels for one in each.predict(toy_texts)] for each in (auto, *named.values())]
    assert labels[0] == labels[1] == labels[2]
    assert all(one.choice is None for one in named.values())
    assert len(records(own_cache)) == 1


def test_a_runtime_that_cannot_open_the_model_is_refused(folder):
    with pytest.raises(InputError, match=r"cannot be opened in 'torch'\n  -> it opens in onnxruntime, openvino"):
        Predictor.open(folder, runtime="torch")


def test_without_a_gpu_device_cuda_is_refused_with_every_reason(folder):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime knows GPUs")
    for runtime in ("onnxruntime", "auto"):
        with pytest.raises(InputError, match="cannot use its CUDAExecutionProvider"):
            Predictor.open(folder, runtime=runtime, device="cuda")
    with pytest.raises(InputError, match="OpenVINO computes on processors"):
        Predictor.open(folder, runtime="openvino", device="cuda")
