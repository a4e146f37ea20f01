"""A comparison as tables, plots, Markdown and one HTML file."""

from collections.abc import Iterator

from polyfold.measure.compare import Comparison, Flips, Gain, Side
from polyfold.measure.intervals import Interval, interval_bars
from polyfold.measure.markdown import draw, escape
from polyfold.measure.page import Page, draw_page
from polyfold.measure.plots import Figure
from polyfold.measure.tables import ABSENT, Table, points

NOTE = (
    "Flipped documents with Wilson's 95 % interval; macro-F1 × 100 of both and the difference with its paired "
    "bootstrap 95 % interval. Better or worse only where the whole interval lies on one side of 0; of twenty "
    "intervals around no difference one does so by chance."
)


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Tasks, tasks by language, and which labels came and went."""
    return [table for table in (_by_task(comparison), _by_language(comparison), _labels(comparison)) if table.rows]


def comparison_markdown(comparison: Comparison) -> str:
    """The whole comparison in GitHub's Markdown."""
    lines = [f"# {escape(_heading(comparison))}", ""]
    lines += [f"- {escape(what)}: {escape(value)}" for what, value in _sides(comparison)]
    lines += [f"- **Note:** {escape(alert)}" for alert in _alerts(comparison)] + [""]
    for table in comparison_tables(comparison):
        lines += draw(table)
    return "\n".join(lines).rstrip() + "\n"


def comparison_html(comparison: Comparison) -> str:
    """The whole comparison as a page."""
    flipped = [(f"{one.task}: texts flipped", f"{one.flips.percent:.1f} %") for one in comparison.tasks]
    return draw_page(
        Page(
            title="Polyfold comparison",
            heading=_heading(comparison),
            alerts=_alerts(comparison),
            headline=flipped,
            tables=comparison_tables(comparison),
            figures=list(_figures(comparison)),
            facts=[("What was compared", _sides(comparison))],
        )
    )


def _heading(comparison: Comparison) -> str:
    return f"What changes from {_name(comparison.first)} to {_name(comparison.second)}"


def _name(side: Side) -> str:
    return side.folder.rstrip("/").rpartition("/")[2] or side.folder


def _sides(comparison: Comparison) -> list[tuple[str, str]]:
    def described(side: Side) -> str:
        return f"{side.folder} ({side.runtime}, {side.precision}, {side.parameters_million:.1f} M parameters)"

    texts = f"{comparison.texts}: {sum(comparison.documents.values()):,}"
    return [("first", described(comparison.first)), ("second", described(comparison.second)), ("texts", texts)]


def _alerts(comparison: Comparison) -> list[str]:
    found = []
    for which, names in (("first", comparison.tasks_only_in_first), ("second", comparison.tasks_only_in_second)):
        if names:
            found.append(f"only the {which} has: {', '.join(names)}")
    for one in comparison.tasks:
        for which, labels in (("first", one.labels_only_in_first), ("second", one.labels_only_in_second)):
            if labels:
                found.append(f"labels of task '{one.task}' that only the {which} has: {', '.join(labels)}")
    return found + list(comparison.notes)


def _by_task(comparison: Comparison) -> Table:
    return Table(
        "What changed",
        ("task", "verdict", "texts", "flipped", "flipped %", "labelled", "first", "second", "difference"),
        tuple((one.task, *_cells(one.flips, one.quality)) for one in comparison.tasks),
        note=NOTE,
    )


def _by_language(comparison: Comparison) -> Table:
    return Table(
        "What changed by language",
        (
            "task", "language", "verdict", "texts", "flipped", "flipped %", "labelled", "first", "second",
            "difference",
        ),
        tuple(
            (one.task, language, *_cells(one.flips_by_language[language], one.quality_by_language.get(language)))
            for one in comparison.tasks
            for language in _languages(comparison)
        ),
        note="Macro-F1 over the labels that occur in the language's texts.",
        text_columns=3,
    )  # fmt: skip


def _cells(flips: Flips, gain: Gain | None) -> tuple[str, ...]:
    low, high = flips.percent_ci95
    counted = (f"{flips.documents:,}", f"{flips.flipped:,}", f"{flips.percent:.2f} ({low:.2f}–{high:.2f})")
    if gain is None:
        return (ABSENT, *counted, ABSENT, ABSENT, ABSENT, ABSENT)
    low, high = gain.ci95
    difference = f"{100 * gain.difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    return (gain.verdict, *counted, f"{gain.documents:,}", points(gain.first), points(gain.second), difference)


def _labels(comparison: Comparison) -> Table:
    return Table(
        "Labels that came and went",
        ("task", "label", "only the first gives it", "only the second gives it"),
        tuple(
            (one.task, label, f"{one.lost[label]:,}", f"{one.gained[label]:,}")
            for one in comparison.tasks
            for label in one.gained
            if one.gained[label] or one.lost[label]
        ),
        note="Texts.",
    )


def _figures(comparison: Comparison) -> Iterator[Figure]:
    languages = _languages(comparison)
    flips = {one.task: {name: _percent(found) for name, found in one.flips_by_language.items()}
             for one in comparison.tasks}  # fmt: skip
    if flips:
        yield interval_bars("Texts flipped", "Percent of a language's texts.", "% of texts", languages, flips)
    gains = {
        one.task: {name: _points(gain) for name, gain in one.quality_by_language.items()}
        for one in comparison.tasks
        if one.quality_by_language
    }
    if gains:
        note = "Above 0 the second is better; a bar whose interval holds 0 says nothing."
        yield interval_bars("Difference of macro-F1", note, "macro-F1 × 100", languages, gains)


def _languages(comparison: Comparison) -> list[str]:
    """Languages, that of most texts first."""
    return sorted(comparison.documents, key=lambda name: (-comparison.documents[name], name))


def _percent(flips: Flips) -> Interval:
    return Interval(flips.percent, *flips.percent_ci95)


def _points(gain: Gain) -> Interval:
    low, high = gain.ci95
    return Interval(100 * gain.difference, 100 * low, 100 * high)
