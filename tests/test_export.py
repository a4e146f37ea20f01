"""The laws of exporting: other runtimes compute what torch computes, and int8 weights are stored as int8."""

import copy
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from polyfold.artifact import read_config
from polyfold.errors import InputError, MissingExtra
from polyfold.export import OnnxRuntimeExport, OpenVinoExport, export, export_label, stored_settings, to_onnx
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
    for precision in ("fp32", "int8"):
        model = load_model(toy["folders"][precision]["torch"])
        before = copy.deepcopy(model.classifier.state_dict())
        first, second = to_onnx(model), to_onnx(model)
        assert first.SerializeToString() == second.SerializeToString()
        after = model.classifier.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not any(part.training for part in model.classifier.modules())


def test_weights_and_tables_are_stored_as_int8(toy):
    arrays = stored(to_onnx(toy["int8"]))
    large = [one for one in arrays if one.size > 400]
    assert large
    assert {one.dtype for one in large} == {np.dtype(np.int8)}
    table = token_embedding(toy["fp32"].classifier.encoder).weight
    assert tuple(table.shape) in {one.shape for one in large}
    assert sum(one.nbytes for one in arrays) < 0.4 * sum(one.nbytes for one in stored(to_onnx(toy["fp32"])))


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


# --- precisions --------------------------------------------------------------------------------------------

PRECISIONS = {
    "onnxruntime-fp16": (OnnxRuntimeExport(precision="fp16"), "fp16", 0.02, 0.55),
    "onnxruntime-bf16": (OnnxRuntimeExport(precision="bf16"), "bf16-weights", 0.05, 0.6),
    "onnxruntime-int8-embeddings": (OnnxRuntimeExport(embeddings="int8"), "fp32+int8-embeddings", 0.1, 0.85),
    "onnxruntime-fp16-int8-embeddings": (
        OnnxRuntimeExport(precision="fp16", embeddings="int8"), "fp16+int8-embeddings", 0.1, 0.5,
    ),
    "openvino-fp16": (OpenVinoExport(precision="fp16"), "fp16-weights", 0.02, 0.55),
    "openvino-int8-embeddings": (OpenVinoExport(embeddings="int8"), "fp32+int8-embeddings", 0.1, 0.85),
}  # fmt: skip


@pytest.mark.parametrize("label", PRECISIONS)
def test_other_precisions_are_near_smaller_and_say_what_they_are(label, toy, sessions, tmp_path):
    spec, precision, tolerance, share = PRECISIONS[label]
    assert export_label(spec) == label
    export(spec, toy["fp32"], toy["source"], tmp_path / label)
    assert read_config(tmp_path / label)[0].precision == precision
    ids, mask = ids_for(toy, (64, 16), seed=9)
    found = Predictor.open(tmp_path / label).session.run(ids, mask)
    for name, values in sessions["fp32"]["torch"].run(ids, mask).items():
        assert found[name].dtype == np.float32
        assert 0 < np.abs(found[name] - values).max() <= tolerance * max(1.0, np.abs(values).max())
    whole = toy["folders"]["fp32"][spec.kind]
    binary = "openvino/openvino_model.bin"
    if spec.kind == "openvino":
        assert (tmp_path / label / binary).stat().st_size < share * (whole / binary).stat().st_size
    else:
        sizes = [
            sum(one.nbytes for one in stored(onnx.load(folder / read_config(folder)[0].file)))
            for folder in (tmp_path / label, whole)
        ]
        assert sizes[0] < share * sizes[1]


def test_padding_is_masked_in_half_precision_too(toy, tmp_path):
    # The mask's lowest number must be one that fp16 has: -inf times nothing is no number.
    export(OnnxRuntimeExport(precision="fp16"), toy["fp32"], toy["source"], tmp_path / "half")
    session = Predictor.open(tmp_path / "half").session
    ids, mask = ids_for(toy, (4, 8), seed=3)
    wide = session.run(np.pad(ids, ((0, 0), (0, 9))), np.pad(mask, ((0, 0), (0, 9))))
    for name, values in session.run(ids, mask).items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(wide[name], values, atol=0.02 * max(1.0, np.abs(values).max()))


def test_a_quantized_model_is_not_exported_in_floating_point(toy, tmp_path):
    with pytest.raises(InputError, match="exported in int8, not in fp16"):
        export(OnnxRuntimeExport(precision="fp16"), toy["int8"], toy["source"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_only_what_is_written_names_an_exports_folder():
    assert stored_settings(OpenVinoExport(bf16=True, only=("a",))) == stored_settings(OpenVinoExport())
    assert stored_settings(OnnxRuntimeExport(precision="fp16")) != stored_settings(OnnxRuntimeExport())
