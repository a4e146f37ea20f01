import pytest

from polyfold.measure.report import Row, Speed
from polyfold.measure.verdicts import best_int8, best_teacher, dominated, judge, lineage


def row(name, stage, quality, per_second, parent=None, precision="int8", key="real_text"):
    return Row(
        name=name, stage=stage, parent=parent, runtime="openvino", precision=precision, weights="trained",
        parameters_million=1.0, trunk_parameters_million=1.0,
        macro_f1=None if quality is None else {"domain": quality, "topics": quality - 0.2},
        speed={key: Speed(documents_per_second=per_second)},
    )  # fmt: skip


TEACHER = row("teacher", "teacher", 0.9, 100.0, precision="fp32")
TRIMMED = row("trimmed", "trim_vocabulary", 0.9, 100.0, parent="teacher", precision="fp32")
FOLDED = row("folded", "int8_qat", 0.85, 1000.0, parent="trimmed")
STUDENT = row("student", "student", 0.8, 200.0, parent="teacher", precision="fp32")


@pytest.mark.parametrize(
    ("quality", "per_second", "verdict"),
    [
        (0.80, 900.0, "folded"),
        (0.85, 1000.0, "folded"),
        (0.86, 900.0, None),
        (0.80, 1001.0, None),
        (None, 900.0, None),
    ],
)
def test_a_student_is_dominated_only_by_a_row_as_fast_and_as_good(quality, per_second, verdict):
    small = row("small", "int8_qat", quality, per_second, parent="student")
    assert dominated([TEACHER, TRIMMED, FOLDED, STUDENT, small]).get("small") == verdict


def test_neither_the_teacher_nor_its_own_forms_nor_an_uncompressed_teacher_take_part():
    slow = row("slow", "int8_qat", 0.8, 10.0, parent="trimmed")
    fast_teacher = row("teacher", "teacher", 0.9, 1e6, precision="fp32")
    assert dominated([fast_teacher, TRIMMED, slow, STUDENT]) == {}
    assert dominated([TEACHER, TRIMMED, FOLDED, slow]) == {}


def test_rows_are_compared_on_real_texts_if_both_have_them_and_else_on_the_dense_shape():
    dense = row("small", "int8_qat", 0.8, 5.0, parent="student", key="32x128")
    rows = [TEACHER, TRIMMED, FOLDED, STUDENT, dense]
    assert "small" not in dominated(rows)
    both = FOLDED.model_copy(update={"speed": {**FOLDED.speed, "32x128": Speed(documents_per_second=6.0)}})
    assert dominated([TEACHER, TRIMMED, both, STUDENT, dense])["small"] == "folded"


def test_the_best_of_several_dominating_rows_is_named():
    better = row("better", "int8_qat", 0.88, 950.0, parent="teacher")
    assert dominated([TEACHER, TRIMMED, FOLDED, better, STUDENT])["student"] == "better"


def test_lineage_follows_parents_and_gives_up_where_they_leave_the_table():
    rows = [TEACHER, TRIMMED, FOLDED, STUDENT]
    assert [lineage(one, rows) for one in rows] == ["teacher", "teacher", "teacher", "student"]
    assert lineage(FOLDED, [FOLDED]) is None
    circle = row("circle", "int8_qat", 0.8, 1.0, parent="circle")
    assert lineage(circle, [circle]) is None


def test_judging_fills_in_the_loss_against_the_baseline_and_the_verdict():
    judged = {one.name: one for one in judge([TEACHER, TRIMMED, FOLDED, STUDENT], "teacher")}
    assert judged["teacher"].degradation_percent is None
    assert judged["trimmed"].degradation_percent == 0.0
    assert judged["folded"].degradation_percent == pytest.approx(100 * (0.05 / 0.9 + 0.05 / 0.7) / 2)
    assert judged["student"].dominated_by == "folded"
    assert judged["folded"].dominated_by is None


def test_the_quality_baseline_is_the_best_teacher():
    weaker = row("weaker", "teacher", 0.7, 100.0)
    assert best_teacher([weaker, TEACHER, row("stronger", "student", 0.99, 1.0)]) == "teacher"
    assert best_teacher([STUDENT]) is None


def test_the_best_int8_row_lost_least(toy_report):
    best = best_int8(toy_report)
    losses = [one.degradation_percent for one in toy_report.rows if "int8" in one.precision]
    assert len(losses) == 3
    assert best.degradation_percent == min(losses)
