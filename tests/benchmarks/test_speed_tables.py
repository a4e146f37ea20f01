"""The page on speed: its figures, floors and verdicts are those of the files beside it, and nothing else's."""

import json
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys_speed import (
    BASELINE,
    ENTRIES,
    FILES,
    KEYS,
    MINILM,
    STUDENT,
    agreement,
    benchmark,
    comparison,
    entry,
    growth,
    put,
    tokenizing,
)

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import speed_inputs as inputs  # noqa: E402
import speed_page as page  # noqa: E402
import speed_tables as tables  # noqa: E402
from speed_parts import GROWTH_PLOT, PEERS_PLOT  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "speed"


@pytest.fixture
def folder(tmp_path):
    return put(tmp_path / "speed")


def made(folder):
    """The summary and the page of a folder."""
    assert tables.main([str(folder)]) == 0
    return json.loads((folder / "summary.json").read_bytes()), (folder / "README.md").read_text(encoding="utf8")


def goal_row(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_committed_page_is_what_its_files_give(tmp_path):
    if not (RESULTS / "README.md").is_file():
        pytest.skip("no results of speed are committed yet")
    copy = tmp_path / "speed"
    shutil.copytree(RESULTS, copy)
    before = {path.name: path.read_bytes() for path in copy.iterdir() if path.suffix in (".md", ".svg", ".json")}
    assert tables.main([str(copy)]) == 0
    # The page names the folder that it was made from.
    place = re.compile(rb"Made by `[^`]+`")
    for name, content in before.items():
        assert place.sub(b"", (copy / name).read_bytes()) == place.sub(b"", content), f"make {name} again"
    commands = {one["command"] for one in json.loads(before["summary.json"]).values()}
    assert commands and not [one for one in commands if tables.ABSOLUTE.search(one)]


def test_every_goal_is_a_figure_judged_as_it_is_written(folder):
    found, text = made(folder)
    expected = {
        "minilm.speedup.32x128": (170 / 5, True),
        "minilm.speedup.real_text_vs_padded_128": (680 / 5, True),
        "minilm.speedup.real_text": (680 / 30, False),
        "student.speedup.32x128": (1100 / 5, True),
        "student.speedup.real_text_vs_padded_128": (4400 / 5, True),
        "student.degradation_percent": (15.0, False),
        "minilm.latency_ms_p50.real_text": (2.6, False),
        "student.latency_ms_p50.real_text": (0.45, True),
        "tokenizing_and_decoding.documents_per_second": (160_000, True),
        "cold_start_s": (1.2, True),
        "resident_mb": (310, False),
        "growth.memory.bytes_per_document": (11.11, True),
        "training.cached_over_plain": (1.02, True),
        "gpu.minilm_l6.best_speedup": (70, True),
    }
    assert expected.keys() == page.GOALS.keys()
    for name, (value, met) in expected.items():
        assert found[name]["value"] == pytest.approx(value, rel=1e-5)
        assert found[name]["goal"] == page.GOALS[name].wanted
        assert goal_row(text, name)[4] == ("met" if met else "**missed**")
    assert {name for name, one in found.items() if one["goal"] is not None} == expected.keys()
    assert "**10 of 14 goals measured are met**; 0 are not measured yet." in text


def test_a_figure_is_one_number_with_its_floor_in_its_own_unit(folder):
    found, _ = made(folder)
    assert all(one.keys() == {"value", "goal", "floor", "share_of_floor", "command"} for one in found.values())
    bounded = {name: one for name, one in found.items() if one["floor"] is not None}
    assert len(bounded) > 50
    for name, one in bounded.items():
        faster = one["value"] / one["floor"] if "latency" not in name else one["floor"] / one["value"]
        assert one["share_of_floor"] == pytest.approx(faster, rel=1e-4), name
    speedup = found["minilm.speedup.32x128"]
    assert speedup["share_of_floor"] == 0.25 and speedup["floor"] == pytest.approx(4 * 34.0)
    together = found["tokenizing_and_decoding.documents_per_second"]
    assert (together["floor"], together["share_of_floor"]) == (4 * 160_000, 0.25)
    assert found["baseline.documents_per_second.real_text"]["value"] == BASELINE["real_text"]


def test_what_has_no_floor_says_why_on_the_page(folder):
    found, text = made(folder)
    parts = tables.sections(inputs.read_inputs(folder))
    reasons = {name: why for part in parts for name, why in part.unbounded.items()}
    assert reasons.keys() == {name for name, one in found.items() if one["floor"] is None}
    (told,) = re.findall(r"## Figures without a floor\n(.*?)\n## ", text, re.DOTALL)
    assert all(f"| {why} |" in told for why in reasons.values())
    counted = [int(count) for count in re.findall(r"\| (\d+) \| `", told)]
    assert sum(counted) == len(reasons)


def test_one_artifact_carries_a_row_of_goals_the_fastest_on_real_texts_of_its_int8_forms(folder):
    chosen = inputs.carriers(inputs.read_inputs(folder))
    assert {role: one.entry.name for role, one in chosen.items()} == {
        "minilm": f"{MINILM}, bf16", "student": f"{STUDENT}, bf16"
    }  # fmt: skip
    assert chosen["minilm"].forms == 2
    # Without a score the fastest student is taken, whatever it may have lost.
    unscored = inputs.carriers(inputs.read_inputs(put(folder, student=None)))
    assert unscored["student"].entry.name == "narrow.openvino"


def test_a_score_of_another_model_than_the_one_benchmarked_is_refused(folder, capsys):
    assert tables.main([str(put(folder, student=comparison("another")))]) == 2
    assert "'another'" in capsys.readouterr().err


def test_agreement_is_that_with_the_model_before_quantization(folder):
    found, text = made(folder)
    for role in ("minilm", "student"):
        assert found[f"{role}.label_agreement_percent.domain"]["value"] == 98.5
        assert found[f"{role}.label_agreement_percent.topics"]["value"] == 98.0
    timed = [line for line in text.splitlines() if line.startswith(f"| {MINILM} |") and "–" in line]
    assert sum("98.50 / 98.00" in line for line in timed) == len(KEYS)
    only_quantized = entry(MINILM, 160.0, 2.0, agreement=(agreement("exported from", "int8", 99.9),))
    assert inputs.fp32_agreement(only_quantized) is None
    whole = entry(MINILM, 160.0, 2.0, "fp32", agreement=(agreement("exported from", "fp32", 100.0),))
    assert inputs.fp32_agreement(whole).least == 99.5
    _, text = made(put(folder, benchmark=benchmark(only_quantized), student=None))
    assert "| not compared |" in text and "98.50 / 98.00" not in text


def test_every_artifact_has_its_figures_under_its_own_name(folder):
    found, text = made(folder)
    for one in ENTRIES:
        name = "artifact." + re.sub("[^a-z0-9]+", "_", one.name.lower())
        for key, speed in one.speed.items():
            value = found[f"{name}.documents_per_second.{key}"]["value"]
            assert value == pytest.approx(speed.timing.documents_per_second, rel=1e-5)
        assert found[f"{name}.load_50_percent.together_1.latency_ms_p99"]["value"] == pytest.approx(
            one.arrivals[0].latency_ms_p99, rel=1e-5
        )
        assert found[f"{name}.threads.2.real_text.documents_per_second"]["share_of_floor"] == 0.25
        assert text.count(f"\n| {one.name} |") >= len(KEYS) + 4
    commands = {one["command"] for name, one in found.items() if name.startswith("artifact.")}
    assert commands == {"polyfold benchmark runs/a runs/b --bf16"}


def test_the_score_of_the_student_says_how_it_was_made(folder):
    found, _ = made(folder)
    command = f"polyfold compare runs/teacher runs/{STUDENT} --data recipes/feedback.yaml --json "
    assert found["student.degradation_percent"]["command"].startswith(command)
    assert (
        found["teacher.macro_f1_x100.domain"]["value"] == 80
        and found["student.macro_f1_x100.topics"]["value"] == 40
    )


@pytest.mark.parametrize("left", list(FILES))
def test_parts_that_are_not_there_are_said_to_be_missing(folder, left):
    found, text = made(put(folder, **{name.removesuffix(".json"): None for name in FILES if name != left}))
    missing = sorted(set(re.findall(r"Not measured yet: there is no `(\w+\.json)`", text)))
    assert missing == sorted(set(FILES) - {left})
    absent = [name for name, goal in page.GOALS.items() if goal.file != left]
    assert not found.keys() & set(absent)
    assert all(goal_row(text, name)[4] == f"not measured yet (no `{page.GOALS[name].file}`)" for name in absent)
    assert ("never been run" in text) == (left != inputs.GPU)
    assert ("| `benchmark.json` |" in text) == (left == inputs.BENCHMARK)


def test_a_goal_whose_file_does_not_tell_is_not_judged(folder):
    found, text = made(put(folder, growth=growth(200_000)))
    assert "growth.memory.bytes_per_document" not in found and "too few documents to tell" in text
    assert goal_row(text, "growth.memory.bytes_per_document")[4] == "not measured yet (not in `growth.json`)"


def test_the_tokenizing_goal_is_read_at_the_slowest_model(folder):
    found, text = made(put(folder, tokenizing=tokenizing(a=1.4e5, b=3e5)))
    assert found["tokenizing_and_decoding.documents_per_second"]["value"] == 1.4e5
    assert "read at `a`, the slowest of the 2 models measured" in text
    without = found["tokenizing.bert_json.short_test_sample.2_threads.together.documents_per_second"]
    assert without["floor"] is None


def test_plots_are_drawn_from_the_files_and_stand_on_the_page(folder):
    _, text = made(folder)
    assert re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text) == [GROWTH_PLOT, PEERS_PLOT]
    for name in (GROWTH_PLOT, PEERS_PLOT):
        circles = list(ElementTree.parse(folder / name).iter("{http://www.w3.org/2000/svg}circle"))
        assert circles


def test_the_page_tells_machine_texts_power_and_load(folder):
    _, text = made(folder)
    for told in (
        "Toy 9000, 2 cores", "10 of 11 distinct ones, of 12 in sample.csv", "load average 0.25",
        "others use 1 % of the processor", "Time the hypervisor gave to others: 0.10 %", "bf16 GOP/s",
    ):  # fmt: skip
        assert told in text
    assert [command for command in {one.command for one in FILES.values() if hasattr(one, "command")}
            if f"`{command}`" not in text] == []  # fmt: skip
    assert re.findall(r"[^\n]\n## ", text) == [], "a heading needs an empty line before it"


def test_a_path_of_this_machine_is_warned_of(folder, capsys):
    made(folder)
    assert "warning" not in capsys.readouterr().err
    found = benchmark(*ENTRIES).model_copy(update={"command": "polyfold benchmark /home/me/model"})
    made(put(folder, benchmark=found))
    assert "would be published: polyfold benchmark /home/me/model" in capsys.readouterr().err


def test_a_folder_without_results_is_the_users_mistake(tmp_path, capsys):
    assert tables.main([str(tmp_path)]) == 2
    assert "no results of speed" in capsys.readouterr().err


def test_a_damaged_file_is_named_with_its_key(folder, capsys):
    (folder / inputs.COLD_START).write_text('{"command": 5}')
    assert tables.main([str(folder)]) == 2
    assert re.search(r"cold_start\.json, key 'command'", capsys.readouterr().err)


@given(st.floats(1e-6, 1e9))
def test_six_digits_are_kept_and_four_are_told(value):
    assert page.shortened(value) == pytest.approx(value, rel=1e-5)
    assert float(page.told(value).replace(",", "")) == pytest.approx(value, rel=6e-4)
