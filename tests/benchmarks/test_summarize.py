"""The summary of a run: every figure there, named once, true to the report."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from polyfold.artifact import Stage
from polyfold.errors import InputError
from polyfold.measure.report import Report, Row, Speed, load_report, write_report
from polyfold.measure.verdicts import judge
from polyfold.system import Hardware

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("summarize", ROOT / "benchmarks" / "summarize.py")
assert SPEC is not None and SPEC.loader is not None
summarize = importlib.util.module_from_spec(SPEC)
sys.modules["summarize"] = summarize  # dataclasses look their module up
SPEC.loader.exec_module(summarize)

KEYS = ("32x128", "1x128", "real_text", "real_text_vs_padded_128")
TASKS = ("domain", "sentiment", "topics")
BASELINE_PER_SECOND = 10.0


def make_row(name, how, quality, per_second, agreement=None):
    """`how` is stage, parent, runtime, precision; the speed-up differs from key to key."""
    stage, parent, runtime, precision = how
    return Row(
        name=name, stage=stage, parent=parent, runtime=runtime, precision=precision, weights="trained",
        parameters_million=20.0, trunk_parameters_million=2.0, size_mb=per_second / 10,
        macro_f1={task: quality - 0.1 * i for i, task in enumerate(TASKS)},
        label_agreement_percent=None if agreement is None else dict.fromkeys(TASKS, agreement),
        speed={key: Speed(documents_per_second=per_second * (1 + i)) for i, key in enumerate(KEYS)},
        speedup={key: per_second * (1 + i) / BASELINE_PER_SECOND for i, key in enumerate(KEYS)},
    )  # fmt: skip


def make_report(folded=0.895, folded_bf16=0.89, narrow=0.85, name="feedback"):
    """A teacher, its int8 form in both runtimes and with bf16, and a student's in OpenVINO."""
    fake, small = "teacher.int8_qat", "narrow.int8_qat"
    rows = [
        make_row("teacher", ("teacher", None, "torch", "fp32"), 0.9, 20.0),
        make_row(fake, ("int8_qat", "teacher", "torch", "int8"), folded, 5.0),
        make_row(f"{fake}.onnxruntime", ("export", fake, "onnxruntime", "int8"), folded, 90.0, 99.9),
        make_row(f"{fake}.openvino", ("export", fake, "openvino", "int8"), folded, 100.0, 99.8),
        make_row(f"{fake}.openvino.bf16", ("export", fake, "openvino", "int8+bf16"), folded_bf16, 110.0, 99.2),
        make_row("narrow", ("student", "teacher", "torch", "fp32"), narrow, 60.0),
        make_row(small, ("int8_qat", "narrow", "torch", "int8"), narrow, 30.0),
        make_row(f"{small}.openvino", ("export", small, "openvino", "int8"), narrow, 400.0, 99.7),
    ]
    machine = Hardware(
        processor="Toy 9000",
        instructions=(),
        cores=2,
        memory_gb=8.0,
        accelerator=None,
        system="Linux",
        versions={},
    )
    return Report(
        name=name, polyfold_version="0", recipe_hash="0123456789abcdef", seed=0, hardware=machine,
        quality_baseline="teacher", rows=judge(rows, "teacher"),
    )  # fmt: skip


def make_run(root, report, seconds=(None, 30.0, 90.0)):
    """A run's folder: a data stage that keeps no time, a teacher and the report."""
    write_report(report, root)
    data = Stage("data", "data", 1, {})
    teacher = Stage("teacher", "teacher", 1, {}, (data.key,))
    measure = Stage("measure", "report", 1, {"hash": report.recipe_hash}, (data.key, teacher.key))
    for stage, taken in zip((data, teacher, measure), seconds, strict=True):
        stage.run(root, lambda folder, taken=taken: {} if taken is None else {"seconds": taken})
    return root


@pytest.fixture
def figures():
    return summarize.summarize(make_report(), "polyfold run recipes/feedback.yaml")


def test_the_teacher_and_every_int8_openvino_model_have_their_figures(figures):
    expected = {f"teacher.fp32.macro_f1_x100.{task}" for task in TASKS} | {"teacher.fp32.size_mb"}
    for model in ("teacher.int8", "teacher.int8_bf16", "narrow.int8"):
        expected |= {f"{model}.macro_f1_x100.{task}" for task in TASKS}
        expected |= {f"{model}.label_agreement_percent.{task}" for task in TASKS}
        expected |= {f"{model}.speedup.{key}" for key in KEYS}
        expected |= {f"{model}.degradation_percent", f"{model}.size_mb"}
    expected |= {f"best.speedup.{key}" for key in KEYS} | {"best.degradation_percent"}
    assert set(figures) == expected


def test_figures_are_those_of_the_report_in_the_units_of_their_names(figures):
    row = make_report().row("narrow.int8_qat.openvino")
    assert figures["teacher.fp32.macro_f1_x100.domain"].value == pytest.approx(90.0)
    assert figures["narrow.int8.macro_f1_x100.topics"].value == pytest.approx(100 * row.macro_f1["topics"])
    assert figures["narrow.int8.degradation_percent"].value == pytest.approx(row.degradation_percent, abs=1e-4)
    for i, key in enumerate(KEYS):
        assert figures[f"narrow.int8.speedup.{key}"].value == pytest.approx(40.0 * (1 + i))
    assert figures["teacher.int8_bf16.label_agreement_percent.topics"].value == pytest.approx(99.2)
    assert figures["narrow.int8.size_mb"].value == pytest.approx(40.0)


def test_goals_are_those_of_the_issue(figures):
    goals = {name: figure.goal for name, figure in figures.items() if figure.goal is not None}
    expected = {
        "teacher.fp32.macro_f1_x100.domain": ">= 86.4",
        "teacher.fp32.macro_f1_x100.sentiment": ">= 55.8",
        "teacher.fp32.macro_f1_x100.topics": ">= 64.9",
        "best.degradation_percent": "<= 2.6",
    }
    expected |= {
        f"{model}.int8.label_agreement_percent.{task}": ">= 99.5"
        for model in ("teacher", "narrow")
        for task in TASKS
    }
    expected |= {f"teacher.int8_bf16.label_agreement_percent.{task}": ">= 99.0" for task in TASKS}
    assert goals == expected


@pytest.mark.parametrize(
    "folded,folded_bf16,narrow,best",
    [
        (0.895, 0.89, 0.85, "teacher.int8_bf16"),  # both forms of the teacher hold the goal: the faster
        (0.895, 0.80, 0.85, "teacher.int8"),  # bf16 loses too much
        (0.895, 0.89, 0.899, "narrow.int8"),  # the student holds it too and is faster still
        (0.80, 0.79, 0.85, "narrow.int8"),  # nothing holds it: the least loss
    ],
)
def test_the_best_model_is_the_fastest_that_holds_the_goal(folded, folded_bf16, narrow, best):
    found = summarize.summarize(make_report(folded, folded_bf16, narrow), "x")
    for what in ("degradation_percent", *(f"speedup.{key}" for key in KEYS)):
        assert found[f"best.{what}"].value == found[f"{best}.{what}"].value


def test_a_report_without_an_int8_openvino_model_is_refused():
    report = make_report()
    rows = tuple(row for row in report.rows if row.runtime != "openvino")
    with pytest.raises(InputError, match="no int8 model in OpenVINO"):
        summarize.summarize(report.model_copy(update={"rows": rows}), "x")


def test_demo_minutes_count_the_stages_of_the_report_and_no_others(tmp_path):
    make_run(tmp_path, make_report())
    Stage("teacher", "teacher", 1, {"from": "another recipe"}).run(tmp_path, lambda _: {"seconds": 6000.0})
    assert summarize.demo_minutes(tmp_path) == pytest.approx(2.0)


def test_demo_minutes_need_every_stage(tmp_path):
    make_run(tmp_path, make_report())
    next(tmp_path.glob("teacher-*/manifest.json")).unlink()
    with pytest.raises(InputError, match="1 of the report's stages are gone"):
        summarize.demo_minutes(tmp_path)


def test_the_script_writes_sorted_figures_and_copies_the_report_beside_them(tmp_path, capsys):
    run = make_run(tmp_path / "run", make_report())
    demo = make_run(tmp_path / "demo", make_report(name="demo"))
    out = tmp_path / "docs" / "summary.json"
    assert summarize.main([str(run), "--demo", str(demo), "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert list(written) == sorted(written)
    assert written["demo.minutes"] == {"value": 2.0, "goal": "<= 10", "command": "make demo"}
    assert written["teacher.fp32.macro_f1_x100.domain"]["command"] == "polyfold run recipes/feedback.yaml"
    assert all(set(one) == {"value", "goal", "command"} for one in written.values())
    assert all(isinstance(one["value"], float) for one in written.values())
    assert load_report(out.parent) == load_report(run)
    for name in ("report.md", "report.html"):
        assert (out.parent / name).read_bytes() == (run / name).read_bytes()
    assert str(out) in capsys.readouterr().out


def test_a_folder_without_a_report_ends_with_a_message_and_code_2(tmp_path, capsys):
    out = tmp_path / "summary.json"
    assert summarize.main([str(tmp_path), "--demo", str(tmp_path), "--out", str(out)]) == 2
    assert "no report.json here" in capsys.readouterr().err
    assert not out.exists()
