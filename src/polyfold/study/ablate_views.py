"""An ablation as tables, plots, Markdown and one HTML file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from polyfold.artifact import write_atomically
from polyfold.measure.intervals import Interval, interval_bars
from polyfold.measure.markdown import draw, escape
from polyfold.measure.page import Page, draw_page
from polyfold.measure.plots import Figure
from polyfold.measure.tables import Table, points
from polyfold.study.ablate import Ablation, Contrast, VariantScore

JSON, MARKDOWN, HTML = "ablation.json", "ablation.md", "ablation.html"

NOTE = (
    "Test macro-F1 × 100, means over seeds, and the difference with its paired bootstrap 95 % interval: documents "
    "are resampled for all seeds at once. Helped or hurt only where the whole interval lies on one side of 0. The "
    "last column is the range of the difference over the seeds; where it is wider than the interval, more seeds "
    "would say more. A student that also learns from unlabelled texts takes more steps than one on labels only."
)


def write_ablation(found: Ablation, folder: Path) -> None:
    """`ablation.json`, and its Markdown and HTML."""
    write_atomically(folder / JSON, found.model_dump_json(indent=2).encode())
    write_atomically(folder / MARKDOWN, ablation_markdown(found).encode())
    write_atomically(folder / HTML, ablation_html(found).encode())


def ablation_tables(found: Ablation) -> list[Table]:
    """Verdicts by task, then by language, then the scores behind them."""
    drawn = [_verdicts(found), _by_language(found), _variants(found)]
    return [table for table in drawn if table.rows]


def ablation_markdown(found: Ablation) -> str:
    """The whole ablation in GitHub's Markdown."""
    lines = [f"# {escape(_heading(found))}", ""]
    lines += [f"- **{escape(line)}**" for line in sentences(found)] + [""]
    for table in ablation_tables(found):
        lines += draw(table)
    lines += [f"- {escape(what)}: {escape(value)}" for what, value in _origin(found)]
    return "\n".join(lines).rstrip() + "\n"


def ablation_html(found: Ablation) -> str:
    """The whole ablation as a page."""
    return draw_page(
        Page(
            title=f"{found.name}: Polyfold ablation",
            heading=_heading(found),
            alerts=[line for line in sentences(found) if " hurt " in line],
            headline=[],
            tables=ablation_tables(found),
            figures=list(_figures(found)),
            facts=[("How this was measured", _origin(found))],
        )
    )


def sentences(found: Ablation) -> list[str]:
    """One line a student and subject: on which tasks it helped, on which it hurt, on which nothing can be told."""
    lines = []
    for student, subject in _subjects(found):
        by_verdict: dict[str, list[str]] = {"helped": [], "hurt": [], "same": []}
        for one in _whole(found):
            if (one.student, one.subject) == (student, subject):
                by_verdict[one.verdict].append(f"{one.task} ({100 * one.difference:+.1f})")
        said = [f"{verdict} {', '.join(tasks)}" for verdict, tasks in by_verdict.items() if tasks]
        lines.append(f"{student}, {subject}: {'; '.join(said).replace('same', 'no difference shown on')}")
    return lines


def _heading(found: Ablation) -> str:
    return f"Does distillation help? {found.name}"


def _origin(found: Ablation) -> list[tuple[str, str]]:
    return [
        ("seeds", ", ".join(map(str, found.seeds))),
        ("teachers", "one set a seed" if found.teacher_per_seed else "shared by all seeds"),
        ("test documents", f"{sum(found.documents.values()):,}"),
        ("recipe", found.recipe_hash),
        ("polyfold", found.polyfold_version),
    ]


def _whole(found: Ablation) -> list[Contrast]:
    return [one for one in found.contrasts if one.language is None]


def _subjects(found: Ablation) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.student, one.subject) for one in found.contrasts))


def _verdicts(found: Ablation) -> Table:
    return Table(
        "Verdicts",
        (
            "student",
            "subject",
            "task",
            "verdict",
            "documents",
            "with it",
            "without it",
            "difference",
            "over seeds",
        ),
        tuple((one.student, one.subject, one.task, *_cells(one)) for one in _whole(found)),
        note=NOTE,
        text_columns=4,
    )


def _by_language(found: Ablation) -> Table:
    columns = ("student", "subject", "task", "language", "verdict", "documents", "with it", "without it",
               "difference", "over seeds")  # fmt: skip
    return Table(
        "Verdicts by language",
        columns,
        tuple(
            (one.student, one.subject, one.task, one.language, *_cells(one))
            for one in found.contrasts
            if one.language is not None
        ),
        note="Macro-F1 over the labels that occur in the language. Of twenty intervals around no difference one "
        "lies on one side of 0 by chance.",
        text_columns=5,
    )


def _cells(one: Contrast) -> tuple[str, ...]:
    low, high = one.ci95
    return (
        one.verdict,
        f"{one.documents:,}",
        points(one.macro_f1_with),
        points(one.macro_f1_without),
        f"{100 * one.difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
        f"{100 * min(one.by_seed):+.2f} to {100 * max(one.by_seed):+.2f}",
    )


def _variants(found: Ablation) -> Table:
    tasks = tuple(dict.fromkeys(task for one in found.variants for task in one.macro_f1))

    def cell(one: VariantScore, task: str) -> str:
        values = one.macro_f1[task]
        spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        return f"{points(float(np.mean(values)))}{spread}"

    return Table(
        "Variants",
        ("student", "variant", "losses", *tasks),
        tuple(
            (one.student, one.variant, ", ".join(one.losses), *(cell(one, task) for task in tasks))
            for one in found.variants
        ),
        note="Test macro-F1 × 100: mean and standard deviation over seeds.",
        text_columns=3,
    )


def _figures(found: Ablation) -> Iterator[Figure]:
    whole = _whole(found)
    tasks = list(dict.fromkeys(one.task for one in whole))
    series: dict[str, dict[str, Interval]] = {}
    for one in whole:
        series.setdefault(f"{one.student}: {one.subject}", {})[one.task] = _interval(one)
    note = "Above 0 it helped; a bar whose interval holds 0 says nothing."
    yield interval_bars("What helps, by task", note, "macro-F1 × 100 gained", tasks, series)
    for student, subject in _subjects(found):
        by_task: dict[str, dict[str, Interval]] = {}
        for one in found.contrasts:
            if (one.student, one.subject) == (student, subject) and one.language is not None:
                by_task.setdefault(one.task, {})[one.language] = _interval(one)
        title = f"{student}: {subject}, by language"
        yield interval_bars(title, note, "macro-F1 × 100 gained", sorted(found.documents), by_task)


def _interval(one: Contrast) -> Interval:
    low, high = one.ci95
    return Interval(100 * one.difference, 100 * low, 100 * high)
