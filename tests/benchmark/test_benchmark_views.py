"""What the console says of a benchmark: readable at 80 columns, whatever the artifacts are called."""

from itertools import pairwise
from pathlib import Path

import pytest

from polyfold.benchmark.figures import figures
from polyfold.benchmark.results import Benchmark, load_benchmark
from polyfold.benchmark.tables import arrivals, speed
from polyfold.benchmark.views import LEFT_OUT, benchmark_html, legend, numbered, print_benchmark

RESULT = Path(__file__).parents[2] / "docs" / "results" / "speed"
LONG = "minilm.trim_vocabulary[45000].int8_ptq.openvino, bf16 on a runtime of a very long name"


@pytest.fixture(scope="module")
def found() -> Benchmark:
    """A real result, with names as long as they come, and two that differ in their last letter alone."""
    measured = load_benchmark(RESULT)
    names = [LONG + letter for letter in "abcdefgh"]
    entries = [one.model_copy(update={"name": name}) for one, name in zip(measured.entries, names, strict=False)]
    assert len(entries) > 1 and measured.baseline is not None
    return measured.model_copy(update={"entries": tuple(entries)})


@pytest.fixture
def said(found, capsys, monkeypatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    print_benchmark(found)
    return capsys.readouterr().out


def tables_said(said: str) -> list[str]:
    """The lines of the two tables: from the first title to the first block of facts."""
    lines = [line.rstrip() for line in said.splitlines()]
    ends = [place for place, line in enumerate(lines) if line in ("Notes", "How this was measured")]
    return lines[lines.index("Speed") : ends[0]]


def test_no_line_of_a_table_is_wider_than_80_columns(said):
    lines = tables_said(said)
    assert len(lines) > 15
    assert max(map(len, lines)) <= 80


def test_every_figure_stands_whole_on_the_line_that_begins_with_its_artifacts_number(found, said):
    lines = [line.split() for line in tables_said(said)]
    rows = 0
    for table in (speed(numbered(found)), arrivals(numbered(found))):
        shown = [place for place, name in enumerate(table.columns) if name not in LEFT_OUT]
        for row in table.rows:
            figures = " ".join(row[place] for place in shown if place >= table.text_columns).split()
            assert any(line[:1] == [row[0]] and line[-len(figures) :] == figures for line in lines), row
            rows += 1
    assert rows == len(speed(found).rows) + len(arrivals(found).rows) > 10


def test_every_number_is_said_to_stand_for_one_name_on_a_line_of_its_own(found, said):
    named = dict(legend(found))
    assert list(named) == [f"{number}" for number in range(len(found.entries) + 1)]
    assert [named[f"{number}"] for number in range(1, len(named))] == [entry.name for entry in found.entries]
    for number, name in named.items():
        assert said.splitlines().count(f"  {number}  {name}") == 1


def test_without_a_baseline_nothing_is_number_nought(found):
    alone = found.model_copy(update={"baseline": None})
    assert "0" not in dict(legend(alone))
    assert {row[0] for row in speed(numbered(alone)).rows} == set(dict(legend(alone)))


def test_the_page_keeps_the_names(found):
    assert {row[0] for row in speed(found).rows} == {found.baseline.name, *(one.name for one in found.entries)}


def test_a_long_name_is_no_large_headline_on_the_page(found):
    page = benchmark_html(found)
    assert page.count('<dd class="long">') == 1
    assert '<dd class="long">minilm.<wbr>' in page or '<dd class="long">medium.<wbr>' in page


def test_labels_of_logarithmic_axes_stand_at_least_twice_apart_and_some_are_in_sight(found):
    axes = [one.layout["yaxis"] for one in figures(found) if one.layout["yaxis"].get("type") == "log"]
    assert len(axes) > 5
    for axis in axes:
        ticks = axis["tickvals"]
        assert all(after >= 2 * before for before, after in pairwise(ticks))
        low, high = (10**power for power in axis["range"])
        assert sum(low <= tick <= high for tick in ticks) >= 1
