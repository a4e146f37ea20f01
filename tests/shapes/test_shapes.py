"""Every published shape goes the whole way: load, train, distil, prune, trim, quantize, export, save, reload.

The toys have the files, the family and the tokenizer of each shape at two layers of width 32. The same test in
true size is marked `shapes` and run by `make test-shapes`. Weights are random: nothing here is about quality.
"""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from transformers import AutoModel

from polyfold.artifact import Artifact
from polyfold.export import OnnxRuntimeExport, export
from polyfold.export_transformers import STOCK
from polyfold.measure.report import Report
from polyfold.model.backbone import load_backbone
from polyfold.model.classifier import load_model, save_model
from polyfold.model.hub import quietly
from polyfold.pipeline import run
from polyfold.predictor import Predictor
from polyfold.recipe import load_recipe
from polyfold.text import open_tokenizer
from toys_shapes import CORPUS, MBERT, SHAPES, XLM_R, write_shape
from toys_torch import TASKS, toy_documents

MAX_LENGTH = 24
# One of each layout; the others differ in their sizes alone.
TOYS = [
    shape
    for shape in SHAPES
    if shape.name not in ("xlm-roberta-base", "mMiniLMv2-L12-H384-distilled-from-XLMR-Large")
]
STEPS = ("prune", "trim_vocabulary", "int8_qat")
FIT = {
    "epochs": 1, "learning_rate": 1e-4, "batch": {"documents_per_step": 40, "token_budget": 512},
    "checkpoint_minutes": 1e6,
}  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """A finished run over one shape: its backbone's folder, every artifact by what made it, and the report."""

    backbone: Path
    artifacts: dict[str, Artifact]
    report: Report


def write_data(path):
    """Forty documents to train on and half as many for dev and test, as CSV."""
    with path.open("w", encoding="utf8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "language", "split", *(task.name for task in TASKS)])
        for seed, (split, count) in enumerate((("train", 40), ("dev", 20), ("test", 20)), 1):
            documents = toy_documents(count, seed, missing=0.0)
            for row in range(count):
                topics = [
                    label for label, on in zip(TASKS[2].labels, documents.labels["topics"][row], strict=True) if on
                ]
                values = [task.labels[documents.labels[task.name][row]] for task in TASKS[:2]]
                text = f"{documents.texts[row]} {split}{row}"
                writer.writerow(
                    [f"{split}{row}", text, documents.languages[row], split, *values, "|".join(topics) or "[]"]
                )


def recipe(shape, full):
    """The chain as a recipe: the student starts from the same folder and learns from labels, logits, relations."""
    exports = [{"kind": "onnxruntime"}]
    if not full:
        exports.append({"kind": "openvino"})
    if shape.config["model_type"] in STOCK:
        exports.append({"kind": "transformers"})
    fit = {**FIT, "embedding_learning_rate": 0.0} if full else FIT  # the table's moments would fill the memory
    return {
        "name": "shape",
        "data": {
            "path": "toy.csv", "id": "id", "split": "split", "max_length": MAX_LENGTH,
            "tasks": [{"name": task.name, "kind": task.kind} for task in TASKS],
        },
        "teacher": {"backbone": "hub", "fit": fit},
        "compress_teacher": False,
        "students": [{
            "name": "student", "init": {"kind": "backbone", "name": "hub"}, "fit": fit,
            "losses": [
                {"kind": "labels"},
                {"kind": "logits", "temperature": 2.0},
                {"kind": "relations", "relation_heads": 4},
            ],
        }],
        "compress": [
            {"kind": "prune", "target": {"feed_forward": 0.5}, "even": True, "recover": fit},
            {"kind": "trim_vocabulary", "coverage": 1.0},
            {"kind": "int8_qat", "calibration": {"documents": 16}, "fit": {**fit, "learning_rate": 1e-5}},
        ],
        "export": exports,
        "measure": {"baseline": None, "memory": False},
    }  # fmt: skip


def walk(folder, shape, full):
    """Build the folder and run the recipe on it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shape(folder / "hub", shape, full)
    write_data(folder / "toy.csv")
    (folder / "shape.yaml").write_text(yaml.safe_dump(recipe(shape, full)), encoding="utf8")
    report = run(load_recipe(folder / "shape.yaml"), folder, folder / "out")
    finished = [Artifact.open(path.parent) for path in (folder / "out").rglob("manifest.json")]
    names = {"teacher": "teacher", "student": "student"}
    artifacts = {names.get(one.manifest.stage, one.manifest.name.rpartition(".")[2]): one for one in finished}
    return Chain(folder / "hub", artifacts, report)


def texts_of_test():
    return [f"{text} test{row}" for row, text in enumerate(toy_documents(20, 3, missing=0.0).texts)]


def logits_of(folder):
    return Predictor.open(folder).logits(texts_of_test())


def check_chain(chain, shape, full, scratch):
    """All that must be true of a finished chain."""
    check_rows(chain)
    check_loading(chain, shape, full, scratch)
    check_saved_models(chain, scratch)
    check_sizes(chain, shape, full)
    check_parity(chain, scratch)
    if "transformers" in chain.artifacts:
        apart = chain.artifacts["transformers"].manifest.info["largest_score_difference"]
        assert set(apart) == {task.name for task in TASKS}
        assert max(apart.values()) < 1e-5
    else:
        assert shape.config["model_type"] not in STOCK


def check_rows(chain):
    """Every stage has its row; random weights have no quality, whatever was trained on top of them."""
    rows = {row.name: row for row in chain.report.rows}
    named = {".".join(["student", *STEPS[:count]]) for count in range(4)}
    assert named <= set(rows)
    assert {"teacher", "student.prune.trim_vocabulary.int8_qat.onnxruntime"} <= set(rows)


def check_loading(chain, shape, full, scratch):
    """The folder loads as transformers loads it, and its tokenizer fills its table."""
    scratch.mkdir()
    loaded = load_backbone(str(chain.backbone), scratch, scratch)
    assert loaded.family == shape.config["model_type"]
    tokenizer = open_tokenizer(scratch, loaded.tokenizer)
    assert tokenizer.vocabulary_size + shape.spare == loaded.config["vocab_size"]
    if full:
        counted = sum(value.numel() for value in loaded.module.parameters()) / 1e6
        assert counted == pytest.approx(shape.parameters, abs=0.6)
    options = {} if loaded.family == "modernbert" else {"add_pooling_layer": False}
    with quietly():
        theirs = AutoModel.from_pretrained(chain.backbone, **options).eval()
    ids = torch.from_numpy(tokenizer.encode(texts_of_test()[:1], MAX_LENGTH).ids[0])[None]
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
        found = loaded.module.eval()(ids, torch.ones_like(ids))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def check_saved_models(chain, scratch):
    """Every torch folder gives the same logits after it is loaded, saved elsewhere and loaded again."""
    for name in ("student", *STEPS):
        folder = chain.artifacts[name].path
        before = logits_of(folder)
        save_model(load_model(folder), scratch / name, folder)
        after = logits_of(scratch / name)
        for task in TASKS:
            np.testing.assert_array_equal(after[task.name], before[task.name])
        shutil.rmtree(scratch / name)


def check_sizes(chain, shape, full):
    """Each step made the model smaller where it should, and training moved it."""
    sizes = {name: chain.artifacts[name].config()[0] for name in ("teacher", "student", *STEPS)}
    assert sizes["student"].parameters == sizes["teacher"].parameters
    assert sizes["prune"].trunk_parameters < sizes["student"].trunk_parameters
    assert sizes["trim_vocabulary"].trunk_parameters == sizes["prune"].trunk_parameters
    assert sizes["trim_vocabulary"].parameters < sizes["prune"].parameters
    if full:
        # A few hundred pieces are left of a table of tens or hundreds of thousands.
        assert (
            sizes["trim_vocabulary"].parameters
            < 0.5 * sizes["student"].parameters + sizes["prune"].trunk_parameters
        )
    teacher, student = (logits_of(chain.artifacts[name].path) for name in ("teacher", "student"))
    assert all(not np.array_equal(teacher[task.name], student[task.name]) for task in TASKS)


def check_parity(chain, scratch):
    """ONNX Runtime computes torch's logits in fp32; in int8 all but what rounds the other way."""
    trimmed = chain.artifacts["trim_vocabulary"].path
    export(OnnxRuntimeExport(), load_model(trimmed), trimmed, scratch / "fp32")
    assert (scratch / "fp32" / "onnx" / "model.onnx").is_file()
    torch_logits, onnx_logits = logits_of(trimmed), logits_of(scratch / "fp32")
    for task in TASKS:
        np.testing.assert_allclose(onnx_logits[task.name], torch_logits[task.name], atol=1e-4)
    int8 = logits_of(chain.artifacts["int8_qat"].path)
    for runtime in ("onnxruntime", "openvino"):
        if runtime not in chain.artifacts:
            continue
        found = logits_of(chain.artifacts[runtime].path)
        for task in TASKS:
            gap = np.abs(found[task.name] - int8[task.name])
            assert np.median(gap) <= 0.02 * max(1.0, np.abs(int8[task.name]).max())
    check_layout(chain)


def check_layout(chain):
    """The ecosystem's files, inputs and outputs, read with plain ONNX Runtime and OpenVINO."""
    session = onnxruntime.InferenceSession(chain.artifacts["onnxruntime"].path / "onnx" / "model_quantized.onnx")
    assert {(one.name, one.type) for one in session.get_inputs()} == {
        ("input_ids", "tensor(int64)"), ("attention_mask", "tensor(int64)"),
    }  # fmt: skip
    assert [one.name for one in session.get_outputs()] == [f"logits_{task.name}" for task in TASKS]
    if "openvino" in chain.artifacts:
        import openvino

        model = openvino.Core().read_model(chain.artifacts["openvino"].path / "openvino" / "openvino_model.xml")
        assert {one.get_any_name() for one in model.inputs} == {"input_ids", "attention_mask"}
        assert [one.get_any_name() for one in model.outputs] == [f"logits_{task.name}" for task in TASKS]


@pytest.mark.parametrize("shape", TOYS, ids=lambda shape: shape.name)
def test_a_toy_of_every_shape_goes_the_whole_way(tmp_path, shape):
    check_chain(walk(tmp_path, shape, full=False), shape, False, tmp_path / "scratch")


@pytest.mark.shapes
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_every_published_shape_goes_the_whole_way_in_its_true_size(tmp_path, shape):
    for path in (XLM_R, MBERT, CORPUS):
        if not path.exists():
            pytest.skip(f"the real tokenizers and the corpus are not here: {path.name}")
    check_chain(walk(tmp_path, shape, full=True), shape, True, tmp_path / "scratch")
    shutil.rmtree(tmp_path)  # gigabytes of random numbers
