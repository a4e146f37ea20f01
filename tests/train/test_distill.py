"""The teacher and student stages on toys: what they train on, where they start, and what they leave behind."""

import numpy as np
import pytest
import torch
from toy_fit import fit_spec

from polyfold.artifact import Artifact, Stage
from polyfold.data.batches import encode
from polyfold.errors import InputError
from polyfold.losses.hidden import HiddenStatesLoss
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.losses.sentence import SentenceLoss
from polyfold.model.backbone import token_embedding
from polyfold.model.classifier import load_model
from polyfold.model.student import BackboneInit, ConvolutionalInit, TeacherInit, TransformerInit
from polyfold.model.trimming import TrimVocabulary
from polyfold.text import open_tokenizer
from polyfold.train.answers import TeacherSet
from polyfold.train.asking import TeachFrom
from polyfold.train.distill import StudentSpec, distill, training_documents
from polyfold.train.evaluate import macro_f1, predict_logits
from polyfold.train.teacher import Scope, TrainedTeacher, train_teacher
from toys_torch import TASKS, toy_dataset, write_hub_folder

NAMES = tuple(task.name for task in TASKS)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The recipe's folder, with two backbones beside it."""
    root = tmp_path_factory.mktemp("base")
    write_hub_folder(root / "bert", "bert")
    write_hub_folder(root / "xlm-roberta", "xlm-roberta")
    return root


def teach(spec, names, base, root, label="teacher"):
    """Run the teacher stage as the pipeline does."""

    def build(folder):
        return {"dev": train_teacher(spec, Scope(names), toy_dataset(), base, folder, 0, label).best_score}

    return Stage("teacher", label, 1, {"names": names, "spec": spec.model_dump(mode="json")}).run(root, build)


def learn(spec, teachers, base, root):
    """Run the student stage as the pipeline does."""

    members = TeacherSet(tuple((one,) for one in teachers))
    opened = TeachFrom(members, TASKS, root / "cache", spec.teacher)

    def build(folder):
        return {"dev": distill(spec, members, opened, toy_dataset(), base, folder, 0).best_score}

    stage = Stage(
        "student", spec.name, 1, spec.model_dump(mode="json"), tuple(one.manifest.key for one in teachers)
    )
    return stage.run(root, build)


@pytest.fixture(scope="module")
def teacher(base, tmp_path_factory) -> Artifact:
    spec = TrainedTeacher(backbone="bert", fit=fit_spec(epochs=12, learning_rate=0.005))
    return teach(spec, NAMES, base, tmp_path_factory.mktemp("teacher"))


def scores(artifact, documents):
    model = load_model(artifact.path)
    encoded = encode(documents, open_tokenizer(artifact.path, model.backbone.tokenizer), model.max_length)
    logits = predict_logits(model.classifier, model.tasks, encoded, "toy")
    return macro_f1(model.tasks, documents, logits), logits


def test_a_teacher_learns_all_its_tasks_and_leaves_a_finished_calibrated_model(teacher):
    teacher.verify()
    found, _ = scores(teacher, toy_dataset().train)
    assert set(found) == set(NAMES)
    assert np.mean(list(found.values())) > 0.8
    dev, _ = scores(teacher, toy_dataset().dev)
    assert np.mean(list(dev.values())) == pytest.approx(teacher.manifest.info["dev"])
    _, tasks = teacher.config()
    assert tasks[2].thresholds is not None
    assert "checkpoints" not in {path.name for path in teacher.path.iterdir()}


def test_a_teacher_a_task_knows_that_task_alone(base, tmp_path):
    spec = TrainedTeacher(backbone="bert", fit=fit_spec(epochs=1))
    artifact = teach(spec, ("sentiment",), base, tmp_path)
    _, tasks = artifact.config()
    assert [task.name for task in tasks] == ["sentiment"]


def test_a_teacher_may_be_trimmed_before_it_is_trained(base, tmp_path):
    spec = TrainedTeacher(backbone="xlm-roberta", trim=TrimVocabulary(coverage=1.0), fit=fit_spec(epochs=1))
    artifact = teach(spec, NAMES, base, tmp_path)
    model = load_model(artifact.path)
    rows = token_embedding(model.classifier.encoder).num_embeddings
    tokenizer = open_tokenizer(artifact.path, model.backbone.tokenizer)
    assert rows == tokenizer.vocabulary_size < 157
    assert torch.isfinite(torch.from_numpy(scores(artifact, toy_dataset().test)[1]["domain"])).all()


@pytest.mark.parametrize(
    "init",
    [
        BackboneInit(name="xlm-roberta"),
        TeacherInit(),
        TransformerInit(layers=1, width=16, heads=2),
        ConvolutionalInit(embedding_width=16, branch_width=8, sentence_width=16, dense_width=8),
    ],
    ids=lambda init: init.kind,
)
def test_every_kind_of_student_is_trained_and_finished(init, teacher, base, tmp_path):
    spec = StudentSpec(
        init=init, fit=fit_spec(epochs=1), losses=(LabelLoss(), LogitLoss(on="all")), unlabelled=True
    )
    artifact = learn(spec, [teacher], base, tmp_path)
    artifact.verify()
    found, logits = scores(artifact, toy_dataset().test)
    assert set(found) == set(NAMES)
    assert all(np.isfinite(values).all() for values in logits.values())
    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 1


def test_a_student_of_its_teachers_own_weights_starts_where_the_teacher_ended(teacher, base, tmp_path):
    spec = StudentSpec(init=TeacherInit(), fit=fit_spec(epochs=0), losses=(LabelLoss(),))
    student = learn(spec, [teacher], base, tmp_path)
    documents = toy_dataset().test
    expected, found = scores(teacher, documents)[1], scores(student, documents)[1]
    assert all(np.array_equal(found[name], expected[name]) for name in NAMES)
    assert not (tmp_path / "cache").exists()


def test_a_student_comes_nearer_to_its_teacher_than_labels_alone_bring_it(teacher, base, tmp_path):
    init = ConvolutionalInit(embedding_width=32, branch_width=8, sentence_width=32, dense_width=24)
    documents = toy_dataset().train
    wanted = scores(teacher, documents)[1]
    distances = {}
    for name, losses in (("labels", (LabelLoss(),)), ("both", (LabelLoss(weight=0.1), LogitLoss(on="all")))):
        spec = StudentSpec(name=name, init=init, fit=fit_spec(epochs=15, learning_rate=0.02), losses=losses)
        found = scores(learn(spec, [teacher], base, tmp_path), documents)[1]
        chances = {task.name: task.probabilities(found[task.name]) for task in TASKS}
        distances[name] = np.mean(
            [np.abs(chances[task.name] - task.probabilities(wanted[task.name])).mean() for task in TASKS]
        )
    assert distances["both"] < 0.7 * distances["labels"]


def test_documents_are_those_that_some_loss_learns_from():
    data = toy_dataset(missing=0.6)
    labelled = int(np.any([data.train.labelled(task) for task in TASKS], axis=0).sum())
    assert labelled < len(data.train)
    assert len(training_documents((LabelLoss(),), data, TASKS, unlabelled=False)) == labelled
    some = (LabelLoss(), LogitLoss(on="labelled"))
    everything = (LabelLoss(), LogitLoss(on="all"))
    assert len(training_documents(some, data, TASKS, unlabelled=False)) == labelled
    assert len(training_documents(everything, data, TASKS, unlabelled=False)) == len(data.train)
    more = training_documents(everything, data, TASKS, unlabelled=True)
    assert len(more) == len(data.train) + len(data.unlabelled)
    assert list(more.texts[-len(data.unlabelled) :]) == list(data.unlabelled.texts)
    assert not any(more.labelled(task)[-len(data.unlabelled) :].any() for task in TASKS)
    with pytest.raises(InputError, match="on: all"):
        training_documents(some, data, TASKS, unlabelled=True)


def test_a_student_starts_from_the_first_member_that_is_one_model_and_from_no_set(teacher, base, tmp_path):
    spec = StudentSpec(init=TeacherInit(), fit=fit_spec(epochs=0), losses=(LabelLoss(),))
    single = teach(TrainedTeacher(backbone="bert", fit=fit_spec(epochs=0)), ("domain",), base, tmp_path)
    several = TeacherSet(((single, teacher), (teacher,)))
    opened = TeachFrom(several, TASKS, tmp_path / "cache")

    def build(folder):
        return {"dev": distill(spec, several, opened, toy_dataset(), base, folder, 0).best_score}

    student = Stage("student", "student", 1, {}).run(tmp_path, build)
    documents = toy_dataset().test
    expected, found = scores(teacher, documents)[1], scores(student, documents)[1]
    assert all(np.array_equal(found[name], expected[name]) for name in NAMES)
    with pytest.raises(InputError, match="one model"):
        distill(spec, TeacherSet(((single, teacher),)), opened, toy_dataset(), base, tmp_path, 0)


def test_a_student_keeps_the_heads_of_the_tasks_its_teacher_knows_and_learns_the_others(base, tmp_path):
    known = teach(TrainedTeacher(backbone="bert", fit=fit_spec(epochs=1)), ("sentiment",), base, tmp_path)
    spec = StudentSpec(init=TeacherInit(), fit=fit_spec(epochs=0), losses=(LabelLoss(),))
    student = learn(spec, [known], base, tmp_path)
    documents = toy_dataset().test
    expected, found = scores(known, documents)[1], scores(student, documents)[1]
    assert np.array_equal(found["sentiment"], expected["sentiment"])
    assert set(found) == set(NAMES)


def test_a_student_looks_inside_a_teacher_of_its_own_tokenizer_while_the_logits_come_from_the_cache(
    teacher, base, tmp_path
):
    small = TransformerInit(layers=1, width=16, heads=2)
    losses = (LabelLoss(), LogitLoss(on="all"), HiddenStatesLoss(layers="last"), SentenceLoss())
    found = []
    for mode in ("cached", "online"):
        spec = StudentSpec(name=mode, init=small, fit=fit_spec(epochs=1), losses=losses, teacher=mode)
        found.append(scores(learn(spec, [teacher], base, tmp_path), toy_dataset().test)[1])
        assert (tmp_path / "cache").exists()
    assert all(np.allclose(found[0][name], found[1][name], atol=1e-3) for name in NAMES)


def test_layers_of_a_teacher_with_another_tokenizer_are_refused_and_its_sentences_are_not(teacher, base, tmp_path):
    other = BackboneInit(name="xlm-roberta")
    layerwise = StudentSpec(init=other, losses=(LabelLoss(), HiddenStatesLoss(layers="last")))
    with pytest.raises(InputError, match="cut texts differently"):
        learn(layerwise, [teacher], base, tmp_path)
    whole = StudentSpec(init=other, losses=(LabelLoss(), LogitLoss(), SentenceLoss()), fit=fit_spec(epochs=1))
    learn(whole, [teacher], base, tmp_path).verify()
