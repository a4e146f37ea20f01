import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from polyfold.measure.html import html
from polyfold.measure.plots import figures
from polyfold.measure.report import Report


@pytest.fixture(scope="module")
def page(toy_report):
    return html(toy_report)


class Reader(HTMLParser):
    """Collects tags, their attributes, and whether every opened element is closed in order."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.ids = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)[1])


def test_the_page_is_well_formed_and_every_plot_has_its_place(page):
    reader = read(page)
    drawn = data_of(page)
    assert len(drawn) >= 10
    assert [name for name in reader.ids if name.startswith("figure-")] == [
        f"figure-{i}" for i in range(len(drawn))
    ]


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, attributes in read(page).tags:
        assert tag not in ("link", "iframe", "img", "base", "object")
        assert not {"src", "href", "onclick", "onload"} & set(attributes), tag
    assert "default-src 'none'" in page
    assert "@import" not in page.split("</style>")[0]


def test_plotly_stands_in_it_once_and_its_policy_names_exactly_the_scripts_it_has(page):
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(scripts) == 2
    assert page.count("plotly.js v") == 1
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)[1]
    assert re.findall(r"'sha256-(.*?)'", policy) == digests
    assert "script-src 'unsafe" not in policy


def test_hostile_names_stay_text_in_the_page_and_in_the_plots(toy_report):
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    rows = tuple(
        row.model_copy(update={"name": hostile, "notes": (hostile,)})
        if row.name == "teacher, trimmed and int8"
        else row
        for row in toy_report.rows
    )
    page = html(Report(**{**dict(toy_report), "name": hostile, "rows": rows, "warnings": (hostile,)}))
    tags = [tag for tag, _ in read(page).tags]
    assert tags.count("script") == 3
    assert "img" not in tags
    names = [trace.get("name", "") for figure in data_of(page) for trace in figure["traces"]]
    assert any("&lt;img" in name for name in names)
    assert not any("<" in name for name in names)


def test_light_and_dark_are_both_there(page):
    assert "@media (prefers-color-scheme: dark)" in page
    assert 'matchMedia("(prefers-color-scheme: dark)")' in page


def test_the_plots_show_what_was_measured(toy_report):
    drawn = {figure.title: figure for figure in figures(toy_report)}
    tasks = ("domain", "sentiment", "topics")
    assert set(drawn) == {
        "Speed against quality", "Languages and tasks", "Drop against the baseline",
        *(f"{what}: {task}" for what in ("F1 by label", "Confusion", "Calibration") for task in tasks),
    }  # fmt: skip
    scored = [row for row in toy_report.rows if row.macro_f1]
    points = {(trace["x"][0], round(trace["y"][0], 6)) for trace in drawn["Speed against quality"].traces}
    assert points == {
        (row.speed["real_text"].documents_per_second, round(100 * row.mean_macro_f1, 6)) for row in scored
    }
    heat = drawn["Drop against the baseline"].traces[0]
    teacher, folded = toy_report.row("teacher"), toy_report.row("teacher, trimmed and int8")
    place = heat["y"].index("ja"), heat["x"].index("topics")
    lost = teacher.macro_f1_by_language["topics"]["ja"] - folded.macro_f1_by_language["topics"]["ja"]
    assert heat["z"][place[0]][place[1]] == pytest.approx(100 * lost)


def test_every_line_of_a_confusion_matrix_sums_to_a_hundred(toy_report):
    drawn = {figure.title: figure for figure in figures(toy_report)}
    for task in ("domain", "sentiment"):
        trace = drawn[f"Confusion: {task}"].traces[0]
        assert [sum(line) for line in trace["z"]] == pytest.approx([100.0] * len(trace["y"]))
    for found, missed, _ in drawn["Confusion: topics"].traces[0]["z"]:
        assert found + missed == pytest.approx(100.0)


def test_a_report_without_quality_is_a_page_of_tables_without_scripts(toy_report):
    bare = Report(**{**dict(toy_report), "rows": toy_report.rows[:1], "quality_baseline": None, "gates": ()})
    page = html(bare)
    tags = [tag for tag, _ in read(page).tags]
    assert "script" not in tags
    assert "table" in tags
    assert len(page) < 100_000
