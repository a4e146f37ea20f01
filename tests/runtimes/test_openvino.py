"""OpenVINO sessions: parity with ONNX Runtime, both file formats, options, and unusable files."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from polyfold.artifact import read_config
from polyfold.errors import InputError, MissingExtra
from polyfold.runtimes.onnxruntime import open_onnxruntime
from polyfold.runtimes.openvino import open_openvino
from polyfold.runtimes.session import SessionSpec
from toys import TOY_TASKS, toy_graph, write_toy_folder

RANDOM = np.random.default_rng(3)
IDS = RANDOM.integers(4, 204, (12, 9))
MASK = (np.arange(9) < RANDOM.integers(1, 10, (12, 1))).astype(np.int64)


def opened(folder, **spec):
    return open_openvino(folder, *read_config(folder), SessionSpec(**spec))


@pytest.fixture(scope="module")
def expected(toy_folders):
    folder = toy_folders["onnxruntime"]
    return open_onnxruntime(folder, *read_config(folder), SessionSpec()).run(IDS, MASK)


def assert_close(found, expected, atol):
    for task in TOY_TASKS:
        assert found[task.name].dtype == np.float32
        np.testing.assert_allclose(found[task.name], expected[task.name], atol=atol)


def test_logits_equal_onnx_runtimes(toy_folders, expected):
    # Without the precision said, OpenVINO computes in bfloat16 on processors that have it: off by 1e-2.
    assert_close(opened(toy_folders["openvino"]).run(IDS, MASK), expected, atol=1e-5)


def test_bf16_is_near(toy_folders, expected):
    assert_close(opened(toy_folders["openvino"], bf16=True).run(IDS, MASK), expected, atol=0.3)


def test_no_thread_is_tied_to_a_core(toy_folders):
    # Two processes with a thread each would otherwise share the first core, and leave the second idle.
    (request, *_) = opened(toy_folders["openvino"], threads=1).requests
    assert request.get_compiled_model().get_property("ENABLE_CPU_PINNING") is False


@pytest.mark.parametrize("rows", [1, 5])
def test_lanes_side_by_side_answer_as_the_session_does_few_texts_and_many(toy_folders, expected, rows):
    lanes = opened(toy_folders["openvino"], threads=2).lanes()
    assert len(lanes) == 2

    def all_of_it(lane):
        parts = [
            lane.run(IDS[start : start + rows], MASK[start : start + rows]) for start in range(0, len(IDS), rows)
        ]
        return {task.name: np.concatenate([part[task.name] for part in parts]) for task in TOY_TASKS}

    # Twice: the first time, the models of fixed lengths are not there yet.
    for _ in range(2):
        with ThreadPoolExecutor(2) as threads:
            for found in threads.map(all_of_it, lanes):
                assert_close(found, expected, atol=1e-5)
        lanes[0].singles.wait()


def test_one_sessions_answers_do_not_change_with_the_next_call(toy_folders, expected):
    session = opened(toy_folders["openvino"])
    first = session.run(IDS, MASK)
    session.run(IDS[::-1].copy(), MASK[::-1].copy())
    assert_close(first, expected, atol=1e-5)


def test_its_own_format_equals_onnx(tmp_path, expected):
    import openvino

    folder = write_toy_folder(tmp_path / "model", "openvino", file="openvino/openvino_model.xml")
    (folder / "openvino").mkdir()
    model = openvino.Core().read_model(folder / "onnx" / "model.onnx")
    openvino.save_model(model, folder / "openvino" / "openvino_model.xml", compress_to_fp16=False)
    assert_close(opened(folder).run(IDS, MASK), expected, atol=1e-5)


def test_threads_streams_and_a_cache_change_nothing(toy_folders, tmp_path, expected):
    for _ in range(2):
        found = opened(toy_folders["openvino"], threads=1, streams=2, cache_dir=tmp_path).run(IDS, MASK)
        assert_close(found, expected, atol=1e-5)
    assert any(tmp_path.iterdir())


def test_a_missing_and_a_corrupt_file_are_named(tmp_path):
    folder = write_toy_folder(tmp_path / "model", "openvino")
    (folder / "onnx" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"model\.onnx: OpenVINO cannot read it"):
        opened(folder)
    (folder / "onnx" / "model.onnx").unlink()
    with pytest.raises(InputError, match="is missing"):
        opened(folder)


def test_a_graph_of_other_tasks_is_refused(tmp_path):
    folder = write_toy_folder(tmp_path / "model", "openvino", graph=toy_graph(TOY_TASKS[:1]))
    with pytest.raises(InputError, match="logits_topics"):
        opened(folder)


def test_without_the_package_the_extra_is_named(toy_folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"polyfold\[openvino\]"):
        opened(toy_folders["openvino"])


def test_closed_models_leave_the_process_able_to_take_a_signal(toy_folders):
    script = (
        "import os, signal, time\n"
        "from polyfold.predictor import Predictor\n"
        f"opened = [Predictor.open({str(toy_folders['openvino'])!r}) for _ in range(3)]\n"
        "while opened:\n"
        "    opened.pop(0).predict(['w1'])\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(5)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
