"""ONNX Runtime sessions: what they compute, and what they say of files they cannot use."""

import numpy as np
import pytest

from polyfold.artifact import read_config
from polyfold.errors import InputError
from polyfold.runtimes.onnxruntime import PROVIDERS, open_onnxruntime
from polyfold.runtimes.session import SessionSpec
from toys import TOY_TASKS, toy_graph, write_toy_folder

IDS = np.array([[0, 7, 9, 2], [0, 8, 2, 1]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])


def opened(folder, **spec):
    return open_onnxruntime(folder, *read_config(folder), SessionSpec(**spec))


def test_logits_are_those_of_the_formula(toy_folders):
    weights = {one.name: one for one in toy_graph(TOY_TASKS).graph.initializer}
    table = np.frombuffer(weights["table"].raw_data, np.float32).reshape(-1, 8)
    logits = opened(toy_folders["onnxruntime"]).run(IDS, MASK)
    for task in TOY_TASKS:
        head = np.frombuffer(weights[f"head_{task.name}"].raw_data, np.float32).reshape(8, -1)
        means = (table[IDS] * MASK[:, :, None]).sum(1) / MASK.sum(1, keepdims=True)
        np.testing.assert_allclose(logits[task.name], means @ head, atol=1e-4)
        assert logits[task.name].dtype == np.float32


def test_the_number_of_threads_changes_nothing(toy_folders):
    one, two = (opened(toy_folders["onnxruntime"], threads=threads).run(IDS, MASK) for threads in (1, 2))
    np.testing.assert_allclose(one["topics"], two["topics"], atol=1e-6)


def test_a_missing_and_a_corrupt_file_are_named(tmp_path):
    folder = write_toy_folder(tmp_path / "model", "onnxruntime")
    (folder / "onnx" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        opened(folder)
    (folder / "onnx" / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"model\.onnx: the model file that config\.json names is missing"):
        opened(folder)


def test_a_graph_of_other_tasks_is_refused(tmp_path):
    folder = write_toy_folder(tmp_path / "model", "onnxruntime", graph=toy_graph(TOY_TASKS[:1]))
    with pytest.raises(InputError, match="logits_topics"):
        opened(folder)


def test_bf16_is_refused(toy_folders):
    with pytest.raises(InputError, match="bf16 is OpenVINO's option"):
        opened(toy_folders["onnxruntime"], bf16=True)


def test_streams_are_refused(toy_folders):
    with pytest.raises(InputError, match="streams are OpenVINO's option"):
        opened(toy_folders["onnxruntime"], streams=2)


def test_how_threads_wait_changes_nothing(toy_folders):
    spin, sleep = (
        opened(toy_folders["onnxruntime"], threads=2, spinning=how).run(IDS, MASK) for how in (True, False)
    )
    for task in TOY_TASKS:
        np.testing.assert_array_equal(spin[task.name], sleep[task.name])


def test_a_provider_that_silently_steps_aside_is_noticed(toy_folders, monkeypatch):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime knows GPUs")
    with pytest.raises(InputError, match="cannot use its CUDAExecutionProvider"):
        opened(toy_folders["onnxruntime"], device="cuda")
    # As with onnxruntime-gpu on a machine without CUDA: the provider is listed, and then the processor is used.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(InputError, match="device cpu"):
        opened(toy_folders["onnxruntime"], device="cuda")
