"""The laws of exporting: other runtimes compute what torch computes, and int8 weights are stored as int8."""

import copy
import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from polyfold import export as exporting
from polyfold.artifact import read_config
from polyfold.errors import InputError, MissingExtra
from polyfold.export import OpenVinoExport, export, fold_weights, quantize_linear, to_onnx
from polyfold.model.backbone import token_embedding
from polyfold.model.classifier import load_model
from polyfold.predictor import Predictor
from toys_pipeline import MAX_LENGTH, TASKS, toy_ids, toy_rows

FAMILIES = ("transformer", "convolutional")
RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module", params=FAMILIES)
def toy(request, torch_toys):
    """One family's models and folders."""
    return torch_toys[request.param]


@pytest.fixture(scope="module")
def sessions(toy):
    """Sessions by precision and runtime."""
    return {
        precision: {runtime: Predictor.open(folder).session for runtime, folder in folders.items()}
        for precision, folders in toy["folders"].items()
    }


def ids_for(toy, shape, seed):
    return toy_ids(token_embedding(toy["fp32"].classifier.encoder).num_embeddings, shape, seed)


def decided(logits):
    """The label of each document, or of each label of a multi-label task."""
    return {task.name: task.decide(task.probabilities(logits[task.name])) for task in TASKS}


@settings(max_examples=12, deadline=None)
@given(batch=st.integers(1, 9), seq=st.integers(1, MAX_LENGTH), seed=st.integers(0, 99))
def test_fp32_exports_give_torch_logits_for_any_batch_and_length(toy, sessions, batch, seq, seed):
    ids, mask = ids_for(toy, (batch, seq), seed)
    expected = sessions["fp32"]["torch"].run(ids, mask)
    assert {name: values.shape for name, values in expected.items()} == {
        task.name: (batch, len(task.labels)) for task in TASKS
    }
    for runtime in RUNTIMES:
        found = sessions["fp32"][runtime].run(ids, mask)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, atol=1e-4)


@settings(max_examples=8, deadline=None)
@given(batch=st.integers(1, 9), seq=st.integers(1, MAX_LENGTH), seed=st.integers(0, 99))
def test_int8_exports_stay_close_to_the_fake_quantized_model(toy, sessions, batch, seq, seed):
    ids, mask = ids_for(toy, (batch, seq), seed)
    expected = sessions["int8"]["torch"].run(ids, mask)
    for runtime in RUNTIMES:
        found = sessions["int8"][runtime].run(ids, mask)
        for name, values in expected.items():
            # One step of an activation's 256 may round the other way; no more than that comes through.
            assert np.abs(found[name] - values).max() <= 0.05 * max(1.0, np.abs(values).max())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_int8_exports_agree_with_the_fake_quantized_model_on_the_labels(toy, sessions, runtime):
    ids, mask = ids_for(toy, (400, 16), seed=5)
    expected = decided(sessions["int8"]["torch"].run(ids, mask))
    found = decided(sessions["int8"][runtime].run(ids, mask))
    for task in TASKS:
        assert (found[task.name] == expected[task.name]).mean() >= 0.99
        # The toy decides differently on different documents, so that agreement says something.
        assert len(np.unique(expected[task.name], axis=0)) > 1
    whole = decided(sessions["fp32"]["torch"].run(ids, mask))
    assert np.mean([(whole[task.name] == expected[task.name]).mean() for task in TASKS]) > 0.9


def test_int8_exports_compute_what_the_saved_fake_quantized_model_computes(toy, sessions):
    # A quantizer that is lost on the way (those inside attention were) moves every document, rounding only some.
    ids, mask = ids_for(toy, (64, 16), seed=9)
    expected = sessions["int8"]["torch"].run(ids, mask)
    found = sessions["int8"]["openvino"].run(ids, mask)
    for name, values in expected.items():
        assert np.median(np.abs(found[name] - values)) < 1e-4


def test_quantizing_changes_the_logits(toy, sessions):
    # Otherwise the two tests above would compare fp32 models with each other.
    ids, mask = ids_for(toy, (32, 16), seed=5)
    whole, int8 = (sessions[precision]["onnxruntime"].run(ids, mask) for precision in ("fp32", "int8"))
    assert all(np.abs(whole[name] - int8[name]).max() > 1e-3 for name in whole)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_both_runtimes_give_the_same_logits(toy, sessions, precision):
    ids, mask = ids_for(toy, (64, 16), seed=7)
    first, second = (sessions[precision][runtime].run(ids, mask) for runtime in RUNTIMES)
    tolerance = 1e-4 if precision == "fp32" else 0.05 * max(np.abs(values).max() for values in first.values())
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, atol=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_padding_and_company_change_no_document(toy, sessions, precision, runtime):
    ids, mask = ids_for(toy, (6, 12), seed=3)
    session = sessions[precision][runtime]
    together = session.run(np.pad(ids, ((0, 0), (0, 7))), np.pad(mask, ((0, 0), (0, 7))))
    for row in range(6):
        length = int(mask[row].sum())
        alone = session.run(ids[row : row + 1, :length], mask[row : row + 1, :length])
        for name, values in alone.items():
            atol = 1e-4 if precision == "fp32" else 0.05 * max(1.0, np.abs(values).max())
            np.testing.assert_allclose(together[name][row : row + 1], values, atol=atol)


def test_exporting_leaves_the_model_as_it_was_and_can_be_repeated(toy):
    for precision, quantized in (("fp32", False), ("int8", True)):
        model = load_model(toy["folders"][precision]["torch"])
        before = copy.deepcopy(model.classifier.state_dict())
        first, second = to_onnx(model, quantized), to_onnx(model, quantized)
        assert first.SerializeToString() == second.SerializeToString()
        after = model.classifier.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_folding_changes_no_bit_and_leaves_no_large_float_weight(toy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "fold_weights", lambda graph: graph)
        whole = to_onnx(toy["int8"], quantized=True)
    folded = fold_weights(copy.deepcopy(whole))
    ids, mask = ids_for(toy, (32, 16), seed=11)
    before, after = (
        onnxruntime.InferenceSession(graph.SerializeToString()).run(
            None, {"input_ids": ids, "attention_mask": mask}
        )
        for graph in (whole, folded)
    )
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)
    arrays = stored(folded)
    large = [one for one in arrays if one.size > 400]
    assert large
    assert {one.dtype for one in large} == {np.dtype(np.int8)}
    table = token_embedding(toy["fp32"].classifier.encoder).weight
    assert tuple(table.shape) in {one.shape for one in large}
    assert sum(one.nbytes for one in arrays) < 0.4 * sum(one.nbytes for one in stored(whole))
    assert folded.ByteSize() < whole.ByteSize()


def stored(graph):
    """Every constant tensor of a graph, wherever it is kept."""
    tensors = list(graph.graph.initializer)
    tensors += [node.attribute[0].t for node in graph.graph.node if node.op_type == "Constant"]
    return [numpy_helper.to_array(tensor) for tensor in tensors]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_int8_export_is_smaller_on_disk_by_its_weights(toy, runtime):
    def weights(precision):
        folder = toy["folders"][precision][runtime]
        binary = folder / "openvino" / "openvino_model.bin"
        if binary.exists():
            return binary.stat().st_size
        return sum(one.nbytes for one in stored(onnx.load(folder / read_config(folder)[0].file)))

    assert weights("int8") < 0.4 * weights("fp32")


@settings(max_examples=60, deadline=None)
@given(data=st.data(), signed=st.booleans(), axis=st.sampled_from([None, 0, 1]))
def test_quantize_linear_is_onnx_runtimes_own(data, signed, axis):
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 5))
    count = 1 if axis is None else (rows, columns)[axis]
    scales = data.draw(st.lists(st.floats(2**-10, 8.0, width=32), min_size=count, max_size=count))
    dtype = np.int8 if signed else np.uint8
    limits = np.iinfo(dtype)
    zeros = data.draw(st.lists(st.integers(limits.min, limits.max), min_size=count, max_size=count))
    scale, zero_point = np.array(scales, np.float32), np.array(zeros, dtype)
    if axis is None:
        scale, zero_point = scale.reshape(()), zero_point.reshape(())
    # Halves of a step are where rounding can differ, hundreds of steps are where it saturates.
    steps = st.one_of(st.integers(-800, 800).map(lambda half: half / 2), st.floats(-400, 400, width=32))
    drawn = data.draw(st.lists(steps, min_size=rows * columns, max_size=rows * columns))
    along = np.ones((rows, columns)) if axis is None else np.expand_dims(scale, 1 - axis)
    values = (np.array(drawn).reshape(rows, columns) * along * (scale if axis is None else 1)).astype(np.float32)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **({} if axis is None else {"axis": axis}))
    kind = TensorProto.INT8 if signed else TensorProto.UINT8
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("y", kind, [None, None])],
        [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero_point, "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": values})
    found = quantize_linear(values, scale, zero_point, 1 if axis is None else axis)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_quantize_linear_rounds_halves_to_even_and_saturates():
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1000.0, -1000.0], np.float32)
    one, zero = np.array(1.0, np.float32), np.array(0, np.int8)
    assert quantize_linear(values, one, zero, 1).tolist() == [0, 2, 2, 0, -2, 127, -128]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_export_says_what_it_is_and_holds_no_torch_weights(toy, runtime, precision):
    folder = toy["folders"][precision][runtime]
    config, tasks = read_config(folder)
    assert (config.runtime, config.precision, config.weights) == (runtime, precision, "trained")
    assert tasks == TASKS
    assert config.parameters == toy["fp32"].parameters > config.trunk_parameters > 0
    assert (folder / config.file).is_file()
    assert not list(folder.rglob("*.safetensors"))
    with pytest.raises(InputError, match="holds no torch weights"):
        load_model(folder)


def test_without_openvino_the_export_says_what_to_install(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"polyfold\[openvino\]"):
        export(OpenVinoExport(), toy["fp32"], toy["source"], tmp_path / "none")


def test_a_real_export_predicts_without_torch(torch_toys):
    folders = [
        str(torch_toys[family]["folders"][precision][runtime])
        for family in FAMILIES
        for precision in ("fp32", "int8")
        for runtime in RUNTIMES
    ]
    texts = [row["text"] for row in toy_rows()[:10]]
    script = (
        "import json, sys\n"
        "from polyfold.predictor import Predictor\n"
        "folders, texts = json.load(sys.stdin)\n"
        "print(json.dumps([Predictor.open(folder).predict(texts)[0].labels for folder in folders]))\n"
        "heavy = ('torch', 'transformers', 'accelerate', 'nncf', 'onnx', 'polyfold.batch')\n"
        "assert not [name for name in heavy if name in sys.modules], sorted(sys.modules)\n"
        "assert 'onnxruntime' in sys.modules and 'openvino' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([folders, texts]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == 8
    assert answers[0] == Predictor.open(folders[0]).predict(texts)[0].labels
