import json

import jsonschema
import pytest
from pydantic import ValidationError

from polyfold.errors import InputError
from polyfold.measure.markdown import markdown
from polyfold.measure.report import (
    QUALITY_FIELDS,
    SCHEMA_FILE,
    Report,
    Row,
    load_report,
    schema,
    schema_text,
    write_report,
)

RANDOM = {
    "name": "baseline", "stage": "baseline", "runtime": "torch", "precision": "fp32", "weights": "random",
    "parameters_million": 278.0, "trunk_parameters_million": 86.0,
}  # fmt: skip


def as_json(report):
    return json.loads(report.model_dump_json())


def test_the_schema_in_the_repository_is_the_contracts_own():
    assert SCHEMA_FILE.read_text(encoding="utf8") == schema_text(), "run python -m polyfold.measure.report"
    jsonschema.Draft202012Validator.check_schema(schema())


def test_a_built_report_keeps_the_contract(toy_report):
    jsonschema.validate(as_json(toy_report), schema())


def test_the_schema_refuses_what_the_contract_does_not_know(toy_report):
    content = as_json(toy_report)
    content["rows"][1]["accuracy"] = 0.9
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema())


@pytest.mark.parametrize("field", QUALITY_FIELDS)
def test_a_row_with_random_weights_may_not_say_how_good_it_is(toy_report, field):
    scored = next(row for row in toy_report.rows if row.name == "student, int8, onnxruntime")
    value = getattr(scored, field)
    assert value is not None
    Row(**{**RANDOM, "weights": "trained"}, **{field: value})
    with pytest.raises(ValidationError, match="random weights"):
        Row(**RANDOM, **{field: value})
    # The schema holds other programs to the same rule.
    content = as_json(toy_report)
    assert content["rows"][0]["weights"] == "random"
    content["rows"][0][field] = as_json(toy_report)["rows"][4][field]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema())


def test_the_json_of_a_random_row_has_no_quality_field_at_all(toy_report):
    rows = as_json(toy_report)["rows"]
    assert not set(rows[0]) & set(QUALITY_FIELDS)
    assert set(rows[4]) >= set(QUALITY_FIELDS)


def test_a_figure_that_is_not_a_number_is_refused():
    with pytest.raises(ValidationError):
        Row(**RANDOM, size_mb=float("nan"))


@pytest.mark.parametrize("change", [{"quality_baseline": "nobody"}, {"speed_baseline": "nobody"}, {"rows": ()}])
def test_a_report_whose_baseline_is_no_row_is_refused(toy_report, change):
    with pytest.raises(ValidationError):
        Report(**{**dict(toy_report), **change})


def test_two_rows_of_one_name_are_refused(toy_report):
    with pytest.raises(ValidationError, match="share a name"):
        Report(**{**dict(toy_report), "rows": (*toy_report.rows, toy_report.rows[0])})


def test_a_written_report_reads_back_the_same_and_leaves_no_draft(toy_report, tmp_path):
    write_report(toy_report, tmp_path / "run")
    assert load_report(tmp_path / "run") == toy_report
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"report.json", "report.md", "report.html"}


def test_no_text_id_or_group_of_a_document_is_in_any_file(toy_report, documents, tmp_path):
    write_report(toy_report, tmp_path)
    contents = [path.read_text(encoding="utf8") for path in sorted(tmp_path.iterdir())]
    assert len(contents) == 3
    assert "nobody else may read" in documents.texts[0]
    for content in contents:
        assert "domain" in content
        assert "nobody else may read" not in content
        assert "secret-" not in content


def test_a_missing_or_broken_report_is_the_users_mistake(toy_report, tmp_path):
    with pytest.raises(InputError, match=r"no report\.json"):
        load_report(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(InputError, match="not a report"):
        load_report(tmp_path)
    content = as_json(toy_report)
    del content["rows"][2]["runtime"]
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"rows\.2\.runtime"):
        load_report(tmp_path)


def test_broken_gates_are_those_that_did_not_pass(toy_report):
    assert {gate.passed for gate in toy_report.gates} == {True, False}
    assert toy_report.broken_gates == tuple(gate for gate in toy_report.gates if gate.drop > gate.allowed_drop)


def test_other_dense_shapes_may_be_timed_but_no_other_keys(toy_report):
    speed = {"documents_per_second": 5.0}
    row = Row(**RANDOM, speed={"8x64": speed})
    timed = Report(**{**dict(toy_report), "rows": (*toy_report.rows[1:], row), "speed_baseline": None})
    jsonschema.validate(as_json(timed), schema())
    assert "dense 8 × 64" in markdown(timed)
    for key in ("8x", "fast", "real_texts"):
        with pytest.raises(ValidationError):
            Row(**RANDOM, speed={key: speed})
