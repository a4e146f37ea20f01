"""A step that does not fit its model is refused before anything is trained, with the reason."""

import pytest

from polyfold.data.prepare import load_dataset, prepare
from polyfold.errors import InputError
from polyfold.pipeline import plan, run
from polyfold.recipe import Recipe
from polyfold.shrinking import check_steps
from toys_pipeline import toy_recipe, write_hub_folder, write_toy_project

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
    data = load_dataset(prepare(recipe.data, project, project / "data", recipe.seed))
    check_steps(recipe, chart.teachers, chart.backbones, data)


def steps_of(steps, init=None, **changes):
    """A recipe with these steps for a student of two layers."""
    content = toy_recipe(compress=steps, **changes)
    content["students"][0]["init"] = TRANSFORMER if init is None else init
    return Recipe.model_validate(content)


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


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"target": {"branches": 0.5}}, "no 'branches'"),
        ({"layers": {"keep": [1]}}, "no layer 1"),
        ({"layers": {"count": 2}}, "2 layers cannot be kept of 1"),
        ({"budget": {"flops": 0.01}}, "the least is"),
    ],
)
def test_a_second_pruning_is_held_against_what_the_first_leaves(project, second, reason):
    first = {"kind": "prune", "layers": {"keep": [0]}}
    check(steps_of([first, {"kind": "prune", "layers": {"keep": [0]}, "target": {"heads": 0.5}}]), project)
    with pytest.raises(InputError, match=f"'small': step 2, prune: .*{reason}"):
        check(steps_of([first, {"kind": "prune", **second}], compress_teacher=False), project)


def test_a_budget_counts_the_layers_that_go_before(project):
    step = {"kind": "prune", "layers": {"keep": [0]}, "budget": {"flops": 0.5}}
    check(steps_of([step]), project)
    with pytest.raises(InputError, match="the least is"):
        check(steps_of([{**step, "budget": {"flops": 0.02}}]), project)


def test_a_budget_of_parameters_is_checked_where_the_table_has_its_true_size(project):
    step = {"kind": "prune", "budget": {"parameters": 0.01}}
    published = {"kind": "backbone", "name": "toy-bert"}
    with pytest.raises(InputError, match="of the parameters: the least is"):
        check(steps_of([step], published), project)
    check(steps_of([{"kind": "trim_vocabulary"}, step], published), project)


RELATIONS = {"kind": "relations", "relation_heads": 4}


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([{"kind": "int8_qat", "losses": [{**RELATIONS, "relation_heads": 5}]}], "5 relation heads do not divide"),
        ([{"kind": "int8_qat", "losses": [{"kind": "sentence", "weight": 0}]}], "every loss has weight zero"),
        ([{"kind": "int8_qat", "losses": []}], "every loss has weight zero"),
        (
            [{"kind": "prune", "target": {"heads": 0.5}, "losses": [{**RELATIONS, "relation_heads": 32}]}],
            "32 relation heads do not divide the student's width of 16",
        ),
        (
            [
                {"kind": "prune", "target": {"heads": 0.5}},
                {"kind": "int8_qat", "losses": [{"kind": "attention", "layers": "last"}]},
            ],
            "1 attention heads",
        ),
        (
            [
                {"kind": "prune", "layers": {"count": 1}, "losses": [{"kind": "hidden_states", "layers": {1: 1}}]},
            ],
            "no layer 1 in the student",
        ),
        (
            [{"kind": "trim_vocabulary", "coverage": 0.9}, {"kind": "int8_qat", "losses": [RELATIONS]}],
            "vocabulary trimmed before",
        ),
        (
            [{"kind": "int8_qat", "losses": [{"kind": "labels", "class_weights": {"domain": {"nope": 2.0}}}]}],
            "unknown label 'nope'",
        ),
    ],
)
def test_losses_of_a_step_are_held_against_what_is_left_of_the_model(project, steps, reason):
    with pytest.raises(InputError, match=f"'small': step .*{reason}") as raised:
        check(steps_of(steps), project)
    assert raised.value.hint


def test_where_importance_says_how_many_heads_stay_any_number_must_fit(project):
    heads = {"kind": "transformer", "layers": 2, "width": 32, "heads": 4}
    step = {"kind": "prune", "target": {"heads": 0.5}, "losses": [{**RELATIONS, "relation_heads": 16}]}
    with pytest.raises(InputError, match="may leave a single head in a layer: 16 relation heads do not divide"):
        check(steps_of([step], heads), project)
    check(steps_of([{**step, "even": True}], heads, compress_teacher=False), project)


def test_losses_that_fit_what_is_left_are_let_through(project):
    sentence, states = {"kind": "sentence"}, {"kind": "hidden_states"}
    fitting = [
        {"kind": "trim_vocabulary", "coverage": 1.0},
        {
            "kind": "prune",
            "target": {"heads": 0.5, "width": 0.5},
            "losses": [RELATIONS, states],
        },
        {"kind": "prune", "layers": {"count": 1}, "losses": [RELATIONS, sentence]},
        {"kind": "int8_qat", "losses": [RELATIONS]},
    ]
    check(steps_of(fitting), project)
    untrained = {"kind": "int8_qat", "losses": [], "fit": {"epochs": 0}}
    check(steps_of([{"kind": "trim_vocabulary", "coverage": 0.9}, untrained]), project)


def test_losses_that_look_inside_need_one_teacher_and_logits_one_that_knows_the_tasks(project):
    teacher = toy_recipe()["teacher"]
    inside = [{"kind": "int8_qat", "losses": [{"kind": "sentence"}]}]
    with pytest.raises(InputError, match="look inside the teacher only where that is one model"):
        check(steps_of(inside, teacher={**teacher, "mode": {"kind": "per_task"}}), project)
    answers = [{"kind": "int8_qat", "losses": [{"kind": "logits"}]}]
    with pytest.raises(InputError, match="would never learn sentiment, topics"):
        check(steps_of(answers, teacher={**teacher, "tasks": ["domain"]}), project)


@pytest.mark.parametrize("step", [{"size": 3}, {"coverage": 0.9, "size": 4}])
def test_a_vocabulary_smaller_than_its_special_tokens_is_refused(project, step):
    with pytest.raises(InputError, match="fewer than the 5 that must stay"):
        check(steps_of([{"kind": "trim_vocabulary", **step}], {"kind": "backbone", "name": "toy-bert"}), project)


def test_a_special_token_that_the_vocabulary_lacks_is_found_before_training(project):
    write_hub_folder(project / "strange", bos_token_id=399)
    steps = [{"kind": "trim_vocabulary"}]
    with pytest.raises(InputError, match=r"strange: .*bos_token_id is 399"):
        check(steps_of(steps, {"kind": "backbone", "name": "strange"}), project)
    strange = {**toy_recipe()["teacher"], "backbone": "strange", "trim": {}}
    with pytest.raises(InputError, match=r"strange: teacher: .*bos_token_id is 399"):
        check(steps_of([], teacher=strange), project)


def test_a_width_that_no_stock_class_holds_is_not_exported_to_transformers(project):
    stock = {"export": [{"kind": "transformers", "only": ["small"]}]}
    halved = [{"kind": "prune", "target": {"heads": 0.5, "width": 0.5}}]
    check(steps_of(halved, **stock), project)
    with pytest.raises(InputError, match="'small': no stock class holds heads of 16 in an encoder of width 24"):
        check(steps_of([{"kind": "prune", "target": {"width": 0.75}}], **stock), project)


def test_a_corpus_without_its_column_is_refused_before_anything_is_trained(project):
    trim = {"kind": "trim_vocabulary", "corpus": {"path": "toy.csv", "text": "nope"}}
    with pytest.raises(InputError, match="no such column"):
        run(steps_of([trim]), project, project / "columns")
    assert {path.name.partition("-")[0] for path in (project / "columns").iterdir()} == {"data"}


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
    with pytest.raises(InputError, match=r"'small': .* a stock sequence classifier cannot be pruned"):
        check(Recipe.model_validate(content), project)
