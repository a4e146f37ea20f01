"""`polyfold extend`: the stage it leaves, and the tolerance that its old answers are held to."""

import json

import pytest

from polyfold.artifact import Artifact, Stage
from polyfold.model.classifier import load_model, save_model
from polyfold.predictor import Predictor
from polyfold.recipe import load_recipe
from polyfold.study.extend import extend_folder, kept_table
from toys_pipeline import (
    TASK_BLOCK,
    TASKS,
    digests,
    toy_rows,
    transformer_model,
    write_toy_data,
    write_toy_project,
)

FIT = {"epochs": 2, "learning_rate": 2e-3, "batch": {"documents_per_step": 12}}
DOMAIN, SENTIMENT, TOPICS = TASK_BLOCK


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A model that knows two of the toy data's three tasks."""
    root = tmp_path_factory.mktemp("old")
    whole = transformer_model(root / "source")
    del whole.classifier.heads["sentiment"]
    model = whole.with_tasks([task for task in TASKS if task.name != "sentiment"])

    def build(folder):
        save_model(model, folder, root / "source")
        path = folder / "config.json"
        content = json.loads(path.read_bytes())
        content["polyfold"]["weights"] = "trained"
        path.write_text(json.dumps(content), encoding="utf8")
        return {}

    return Stage("student", "old", 1, {}).run(root, build).path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe whose data add the task of sentiment; their new labels for a known task are left out."""
    folder = tmp_path_factory.mktemp("project")
    data = {"path": "toy.csv", "id": "id", "split": "split", "tasks": [SENTIMENT], "max_length": 24}
    path = write_toy_project(folder, data=data, extend={"fit": FIT})
    write_toy_data(folder / "toy.csv", toy_rows(120))
    return path


def test_a_frozen_extension_is_within_any_tolerance_and_found_again(old, recipe, tmp_path, polyfold):
    arguments = ["extend", old, recipe, "--out", tmp_path, "--set", "extend.freeze=true", "--tolerance", "0"]
    code, out, err = polyfold(*arguments)
    assert code == 0
    assert "domain" in out and "kept" in out and "CHANGED" not in out
    (folder,) = tmp_path.glob("extended-*")
    assert str(folder) in err.replace("\n", "") and "new tasks: sentiment" in err
    artifact = Artifact.open(folder)
    artifact.verify()
    info = artifact.manifest.info
    assert (info["tolerance_percent"], info["within_tolerance"], info["new_tasks"]) == (0.0, True, ["sentiment"])
    texts = [row["text"] for row in toy_rows(120)]
    before, after = (Predictor.open(one).logits(texts) for one in (old, folder))
    assert set(after) == {"domain", "topics", "sentiment"}
    assert all((before[name] == after[name]).all() for name in before)
    # The old tasks stand first and as they were; the new one was calibrated.
    tasks = artifact.config()[1]
    assert tasks[:2] == load_model(old).tasks and tasks[2].name == "sentiment"
    assert tasks[2].temperature != 1.0
    left = digests(tmp_path)
    assert polyfold(*arguments)[0] == 0
    assert digests(tmp_path) == left


def test_answers_that_changed_too_much_end_with_exit_code_one_and_the_model_is_kept(
    old, recipe, tmp_path, polyfold
):
    loose = ["--set", "extend.keep={kind: logits, on: all, weight: 0}", "--set", "extend.fit.learning_rate=0.05"]
    arguments = ["extend", old, recipe, "--out", tmp_path, *loose]
    code, out, err = polyfold(*arguments, "--tolerance", "0.5")
    assert code == 1
    assert "more than 0.5 % of the answers changed" in err and "CHANGED" in out
    assert "Traceback" not in err
    (folder,) = tmp_path.glob("extended-*")
    info = Artifact.open(folder).manifest.info
    assert info["within_tolerance"] is False
    documents, flipped = info["kept"]["domain"]
    # Counted on dev: as many as predicting before and after tells.
    texts = [row["text"] for row in toy_rows(120) if row["split"] == "dev"]
    before, after = (Predictor.open(one).predict(texts) for one in (old, folder))
    assert documents == len(texts)
    assert flipped == sum(
        one.labels["domain"] != other.labels["domain"] for one, other in zip(before, after, strict=True)
    )
    # Judged anew, not trained anew.
    weights = (folder / "model.safetensors").stat().st_mtime_ns
    assert polyfold(*arguments, "--tolerance", "100")[0] == 0
    judged = Artifact.open(folder)
    judged.verify()
    assert judged.manifest.info["within_tolerance"] is True
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    assert polyfold(*arguments, "--tolerance", "0.5")[0] == 1
    assert Artifact.open(folder).manifest.info["within_tolerance"] is False


def test_a_model_with_other_weights_is_extended_anew(old, recipe, tmp_path):
    loaded = load_recipe(recipe, ["extend.fit.epochs=0"])
    first = extend_folder(old, loaded, recipe.parent, tmp_path / "out")

    def build(folder):
        model = load_model(old)
        model.classifier.heads["domain"].bias.data += 1.0
        save_model(model, folder, old)
        return {}

    # The key of its stage is the same; what it holds is not.
    other = Stage("student", "old", 1, {}).run(tmp_path / "other", build)
    second = extend_folder(other.path, loaded, recipe.parent, tmp_path / "out")
    assert first.artifact.path != second.artifact.path
    assert first.kept == second.kept
    assert [row[0] for row in kept_table(first).rows] == ["domain", "topics"]


def test_mistakes_end_with_one_message_and_leave_no_model(old, recipe, tmp_path, polyfold, torch_toys):
    quantized = torch_toys["transformer"]["folders"]["int8"]
    wrapped = Stage("int8_qat", "small.int8_qat", 1, {}).run(tmp_path / "int8", _copied(quantized["torch"]))
    exported = Stage("export", "small.onnx", 1, {}).run(tmp_path / "onnx", _copied(quantized["onnxruntime"]))
    more = "data.tasks=[{name: domain, labels: [billing, delivery, website, returns]}]"
    cases = [
        ([wrapped.path, recipe], "extend the float model it was made from, then quantize that again"),
        ([exported.path, recipe], "cannot be trained on"),
        ([tmp_path / "nowhere", recipe], "not a finished artifact"),
        ([old, recipe, "--set", more], "labels that the model does not know: returns"),
        ([old, recipe, "--set", "data.tasks=[{name: domain}]"], "nothing new to learn"),
        ([old, recipe, "--set", "extend.keep.on=labelled"], "give `on: all`"),
        ([old, recipe, "--tolerance", "101"], "--tolerance"),
    ]
    for number, (arguments, said) in enumerate(cases):
        root = tmp_path / str(number)
        code, out, err = polyfold("extend", *arguments, "--out", root)
        assert (code, out) == (2, ""), err
        assert said in " ".join(err.split())
        assert "Traceback" not in err
        assert not list(root.glob("extended-*"))


def _copied(source):
    import shutil

    def build(folder):
        shutil.copytree(source, folder, dirs_exist_ok=True)
        return {}

    return build
