"""Teachers of every kind in a whole run: planned, checked before anything is trained, built, asked and scored."""

import json

import numpy as np
import pytest
import yaml

from polyfold.artifact import Artifact
from polyfold.data.prepare import load_dataset
from polyfold.errors import InputError
from polyfold.pipeline import plan, run
from polyfold.predictor import Predictor
from polyfold.recipe import Recipe, load_recipe
from polyfold.teaching import token_lengths
from polyfold.train.teacher import members_of
from toys_pipeline import TASKS, toy_recipe, toy_rows, write_toy_project
from toys_torch import write_hub_folder as write_other_folder

NAMES = [task.name for task in TASKS]
FIT = {"epochs": 1, "learning_rate": 2e-3, "batch": {"documents_per_step": 12}}
PLAIN = {"backbone": "toy-bert", "fit": FIT}
QUICK = {"compress": [], "export": [], "measure": {"baseline": None, "memory": False}}
STUDENT = {**toy_recipe()["students"][0], "fit": FIT}


def recipe_of(project, teacher, **changes):
    """A recipe with this teacher, quick in all the rest."""
    path = project / "teaching.yaml"
    content = toy_recipe(**{**QUICK, "students": [STUDENT], "teacher": teacher, **changes})
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf8")
    return load_recipe(path)


def refused(teacher, **changes):
    with pytest.raises(ValueError) as caught:
        Recipe.model_validate(toy_recipe(teacher=teacher, **changes))
    return str(caught.value)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The toy data and backbone, and a stock classifier of sentiment over the same encoder."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("teaching")
    write_toy_project(folder)
    names = {0: "POSITIVE", 1: "NEGATIVE"}
    config = AutoConfig.from_pretrained(
        folder / "toy-bert", id2label=names, label2id={name: index for index, name in names.items()}
    )
    stock = AutoModelForSequenceClassification.from_config(config)
    stock.save_pretrained(folder / "stock")
    (folder / "stock" / "tokenizer.json").write_bytes((folder / "toy-bert" / "tokenizer.json").read_bytes())
    write_other_folder(folder / "other-tokenizer", "xlm-roberta")
    return folder


@pytest.fixture(scope="module")
def finished(project):
    """A finished run with one multi-task teacher: its result folder and its report."""
    out = project / "finished"
    return out, run(recipe_of(project, PLAIN), project, out)


def folder_of(out, name):
    (folder,) = (path for path in out.iterdir() if path.name.rpartition("-")[0] == name)
    return folder


def row_of(report, name="teacher"):
    (row,) = (row for row in report.rows if row.name == name)
    return row


# --- the recipe and the plan ---


def test_a_teacher_without_a_kind_is_trained():
    def teacher(block):
        return Recipe.model_validate(toy_recipe(teacher=block)).teacher

    assert teacher(PLAIN) == teacher({"kind": "trained", **PLAIN})
    (given,) = members_of(teacher({"kind": "given", "name": "stock", "task": "sentiment"}))
    assert given.task == "sentiment"
    mean = teacher({"kind": "mean", "members": [PLAIN, {"kind": "given", "name": "stock", "task": "sentiment"}]})
    assert [member.kind for member in members_of(mean)] == ["trained", "given"]


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ({"kind": "borrowed"}, "'trained' (as without a kind), 'given' or 'mean'"),
        ({"kind": "mean", "members": []}, "at least 1"),
        ({"kind": "mean", "members": [{"kind": "mean", "members": [PLAIN]}]}, "a member's kind"),
        ({"kind": "mean", "members": [PLAIN], "weights": [0.5, 0.5]}, "2 weights for 1 members"),
        ({"kind": "mean", "members": [PLAIN], "weights": [0.0]}, "all 0"),
        ({"kind": "mean", "members": [PLAIN, PLAIN]}, "the same twice"),
        ({**PLAIN, "mode": {"kind": "per_language"}}, "name teacher.languages"),
        ({**PLAIN, "tasks": ["weather"]}, "no task 'weather'"),
        ({"kind": "given", "name": "stock", "task": "weather"}, "no task 'weather'"),
        ({"backbon": "toy-bert"}, "backbone"),
    ],
)
def test_a_teacher_that_cannot_be_is_refused_by_the_recipe(teacher, words):
    assert words in refused(teacher)


def test_a_language_that_the_data_leaves_out_is_refused():
    data = {**toy_recipe()["data"], "languages": ["en"]}
    assert "'de' is not among data.languages" in refused({**PLAIN, "languages": ["de"]}, data=data)


def test_every_model_of_a_set_is_a_stage_of_its_own_and_given_ones_come_first(project):
    def names(teacher):
        return [stage.name for stage in plan(recipe_of(project, teacher), project).teachers.stages]

    assert names(PLAIN) == ["teacher"]
    assert names({**PLAIN, "mode": {"kind": "per_task"}}) == [f"teacher-{name}" for name in NAMES]
    languages = {**PLAIN, "mode": {"kind": "per_language"}, "languages": ["en", "de"]}
    assert names(languages) == ["teacher-en", "teacher-de"]
    given = {"kind": "given", "name": "stock", "task": "sentiment"}
    mean = {"kind": "mean", "members": [languages, PLAIN, given]}
    assert names(mean) == ["teacher-3", "teacher-1-en", "teacher-1-de", "teacher-2", "teacher-mean"]


def test_a_seed_is_added_to_the_recipes_and_makes_another_model(project):
    mean = {"kind": "mean", "members": [PLAIN, {**PLAIN, "seed": 4}]}
    stages = plan(recipe_of(project, mean, seed=3), project).teachers.stages
    assert [stage.spec.get("seed") for stage in stages] == [3, 7, None]
    assert len({stage.key for stage in stages}) == 3


def test_only_one_model_of_all_tasks_is_folded(project, finished):
    def folds(teacher, **changes):
        recipe = recipe_of(project, teacher, **changes)
        return plan(recipe, project).teachers.folds(recipe)

    out, _ = finished
    ours = {"kind": "given", "name": str(folder_of(out, "teacher"))}
    assert folds(PLAIN)
    assert folds(ours)
    assert not folds(ours, compress_teacher=False)
    for other in (
        {**PLAIN, "mode": {"kind": "per_task"}},
        {**PLAIN, "tasks": NAMES[:1]},
        {**PLAIN, "languages": ["en"]},
        {"kind": "mean", "members": [PLAIN]},
        {"kind": "given", "name": "stock", "task": "sentiment"},
    ):
        assert not folds(other)


# --- before anything is trained ---


def inside(kind, **settings):
    """A student with a loss that looks inside its teacher; a transformer unless told otherwise."""
    small = {"kind": "transformer", "layers": 1, "width": 16, "heads": 2}
    return {"init": small, "losses": [{"kind": "labels"}, {"kind": kind, **settings}]}


def started(name, **settings):
    """A student that starts from a backbone."""
    return {"init": {"kind": "backbone", "name": name, **settings}}


SENTENCEPIECE = started("other-tokenizer")


def told(project, out, teacher, **changes):
    """What a run says that is refused; it must not have trained anything."""
    with pytest.raises(InputError) as caught:
        run(recipe_of(project, teacher, **changes), project, out)
    assert not list(out.glob("*/metrics.jsonl"))
    assert not list(out.glob("*/model.safetensors"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("teacher", "student", "words"),
    [
        ({**PLAIN, "tasks": ["domain"]}, {"losses": [{"kind": "logits"}]}, "would never learn sentiment, topics"),
        ({**PLAIN, "mode": {"kind": "per_task"}}, {"init": {"kind": "teacher"}}, "start from its teacher only"),
        ({**PLAIN, "languages": ["en"]}, {"losses": [{"kind": "labels"}, {"kind": "sentence"}]}, "look inside"),
        ({**PLAIN, "languages": ["fr"]}, {}, "no train document in fr"),
        (
            {"kind": "mean", "members": [PLAIN, {"kind": "given", "name": "stock", "task": "domain"}]},
            {},
            "do not fit task 'domain': the given model has POSITIVE, NEGATIVE",
        ),
        ({"kind": "given", "name": "nowhere", "task": "domain"}, {}, "'nowhere' cannot be loaded"),
        (PLAIN, inside("relations", relation_heads=5), "5 relation heads do not divide"),
        (PLAIN, inside("relations", teacher_layer=7), "there is no layer 7 in the teacher"),
        (PLAIN, {**inside("embeddings"), **SENTENCEPIECE}, "cut texts differently"),
        (PLAIN, {**inside("hidden_states"), **started("toy-bert", layers=[4])}, "there is no layer 4"),
        (PLAIN, {**inside("attention"), "init": STUDENT["init"]}, "which the student"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(teacher, student, words, project, tmp_path):
    assert words in told(project, tmp_path, teacher, students=[{**STUDENT, **student}])


def test_a_task_that_no_teacher_knows_is_learned_from_its_labels(project, tmp_path, capfd):
    teacher = {**PLAIN, "tasks": ["domain"]}
    report = run(recipe_of(project, teacher), project, tmp_path)
    assert "no teacher knows sentiment, topics" in capfd.readouterr().err
    assert set(row_of(report).macro_f1) == {"domain"}
    assert "does not know sentiment, topics" in row_of(report).notes
    small = row_of(report, "small")
    assert set(small.macro_f1) == set(NAMES)
    before, after = row_of(report).macro_f1["domain"], small.macro_f1["domain"]
    assert small.degradation_percent == pytest.approx(100 * (before - after) / before)


# --- whole runs ---


def test_one_teacher_a_language_is_one_row_over_all_of_them(project, tmp_path):
    teacher = {**PLAIN, "mode": {"kind": "per_language"}, "languages": ["en", "de"]}
    recipe = recipe_of(project, teacher)
    report = run(recipe, project, tmp_path)
    row = row_of(report)
    assert set(row.macro_f1) == set(NAMES)
    assert all(set(by_language) == {"en", "de"} for by_language in row.macro_f1_by_language.values())
    assert row.notes == ()
    assert report.quality_baseline == "teacher"
    chart = plan(recipe, project)
    assert row.size_mb == pytest.approx(sum(stage.finished(tmp_path).size_mb for stage in chart.teachers.stages))
    # Each learned and was scored in its language alone: where the other one's are damaged, nothing changes.
    texts = [one["text"] for one in toy_rows() if one["language"] == "en" and one["split"] == "test"]
    english, german = (stage.folder(tmp_path) for stage in chart.teachers.stages)
    first, second = (Predictor.open(folder).logits(texts)["domain"] for folder in (english, german))
    assert not np.allclose(first, second, atol=1e-3)


def test_a_mean_of_one_is_that_one(project, finished, tmp_path):
    _, alone = finished
    for weights in ("equal", "dev", [3.0]):
        mean = {"kind": "mean", "members": [PLAIN], "weights": weights}
        report = run(recipe_of(project, mean), project, tmp_path / str(weights)[:3])
        assert row_of(report).macro_f1 == row_of(alone).macro_f1
        assert row_of(report).calibration_error == pytest.approx(row_of(alone).calibration_error)
        assert row_of(report, "small").macro_f1 == row_of(alone, "small").macro_f1


def test_a_mean_of_all_kinds_is_one_teacher(project, finished, tmp_path):
    out, _ = finished
    members = [
        {**PLAIN, "seed": 1},
        {**PLAIN, "mode": {"kind": "per_task"}, "fit": {**FIT, "epochs": 0}},
        {"kind": "given", "name": str(folder_of(out, "teacher")), "languages": ["en"]},
        {"kind": "given", "name": "stock", "task": "sentiment"},
    ]
    recipe = recipe_of(project, {"kind": "mean", "members": members, "weights": "dev"})
    report = run(recipe, project, tmp_path)
    assert {row.name for row in report.rows} == {"teacher", "small"}
    assert set(row_of(report).macro_f1) == set(NAMES)
    weights = json.loads((folder_of(tmp_path, "teacher-mean") / "weights.json").read_bytes())
    assert set(weights) == set(NAMES)
    for name, some in weights.items():
        assert sum(some) == pytest.approx(1.0)
        assert len(some) == 4
        assert (some[3] > 0) == (name == "sentiment")
    # The same run again makes nothing anew.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")}
    assert run(recipe, project, tmp_path) == report
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")}
    assert len(before) == 1


def test_a_given_teacher_of_ours_is_the_same_teacher(project, finished, tmp_path):
    out, trained = finished
    given = {"kind": "given", "name": str(folder_of(out, "teacher"))}
    report = run(recipe_of(project, given), project, tmp_path)
    assert row_of(report).macro_f1 == row_of(trained).macro_f1
    assert row_of(report, "small").macro_f1 == row_of(trained, "small").macro_f1
    assert row_of(report).calibration_error == pytest.approx(row_of(trained).calibration_error)


def test_a_mean_of_other_tokenizers_is_scored_but_not_timed(project, finished, tmp_path, capfd):
    teacher = {
        "kind": "mean",
        "members": [PLAIN, {**PLAIN, "backbone": "other-tokenizer", "trim": {"coverage": 1.0}}],
    }
    changes = {"data": {**toy_recipe()["data"], "max_length": 16}, "measure": toy_recipe()["measure"]}
    labels = {**STUDENT, "losses": [{"kind": "labels"}]}
    for students in ([labels], []):
        report = run(recipe_of(project, teacher, students=students, **changes), project, tmp_path)
        assert set(row_of(report).macro_f1) == set(NAMES)
        assert row_of(report).speed == {}
        assert "different tokenizers; not timed" in capfd.readouterr().err
        if students:
            assert row_of(report, "small").speed["real_text"].documents_per_second > 0


def test_texts_are_counted_in_the_tokens_of_any_teacher(project, finished):
    out, _ = finished
    data = load_dataset(Artifact.open(folder_of(out, "data")))
    found = [
        token_lengths(recipe_of(project, teacher), {"test": data.test.texts}, project)["test"]
        for teacher in (
            PLAIN,
            {"kind": "given", "name": "stock", "task": "sentiment"},
            {"kind": "given", "name": str(folder_of(out, "teacher"))},
            {"kind": "mean", "members": [PLAIN]},
        )
    ]
    assert all(np.array_equal(one, found[0]) for one in found)
    assert found[0].min() > 3
