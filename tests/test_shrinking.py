"""A pruning that does not fit its model is refused before anything is trained, with the reason."""

import pytest

from polyfold.errors import InputError
from polyfold.pipeline import plan, run
from polyfold.recipe import Recipe
from polyfold.shrinking import check_steps
from toys_pipeline import toy_recipe, write_toy_project

TRANSFORMER = {"kind": "transformer", "layers": 2, "width": 32, "heads": 2}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    write_toy_project(folder)
    return folder


def recipe_of(step, init=None, **changes):
    content = toy_recipe(**changes)
    if init is not None:
        content["students"][0]["init"] = init
    content["compress"] = [{"kind": "trim_vocabulary"}, {"kind": "prune", **step}]
    return Recipe.model_validate(content)


def check(recipe, project):
    chart = plan(recipe, project)
    check_steps(recipe, chart.teachers, chart.backbones)


def test_what_fits_every_line_is_let_through(project):
    check(recipe_of({"target": {"heads": 0.5, "feed_forward": 0.5}}, TRANSFORMER), project)
    check(recipe_of({"budget": {"flops": 0.5}}), project)
    check(recipe_of({"target": {"branch_width": 0.5}}, compress_teacher=False), project)


@pytest.mark.parametrize(
    "step,init,line,reason",
    [
        ({"target": {"branch_width": 0.5}}, None, "teacher", "no 'branch_width'"),
        ({"target": {"heads": 0.5}}, None, "small", "no 'heads'"),
        ({"layers": {"keep": [0, 2]}}, TRANSFORMER, "small", "no layer 2"),
        ({"layers": {"count": 3}}, {"kind": "teacher"}, "small", "3 layers cannot be kept of 2"),
        ({"budget": {"flops": 0.01}}, TRANSFORMER, "small", "the least is"),
        ({"budget": {"flops": 0.01}}, {"kind": "backbone", "name": "toy-bert"}, "small", "the least is"),
        ({"budget": {"flops": 0.001}}, {"kind": "backbone", "name": "use-multilingual"}, "small", "the least is"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_lines_name(project, step, init, line, reason):
    step = {**step, "multiple_of": 16} if "budget" in step else step
    with pytest.raises(InputError, match=f"'{line}'.*{reason}") as raised:
        check(recipe_of(step, init), project)
    assert raised.value.hint


def test_nothing_is_trained_before(project):
    out = project / "refused"
    with pytest.raises(InputError, match="the least is"):
        run(recipe_of({"budget": {"flops": 0.001}}, TRANSFORMER), project, out)
    assert {path.name.partition("-")[0] for path in out.iterdir()} == {"data"}


def test_of_a_second_pruning_only_the_targets_are_known(project):
    content = toy_recipe(compress_teacher=False)
    content["students"][0]["init"] = TRANSFORMER
    first = {"kind": "prune", "layers": {"keep": [0]}}
    content["compress"] = [first, {"kind": "prune", "layers": {"keep": [1]}}]
    check(Recipe.model_validate(content), project)
    content["compress"] = [first, {"kind": "prune", "target": {"branches": 0.5}}]
    with pytest.raises(InputError, match="no 'branches'"):
        check(Recipe.model_validate(content), project)


@pytest.mark.parametrize("last", [{"kind": "int8_qat"}, {"kind": "int8_ptq"}])
def test_pruning_after_quantization_is_no_recipe(last):
    content = toy_recipe()
    content["compress"] = [last, {"kind": "prune", "target": {"heads": 0.5}}]
    with pytest.raises(ValueError, match="last"):
        Recipe.model_validate(content)


def test_a_stock_classifier_that_is_given_as_a_teacher_is_not_pruned(project):
    from transformers import BertConfig, BertForSequenceClassification

    content = toy_recipe(teacher={"kind": "given", "name": "stock", "task": "domain"})
    labels = dict(enumerate(("billing", "delivery", "website")))
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, id2label=labels)
    BertForSequenceClassification(config).save_pretrained(project / "stock")
    content["compress"] = []
    content["compress_by_name"] = {"small": [{"kind": "prune", "target": {"heads": 0.5}}]}
    content["students"][0]["init"] = {"kind": "teacher"}
    with pytest.raises(InputError, match="'small': a stock sequence classifier cannot be pruned"):
        check(Recipe.model_validate(content), project)
