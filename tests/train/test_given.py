"""A given model answers as it did where it came from, in our names and order, or is refused with reasons."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from polyfold.artifact import Artifact, Stage, read_config
from polyfold.batch import Batch
from polyfold.errors import InputError
from polyfold.export import OnnxRuntimeExport, export
from polyfold.model.classifier import load_model
from polyfold.predictor import Predictor
from polyfold.tasks import Task
from polyfold.train.answers import TeacherSet
from polyfold.train.asking import TeachFrom, ask
from polyfold.train.given import finished_model, given_files, given_scope, import_teacher, match_labels
from polyfold.train.teacher import GivenTeacher
from toys_torch import TASKS, save_artifact, toy_dataset, toy_model, write_hub_folder

NAMES = tuple(task.name for task in TASKS)
DATA = toy_dataset()
SENTIMENT = TASKS[1]
KINDS = ("bert", "xlm-roberta", "distilbert")


def write_stock(folder, kind, labels, problem_type=None, seed=0):
    """A stock classifier over a toy encoder, as `save_pretrained` leaves it, whose weights decide something."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    write_hub_folder(folder, kind, seed)
    names = dict(enumerate(labels))
    config = AutoConfig.from_pretrained(
        folder, num_labels=len(labels), id2label=names, label2id={name: index for index, name in names.items()}
    )
    config.problem_type = problem_type
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.ndim == 2 and "embedding" not in name:
                values.mul_(8.0)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    return folder


def bring_in(spec, base, root):
    """The import stage, as the pipeline runs it."""
    scope = given_scope(spec, base, NAMES)
    stage = Stage("import", "given", 1, {"languages": scope.languages}, (), given_files(spec, base))
    return stage.run(root, lambda folder: import_teacher(spec, scope, DATA, base, folder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stock_classifier_answers_as_the_transformers_pipeline_does(kind, tmp_path):
    from transformers import pipeline

    # The other order, and another case.
    write_stock(tmp_path / "stock", kind, ("Bad", "GOOD"))
    artifact = bring_in(GivenTeacher(name="stock", task="sentiment"), tmp_path, tmp_path / "out")
    texts = [*DATA.test.texts[:12], "paket"]
    stock = pipeline("text-classification", model=str(tmp_path / "stock"), top_k=None, device="cpu")
    expected = [{one["label"].lower(): one["score"] for one in found} for found in stock(texts)]
    (task,) = read_config(artifact.path)[1]
    logits = Predictor.open(artifact.path).logits(texts)["sentiment"]
    plain = task.model_copy(update={"temperature": 1.0}).probabilities(logits)
    assert task.labels == SENTIMENT.labels
    for row, scores in enumerate(expected):
        assert plain[row].tolist() == pytest.approx([scores[label] for label in SENTIMENT.labels], abs=1e-5)
    assert np.ptp(plain[:, 0]) > 0.02


def test_a_stock_classifier_of_several_labels_answers_as_the_pipeline_does(tmp_path):
    from transformers import pipeline

    given = ("look", "LABEL_X", "price", "speed")
    write_stock(tmp_path / "stock", "bert", given, "multi_label_classification")
    spec = GivenTeacher(name="stock", task="topics", labels={"LABEL_X": "taste"})
    artifact = bring_in(spec, tmp_path, tmp_path / "out")
    texts = list(DATA.test.texts[:8])
    stock = pipeline("text-classification", model=str(tmp_path / "stock"), top_k=None, device="cpu")
    (task,) = read_config(artifact.path)[1]
    logits = Predictor.open(artifact.path).logits(texts)["topics"]
    plain = task.model_copy(update={"temperature": 1.0}).probabilities(logits)
    for row, found in enumerate(stock(texts)):
        scores = {spec.labels.get(one["label"], one["label"]): one["score"] for one in found}
        assert plain[row].tolist() == pytest.approx([scores[label] for label in TASKS[2].labels], abs=1e-5)
    assert task.thresholds is not None


def test_a_stock_classifier_teaches_online_and_from_the_cache_in_its_language_alone(tmp_path):
    write_stock(tmp_path / "stock", "bert", ("good", "bad"))
    artifact = bring_in(GivenTeacher(name="stock", task="sentiment", languages=("en",)), tmp_path, tmp_path)
    shutil.rmtree(tmp_path / "stock")
    teachers = TeacherSet(((artifact,),))
    ids = torch.zeros((len(DATA.train), 1), dtype=torch.int64)
    batch = Batch(ids, torch.ones_like(ids), torch.arange(len(DATA.train)))
    found = [TeachFrom(teachers, TASKS, tmp_path, mode)(DATA.train)(batch) for mode in ("cached", "online")]
    english = [language == "en" for language in DATA.train.languages]
    for taught in found:
        assert set(taught.logits) == {"sentiment"}
        assert taught.covered["sentiment"].tolist() == english
    assert torch.allclose(found[0].logits["sentiment"], found[1].logits["sentiment"], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_may_look_inside_a_stock_classifier(kind, tmp_path):
    from transformers import AutoModelForSequenceClassification

    write_stock(tmp_path / "stock", kind, ("good", "bad"))
    artifact = bring_in(GivenTeacher(name="stock", task="sentiment"), tmp_path, tmp_path)
    wanted = frozenset({"pooled", "hidden_states", "queries"})
    teacher = TeachFrom(TeacherSet(((artifact,),)), TASKS, tmp_path)(DATA.dev, wanted)
    internals = teacher(_one_document()).internals
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "stock").eval()
    own = teacher.guide.encoded.batch(np.array([0]))
    expected = stock(own.input_ids, own.attention_mask, output_hidden_states=True).hidden_states
    assert len(expected) == len(internals.hidden_states) == 3
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(expected, internals.hidden_states, strict=True))
    assert [one.shape for one in internals.queries] == [expected[0].shape] * 2


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Models of ours: one of all tasks, the same exported, one with its labels turned round, one of one task."""
    root = tmp_path_factory.mktemp("artifacts")
    model = toy_model(root / "source", seed=3)
    found = {"whole": save_artifact(model, root / "source", root, "whole")}

    def exported(folder):
        export(OnnxRuntimeExport(), model, root / "source", folder)
        return {}

    found["onnx"] = Stage("export", "onnx", 1, {}).run(root, exported)
    turned = [task.model_copy(update={"labels": task.labels[::-1]}) for task in TASKS]
    extra = Task(name="extra", labels=("p", "q"))
    other = toy_model(root / "turned-source", seed=4, tasks=(extra, *turned))
    found["turned"] = save_artifact(other, root / "turned-source", root, "turned")
    mood = SENTIMENT.model_copy(update={"name": "mood"})
    found["mood"] = save_artifact(
        toy_model(root / "mood-source", seed=5, tasks=(mood,)), root / "mood-source", root, "mood", ["de"]
    )
    return found


def given(artifact, **settings):
    return GivenTeacher(name=str(artifact.path), **settings)


@pytest.mark.parametrize("kind", ("whole", "onnx"))
def test_a_model_of_ours_answers_as_before(kind, artifacts, tmp_path):
    artifact = bring_in(given(artifacts[kind]), tmp_path, tmp_path)
    before, after = (Predictor.open(one.path).logits(DATA.test.texts) for one in (artifacts[kind], artifact))
    for name in NAMES:
        assert np.array_equal(before[name], after[name])
    tasks = {task.name: task for task in read_config(artifact.path)[1]}
    # Its temperatures were fitted on our dev split.
    assert all(tasks[name].temperature != 1.0 for name in NAMES)
    assert tasks["topics"].thresholds is not None


def test_labels_are_brought_into_our_order_and_tasks_that_we_do_not_have_are_left_behind(artifacts, tmp_path):
    artifact = bring_in(given(artifacts["turned"]), tmp_path, tmp_path)
    before, after = (Predictor.open(one.path).logits(DATA.test.texts) for one in (artifacts["turned"], artifact))
    assert set(before) == {*NAMES, "extra"}
    assert set(after) == set(NAMES)
    for task in TASKS:
        assert np.allclose(before[task.name][:, ::-1], after[task.name], atol=1e-6)
    assert {task.labels for task in load_model(artifact.path).tasks} == {task.labels for task in TASKS}


def test_a_model_of_one_task_may_answer_under_another_name_and_says_its_languages_itself(artifacts, tmp_path):
    spec = given(artifacts["mood"], task="sentiment")
    assert given_scope(spec, tmp_path, NAMES).languages == ("de",)
    artifact = bring_in(spec, tmp_path, tmp_path)
    answers = ask(TeacherSet(((artifact,),)), DATA.test, TASKS)
    assert set(answers) == {"sentiment"}
    assert answers["sentiment"].covered.tolist() == [language == "de" for language in DATA.test.languages]


def test_what_is_imported_stands_alone(artifacts, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(artifacts["onnx"].path, copied)
    (copied / "README.md").write_text("a card", encoding="utf8")
    artifact = bring_in(GivenTeacher(name="copied"), tmp_path, tmp_path)
    assert set(artifact.manifest.inputs) == {"config.json", "onnx/model.onnx", "sentencepiece.model"}
    shutil.rmtree(copied)
    Artifact.open(artifact.path).verify()
    assert np.isfinite(Predictor.open(artifact.path).logits(["waiter"])["domain"]).all()


def test_a_damaged_model_is_not_imported(artifacts, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(artifacts["whole"].path, copied)
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="does not match its checksum"):
        bring_in(GivenTeacher(name="copied"), tmp_path, tmp_path / "out")


# --- what does not fit ---


def refused(spec, base, root, words, data=None):
    names = NAMES if data is None else tuple(task.name for task in data.tasks)
    with pytest.raises(InputError, match=words) as caught:
        scope = given_scope(spec, base, names)
        root.mkdir(exist_ok=True)
        import_teacher(spec, scope, data or DATA, base, root)
    return str(caught.value)


def test_labels_that_do_not_fit_are_listed_on_both_sides(tmp_path):
    write_stock(tmp_path / "stock", "bert", ("LABEL_0", "LABEL_1"))
    said = refused(GivenTeacher(name="stock", task="sentiment"), tmp_path, tmp_path / "out", "do not fit")
    for word in ("sentiment", "LABEL_0, LABEL_1", "good, bad", "labels: {LABEL_0:"):
        assert word in said
    mapped = GivenTeacher(name="stock", task="sentiment", labels={"LABEL_0": "bad", "LABEL_1": "good"})
    assert bring_in(mapped, tmp_path, tmp_path / "fits").config()[1][0].labels == SENTIMENT.labels
    wrong = GivenTeacher(name="stock", task="sentiment", labels={"LABEL_7": "bad"})
    assert "LABEL_0, LABEL_1" in refused(wrong, tmp_path, tmp_path / "out", "no label 'LABEL_7'")
    three = GivenTeacher(name="stock", task="domain")
    refused(three, tmp_path, tmp_path / "out", "do not fit task 'domain'")


@pytest.mark.parametrize(
    ("labels", "problem_type", "task"),
    [
        (("good", "bad"), "multi_label_classification", "sentiment"),
        (("good", "bad"), "regression", "sentiment"),
        (("price", "speed", "taste", "look"), None, "topics"),
        (("price", "speed", "taste", "look"), "single_label_classification", "topics"),
    ],
)
def test_a_problem_type_must_fit_the_kind_of_the_task(labels, problem_type, task, tmp_path):
    write_stock(tmp_path / "stock", "bert", labels, problem_type)
    refused(GivenTeacher(name="stock", task=task), tmp_path, tmp_path / "out", "problem_type")


def test_an_encoder_without_a_head_is_no_classifier(tmp_path):
    write_hub_folder(tmp_path / "bare", "bert")
    spec = GivenTeacher(name="bare", task="sentiment", labels={"LABEL_0": "good", "LABEL_1": "bad"})
    refused(spec, tmp_path, tmp_path / "out", "no trained classifier")


def test_a_model_that_is_nowhere_is_named(tmp_path):
    refused(GivenTeacher(name="nowhere", task="sentiment"), tmp_path, tmp_path / "out", "'nowhere'")


def test_a_stock_classifier_must_be_given_a_task(tmp_path):
    write_stock(tmp_path / "stock", "bert", ("good", "bad"))
    said = refused(GivenTeacher(name="stock"), tmp_path, tmp_path / "out", "which task")
    assert "domain, sentiment, topics" in said


def test_a_model_of_ours_must_have_a_task_of_the_data(artifacts, tmp_path):
    said = refused(given(artifacts["mood"]), tmp_path, tmp_path / "out", "none of these is a task")
    assert "mood" in said
    refused(given(artifacts["turned"], task="weather"), tmp_path, tmp_path / "out", "no task 'weather'")


def test_an_export_cannot_be_given_another_order_of_labels(artifacts, tmp_path):
    turned = tuple(task.model_copy(update={"labels": task.labels[::-1]}) for task in TASKS)
    data = replace(DATA, tasks=turned)
    refused(given(artifacts["onnx"]), tmp_path, tmp_path / "out", "another order of labels", data)


def test_a_task_of_another_kind_is_refused(artifacts, tmp_path):
    data = replace(DATA, tasks=(SENTIMENT.model_copy(update={"kind": "multi_label"}),))
    refused(
        given(artifacts["whole"]), tmp_path, tmp_path / "out", "is single_label, 'sentiment' of the data", data
    )


def test_exports_teach_from_the_cache_but_not_online(artifacts, tmp_path):
    teachers = TeacherSet(((artifacts["onnx"],),))
    assert set(TeachFrom(teachers, TASKS, tmp_path)(DATA.dev)(_one_document()).logits) == set(NAMES)
    with pytest.raises(InputError, match="holds no torch weights"):
        TeachFrom(teachers, TASKS, tmp_path, "online")(DATA.dev)


def _one_document():
    ids = torch.zeros((1, 1), dtype=torch.int64)
    return Batch(ids, torch.ones_like(ids), torch.zeros(1, dtype=torch.int64))


# --- labels by name ---


@pytest.mark.parametrize(
    ("names", "meanings", "expected"),
    [
        (("a", "b", "C"), {}, [0, 1, 2]),
        (("C", "a", "b"), {}, [1, 2, 0]),
        (("c", "A", "B"), {}, [1, 2, 0]),
        (("x", "b", "C"), {"x": "a"}, [0, 1, 2]),
        # Two labels may trade names.
        (("a", "b", "C"), {"a": "b", "b": "a"}, [1, 0, 2]),
    ],
)
def test_labels_are_matched_by_name(names, meanings, expected):
    assert match_labels(names, Task(name="t", labels=("a", "b", "C")), meanings, "model") == expected


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c", "d"), ("a", "a", "b"), ("a", "b", "d")])
def test_labels_that_are_not_the_tasks_are_refused(names):
    with pytest.raises(InputError, match="do not fit"):
        match_labels(names, Task(name="t", labels=("a", "b", "c")), {}, "model")


def test_labels_that_differ_in_case_alone_are_matched_exactly():
    task = Task(name="t", labels=("a", "A"))
    assert match_labels(("A", "a"), task, {}, "model") == [1, 0]
    with pytest.raises(InputError, match="do not fit"):
        match_labels(("b", "a"), task, {}, "model")


def test_what_is_no_model_of_ours_is_taken_for_a_stock_one(artifacts, tmp_path):
    assert finished_model(str(artifacts["whole"].path), tmp_path).trainable
    assert not finished_model(str(artifacts["onnx"].path), tmp_path).trainable
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf8")
    assert finished_model(str(tmp_path), tmp_path) is None
    assert finished_model("some/hub-id", tmp_path) is None


def test_a_path_to_nothing_is_no_hub_id(tmp_path):
    for name in ("../nowhere", "./nowhere", "/nowhere"):
        with pytest.raises(InputError, match="there is no such folder"):
            given_scope(GivenTeacher(kind="given", name=name), tmp_path, NAMES)
