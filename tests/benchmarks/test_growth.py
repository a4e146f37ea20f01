"""The growth curve: endless distinct documents, a verdict on memory that can go both ways, the whole on toys."""

import json
import math
import mmap
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import fresh  # noqa: E402
import growth  # noqa: E402
import growth_documents as corpus  # noqa: E402
import growth_plot as plot  # noqa: E402
import growth_report as report  # noqa: E402

TEXTS = ["one", "two", "one", "three", "four #7", "five"]


def flat(value):
    return fresh.Spread(median=value, least=value, most=value, rounds=1)


def points(*memory):
    """Points from (documents, peak in MB)."""
    return [
        report.DocumentsPoint(
            documents=count,
            documents_per_second=flat(10.0),
            peak_memory_mb=flat(peak),
            mean_text_bytes=100.0,
            labels_changed=0,
        )
        for count, peak in memory
    ]


@given(st.integers(1, 400))
def test_the_scattered_order_visits_every_row_once(count):
    assert sorted(corpus.scattered(count)) == list(range(count))


def test_every_stretch_of_the_scattered_order_holds_the_whole_file():
    order = list(corpus.scattered(1000))
    for start in range(0, 1000, 50):
        tenths = {row // 100 for row in order[start : start + 50]}
        assert tenths == set(range(10))


# Arrow loads its kernels in the first call.
@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "a #1", "b #2", "#3", "c #", "d # 4"]), min_size=1), st.integers(1, 60))
def test_no_two_documents_are_equal_however_often_the_corpus_repeats(texts, documents):
    column = pa.array([*texts, "kept"])
    kept = corpus.kept_rows(column)
    found = [text for part in corpus.slices(column, kept, documents) for text in part]
    assert len(found) == documents == len(set(found))
    assert set(found[: len(kept)]) <= set(column.to_pylist())


def test_a_longer_file_begins_with_the_shorter_one_in_both_formats(tmp_path):
    column = pa.array(TEXTS)
    kept = corpus.kept_rows(column)
    assert sorted(column.take(pa.array(kept)).to_pylist()) == ["five", "one", "three", "two"]
    rows = {}
    for count in (3, 11):
        sizes = {corpus.write(tmp_path / f"{count}.{kind}", column, kept, count) for kind in ("parquet", "jsonl")}
        rows[count] = pq.read_table(tmp_path / f"{count}.parquet").to_pylist()
        lines = (tmp_path / f"{count}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == rows[count]
        assert sizes == {sum(len(row["text"].encode()) for row in rows[count])}
    assert rows[11][:3] == rows[3] and [row["id"] for row in rows[11]] == list(range(11))
    assert sum(row["text"].endswith(" #2") for row in rows[11]) == 3


def test_slices_stay_small_whatever_the_number_of_documents(monkeypatch):
    monkeypatch.setattr(corpus, "SLICE", 4)
    column = pa.array(TEXTS)
    lengths = [len(part) for part in corpus.slices(column, corpus.kept_rows(column), 10)]
    assert lengths == [4, 4, 2]


def test_flat_memory_passes_and_a_kept_text_does_not():
    filling = ((1_000, 300.0), (10_000, 380.0), (100_000, 420.0))
    flat_one = report.memory_verdict(points(*filling, (1_000_000, 425.0)))
    assert flat_one.flat and flat_one.from_documents == 100_000
    assert flat_one.bytes_per_document == pytest.approx(5e6 / 900_000, abs=0.01)
    kept = report.memory_verdict(points(*filling, (1_000_000, 510.0)))
    assert kept.flat is False and kept.bytes_per_document == pytest.approx(100.0)


def test_what_memory_grows_by_is_told_between_all_neighbours_in_whatever_order_they_come():
    found = report.slopes(points((10_000, 390.0), (1_000, 300.0), (110_000, 400.0)))
    assert found == {10_000: 10_000.0, 110_000: 100.0}


@pytest.mark.parametrize("counts", [(300, 600), (1_000, 100_000), (50_000, 400_000), (1_000, 10_000), (200_000,)])
def test_points_that_lie_too_close_or_too_low_prove_nothing(counts):
    assert report.memory_verdict(points(*((count, 300.0) for count in counts))).flat is None


@given(st.floats(0, 10), st.floats(1e-4, 0.1))
def test_the_speed_of_further_documents_does_not_see_what_every_start_costs(start, each):
    walls = {count: start + count * each for count in (10, 100, 1000)}
    found = report.marginal(walls)
    assert set(found) == {100, 1000}
    assert all(one == pytest.approx(1 / each, rel=1e-3, abs=0.01) for one in found.values())


def test_heads_are_of_the_kinds_and_sizes_in_turn_and_all_different():
    found = growth.heads(32)
    assert len({task.name for task in found}) == 32
    assert [len(task.labels) for task in found[:4]] == [6, 4, 9, 6]
    assert sum(task.multi_label for task in found) == 10
    assert growth.heads(1) == found[:1]


@pytest.mark.parametrize(
    ("family", "table", "limit"),
    [
        ("xlm-roberta", 514, 512),
        ("bert", 128, 128),
        ("polyfold-xlm-roberta", 130, 128),
        ("use-multilingual", None, None),
    ],
)
def test_a_position_table_ends_the_lengths(family, table, limit):
    config = {"polyfold": {"family": family}} | ({} if table is None else {"max_position_embeddings": table})
    assert growth.position_limit(config) == limit


def test_a_point_that_used_up_its_time_is_left_out_of_further_rounds():
    given_ = growth.Given(Path(), None, Path(), "parquet", 3, 0.0, 5.0, 1, {})
    calls = []

    def run(point):
        calls.append(point)
        return fresh.Fresh({"peak_memory_mb": 1.0}, 10.0 if point == 2 else 1.0)

    found = growth.in_rounds([1, 2], given_, run, lambda _: None)
    assert calls == [1, 2, 1, 1] and [len(found[point]) for point in (1, 2)] == [3, 1]


@given(st.floats(1e-3, 1e6), st.floats(1, 1e6))
def test_marks_enclose_what_is_drawn_and_are_few(low, ratio):
    high = low * ratio
    marks = plot.powers(low, high)
    assert marks[0] <= low * (1 + 1e-6) and marks[-1] >= high * (1 - 1e-6) and 2 <= len(marks) <= 14
    plain = plot.steps(high)
    assert plain[0] == 0 and plain[-1] >= high * (1 - 1e-6) and 3 <= len(plain) <= 8


def test_the_plot_places_a_point_for_each_measured_one_in_order():
    chart = plot.Chart([(1.0, 5.0), (100.0, 50.0), (10_000.0, 500.0)], "documents", "documents/s")
    drawn = ElementTree.fromstring(plot.draw_charts("title", [[chart], [chart]]))
    circles = [one for one in drawn.iter() if one.tag.endswith("circle")]
    places = [(float(one.get("cx")), float(one.get("cy"))) for one in circles[:3]]
    assert len(circles) == 6 and places == sorted(places)
    # Equal ratios are equal distances on both axes.
    assert math.isclose(places[1][0] - places[0][0], places[2][0] - places[1][0], abs_tol=0.2)
    assert math.isclose(places[1][1] - places[0][1], places[2][1] - places[1][1], abs_tol=0.2)


def test_the_memory_of_this_process_is_told_apart():
    found = fresh.resident()
    assert (
        0 < found["anonymous_mb"] <= found["resident_mb"] and found["proportional_mb"] <= found["resident_mb"] + 1
    )
    before = found["anonymous_mb"]
    # Mapped and not allocated: an allocator may have that much lying about.
    held = mmap.mmap(-1, 10_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, len(held), mmap.PAGESIZE):
        held[page] = 1
    assert fresh.resident()["anonymous_mb"] - before == pytest.approx(10, abs=3)
    parts = fresh.parse_maps(fresh.MAPS.read_text().splitlines())
    assert sum(parts.values()) == pytest.approx(found["resident_mb"] + 10, rel=0.1)
    assert any(re.match(r"libpython|python", name) for name in parts)
    held.close()


def test_a_process_that_fails_is_told_with_its_last_words(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('noise')\nprint(sys.argv[1])\n")
    assert fresh.run_fresh(script, {"a": [1]}).answer == {"a": [1]}
    script.write_text("raise SystemExit('the last words')\n")
    with pytest.raises(fresh.InputError, match="the last words"):
        fresh.run_fresh(script, {})


def test_the_whole_curve_on_toys(torch_toys, tmp_path):
    toy = torch_toys["transformer"]
    data = tmp_path / "data"
    data.mkdir()
    texts = [f"the parcel came {number}" for number in range(40)]
    pq.write_table(pa.table({"text": texts, "lang": ["en"] * 40}), data / "corpus.parquet")
    model = toy["folders"]["int8"]["openvino"]
    out = tmp_path / "out"
    arguments = [
        str(model),
        "--trunk",
        str(toy["folders"]["fp32"]["torch"]),
        "--data",
        str(data),
        "--quick",
        "--out",
        str(out),
    ]
    assert growth.main(arguments) == 0
    found = report.GrowthFile.model_validate_json((out / "growth.json").read_bytes())
    assert found.command.startswith("python benchmarks/growth.py") and "--quick" in found.command
    assert [one.documents for one in found.documents.points] == [300, 600]
    assert all(one.labels_changed == 0 for one in found.documents.points) and found.documents.memory.flat is None
    assert [(one.tokens, one.documents_a_batch) for one in found.tokens.points] == [(4, 1024), (16, 256)]
    assert [(one.tasks, one.asked) for one in found.tasks.points] == [(1, 1), (3, 3), (3, 1)]
    every = [*found.documents.points, *found.tokens.points, *found.tasks.points]
    assert all(one.peak_memory_mb.median > 50 and one.documents_per_second.median > 0 for one in every)
    ElementTree.parse(out / "growth.svg")


def test_what_is_missing_is_the_users_mistake(tmp_path, capsys):
    common = ["nowhere", "--out", str(tmp_path)]
    assert growth.main([*common, "--axes", "tasks", "--data", str(tmp_path)]) == 2
    assert "corpus" in capsys.readouterr().err
    (tmp_path / "corpus.parquet").write_bytes(b"")
    assert growth.main([*common, "--axes", "tasks", "--data", str(tmp_path)]) == 2
    assert "--trunk" in capsys.readouterr().err
