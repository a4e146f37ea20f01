"""Exports are planned of the right model of each line, and what cannot be exported is refused before training."""

import json

import pytest

from polyfold.errors import InputError
from polyfold.exporting import check_exports
from polyfold.pipeline import plan, run
from polyfold.recipe import Recipe
from toys_pipeline import toy_recipe, write_toy_project

SMALL = {"name": "small", "init": {"kind": "transformer", "layers": 1, "width": 16, "heads": 2}}
NARROW = {"name": "narrow", "init": {"kind": "convolutional"}}
COPY = {"name": "copy", "init": {"kind": "teacher"}}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The toy project's folder: data and a toy BERT."""
    return write_toy_project(tmp_path_factory.mktemp("exporting") / "project").parent


def recipe(**changes):
    return Recipe.model_validate(
        toy_recipe(**{"students": [SMALL], "export": [{"kind": "transformers"}], **changes})
    )


def check(given, project):
    chart = plan(given, project)
    check_exports(given, chart.teachers, chart.backbones)


def test_transformers_gets_the_last_model_before_quantization_and_the_runtimes_the_last_of_all(project):
    given = recipe(export=[{"kind": "onnxruntime"}, {"kind": "transformers"}])
    for line in plan(given, project).lines:
        trimmed, quantized = (stage for _, stage in line.steps)
        parents = {spec.kind: stage.parents for spec, stage in line.exports}
        assert parents == {"onnxruntime": (quantized.key,), "transformers": (trimmed.key,)}


def test_without_quantization_or_any_step_all_exports_are_of_the_last_model(project):
    for steps in ([], [{"kind": "trim_vocabulary"}]):
        given = recipe(compress=steps, export=[{"kind": "onnxruntime"}, {"kind": "transformers"}])
        for line in plan(given, project).lines:
            last = line.steps[-1][1] if steps else line.start
            assert {stage.parents for _, stage in line.exports} == {(last.key,)}


def test_only_the_named_lines_are_exported(project):
    given = recipe(students=[SMALL, NARROW], export=[{"kind": "transformers", "only": ["small"]}])
    check(given, project)
    lines = {line.name: line for line in plan(given, project).lines}
    assert set(lines) == {"teacher", "small", "narrow"}
    assert {name for name, line in lines.items() if line.exports} == {"small"}


def test_what_is_exported_does_not_change_with_who_else_is(project):
    """A stage is reused when another name is added to `only`."""
    keys = [
        {stage.key for line in plan(recipe(export=[{"kind": "transformers", "only": only}]), project).lines
         for _, stage in line.exports}
        for only in (["small"], ["small", "teacher"])
    ]  # fmt: skip
    assert keys[0] < keys[1]


@pytest.mark.parametrize("student", [NARROW, {**NARROW, "init": {"kind": "backbone", "name": "use-multilingual"}}])
def test_a_convolutional_student_is_refused_by_name_before_anything_runs(project, student):
    with pytest.raises(InputError, match=r"'narrow' cannot be exported(.|\n)*convolutional(.|\n)*`only`"):
        check(recipe(students=[SMALL, student]), project)


def test_the_embedded_encoder_as_teacher_is_refused_where_it_is_compressed_itself(project):
    changes = {"teacher": {"backbone": "use-multilingual"}, "students": [SMALL]}
    with pytest.raises(InputError, match="'teacher' cannot be exported"):
        check(recipe(**changes), project)
    check(recipe(**changes, compress_teacher=False), project)
    with pytest.raises(InputError, match="'copy' cannot be exported"):
        check(recipe(**{**changes, "students": [COPY]}, compress_teacher=False), project)


def test_students_of_families_that_transformers_knows_pass(project):
    check(
        recipe(students=[SMALL, COPY, {"name": "hub", "init": {"kind": "backbone", "name": "toy-bert"}}]), project
    )


def test_an_encoder_that_the_recipe_makes_is_known_by_what_it_is_made_of(project):
    made = {
        "name": "made",
        "teacher": "toy-bert",
        "init": {"kind": "transformer", "layers": 1, "width": 16, "heads": 2},
    }
    student = {"name": "taught", "init": {"kind": "backbone", "name": "made"}}
    check(recipe(backbones=[made], students=[student]), project)
    narrow = {**made, "init": {"kind": "convolutional"}}
    with pytest.raises(InputError, match="'taught' cannot be exported"):
        check(recipe(backbones=[narrow], students=[student]), project)


def test_a_name_that_no_line_has_is_answered_with_those_there_are(project):
    with pytest.raises(InputError, match=r"no 'big' to export\n.*teacher, small"):
        check(recipe(export=[{"kind": "transformers", "only": ["big"]}]), project)


def test_a_run_exports_to_transformers_beside_the_rows_and_measures_no_row_of_it(tmp_path):
    """The whole way: the folder is there, its manifest tells the difference, the report is as it was."""
    folder = write_toy_project(tmp_path / "project").parent
    report = run(
        recipe(
            students=[], compress=[], export=[{"kind": "onnxruntime"}, {"kind": "transformers"}],
            measure={"baseline": None, "memory": False},
        ),
        folder,
        tmp_path / "out",
    )  # fmt: skip
    assert {row.name for row in report.rows} == {"teacher", "teacher.onnxruntime"}
    (export,) = (tmp_path / "out").glob("teacher.transformers-*")
    info = json.loads((export / "manifest.json").read_bytes())["info"]
    assert info["texts_compared"] > 0
    assert max(info["largest_score_difference"].values()) < 1e-5
    assert {path.name for path in (export / "transformers").iterdir()} == {"domain", "sentiment", "topics"}


def test_every_precision_is_a_stage_and_a_row_of_its_own(project):
    several = [{"kind": "onnxruntime"}, {"kind": "onnxruntime", "precision": "fp16"}]
    given = recipe(compress=[], export=[*several, {"kind": "openvino", "embeddings": "int8", "only": ["small"]}])
    check(given, project)
    names = {line.name: [stage.name for _, stage in line.exports] for line in plan(given, project).lines}
    assert names["teacher"] == ["teacher.onnxruntime", "teacher.onnxruntime-fp16"]
    assert names["small"] == [
        "small.onnxruntime", "small.onnxruntime-fp16", "small.openvino-int8-embeddings"
    ]  # fmt: skip


def test_a_quantized_line_is_refused_in_floating_point_before_anything_runs(project):
    half = {"kind": "onnxruntime", "precision": "fp16"}
    with pytest.raises(InputError, match=r"'teacher' is quantized(.|\n)*`only`"):
        check(recipe(export=[half]), project)
    check(recipe(export=[{**half, "only": ["small"]}], compress_by_name={"small": []}), project)
