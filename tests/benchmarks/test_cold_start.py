"""Cold start and memory: parsed as the kernel writes it, every step there, the goal read at the right stage."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import cold_start  # noqa: E402
import fresh  # noqa: E402
import short_texts  # noqa: E402

ROLLUP = """55e0c000-7ffd1000 ---p 00000000 00:00 0                          [rollup]
Rss:               20000 kB
Pss:               15000 kB
Pss_Anon:           9000 kB
Private_Dirty:      9000 kB
Anonymous:         10000 kB
AnonHugePages:         0 kB
"""
MAPS = """7f00-7f01 r-xp 00000000 08:01 123   /usr/lib/with space/lib: odd.so
Size:                900 kB
Rss:                 500 kB
VmFlags: rd ex mr
7f01-7f02 rw-p 00001000 08:01 123   /usr/lib/with space/lib: odd.so
Rss:                 300 kB
7f02-7f03 rw-p 00000000 00:00 0
Rss:                4000 kB
7f03-7f04 rw-p 00000000 00:00 0     [heap]
Rss:                1000 kB
"""


def test_memory_is_read_as_the_kernel_writes_it():
    found = fresh.parse_rollup(ROLLUP.splitlines())
    assert found == {"resident_mb": 20.5, "proportional_mb": 15.4, "anonymous_mb": 10.2}


def test_resident_memory_is_added_up_by_what_is_mapped():
    found = fresh.parse_maps(MAPS.splitlines())
    assert dict(found) == {"lib: odd.so": 0.8, "[anon]": 4.1, "[heap]": 1.0}
    assert next(iter(dict(found.most_common(1)))) == "[anon]"


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=9))
def test_a_spread_encloses_its_median(values):
    found = fresh.spread(values, 6)
    assert found.least <= found.median <= found.most and found.rounds == len(values)
    assert (found.least, found.most) == (round(min(values), 6), round(max(values), 6))


def test_a_step_that_only_some_rounds_had_is_the_median_of_those():
    found = cold_start.medians([{"a": 1.0, "b": 5.0}, {"a": 3.0}, {"a": 2.0, "c": 1.0}])
    assert list(found) == ["a", "b", "c"]
    assert found["a"].median == 2.0 and found["b"].rounds == 1


@pytest.mark.parametrize(("value", "met"), [(299.9, True), (300.0, True), (300.1, False)])
def test_a_goal_is_met_up_to_its_limit(value, met):
    assert cold_start.judged(value, 300.0).met is met


def test_only_openvino_keeps_a_compiled_model(tmp_path):
    assert cold_start.ways("openvino", tmp_path) == {cold_start.PLAIN: None, cold_start.CACHED: tmp_path}
    assert cold_start.ways("onnxruntime", tmp_path) == {cold_start.PLAIN: None}


def test_the_sample_takes_languages_in_turns_each_text_once():
    rows = [
        {"id": f"{number:04}", "lang": language, "text": f"{language} {number // 2}"}
        for number in reversed(range(2_010)) for language in ("de", "zh", "xx")
    ]  # fmt: skip
    found = short_texts.sample(rows)
    assert found[:4] == ["de 0", "zh 0", "de 1", "zh 1"] and len(found) == 1_000
    assert not any(text.startswith("xx") for text in found)
    assert short_texts.sample(rows, 4) == found[:4]


def test_without_the_data_there_are_distinct_texts_of_many_lengths(tmp_path):
    found = short_texts.short_sample(tmp_path, 90)
    assert len(set(found)) == 90 and len({text.count(" ") for text in found}) == 30


def test_a_toy_is_started_and_served(torch_toys, tmp_path):
    folders = torch_toys["transformer"]["folders"]["int8"]
    for runtime in ("onnxruntime", "openvino"):
        out = tmp_path / runtime
        arguments = [str(folders[runtime]), "--data", str(tmp_path), "--quick", "--out", str(out)]
        assert cold_start.main(arguments) == 0
        content = (out / "cold_start.json").read_bytes()
        found = cold_start.ColdStartFile.model_validate_json(content)
        assert found.runtime == runtime and found.precision == "int8" and found.texts == 20
        best = cold_start.CACHED if runtime == "openvino" else cold_start.PLAIN
        assert set(found.starts) == set(found.memory) == ({cold_start.PLAIN} | {best})
        start = found.starts[best]
        assert found.cold_start.value == start.total_s.median
        parts = start.parts_s
        counted = sum(one.median for name, one in parts.items() if name != "the same text again")
        assert counted == pytest.approx(start.total_s.median, abs=1e-3)
        assert {f"import {runtime}", "open tokenizer", "first prediction"} <= set(start.steps_s)
        assert ("compile model" in start.steps_s) == (runtime == "openvino")
        stages = found.memory[best].stages
        assert (
            found.resident.value
            == stages["20 texts one by one"]["resident_mb"]
            > stages["opened"]["resident_mb"] - 5
        )
        assert found.memory[best].peak_memory_mb >= found.resident.value - 1


def test_a_folder_that_is_no_model_is_the_users_mistake(tmp_path, capsys):
    assert cold_start.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "config.json" in capsys.readouterr().err
