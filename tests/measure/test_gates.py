import pytest
from pydantic import ValidationError

from polyfold.errors import InputError
from polyfold.measure.gates import GateSpec, check_gates, sentence
from polyfold.measure.report import Row


def row(name, stage, domain, japanese):
    return Row(
        name=name, stage=stage, runtime="torch", precision="int8", weights="trained", parameters_million=1.0,
        trunk_parameters_million=1.0, macro_f1={"domain": domain, "topics": 0.5},
        macro_f1_by_language={"domain": {"ja": japanese, "de": 0.9}, "topics": {"ja": 0.5}},
    )  # fmt: skip


TEACHER = row("teacher", "teacher", 0.90, 0.80)
STUDENT = row("student", "student", 0.88, 0.75)
FOLDED = row("folded", "int8_qat", 0.91, 0.80)
ROWS = (TEACHER, STUDENT, FOLDED)


def check(**spec):
    gates = check_gates(GateSpec(**spec), TEACHER, ROWS)
    return {(gate.row, gate.task, gate.language): gate.passed for gate in gates}


def test_a_drop_up_to_the_allowed_passes_and_a_greater_one_breaks_the_gate():
    # 0.90 - 0.88 is a little more than 0.02 in binary fractions.
    assert check(greatest_drop=2.0)["student", "domain", None]
    assert not check(greatest_drop=1.99)["student", "domain", None]
    assert check(greatest_drop=0.0)["folded", "domain", None]


def test_only_compressed_and_student_rows_are_checked_unless_others_are_named():
    assert {name for name, _, _ in check(greatest_drop=1.0)} == {"student", "folded"}
    assert {name for name, _, _ in check(greatest_drop=1.0, rows=["fold*"])} == {"folded"}


def test_nothing_is_checked_that_nothing_was_asked_of():
    assert check() == {}
    assert {(task, tongue) for _, task, tongue in check(tasks={"topics": 1.0})} == {("topics", None)}


def test_the_more_special_allowance_overrides_the_more_general():
    assert not check(greatest_drop=1.0)["student", "domain", None]
    assert check(greatest_drop=1.0, tasks={"domain": 3.0})["student", "domain", None]
    assert not check(language_drop=1.0)["student", "domain", "ja"]
    assert check(language_drop=1.0)["student", "domain", "de"]
    assert check(language_drop=1.0, languages={"ja": 6.0})["student", "domain", "ja"]
    both = check(languages={"ja": 6.0}, pairs={"domain/ja": 1.0})
    assert not both["student", "domain", "ja"]
    assert both["student", "topics", "ja"]


@pytest.mark.parametrize(
    "spec",
    [{"tasks": {"domian": 1.0}}, {"languages": {"xx": 1.0}}, {"pairs": {"topics/de": 1.0}}, {"rows": ["x*"]}],
)
def test_a_gate_on_what_does_not_exist_is_refused_and_says_what_does(spec):
    with pytest.raises(InputError, match=r"measure\.gates.*\n.*(domain|ja|student)"):
        check(**spec)


def test_a_negative_allowance_is_refused():
    with pytest.raises(ValidationError):
        GateSpec(greatest_drop=-1.0)


def test_a_sentence_names_the_row_the_task_the_language_and_both_figures():
    broken = check_gates(GateSpec(language_drop=1.0, rows=["student"]), TEACHER, ROWS)[0]
    for part in ("'student'", "'domain'", "'ja'", "5.00", "1.00", "is broken"):
        assert part in sentence(broken)
    gained = check_gates(GateSpec(greatest_drop=1.0, rows=["folded"]), TEACHER, ROWS)[0]
    assert "gains 1.00" in sentence(gained)
    assert "holds" in sentence(gained)
