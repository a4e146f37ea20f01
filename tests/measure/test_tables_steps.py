"""What each step cost and gained is told against the row it was made from."""

import pytest

from polyfold.measure.html import html
from polyfold.measure.markdown import markdown
from polyfold.measure.report import Report
from polyfold.measure.tables import ABSENT, steps

SPEED = "speed-up, real texts"


def cells(report):
    table = steps(report)
    return {row[1]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_every_row_with_a_parent_has_a_line_and_no_other(toy_report):
    assert set(cells(toy_report)) == {row.name for row in toy_report.rows if row.parent}


def test_a_line_holds_the_differences_to_its_parent(toy_report):
    row, parent = toy_report.row("student, int8, openvino"), toy_report.row("student")
    line = cells(toy_report)[row.name]
    assert (line["stage"], line["made from"]) == ("int8_qat", "student")
    for task, value in row.macro_f1.items():
        assert line[task] == f"{100 * (value - parent.macro_f1[task]):+.1f}"
    assert line["size"] == line["FLOPs"] == "-73 %"
    assert line["parameters"] == "+0 %"
    assert float(line[SPEED].removesuffix("×")) == pytest.approx(3900 / 700, abs=0.01)


def test_where_the_parent_was_not_timed_the_one_before_it_is_compared_with(toy_report):
    untimed = toy_report.row("student").model_copy(update={"speed": {}, "speedup": {}})
    rows = tuple(untimed if row.name == "student" else row for row in toy_report.rows)
    line = cells(Report(**{**dict(toy_report), "rows": rows}))["student, int8, openvino"]
    assert float(line[SPEED].removesuffix("×")) == pytest.approx(3900 / 150, abs=0.1)


def test_what_was_not_measured_is_left_open(toy_report):
    bare = [
        row.model_copy(update={"speed": {}, "speedup": {}, "size_mb": None, "mflops_per_document": None})
        for row in toy_report.rows
    ]
    line = cells(Report(**{**dict(toy_report), "rows": tuple(bare)}))["student, int8, openvino"]
    assert line["size"] == line["FLOPs"] == line["speed-up"] == ABSENT


def test_both_drawings_show_it_and_the_flops_of_a_document(toy_report):
    for text in (markdown(toy_report), html(toy_report)):
        assert "What each step cost and gained" in text
        assert "MFLOPs a document" in text
        assert "22,350" in text
