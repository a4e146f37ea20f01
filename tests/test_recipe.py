"""The laws of recipes: every published one loads, a mistake is named with its key, `--set` changes one thing."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from polyfold.errors import InputError
from polyfold.recipe import Recipe, changed, load_recipe
from toys_pipeline import toy_recipe

ROOT = Path(__file__).parents[1]


def write(folder, content):
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf8")
    return path


def told(folder, content, *changes):
    with pytest.raises(InputError) as caught:
        load_recipe(write(folder, content), changes)
    return caught.value


def documented():
    """Every recipe file, and every whole recipe in the documents' YAML blocks, by where it stands."""
    found = {path.name: path.read_text(encoding="utf8") for path in sorted((ROOT / "recipes").glob("*.yaml"))}
    for path in (*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"^```yaml\n(.*?)^```", path.read_text(encoding="utf8"), re.M | re.S)
        whole = [block for block in blocks if re.search(r"^name:", block, re.M)]
        found |= {f"{path.name}-{number}": block for number, block in enumerate(whole)}
    return found


def test_every_documented_recipe_loads(tmp_path):
    recipes = documented()
    assert {"demo.yaml", "paper.yaml"} <= set(recipes)
    loaded = {where: load_recipe(write(tmp_path, content)) for where, content in recipes.items()}
    for where, recipe in loaded.items():
        if where.endswith(".yaml"):
            assert recipe.name == Path(where).stem


def test_an_unknown_key_is_named_with_the_nearest_that_exists(tmp_path):
    recipe = toy_recipe()
    recipe["teacher"]["fit"] = {"learning_rat": 1e-3}
    error = told(tmp_path, recipe)
    assert error.key == "teacher.fit.learning_rat"
    assert "did you mean 'learning_rate'?" in str(error)
    assert str(tmp_path / "recipe.yaml") in str(error)


def test_an_unknown_key_like_no_other_is_to_be_removed(tmp_path):
    error = told(tmp_path, toy_recipe(zzzzzzz=1))
    assert error.key == "zzzzzzz"
    assert "remove it" in str(error)


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"seed": "one"}, "seed", "integer"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"name": "../up"}, "name", "match"),
        ({"compress": [{"kind": "shrink"}]}, "compress.0", "'int8_qat', 'int8_ptq'"),
        ({"export": [{"kind": "onnxruntime", "bf16": True}]}, "export.0.onnxruntime.bf16", "unknown key"),
        ({"export": [{"kind": "openvino"}, {"kind": "openvino", "bf16": True}]}, None, "'openvino' twice"),
        ({"compress_by_name": {"nobody": []}}, None, "no student 'nobody'"),
        ({"students": [{"name": "teacher", "init": {"kind": "teacher"}}]}, None, "cannot be named 'teacher'"),
        ({"students": [{"name": "a", "init": {"kind": "teacher"}}] * 2}, None, "two students are named 'a'"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_key(tmp_path, change, key, words):
    error = told(tmp_path, toy_recipe(**change))
    assert error.key == key
    assert words in str(error)


def test_a_missing_block_is_named(tmp_path):
    recipe = toy_recipe()
    del recipe["teacher"]
    assert told(tmp_path, recipe).key == "teacher"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- 1\n- 2\n", "a mapping of keys"),
        ("", "a mapping of keys"),
        ("name: [unclosed\n", "not valid YAML"),
        ("1: 2\n", "key"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, words):
    assert words in str(told(tmp_path, content))


def test_a_recipe_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="not a text file"):
        load_recipe(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        load_recipe(tmp_path / "binary.yaml")


def test_yaml_words_that_look_like_truth_values_are_words(tmp_path):
    # YAML 1.1 reads `on` and `no` as true and false: a key of the logits loss, and Norwegian.
    whole = yaml.safe_dump(toy_recipe(students=None)).replace("students: null\n", "students: []\n")
    assert yaml.safe_load("[on, no]") == [True, False]
    for key in ("on", '"on"'):
        student = f"{{init: {{kind: teacher}}, losses: [{{kind: logits, {key}: all}}]}}"
        recipe = load_recipe(write(tmp_path, whole.replace("students: []", f"students: [{student}]")))
        assert recipe.students[0].losses[0].on == "all"
    recipe = load_recipe(write(tmp_path, whole), ["data.languages=[no, de]", "compress_teacher=false"])
    assert recipe.data.languages == ("no", "de")
    assert recipe.compress_teacher is False


def test_set_changes_the_named_key_and_nothing_else(tmp_path):
    path = write(tmp_path, toy_recipe())
    plain = load_recipe(path)
    recipe = load_recipe(path, ["students.0.fit.epochs=7", "data.language=null", "measure.speed.shapes=[[1, 16]]"])
    assert recipe.students[0].fit.epochs == 7
    assert recipe.data.language is None
    assert recipe.measure.speed.shapes == ((1, 16),)
    assert recipe.students[0].fit.model_copy(update={"epochs": 2}) == plain.students[0].fit
    assert (recipe.teacher, recipe.compress, recipe.export) == (plain.teacher, plain.compress, plain.export)


def test_set_makes_blocks_that_are_not_there_and_later_changes_win(tmp_path):
    path = write(tmp_path, toy_recipe())
    recipe = load_recipe(path, ["measure.gates.greatest_drop=5", "seed=1", "seed=2", "data.text=a=b"])
    assert recipe.measure.gates.greatest_drop == 5.0
    assert recipe.seed == 2
    assert recipe.data.text == "a=b"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("seed", "not of the form a.b=value"),
        ("=1", "not of the form a.b=value"),
        ("students.1.fit.epochs=1", "no index of a list of 1"),
        ("students.first.fit.epochs=1", "no index of a list of 1"),
        ("students.-1.fit.epochs=1", "no index of a list of 1"),
        ("name.first=1", "which is no mapping"),
        ("seed=[1", "not valid YAML"),
        ("seed=x", "integer"),
        ("sed=1", "did you mean 'seed'?"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(tmp_path, change, words):
    assert words in str(told(tmp_path, toy_recipe(), change))


def test_set_leaves_what_it_was_given_as_it_was():
    content = toy_recipe()
    changed(content, "students.0.fit.epochs=9")
    changed(content, "measure.baseline=null")
    assert content == toy_recipe()


def backwards(value):
    """The same YAML value with the keys of every mapping in another order."""
    if isinstance(value, dict):
        return {key: backwards(one) for key, one in reversed(value.items())}
    return [backwards(one) for one in value] if isinstance(value, list) else value


def test_the_hash_knows_values_and_not_the_order_of_keys():
    recipe = Recipe.model_validate(toy_recipe())
    assert Recipe.model_validate(backwards(toy_recipe())).hash == recipe.hash
    assert len(recipe.hash) == 16
    spelt_out = toy_recipe(compress_teacher=True, seed=0)
    assert Recipe.model_validate(spelt_out).hash == recipe.hash


@given(
    change=st.sampled_from(
        [
            "seed=1", "name=other", "data.max_length=23", "teacher.fit.epochs=3", "students.0.name=tiny",
            "students.0.init.branch_width=9", "compress.0.coverage=0.5", "export=[]", "measure.memory=true",
            "compress_teacher=false", "data.tasks.0.labels=[a, b]",
        ]
    )
)  # fmt: skip
def test_every_change_of_a_value_changes_the_hash(change):
    assert Recipe.model_validate(changed(toy_recipe(), change)).hash != Recipe.model_validate(toy_recipe()).hash


def test_a_student_gets_its_own_steps_or_those_of_all():
    steps = {"small": [{"kind": "int8_qat"}], "teacher": []}
    recipe = Recipe.model_validate(toy_recipe(compress_by_name=steps))
    assert [step.kind for step in recipe.steps("small")] == ["int8_qat"]
    assert recipe.steps("teacher") == ()
    assert [step.kind for step in recipe.steps("another")] == ["trim_vocabulary", "int8_qat"]


def test_the_teacher_is_folded_only_where_it_is_one_model():
    def folds(**changes):
        return Recipe.model_validate(toy_recipe(**changes)).folds_teacher

    assert folds()
    assert not folds(compress_teacher=False)
    assert not folds(teacher={"backbone": "toy-bert", "mode": {"kind": "per_task"}})


@pytest.mark.parametrize("kind", ["int8_ptq", "int8_qat"])
@pytest.mark.parametrize("after", ["trim_vocabulary", "int8_ptq", "int8_qat"])
def test_what_is_quantized_is_changed_no_more(tmp_path, kind, after):
    steps = [{"kind": kind}, {"kind": after}]
    for change in ({"compress": steps}, {"compress_by_name": {"small": steps}}):
        assert f"{kind} must be the last step" in str(told(tmp_path, toy_recipe(**change)))
    load_recipe(write(tmp_path, toy_recipe(compress=[{"kind": "trim_vocabulary"}, {"kind": kind}])))


def test_one_kind_of_export_may_stand_there_in_several_precisions(tmp_path):
    several = [
        {"kind": "onnxruntime"},
        {"kind": "onnxruntime", "precision": "fp16"},
        {"kind": "onnxruntime", "precision": "bf16"},
        {"kind": "onnxruntime", "precision": "fp16", "embeddings": "int8"},
        {"kind": "openvino", "bf16": True},
        {"kind": "openvino", "precision": "fp16"},
    ]
    assert len(load_recipe(write(tmp_path, toy_recipe(export=several))).export) == 6
    for twice in (several[1], {"kind": "openvino"}):
        error = told(tmp_path, toy_recipe(export=[*several, twice]))
        assert f"export names '{twice['kind']}" in str(error) and "twice" in str(error)
