"""Ablating distillation: what is trained, what is held against what, and what the verdicts say."""

import json

import numpy as np
import pytest

from polyfold import metrics
from polyfold.artifact import Stage
from polyfold.data.dataset import Documents
from polyfold.data.prepare import load_dataset, prepare
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.losses.sentence import SentenceLoss
from polyfold.model.student import ConvolutionalInit
from polyfold.recipe import load_recipe
from polyfold.study.ablate import FULL, LABELS, Ablation, AblationSpec, ablate, contrast, pairs_of, variants_of
from polyfold.study.ablate_views import (
    ablation_html,
    ablation_markdown,
    ablation_tables,
    sentences,
    write_ablation,
)
from polyfold.tasks import NOT_LABELLED, Task
from polyfold.train.distill import StudentSpec
from polyfold.train.fit import FitSpec
from polyfold.train.teacher import Scope, TrainedTeacher, train_teacher
from toys_pipeline import MAX_LENGTH, TASK_BLOCK, digests, toy_rows, write_toy_data, write_toy_project

EVERYWHERE = LogitLoss(on="all", weight=4.0)


def student(*losses, **changes):
    return StudentSpec(name="small", init=ConvolutionalInit(), losses=losses, **changes)


# --- what is trained ---------------------------------------------------------------------------------------


def test_one_distillation_loss_makes_two_variants_and_one_pair():
    labels = LabelLoss(class_weights="balanced")
    for each in ("without", "alone"):
        found = variants_of(student(labels, EVERYWHERE, unlabelled=True), each)
        assert [(one.name, one.spec.losses) for one in found] == [
            (FULL, (labels, EVERYWHERE)),
            (LABELS, (labels,)),
        ]
        # Nothing would be learned from texts without labels.
        assert [one.spec.unlabelled for one in found] == [True, False]
        assert [pair.subject for pair in pairs_of(student(labels, EVERYWHERE), each)] == ["distillation"]


def test_every_further_loss_is_left_out_or_taken_alone():
    labels, sentence = LabelLoss(), SentenceLoss(weight=0.5)
    whole = student(labels, EVERYWHERE, sentence)
    without = {one.name: one.spec.losses for one in variants_of(whole, "without")}
    assert without == {
        FULL: (labels, EVERYWHERE, sentence),
        LABELS: (labels,),
        "without logits": (labels, sentence),
        "without sentence": (labels, EVERYWHERE),
    }
    alone = {one.name: one.spec.losses for one in variants_of(whole, "alone")}
    assert alone == {
        FULL: (labels, EVERYWHERE, sentence),
        LABELS: (labels,),
        "logits alone": (labels, EVERYWHERE),
        "sentence alone": (labels, sentence),
    }
    assert [(p.subject, p.variant_with, p.variant_without) for p in pairs_of(whole, "without")] == [
        ("distillation", FULL, LABELS),
        ("logits", FULL, "without logits"),
        ("sentence", FULL, "without sentence"),
    ]
    assert [(p.subject, p.variant_with, p.variant_without) for p in pairs_of(whole, "alone")] == [
        ("distillation", FULL, LABELS),
        ("logits", "logits alone", LABELS),
        ("sentence", "sentence alone", LABELS),
    ]
    names = [one.spec.name for one in variants_of(whole, "without")]
    assert len(set(names)) == 4 and names[0] == "small"
    # A name is a folder's name and must be one that a recipe allows.
    assert all(StudentSpec.model_validate(one.spec.model_dump()) for one in variants_of(whole, "without"))


def test_two_losses_of_a_kind_are_told_apart_and_a_student_without_labels_is_held_against_plain_ones():
    hot = LogitLoss(temperature=4.0)
    found = variants_of(student(EVERYWHERE, hot), "without")
    assert {one.name: one.spec.losses for one in found} == {
        FULL: (EVERYWHERE, hot),
        LABELS: (LabelLoss(),),
        "without logits-1": (hot,),
        "without logits-2": (EVERYWHERE,),
    }
    assert variants_of(student(LabelLoss()), "without") == pairs_of(student(LabelLoss()), "without") == ()


# --- what is said ------------------------------------------------------------------------------------------

DOMAIN = Task(name="domain", labels=("a", "b", "c"))
TOPICS = Task(name="topics", kind="multi_label", labels=("x", "y"))


@pytest.fixture(scope="module")
def decided():
    """Documents, and decisions over two seeds: distillation mends `domain` in one language, spoils `topics`."""
    random = np.random.default_rng(3)
    count = 600
    truth = {"domain": random.integers(0, 3, count), "topics": (random.random((count, 2)) < 0.4).astype(np.int8)}
    languages = ["en" if row % 2 else "de" for row in range(count)]
    names = [str(row) for row in range(count)]
    english = np.asarray(languages) == "en"

    def wrong(values, share, where):
        hit = (random.random(count) < share) & where
        other = 1 - values if values.ndim == 2 else (values + 1) % 3
        return np.where(hit[:, None] if values.ndim == 2 else hit, other, values).astype(values.dtype)

    everywhere = np.ones(count, dtype=bool)
    plain = [
        {"domain": wrong(truth["domain"], 0.4, english), "topics": wrong(truth["topics"], 0.1, everywhere)}
        for _ in range(2)
    ]
    taught = [
        {"domain": wrong(truth["domain"], 0.1, english), "topics": wrong(truth["topics"], 0.4, everywhere)}
        for _ in range(2)
    ]
    labels = {name: values.copy() for name, values in truth.items()}
    for values in labels.values():
        values[random.random(count) < 0.2] = NOT_LABELLED
    documents = Documents(names, names, languages, names, labels)
    return documents, {("small", FULL): taught, ("small", LABELS): plain}


def test_verdicts_say_which_task_and_language_got_better_or_worse(decided):
    documents, found = decided
    (pair,) = pairs_of(student(LabelLoss(), EVERYWHERE), "without")
    contrasts = list(contrast(pair, (DOMAIN, TOPICS), documents, found, seed=0))
    verdicts = {(one.task, one.language): one.verdict for one in contrasts}
    assert verdicts == {
        ("domain", None): "helped", ("domain", "en"): "helped", ("domain", "de"): "same",
        ("topics", None): "hurt", ("topics", "en"): "hurt", ("topics", "de"): "hurt",
    }  # fmt: skip
    for one in contrasts:
        assert one.ci95[0] <= one.difference <= one.ci95[1]
        assert one.difference == pytest.approx(np.mean(one.by_seed))
        assert one.difference == pytest.approx(one.macro_f1_with - one.macro_f1_without)
    whole = next(one for one in contrasts if (one.task, one.language) == ("domain", None))
    rows = documents.labelled(DOMAIN)
    scores = [
        metrics.macro_f1(DOMAIN, documents.labels["domain"][rows], one["domain"][rows])
        for one in found["small", FULL]
    ]
    assert whole.macro_f1_with == pytest.approx(np.mean(scores))
    assert whole.documents == rows.sum()


def test_the_report_says_hurt_as_plainly_as_helped(decided, tmp_path):
    documents, found = decided
    (pair,) = pairs_of(student(LabelLoss(), EVERYWHERE), "without")
    result = Ablation(
        polyfold_version="0", name="toy", recipe_hash="0" * 16, seeds=(0, 1), each="without",
        teacher_per_seed=False, documents={"en": 300, "de": 300}, variants=(),
        contrasts=tuple(contrast(pair, (DOMAIN, TOPICS), documents, found, seed=0)),
    )  # fmt: skip
    (said,) = sentences(result)
    assert "helped domain" in said and "hurt topics" in said
    assert said in ablation_markdown(result).replace("\\", "")
    write_ablation(result, tmp_path)
    assert Ablation.model_validate_json((tmp_path / "ablation.json").read_bytes()) == result
    page = (tmp_path / "ablation.html").read_text(encoding="utf8")
    assert page.count('id="figure-') == 2
    assert "hurt topics" in page
    for table in ablation_tables(result):
        assert all(len(row) == len(table.columns) for row in table.rows)


# --- the whole of it ---------------------------------------------------------------------------------------

FIT = {"epochs": 6, "learning_rate": 5e-3, "batch": {"documents_per_step": 16}}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A recipe whose teacher has seen every label, while of the student's training labels few are left."""
    folder = tmp_path_factory.mktemp("ablated")
    init = {
        "kind": "convolutional",
        "embedding_width": 16,
        "branch_width": 8,
        "sentence_width": 16,
        "dense_width": 16,
    }
    losses = [{"kind": "labels"}, {"kind": "logits", "on": "all", "weight": 4.0}]
    recipe = write_toy_project(
        folder,
        teacher={"kind": "given", "name": "known"},
        students=[{"name": "small", "init": init, "losses": losses, "fit": FIT}],
        compress=[], export=[], measure={"baseline": None},
    )  # fmt: skip
    rows = toy_rows(200, seed=1)
    write_toy_data(folder / "toy.csv", rows)
    spec = load_recipe(recipe).data
    data = load_dataset(prepare(spec, folder, folder / "whole", 0))

    def build(target):
        teacher = TrainedTeacher(backbone="toy-bert", fit=FitSpec.model_validate(FIT))
        scope = Scope(tuple(task["name"] for task in TASK_BLOCK))
        train_teacher(teacher, scope, data, folder, target, 0, "known")
        return {}

    made = Stage("teacher", "known", 1, {}).run(folder / "made", build)
    made.path.rename(folder / "known")
    # Six labels of each task stay in training.
    for name in ("domain", "sentiment", "topics"):
        labelled = [row for row in rows if row["split"] == "train" and row[name]]
        for row in labelled[6:]:
            row[name] = ""
    write_toy_data(folder / "toy.csv", rows)
    assert data.max_length == MAX_LENGTH
    return recipe


def test_a_teacher_that_knows_the_labels_its_student_lacks_has_helped(project):
    root = project.parent / "out"
    recipe = load_recipe(project)
    spec = AblationSpec(seeds=(0, 1))
    found = ablate(recipe, project.parent, root, spec)
    verdicts = {one.task: one.verdict for one in found.contrasts if one.language is None}
    assert verdicts["domain"] == "helped"
    assert {one.language for one in found.contrasts} == {None, "de", "en"}
    assert [one.variant for one in found.variants] == [FULL, LABELS]
    assert all(len(values) == 2 for one in found.variants for values in one.macro_f1.values())
    # Every stage is found again, and the same comes of it.
    before = digests(root)
    assert ablate(recipe, project.parent, root, spec) == found
    assert digests(root) == before
    # The student of the recipe's own seed is the one that `polyfold run` makes.
    assert len(list(root.glob("small-[0-9a-f]*"))) == 2
    html = ablation_html(found)
    assert len(html) > 1000 and json.loads(found.model_dump_json())["seeds"] == [0, 1]


def test_a_teacher_may_be_trained_anew_for_every_seed(project):
    teacher = "teacher={backbone: toy-bert, fit: {epochs: 1}}"
    recipe = load_recipe(project, [teacher, "students.0.fit.epochs=1"])
    for reseed, teachers in ((False, 1), (True, 2)):
        root = project.parent / f"reseed-{reseed}"
        found = ablate(recipe, project.parent, root, AblationSpec((0, 7), reseed_teacher=reseed))
        assert found.teacher_per_seed == reseed
        assert len(list(root.glob("teacher-*"))) == teachers
        # Two variants and two seeds; the data are prepared once.
        assert len(list(root.glob("small-*"))) == 4
        assert len(list(root.glob("data-*"))) == 1
    shared = {path.name for path in (project.parent / "reseed-False").glob("small-*")}
    own = {path.name for path in (project.parent / "reseed-True").glob("small-*")}
    assert len(shared & own) == 2


def test_what_cannot_be_ablated_is_said(project):
    recipe = load_recipe(project, ["students.0.losses=[{kind: labels}]"])
    with pytest.raises(InputError, match="no student of the recipe learns from a teacher"):
        ablate(recipe, project.parent, project.parent / "none", AblationSpec(seeds=(0,)))
    for seeds in ((), (1, 1), (-1,)):
        with pytest.raises(InputError, match="seeds"):
            ablate(load_recipe(project), project.parent, project.parent / "none", AblationSpec(seeds=seeds))
    assert not (project.parent / "none").exists()
