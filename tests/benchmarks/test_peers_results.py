"""Figures of peers: medians of rounds, quality and agreement under stated thresholds, the table and the plot."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from peers import plot, results  # noqa: E402
from peers.documents import Sample  # noqa: E402
from peers.results import Footprint, PeerResult, PeersFile, Protocol, Quality, Scored  # noqa: E402
from peers.table import markdown  # noqa: E402
from polyfold.system import Hardware  # noqa: E402
from polyfold.tasks import Task  # noqa: E402

TASKS = (
    Task(name="domain", labels=("hotel", "phone")),
    Task(name="topics", kind="multi_label", labels=("price", "staff")),
)
# The last document is not labelled for topics, the first not for domain.
SAMPLE = Sample(
    ["a", "b", "c", "d"], {"domain": [None, 0, 1, 1], "topics": [[1, 0], [0, 0], [1, 1], None]}
)  # fmt: skip
RIGHT = {
    "domain": np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.1, 0.9]]),
    # Decided at 0.2, not at one half.
    "topics": np.array([[0.3, 0.1], [0.1, 0.1], [0.3, 0.3], [0.3, 0.3]]),
}
rates = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=9)


@given(rates)
def test_a_speed_lies_between_its_least_and_most_round(values):
    found = results.speed_of(values, 8, {"8": 3.0})
    assert found.least <= found.documents_per_second <= found.most
    assert len(found.rounds) == len(values)


@given(rates, st.floats(0.1, 100))
def test_speed_ups_do_not_see_a_machine_that_is_slow_in_some_rounds(base, ratio):
    found = results.speedups({"ref": base, "fast": [ratio * rate for rate in base]}, "ref")
    assert found["ref"] == 1.0
    assert found["fast"] == pytest.approx(ratio, rel=1e-3, abs=1e-3)


def test_without_the_reference_there_is_no_speed_up_and_half_a_run_has_none():
    assert results.speedups({"fast": [1.0]}, "ref") == {}
    assert results.speedups({"ref": [1.0, 2.0], "died": [1.0]}, "ref") == {"ref": 1.0}


def test_latency_counts_every_text():
    found = results.latency_of([float(value) for value in range(1, 102)])
    assert (found.p50_ms, found.p99_ms, found.texts) == (51.0, 100.0, 101)


def test_quality_is_of_labelled_documents_with_thresholds_tuned_on_dev():
    found = results.quality_of(TASKS, SAMPLE, SAMPLE, Scored(RIGHT, RIGHT), None)
    assert found.macro_f1 == {"domain": 1.0, "topics": 1.0} and found.mean_macro_f1 == 1.0
    assert found.label_agreement_percent is None
    untuned = results.decide(TASKS, RIGHT, {})
    assert not untuned["topics"].any()


def test_agreement_is_counted_under_the_thresholds_of_the_reference():
    same = results.quality_of(TASKS, SAMPLE, SAMPLE, Scored(RIGHT, RIGHT), Scored(RIGHT, RIGHT))
    assert same.label_agreement_percent == {"domain": 100.0, "topics": 100.0}
    off = {**RIGHT, "domain": RIGHT["domain"][:, ::-1], "topics": np.zeros((4, 2))}
    other = results.quality_of(TASKS, SAMPLE, SAMPLE, Scored(RIGHT, off), Scored(RIGHT, RIGHT))
    # The first document's tie goes to the first label on both sides; five of eight topics were positive.
    assert other.label_agreement_percent == {"domain": 25.0, "topics": 37.5}
    assert other.macro_f1["domain"] == 0.0


def peer(name, rate=None, quality=None, weights="shared", group="peer", failed=None):
    """A result with what is given."""
    speed = latency = size = None
    if rate is not None:
        speed = results.speed_of([rate * 0.9, rate, rate * 1.1], 8, {"8": rate})
        latency = results.latency_of([1.0, 2.0])
        size = Footprint(
            load_seconds=1.5, prepare_seconds=None, resident_mb=123.4, peak_mb=150.0, disk_mb=12.0,
            environment_mb=900.0,
        )  # fmt: skip
    return PeerResult(
        name=name, title=f"The {name} | peer", group=group, weights=weights, failed=failed, speed=speed,
        speedup=None if rate is None else rate / 10, latency=latency, footprint=size,
        quality=None if quality is None else Quality(
            macro_f1={"domain": quality, "topics": quality}, mean_macro_f1=quality,
            label_agreement_percent={"domain": 99.0, "topics": 98.0} if weights == "shared" else None,
        ),
    )  # fmt: skip


def content(*peers):
    """peers.json of a toy machine."""
    return PeersFile(
        command="python -m benchmarks.peers",
        hardware=Hardware(
            processor="Toy <9000>", instructions=(), cores=2, memory_gb=1.0, accelerator=None, system="x",
            versions={},
        ),
        protocol=Protocol(
            documents_a_slice=1200, slices=10, rounds=3, seconds=2.0, train_documents=60000, dev_documents=3000,
            test_documents=6000, languages=("en", "de"), scored=True,
        ),
        reference="slow",
        peers=peers,
    )  # fmt: skip


ALL = (
    peer("slow", 10.0, 0.8),
    peer("linear", 5000.0, 0.6, "fitted"),
    peer("ours", 2000.0, 0.81, "own", "polyfold"),
    peer("random", 300.0),
    peer("broken", failed="ERROR: no matching distribution"),
)


def test_every_peer_is_a_line_of_the_table_and_failures_say_why():
    found = markdown(content(*ALL))
    lines = [line for line in found.splitlines() if line.startswith("| The ")]
    assert len(lines) == len(ALL) and len({line.count("|") for line in lines}) == 1
    assert "| 2,000 (1,800 to 2,200) | 200 |" in lines[2] and "| 81.0 |" in lines[2]
    assert "98.50 |" in lines[0] and lines[1].endswith("– |")
    assert "(failed)" in lines[4] and "ERROR: no matching distribution" in found
    assert "slow" in found and "one run" in found and "peers.svg" in found


def test_peers_json_is_read_back_as_it_was_written():
    assert PeersFile.model_validate_json(content(*ALL).model_dump_json()) == content(*ALL)


def test_the_plot_has_a_point_for_every_scored_peer_and_a_line_for_the_others():
    drawn = plot.draw(content(*ALL))
    root = ElementTree.fromstring(drawn)
    space = {"s": "http://www.w3.org/2000/svg"}
    places = {}
    for circle in root.iterfind("s:circle", space):
        title = circle.find("s:title", space)
        if title is not None:
            places[title.text.split()[1]] = (float(circle.get("cx")), float(circle.get("cy")))
    assert set(places) == {"slow", "linear", "ours"}
    assert places["slow"][0] < places["ours"][0] < places["linear"][0]
    assert places["ours"][1] < places["slow"][1] < places["linear"][1]
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"slow", "ours", "linear", "random (not scored)"} <= set(texts) and "broken" not in " ".join(texts)
    assert any("one and the same run" in text and "Toy <9000>" in text for text in texts)


def test_nothing_scored_nothing_drawn():
    assert plot.draw(content(ALL[3], ALL[4])) is None
    assert "peers.svg" not in markdown(content(ALL[3], ALL[4]))


@given(st.lists(st.tuples(st.floats(1, 1e5), st.floats(0, 1)), min_size=1, max_size=12))
def test_what_the_line_joins_no_other_point_beats_and_each_of_the_rest_is_beaten(points):
    kept = plot.kept(points)
    for x, y in points:
        beaten = any(a >= x and b >= y and (a, b) != (x, y) for a, b in kept)
        assert ((x, y) in kept) != beaten


@given(st.floats(0.01, 1e5), st.floats(1.2, 1e4))
def test_ticks_lie_on_their_axis(low, factor):
    high = low * factor
    found = plot.log_ticks(low, high)
    assert all(low <= tick <= high for tick in found) and found == sorted(set(found))
    if factor >= 10:
        assert len(found) >= 3
    axis = plot.Axis(low, high, 50, 850, log=True)
    assert axis(low) == pytest.approx(50) and axis(high) == pytest.approx(850)
    assert axis((low * high) ** 0.5) == pytest.approx(450)
