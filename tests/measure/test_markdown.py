import re

from polyfold.measure.markdown import markdown
from polyfold.measure.report import Report
from polyfold.measure.tables import figure, tables


def test_every_table_keeps_its_number_of_cells_whatever_labels_contain(toy_report):
    text = markdown(toy_report)
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(blocks) == len(tables(toy_report)) == 11
    for block in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_it_names_every_row_verdict_gate_warning_and_baseline(toy_report):
    text = markdown(toy_report)
    for part in (
        *(row.name for row in toy_report.rows),
        *toy_report.warnings,
        "dominated by teacher, trimmed and int8",
        "random weights: speed only",
        "quality baseline",
        "Broken gate",
        "the student's token ids",
        "Toy 9000",
        "packaging",
        "holds",
    ):
        assert part in text, part


def test_markup_in_a_label_stays_text(toy_report):
    text = markdown(toy_report)
    assert "product &lt;b&gt;" in text
    assert "<b>" not in text
    assert r"a\|b" in text


def test_a_report_without_quality_still_has_its_speeds(toy_report):
    bare = Report(
        **{**dict(toy_report), "rows": toy_report.rows[:1], "quality_baseline": None, "gates": (), "data": None}
    )
    text = markdown(bare)
    assert "## Throughput" in text
    assert "## F1 by label" not in text
    assert "## Parity" not in text


def test_figures_keep_three_digits_and_never_an_exponent():
    given = (0.0127, 1.0, 28.96, 99.96, 278.0, 1112.4, 123456.0, None)
    assert [figure(value) for value in given] == ["0.0127", "1", "29", "100", "278", "1,112", "123,456", "–"]
