"""A cached teacher is the online teacher, whatever its tokenizer and however many models it is made of."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from toy_fit import close, fit_spec, state, train_toy

from polyfold.artifact import Artifact
from polyfold.data.batches import encode
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.model.backbone import load_backbone
from polyfold.model.classifier import new_classifier
from polyfold.tasks import Task
from polyfold.text import open_tokenizer
from polyfold.train.teachers import open_cached_teacher, open_online_teacher, require_tasks
from toys_torch import MAX_LENGTH, TASKS, save_artifact, toy_documents, toy_model, write_hub_folder

DOCUMENTS = toy_documents(40, 1)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Sets of untrained teachers by what is special about them; their logits differ from zero all the same."""
    root = tmp_path_factory.mktemp("teachers")
    model = toy_model(root / "multi", seed=11)
    found = {"one": [save_artifact(model, root / "multi", root, "one")], "per task": []}
    for number, task in enumerate(TASKS):
        source = root / task.name
        single = toy_model(source, seed=20 + number, tasks=(task,))
        found["per task"].append(save_artifact(single, source, root, task.name))
    write_hub_folder(root / "bert", "bert", seed=5)
    (root / "source").mkdir()
    # Another tokenizer, and shorter texts than the student may read.
    other = new_classifier(load_backbone("bert", root / "source", root), TASKS, 10, 5)
    found["other tokenizer"] = [save_artifact(other, root / "source", root, "other")]
    return found


def student_batches(tmp_path, documents=DOCUMENTS):
    """The documents as a student with a tokenizer of its own reads them, in an order of its own."""
    model = toy_model(tmp_path / "student")
    encoded = encode(documents, open_tokenizer(tmp_path / "student", model.backbone.tokenizer), MAX_LENGTH)
    order = np.random.default_rng(0).permutation(len(documents))
    return [encoded.batch(rows) for rows in np.array_split(order, 7)]


KINDS = ("one", "per task", "other tokenizer")


@pytest.mark.parametrize("kind", KINDS)
def test_cached_logits_are_the_online_logits_of_the_same_documents(kind, teachers, tmp_path):
    online = open_online_teacher(teachers[kind], DOCUMENTS)
    cached = open_cached_teacher(teachers[kind], DOCUMENTS, tmp_path)
    for batch in student_batches(tmp_path):
        one, other = online(batch).logits, cached(batch).logits
        assert set(one) == set(other) == {task.name for task in TASKS}
        for task in TASKS:
            assert one[task.name].shape == (len(batch), len(task.labels))
            assert torch.allclose(one[task.name], other[task.name], atol=1e-5)
            # Not all alike: a mix-up of rows would show.
            assert float(one[task.name].std(dim=0).max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_cached_and_online_teachers_train_the_same_student(kind, teachers, tmp_path):
    losses = (LabelLoss(), LogitLoss(weight=2.0, temperature=2.0, on="all"))
    found = []
    for mode, open_teacher in (
        ("online", open_online_teacher(teachers[kind], DOCUMENTS)),
        ("cached", open_cached_teacher(teachers[kind], DOCUMENTS, tmp_path)),
        ("none", None),
    ):
        some = losses if open_teacher else losses[:1]
        model, _ = train_toy(
            tmp_path / mode, fit_spec(epochs=1), losses=some, teacher=open_teacher, documents=DOCUMENTS
        )
        found.append(state(model))
    assert close(found[0], found[1], atol=1e-4)
    assert not close(found[0], found[2], atol=1e-2)


def test_a_teacher_gives_no_gradient_and_its_logits_may_be_learned_from(teachers, tmp_path):
    batch = student_batches(tmp_path)[0]
    for teacher in (
        open_online_teacher(teachers["one"], DOCUMENTS),
        open_cached_teacher(teachers["one"], DOCUMENTS, tmp_path),
    ):
        logits = teacher(batch).logits["domain"]
        assert not logits.requires_grad
        student = torch.zeros_like(logits, requires_grad=True)
        (student * logits).sum().backward()
        assert torch.equal(student.grad, logits)


def count_caches(folder):
    return len(list(folder.glob("teacher-*.arrow")))


def test_a_cache_is_computed_once_and_never_for_other_documents_or_teachers(teachers, tmp_path, monkeypatch):
    first = open_cached_teacher(teachers["one"], DOCUMENTS, tmp_path)
    path = next(tmp_path.glob("*.arrow"))
    written = path.stat().st_mtime_ns
    again = open_cached_teacher(teachers["one"], DOCUMENTS, tmp_path)
    assert path.stat().st_mtime_ns == written
    batch = student_batches(tmp_path)[0]
    assert torch.equal(first(batch)["topics"], again(batch)["topics"])

    # Labels are not what a teacher reads.
    open_cached_teacher(teachers["one"], replace(DOCUMENTS, labels={}), tmp_path)
    assert count_caches(tmp_path) == 1
    reordered = DOCUMENTS.take(np.arange(len(DOCUMENTS))[::-1])
    open_cached_teacher(teachers["one"], reordered, tmp_path)
    assert count_caches(tmp_path) == 2
    changed = replace(DOCUMENTS, texts=[*DOCUMENTS.texts[:-1], "waiter"])
    fresh = open_cached_teacher(teachers["one"], changed, tmp_path)
    assert count_caches(tmp_path) == 3
    whole = np.arange(len(DOCUMENTS))
    model = toy_model(tmp_path / "student")
    batch = encode(changed, open_tokenizer(tmp_path / "student", model.backbone.tokenizer), MAX_LENGTH).batch(
        whole
    )
    online = open_online_teacher(teachers["one"], changed)(batch).logits
    assert torch.allclose(fresh(batch).logits["domain"], online["domain"], atol=1e-5)
    assert not torch.allclose(first(batch).logits["domain"][-1], fresh(batch).logits["domain"][-1], atol=1e-4)

    open_cached_teacher(teachers["per task"], DOCUMENTS, tmp_path)
    stale = teachers["one"][0]
    newer = Artifact(stale.path, stale.manifest.model_copy(update={"key": "another key"}))
    open_cached_teacher([newer], DOCUMENTS, tmp_path)
    assert count_caches(tmp_path) == 5


def test_a_cache_that_was_not_finished_is_not_read(teachers, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pa.ipc, "new_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_cached_teacher(teachers["one"], DOCUMENTS, tmp_path)
    assert count_caches(tmp_path) == 0
    open_cached_teacher(teachers["one"], DOCUMENTS, tmp_path)
    assert count_caches(tmp_path) == 1


def test_a_teacher_of_other_labels_is_refused():
    own = Task(name="domain", labels=("billing", "delivery", "staff"))
    require_tasks([own], [own])
    require_tasks([own], [Task(name="other", labels=("a", "b"))])
    for changes in ({"labels": ("delivery", "billing", "staff")}, {"kind": "multi_label"}):
        with pytest.raises(InputError, match="teacher's task 'domain'"):
            require_tasks([own.model_copy(update=changes)], [own])
