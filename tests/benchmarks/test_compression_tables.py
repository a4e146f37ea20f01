"""The page on compression: its figures are those of the files beside it, and so are its verdicts."""

import json
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfold.errors import InputError
from polyfold.measure.report import Report, Row, Speed, load_report, write_report
from polyfold.measure.verdicts import judge
from polyfold.study.ablate import Contrast
from polyfold.system import Hardware

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import compression_tables as tables  # noqa: E402
from compression_inputs import Ratio, Scored, dominates, dominators, quantized, read_inputs  # noqa: E402
from compression_plot import Panel, Point, draw_svg  # noqa: E402
from compression_pruning import rounds_by_line  # noqa: E402
from compression_students import _clear  # noqa: E402

RESULTS = ROOT / "docs" / "results"
MACHINE = Hardware(
    processor="Toy 9000", instructions=(), cores=2, memory_gb=8.0, accelerator=None, system="Linux", versions={}
)


def row(name, stage, parent, quality, **more):
    """A scored row; three tasks a tenth apart."""
    scores = {"domain": quality, "sentiment": quality - 0.1, "topics": quality - 0.2}
    settings = {"runtime": "torch", "precision": "fp32", "size_mb": 100.0} | more
    return Row(
        name=name, stage=stage, parent=parent, weights="trained", parameters_million=20.0,
        trunk_parameters_million=2.0, macro_f1=scores, test_documents=1000, **settings,
    )  # fmt: skip


def report(name, rows):
    """A report whose quality baseline is the teacher."""
    return Report(
        name=name, polyfold_version="0", recipe_hash="none", seed=0, hardware=MACHINE, quality_baseline="teacher",
        rows=judge(rows, "teacher"),
    )  # fmt: skip


def export(name, parent, quality, size_mb, per_second):
    """A row of an export to OpenVINO."""
    precision = "fp32" if parent.startswith("whole") else "int8"
    speed = {"real_text": Speed(documents_per_second=per_second)}
    return row(
        name, "export", parent, quality, runtime="openvino", precision=precision, size_mb=size_mb, speed=speed
    )


@pytest.fixture
def quantization():
    """A teacher trimmed, and quantized in a good, a lossy and a pointless way."""
    rows = [row("teacher", "teacher", None, 0.80)]
    for line, quality in (("whole", 0.799), ("good", 0.795), ("lossy", 0.70), ("slow", 0.79)):
        rows += [row(line, "student", "teacher", 0.80)]
        rows += [row(f"{line}.trim_vocabulary", "trim_vocabulary", line, 0.799, size_mb=60.0)]
        end = "" if line == "whole" else ".int8_ptq"
        size, per_second = (
            (60.0, 100.0) if line == "whole" else (15.0, {"good": 250.0, "lossy": 400.0, "slow": 150.0}[line])
        )
        last = f"{line}.trim_vocabulary{end}"
        rows += [row(last, "int8_ptq", f"{line}.trim_vocabulary", quality, precision="int8")] if end else []
        rows += [export(f"{last}.openvino", last, quality, size, per_second)]
    return report("quantization", rows)


@pytest.fixture
def folder(tmp_path):
    """A copy of the committed results, which a test may change."""
    shutil.copytree(RESULTS / "compression", tmp_path / "compression")
    (tmp_path / "feedback").mkdir()
    shutil.copyfile(RESULTS / "feedback" / "report.json", tmp_path / "feedback" / "report.json")
    return tmp_path / "compression"


def summary(folder):
    return json.loads((folder / "summary.json").read_bytes())


def test_the_committed_page_is_what_its_files_give(folder):
    before = {name: (folder / name).read_bytes() for name in ("README.md", "summary.json")}
    assert tables.main([str(folder)]) == 0
    assert (folder / "summary.json").read_bytes() == before["summary.json"], "make the page again"
    command = re.compile(rb"Made by `[^`]+`")
    after = (folder / "README.md").read_bytes()
    assert command.sub(b"", after) == command.sub(b"", before["README.md"]), "make the page again"


def test_figures_are_those_of_the_files(folder):
    assert tables.main([str(folder)]) == 0
    found = summary(folder)
    ablation = json.loads((folder / "losses" / "ablation.json").read_bytes())
    for one in ablation["variants"]:
        variant = re.sub("[^a-z0-9]+", "_", one["variant"])
        for task, values in one["macro_f1"].items():
            figure = found[f"losses.small.{variant}.macro_f1_x100.{task}"]
            assert figure["value"] == pytest.approx(100 * sum(values) / len(values), abs=1e-4)
            assert figure["command"].startswith("polyfold ablate recipes/compression/losses.yaml --each alone")
    encoder = load_report(folder / "pruning-encoder")
    pruned = [one for one in encoder.rows if one.stage == "prune"]
    for one in pruned:
        name = f"pruning_encoder.{one.name.removesuffix('.prune').replace('-', '_')}"
        assert found[f"{name}.macro_f1_x100.topics"]["value"] == pytest.approx(
            100 * one.macro_f1["topics"], abs=1e-4
        )
        assert found[f"{name}.degradation_percent"]["value"] == pytest.approx(one.degradation_percent, abs=1e-4)
        assert found[f"{name}.mflops"]["value"] == pytest.approx(one.mflops_per_document, abs=1e-4)
    dev = json.loads((folder / "pruning-transformer" / "dev.json").read_bytes())["rows"]
    for name, one in dev.items():
        figure = found[f"pruning_transformer.{name.replace('-', '_')}.dev_macro_f1_x100.domain"]
        assert figure["value"] == pytest.approx(100 * one["dev_macro_f1"]["domain"])
    assert len(ablation["variants"]) == 8 and len(pruned) == len(dev) == 16
    goals = {name for name, one in found.items() if one["goal"] is not None}
    assert {name for name in found if re.fullmatch(r"model_size\.\d+\.int8_\w+\.mb", name)} <= goals


def test_every_row_is_on_the_page_and_every_plot_has_its_points(folder):
    assert tables.main([str(folder)]) == 0
    page = (folder / "README.md").read_text(encoding="utf8")
    plots = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert plots == ["pruning-encoder.svg", "pruning-transformer.svg"]
    names = json.loads((folder / "structures.json").read_bytes())
    for plot in plots:
        tree = ElementTree.parse(folder / plot)
        texts = {element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")}
        group = "encoder/" if "encoder" in plot else "transformer/"
        rows = {name.removeprefix(group) for name in names if name.startswith(group)} - {"large", "small"}
        assert len(rows) == 17 and rows <= texts
        assert all(f"\n| {name} |" in page for name in rows)


def test_parts_that_are_not_there_are_said_to_be_missing(folder):
    for part in ("losses", "pruning-encoder", "pruning-transformer", "quantization", "reference"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for part in ("model_size.json", "speed.json", "structures.json"):
        (folder / part).unlink(missing_ok=True)
    assert tables.main([str(folder)]) == 0
    assert (folder / "README.md").read_text(encoding="utf8").count("ot measured yet: there is no") == 6
    assert {name.partition(".")[0] for name in summary(folder)} == {"vocabulary", "trimming"}


def test_a_folder_without_results_is_the_users_mistake(tmp_path, capsys):
    assert tables.main([str(tmp_path)]) == 2
    assert "no results of compression" in capsys.readouterr().err


def test_a_damaged_file_is_named_with_its_key(folder):
    (folder / "vocabulary.json").write_text('{"command": "x", "test_texts": 1, "results": [{}]}')
    with pytest.raises(InputError, match=r"vocabulary\.json"):
        read_inputs(folder)


def test_quantized_forms_are_judged_within_a_runtime_and_against_its_fp32_export(quantization, folder):
    write_report(quantization, folder / "quantization")
    assert tables.main([str(folder)]) == 0
    found, page = summary(folder), (folder / "README.md").read_text(encoding="utf8")
    assert found["quantization.openvino.good_int8_.speedup.real_text"]["value"] == 2.5
    lines = {line.split(" |")[0].removeprefix("| "): line for line in page.splitlines() if "| openvino |" in line}
    assert [line.rstrip(" |").rpartition("| ")[2] for line in lines.values()] == [
        "baseline", "earns its place", "loses too much", "dominated by good (int8)",
    ]  # fmt: skip
    # Four lines share one trimmed model: it is one row, not four.
    assert page.count("| quantization: ") == 1 and found["trimming.quantization.whole.size_mb"]["value"] == 60.0


def test_the_best_student_carries_the_reference_goals(folder):
    students = [row("teacher", "teacher", None, 0.9), row("plain", "student", "teacher", 0.83)]
    write_report(report("reference", [*students, row("taught", "student", "teacher", 0.84)]), folder / "reference")
    assert tables.main([str(folder)]) == 0
    found = summary(folder)
    assert found["reference.best.macro_f1_x100.domain"] == {
        "value": 84.0,
        "goal": "> 83.0",
        "command": "polyfold run recipes/compression/reference.yaml --out runs/reference",
    }  # fmt: skip
    assert found["reference.plain.macro_f1_x100.domain"] == found["reference.best.macro_f1_x100.domain"] | {
        "value": 83.0, "goal": None,
    }  # fmt: skip
    page = (folder / "README.md").read_text(encoding="utf8")
    assert "`reference.best.macro_f1_x100.sentiment` | 74.00 | > 56.8 | met |" in page


def test_the_reference_student_in_int8_carries_the_goals_as_well(folder):
    rows = [row("teacher", "teacher", None, 0.9), row("taught", "student", "teacher", 0.84)]
    write_report(report("reference", rows), folder / "reference")
    shutil.copyfile(RESULTS / "compression" / "reference" / "int8.json", folder / "reference" / "int8.json")
    assert tables.main([str(folder)]) == 0
    found = summary(folder)
    scores = json.loads((RESULTS / "compression" / "reference" / "int8.json").read_bytes())["tasks"]
    assert [one["task"] for one in scores] == ["domain", "sentiment", "topics"]
    for one in scores:
        figure = found[f"reference.int8.macro_f1_x100.{one['task']}"]
        assert figure["value"] == pytest.approx(100 * one["quality"]["second"], abs=0.01)
        assert figure["goal"].startswith("> ")
        assert figure["command"].startswith("polyfold compare runs/reference/")


@pytest.mark.parametrize(
    ("value", "goal", "met"),
    [
        (83.0, "> 83.0", False),
        (83.1, "> 83.0", True),
        (30.0, "<= 30", True),
        (30.1, "<= 30", False),
        (2, ">= 2", True),
    ],
)
def test_a_goal_is_met_as_it_is_written(value, goal, met):
    assert tables.is_met(value, goal) is met


ratios = st.tuples(*[st.floats(0.5, 2.0)] * 3).map(sorted).map(lambda three: Ratio(three[1], three[0], three[2]))
scored = st.builds(
    Scored,
    name=st.text("abc", min_size=1, max_size=3),
    macro_f1=st.fixed_dictionaries({"domain": st.sampled_from([0.7, 0.71, 0.72])}),
    degradation_percent=st.none(),
    mflops=st.one_of(st.none(), st.sampled_from([10.0, 10.001, 20.0])),
    size_mb=st.sampled_from([5.0, 5.0001, 6.0]),
    speedup=st.one_of(st.just({}), st.fixed_dictionaries({"real_lengths": ratios})),
    rounds=st.one_of(st.none(), st.integers(1, 3)),
)


@given(scored, scored)
def test_no_row_dominates_itself_nor_one_that_dominates_it(one, other):
    assert not dominates(one, one)
    assert not (dominates(one, other) and dominates(other, one))


def test_a_row_dominates_only_where_nothing_got_worse():
    plain = Scored("plain", {"domain": 0.8}, 0.0, 10.0, 5.0, {"real_lengths": Ratio(1.5, 1.4, 1.6)}, 1)

    def beside(**changes):
        return Scored(**{**vars(plain), "name": "other"} | changes)

    assert dominates(beside(macro_f1={"domain": 0.81}), plain) and dominates(beside(mflops=9.0), plain)
    assert not dominates(beside(macro_f1={"domain": 0.81}, size_mb=5.1), plain)
    assert not dominates(beside(macro_f1={"domain": 0.81}, rounds=3), plain), "training longer is no free lunch"
    slower = {"real_lengths": Ratio(1.2, 1.1, 1.3)}
    assert not dominates(beside(macro_f1={"domain": 0.81}, speedup=slower), plain)
    within_noise = {"real_lengths": Ratio(1.45, 1.35, 1.5)}
    assert dominates(beside(macro_f1={"domain": 0.81}, speedup=within_noise), plain)
    best = beside(name="best", macro_f1={"domain": 0.9})
    assert dominators([plain, beside(mflops=9.0), best]) == {"plain": "best"}


def test_a_loss_that_helps_with_some_seeds_only_does_not_count():
    common = {
        "student": "small", "subject": "logits", "variant_with": "logits alone", "variant_without": "labels only",
        "task": "domain", "documents": 9, "macro_f1_with": 0.8, "macro_f1_without": 0.7, "difference": 0.1,
        "ci95": (0.05, 0.15),
    }  # fmt: skip
    assert _clear(Contrast(**common, verdict="helped", by_seed=(0.1, 0.2))) == 1
    assert _clear(Contrast(**common, verdict="helped", by_seed=(0.3, -0.1))) == 0
    assert _clear(Contrast(**common, verdict="hurt", by_seed=(-0.3, -0.1))) == -1
    assert _clear(Contrast(**common, verdict="same", by_seed=(0.1, 0.2))) == 0


def test_rounds_come_from_the_recipe_that_the_report_was_made_by():
    found = load_report(RESULTS / "compression" / "pruning-encoder")
    recipes = ROOT / "recipes" / "compression"
    rounds = rounds_by_line(found, recipes)
    assert len(rounds) == 16 and {name for name, count in rounds.items() if count > 1} == {"flops-25-gradual"}
    assert rounds_by_line(found.model_copy(update={"name": "another"}), recipes) == {}


def test_an_export_without_an_fp32_one_has_no_speedup(quantization):
    rows = tuple(one for one in quantization.rows if not one.name.startswith("whole"))
    found = quantized(quantization.model_copy(update={"rows": rows}))
    assert len(found) == 3 and all(one.speedup == {} for _, one in found)


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(10, 90)), min_size=1, max_size=30))
def test_a_plot_is_well_formed_and_keeps_every_point_inside(places):
    points = [Point(f"<{number}>", x, y, "#2f6fce") for number, (x, y) in enumerate(places)]
    tree = ElementTree.fromstring(draw_svg("a & b", "quality", [Panel(points, "cost", less_is_better=True)]))
    circles = list(tree.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == len(points)
    for circle in circles:
        assert 0 <= float(circle.get("cx")) <= float(tree.get("width"))
        assert 0 <= float(circle.get("cy")) <= float(tree.get("height"))
