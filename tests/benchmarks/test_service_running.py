"""The commands against real servers of the toy model, as short as they get; faults put in from outside."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.service import results
from benchmarks.service.__main__ import fractions_of, main, parser
from benchmarks.service.answers import Expected
from benchmarks.service.contestants import Subject, command_of
from benchmarks.service.free_model import write_free_model
from benchmarks.service.processes import free_port, launch
from benchmarks.service.sabotage import _poisoned, _raising

from polyfold.errors import InputError
from polyfold.predictor import Predictor


@pytest.fixture
def places(tmp_path):
    """Options that keep a command's files apart, and without the benchmark's data."""
    return ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--data", str(tmp_path)]


@pytest.mark.slow
def test_load_is_measured_kept_and_not_measured_again(tmp_path, toy_folders, places, capsys):
    command = [
        "load", "--model", f"toy={toy_folders['onnxruntime']}", "--contestants", "polyfold", "--rounds", "1",
        "--seconds", "0.05", "--lone", "3", "--texts", "30", "--fractions", "0.001", *places,
    ]  # fmt: skip
    assert main(command) == 0
    found = results.LoadFile.model_validate_json((tmp_path / "out" / results.LOAD).read_bytes())
    (turn,) = found.models[0].turns
    kinds = [load.kind for load in turn.loads]
    assert kinds == ["lone", "open", "full", "bulk", "checked", "checked"]
    assert all(load.tally.acknowledged > 0 and load.tally.bad == 0 for load in turn.loads)
    assert [load.tally.compared for load in turn.loads[-2:]] == [load.tally.texts for load in turn.loads[-2:]]
    assert {load.texts_a_request for load in found.models[0].free[0].loads} == {1, 32}
    assert found.resumed == 0 and turn.memory_before_mb > 20
    assert main(command) == 0
    again = results.LoadFile.model_validate_json((tmp_path / "out" / results.LOAD).read_bytes())
    assert again.resumed == 3 and again.models == found.models
    assert main(["tables", str(tmp_path / "out")]) == 0
    capsys.readouterr()


@pytest.mark.slow
def test_faults_are_brought_about_and_a_part_can_be_repeated(tmp_path, toy_folders, places, capsys):
    model = f"{toy_folders['openvino']},{toy_folders['onnxruntime']}"
    command = ["faults", model, "--texts", "60", "--before", "0.6", "--after", "0.5", "--rate", "100", *places]
    assert main([*command, "--only", "sigterm"]) == 0
    assert main([*command, "--only", "runtime_refuses"]) == 0
    found = results.FaultsFile.model_validate_json((tmp_path / "out" / results.FAULTS).read_bytes())
    assert [row.name for row in found.rows] == ["sigterm", "runtime_refuses"]
    stopped, refused = found.rows
    assert stopped.facts["exit_code"] == 0 and stopped.lost == 0 and stopped.excused > 0
    assert refused.facts["runtime"] == "onnxruntime" and refused.tally.acknowledged == refused.tally.sent > 0
    assert stopped.survived and refused.survived
    capsys.readouterr()


@pytest.mark.slow
def test_a_soak_samples_memory_and_checks_every_answer(tmp_path, toy_folders, places, capsys):
    command = ["soak", str(toy_folders["onnxruntime"]), "--texts", "30", "--requests", "400", "--part", "100"]
    assert main([*command, *places]) == 0
    found = results.SoakFile.model_validate_json((tmp_path / "out" / results.SOAK).read_bytes())
    assert [one.requests for one in found.samples] == [0, 100, 200, 300, 400]
    assert found.tally.acknowledged == found.tally.texts == 400 and found.tally.bad == 0
    assert found.bytes_a_request_low <= found.bytes_a_request <= found.bytes_a_request_high
    assert found.exit_code == 0
    capsys.readouterr()


def test_the_plain_route_answers_as_the_predictor_does(tmp_path, toy_folders, toy_texts):
    folder = toy_folders["onnxruntime"]
    expected = Expected.of(Predictor.open(folder), toy_texts)
    port = free_port()
    command = command_of("fastapi", Subject("toy", folder), port, tmp_path, ())
    server = launch("fastapi", command, port, tmp_path / "log")
    try:
        server.wait_ready(60.0)
        reply = server.ask("POST", "/predict", {"texts": toy_texts, "probabilities": True})
        one = server.ask("POST", "/predict", {"text": toy_texts[0]})
        assert server.cpu_s() > 0 and server.memory_mb() > 10 and server.open_files() > 3
    finally:
        server.stop()
    items = reply.content["predictions"]
    assert [item["labels"] for item in items] == list(expected.labels)
    assert one.content["predictions"][0]["labels"] == expected.labels[0]
    flat = np.array(
        [[value for task in item["probabilities"].values() for value in task.values()] for item in items]
    )
    np.testing.assert_allclose(flat, expected.probabilities, atol=1e-5)


def test_a_server_that_ends_at_once_is_told_of_with_its_last_words(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no model here')"]
    server = launch("broken", command, free_port(), tmp_path / "log")
    with pytest.raises(InputError, match="no model here"):
        server.wait_ready(30.0)
    assert server.wait() == 1


def test_a_model_that_rounds_by_more_than_the_tolerance_is_refused_before_anything_is_measured(
    tmp_path, toy_folders, places, capsys
):
    command = ["load", "--model", f"toy={toy_folders['openvino']}", "--texts", "30", "--tolerance", "-1", *places]
    assert main(command) == 2
    assert "--tolerance" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_free_model_has_the_tasks_of_the_real_one(tmp_path, toy_folders):
    folder = write_free_model(toy_folders["openvino"], tmp_path / "free")
    free, real = Predictor.open(folder), Predictor.open(toy_folders["openvino"])
    assert free.tasks == real.tasks
    found = free.predict(["one", "two words", "and a few words more", "one"])
    assert found[0] == found[3]
    assert len({tuple(found.probabilities["domain"][row].tolist()) for row in range(3)}) == 3
    written = (folder / "model.onnx").stat().st_mtime_ns
    assert write_free_model(toy_folders["openvino"], folder) == folder
    assert (folder / "model.onnx").stat().st_mtime_ns == written


def test_a_sabotaged_session_raises_while_the_file_is_there(tmp_path):
    run = _raising(lambda session, ids, mask: "answered", tmp_path / "broken")
    assert run(None, np.zeros((1, 1)), np.ones((1, 1))) == "answered"
    (tmp_path / "broken").touch()
    with pytest.raises(RuntimeError, match="broken"):
        run(None, np.zeros((1, 1)), np.ones((1, 1)))


@pytest.mark.parametrize(
    ("row", "length", "chokes"),
    [([5, 6, 7, 0], 3, True), ([5, 6, 7, 7], 4, False), ([5, 6, 0, 0], 2, False), ([4, 6, 7, 0], 3, False)],
)
def test_only_a_batch_that_holds_the_very_tokens_is_poison(row, length, chokes):
    run = _poisoned(lambda session, ids, mask: "answered", np.array([5, 6, 7]))
    ids = np.array([[9, 9, 9, 9], row])
    mask = np.array([[1, 1, 1, 1], [1] * length + [0] * (4 - length)])
    if chokes:
        with pytest.raises(RuntimeError, match="poison"):
            run(None, ids, mask)
    else:
        assert run(None, ids, mask) == "answered"


def test_fractions_are_everybodys_or_one_models():
    found = fractions_of(["0.5,0.2", "student=0.3,0.1"], quick=False)
    assert found == {"": [0.2, 0.5], "student": [0.1, 0.3]}
    with pytest.raises(InputError, match="no list of fractions"):
        fractions_of(["a,b"], quick=False)


def test_options_for_the_service_are_passed_on_as_they_are():
    found = parser().parse_args(["soak", "FOLDER", "--serve-options=--bf16 --threads 2"])
    assert found.serve_options == ["--bf16", "--threads", "2"]


def test_a_mistake_on_the_command_line_is_told_and_ends_with_2(tmp_path, capsys):
    assert main(["tables", str(tmp_path)]) == 2
    assert "no results" in capsys.readouterr().err
