"""Backbones, students and given teachers that cannot learn or teach are refused before anything is trained."""

import pytest

from polyfold.errors import InputError
from polyfold.pipeline import run
from polyfold.recipe import Recipe
from toys_pipeline import toy_recipe, write_toy_project
from toys_torch import write_hub_folder as write_other_folder

SMALL = {"kind": "transformer", "layers": 2, "width": 32, "heads": 2}
FIRST = {"name": "first", "init": SMALL, "teacher": "toy-bert"}
RELATIONS = {"kind": "relations", "relation_heads": 5}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    write_toy_project(folder)
    write_other_folder(folder / "other-tokenizer", "bert")
    return folder


def refused(project, out, student=None, **changes):
    """What a run says that made nothing but its data."""
    content = toy_recipe(compress=[], export=[], **changes)
    content["students"][0] = {**content["students"][0], "init": SMALL, **(student or {})}
    with pytest.raises(InputError) as caught:
        run(Recipe.model_validate(content), project, out)
    assert {path.name.partition("-")[0] for path in out.iterdir()} == {"data"}
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"losses": [RELATIONS]}, "5 relation heads do not divide"),
        ({"losses": [{"kind": "labels"}]}, "no tasks"),
        ({"losses": [{"kind": "sentence", "weight": 0}]}, "every loss has weight zero"),
        ({"losses": [{"kind": "hidden_states", "layers": {0: 7}}]}, "no layer 7 in the teacher"),
        ({"texts": "unlabelled"}, "there are none"),
        ({"init": {"kind": "backbone", "name": "toy-bert", "layers": [5]}}, "no layer 5"),
        ({"init": {"kind": "backbone", "name": "nowhere"}}, "'nowhere' cannot be loaded"),
        (
            {"init": {"kind": "backbone", "name": "other-tokenizer"}, "losses": [{"kind": "embeddings"}]},
            "cut texts differently",
        ),
    ],
)
def test_a_second_backbone_that_cannot_be_made_stops_the_run_before_the_first(project, tmp_path, change, reason):
    second = {"name": "second", "init": SMALL, "teacher": "first", **change}
    said = refused(project, tmp_path, backbones=[FIRST, second])
    assert "backbone 'second'" in said
    assert reason in said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"losses": [RELATIONS]}, "5 relation heads do not divide"),
        ({"losses": [{"kind": "labels", "weight": 0}]}, "every loss has weight zero"),
        ({"losses": [{"kind": "labels", "class_weights": {"domain": {"nope": 2.0}}}]}, "unknown label 'nope'"),
        ({"unlabelled": True, "losses": [{"kind": "logits", "on": "all"}]}, "no unlabelled texts"),
        ({"init": {"kind": "backbone", "name": "toy-bert", "layers": [0, 5]}}, "no layer 5"),
        ({"init": {"kind": "backbone", "name": "use-multilingual", "layers": [0]}}, "no layers to choose from"),
        ({"init": {"kind": "backbone", "name": "nowhere"}}, "'nowhere' cannot be loaded"),
    ],
)
def test_a_student_that_cannot_learn_stops_the_run_before_the_teacher(project, tmp_path, change, reason):
    said = refused(project, tmp_path, change)
    assert "student 'small'" in said
    assert reason in said


def test_unlabelled_texts_that_nothing_learns_from_are_refused(project, tmp_path):
    unlabelled = {**toy_recipe()["data"], "unlabelled": {"path": "more.csv"}}
    (project / "more.csv").write_text("text\na text without labels\n", encoding="utf8")
    student = {"unlabelled": True, "losses": [{"kind": "labels"}]}
    assert "nothing would be learned" in refused(project, tmp_path, student, data=unlabelled)


def test_a_given_teacher_with_other_labels_stops_the_run_before_any_backbone(project, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    BertForSequenceClassification(config).save_pretrained(project / "stock")
    given = {"kind": "given", "name": "stock", "task": "sentiment"}
    assert "the labels do not fit" in refused(project, tmp_path, backbones=[FIRST], teacher=given)
    wrong = {**given, "task": "topics"}
    assert "problem_type" in refused(project, tmp_path, backbones=[FIRST], teacher=wrong)


def test_class_weights_of_no_task_are_no_recipe():
    weights = {"kind": "labels", "class_weights": {"nope": {"a": 2.0}}}
    for change in (
        {"teacher": {**toy_recipe()["teacher"], "loss": weights}},
        {"compress": [{"kind": "int8_qat", "losses": [weights]}]},
        {"students": [{**toy_recipe()["students"][0], "losses": [weights]}]},
    ):
        with pytest.raises(ValueError, match="there is no task 'nope'"):
            Recipe.model_validate(toy_recipe(**change))
