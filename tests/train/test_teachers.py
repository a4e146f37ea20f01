"""A cached teacher is the online teacher, whatever its tokenizer and however many models it is made of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_fit import close, fit_spec, state, train_toy

from polyfold.data.batches import encode
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.model.backbone import load_backbone
from polyfold.model.classifier import load_model, new_classifier
from polyfold.text import open_tokenizer
from polyfold.train.answers import TeacherSet
from polyfold.train.asking import TeachFrom, open_cached_teacher
from polyfold.train.evaluate import predict_logits
from polyfold.train.teachers import open_online_teacher
from toys_torch import (
    LANGUAGES,
    MAX_LENGTH,
    TASKS,
    save_artifact,
    toy_documents,
    toy_model,
    write_hub_folder,
)

DOCUMENTS = toy_documents(40, 1)
NAMES = {task.name for task in TASKS}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Sets of untrained teachers by what is special about them; their logits differ from zero all the same."""
    root = tmp_path_factory.mktemp("teachers")

    def saved(name, seed, tasks=TASKS, languages=None):
        model = toy_model(root / name, seed=seed, tasks=tasks)
        warm = [task.model_copy(update={"temperature": 0.5 + 0.3 * seed}) for task in tasks]
        return save_artifact(model.with_tasks(warm), root / name, root, name, languages)

    write_hub_folder(root / "bert", "bert", seed=5)
    (root / "source").mkdir()
    # Another tokenizer, and shorter texts than the student may read.
    other = new_classifier(load_backbone("bert", root / "source", root), TASKS, 10, 5)
    one = (saved("one", 1),)
    per_language = tuple(
        saved(language, 4 + place, languages=[language]) for place, language in enumerate(LANGUAGES)
    )
    english_sentiment = (saved("english-sentiment", 8, TASKS[1:2], ["en"]),)
    bert = (save_artifact(other, root / "source", root, "other"),)
    return {
        "one": TeacherSet((one,)),
        "per task": TeacherSet((tuple(saved(task.name, 2, (task,)) for task in TASKS),)),
        "per language": TeacherSet((per_language,)),
        "other tokenizer": TeacherSet((bert,)),
        "one task in one language": TeacherSet((english_sentiment,)),
        "mean": TeacherSet(
            (one, per_language, bert, english_sentiment),
            {"domain": (0.5, 0.3, 0.2, 0.0), "sentiment": (0.1, 0.1, 0.1, 0.7)},
        ),
    }


KINDS = ("one", "per task", "per language", "other tokenizer", "one task in one language", "mean")


def student_batches(tmp_path, documents=DOCUMENTS):
    """The documents as a student with a tokenizer of its own reads them, in an order of its own."""
    model = toy_model(tmp_path / "student")
    encoded = encode(documents, open_tokenizer(tmp_path / "student", model.backbone.tokenizer), MAX_LENGTH)
    order = np.random.default_rng(0).permutation(len(documents))
    return [encoded.batch(rows) for rows in np.array_split(order, 7)]


def answered(taught):
    """Logits by task, those that are not covered left out."""
    return {
        name: torch.where(taught.covered[name].unsqueeze(1), taught.logits[name], 0.0) for name in taught.logits
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_answers_as_the_models_themselves_do_online(kind, teachers, tmp_path):
    online = open_online_teacher(teachers[kind], DOCUMENTS, TASKS)
    cached = open_cached_teacher(teachers[kind], DOCUMENTS, TASKS, tmp_path)
    seen = 0
    for batch in student_batches(tmp_path):
        one, other = online(batch), cached(batch)
        assert set(one.logits) == set(other.logits) == set(one.covered) == set(other.covered)
        for name, logits in answered(one).items():
            assert torch.equal(one.covered[name], other.covered[name])
            assert torch.allclose(logits, answered(other)[name], atol=1e-5)
            # Not all alike: a mix-up of rows would show.
            if one.covered[name].sum() > 2:
                assert float(logits[one.covered[name]].std(dim=0).max()) > 1e-3
                seen += 1
    assert seen


@pytest.mark.parametrize("kind", ("one", "per language", "one task in one language"))
def test_cached_and_online_teachers_train_the_same_student(kind, teachers, tmp_path):
    losses = (LabelLoss(), LogitLoss(weight=2.0, temperature=2.0, on="all"))
    found = []
    for mode in ("online", "cached", "none"):
        teacher = None if mode == "none" else TeachFrom(teachers[kind], TASKS, tmp_path, mode)(DOCUMENTS)
        some = losses[:1] if teacher is None else losses
        model, _ = train_toy(
            tmp_path / mode, fit_spec(epochs=1), losses=some, teacher=teacher, documents=DOCUMENTS
        )
        found.append(state(model))
    assert close(found[0], found[1], atol=1e-4)
    assert not close(found[0], found[2], atol=1e-3)


def test_a_set_a_language_answers_as_each_model_does_in_its_language(teachers, tmp_path):
    whole = answered(
        open_cached_teacher(teachers["per language"], DOCUMENTS, TASKS, tmp_path)(everything(tmp_path))
    )
    for artifact, language in zip(teachers["per language"].artifacts, LANGUAGES, strict=True):
        model = load_model(artifact.path)
        encoded = encode(DOCUMENTS, open_tokenizer(artifact.path, model.backbone.tokenizer), MAX_LENGTH)
        alone = predict_logits(model.classifier, model.tasks, encoded, "alone")
        rows = np.asarray(DOCUMENTS.languages) == language
        assert rows.any()
        for name, logits in alone.items():
            assert np.allclose(whole[name][rows], logits[rows], atol=1e-5)


def test_a_document_in_a_language_that_no_teacher_knows_is_not_covered(teachers, tmp_path):
    documents = replace(DOCUMENTS, languages=["fr", *DOCUMENTS.languages[1:]])
    batch = everything(tmp_path, documents)
    for teacher in (
        open_online_teacher(teachers["per language"], documents, TASKS),
        open_cached_teacher(teachers["per language"], documents, TASKS, tmp_path),
    ):
        for name, covered in teacher(batch).covered.items():
            assert covered.tolist() == [False] + [True] * (len(documents) - 1), name


def test_a_task_that_no_teacher_knows_is_not_answered(teachers, tmp_path):
    kind = "one task in one language"
    for teacher in (
        open_online_teacher(teachers[kind], DOCUMENTS, TASKS),
        open_cached_teacher(teachers[kind], DOCUMENTS, TASKS, tmp_path),
    ):
        taught = teacher(everything(tmp_path))
        assert set(taught.logits) == {"sentiment"}
        assert taught.covered["sentiment"].tolist() == [language == "en" for language in DOCUMENTS.languages]


def everything(tmp_path, documents=DOCUMENTS):
    """All documents in one batch."""
    model = toy_model(tmp_path / "student")
    encoded = encode(documents, open_tokenizer(tmp_path / "student", model.backbone.tokenizer), MAX_LENGTH)
    return encoded.batch(np.arange(len(documents)))


def test_a_teacher_gives_no_gradient_and_its_logits_may_be_learned_from(teachers, tmp_path):
    batch = student_batches(tmp_path)[0]
    for teacher in (
        open_online_teacher(teachers["mean"], DOCUMENTS, TASKS),
        open_cached_teacher(teachers["mean"], DOCUMENTS, TASKS, tmp_path),
    ):
        logits = teacher(batch).logits["domain"]
        assert not logits.requires_grad
        student = torch.zeros_like(logits, requires_grad=True)
        (student * logits).sum().backward()
        assert torch.equal(student.grad, logits)


def test_what_is_wanted_of_a_teachers_inside_comes_with_its_answers(teachers, tmp_path):
    batch = student_batches(tmp_path)[0]
    wanted = frozenset({"pooled", "hidden_states", "values"})
    for mode in ("cached", "online"):
        teach = TeachFrom(teachers["other tokenizer"], TASKS, tmp_path, mode)
        assert teach(DOCUMENTS)(batch).internals is None
        teacher = teach(DOCUMENTS, wanted)
        taught = teacher(batch)
        assert set(taught.logits) == NAMES
        assert taught.pooled.shape == (len(batch), 32)
        assert len(taught.internals.hidden_states) == 3
        assert len(taught.internals.values) == 2
        assert taught.internals.queries == ()
        # The first token's last state is what the heads read: nothing came from another document.
        assert torch.equal(taught.internals.hidden_states[-1][:, 0], taught.pooled)
        assert teacher.guide.model.backbone.family == "bert"


def test_nobody_can_look_inside_a_set_of_models(teachers, tmp_path):
    for kind in ("per task", "per language"):
        with pytest.raises(InputError, match="one model"):
            TeachFrom(teachers[kind], TASKS, tmp_path)(DOCUMENTS, frozenset({"pooled"}))
    assert TeachFrom(teachers["mean"], TASKS, tmp_path)(DOCUMENTS, frozenset({"pooled"})).guide is not None


def test_a_teacher_of_other_labels_is_refused(teachers, tmp_path):
    for changes in ({"labels": ("delivery", "billing", "staff")}, {"kind": "multi_label"}):
        tasks = (TASKS[0].model_copy(update=changes), *TASKS[1:])
        with pytest.raises(InputError, match="teacher's task 'domain'"):
            open_cached_teacher(teachers["one"], DOCUMENTS, tasks, tmp_path)
        with pytest.raises(InputError, match="teacher's task 'domain'"):
            open_online_teacher(teachers["one"], DOCUMENTS, tasks)
