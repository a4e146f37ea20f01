"""`report.md`: the report for people, in tables."""

from collections.abc import Iterator

from polyfold.measure.gates import sentence
from polyfold.measure.report import Report
from polyfold.measure.tables import Table, headline, tables

_SPECIAL = str.maketrans({"|": r"\|", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " ", "*": r"\*", "`": r"\`"})


def markdown(report: Report) -> str:
    """The whole report in GitHub's Markdown."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {escape(report.name)}"
    yield ""
    for what, value in headline(report):
        yield f"- {escape(what)}: **{escape(value)}**"
    yield ""
    for gate in report.broken_gates:
        yield f"- **Broken gate:** {escape(sentence(gate))}"
    for warning in report.warnings:
        yield f"- **Warning:** {escape(warning)}"
    yield ""
    for table in tables(report):
        yield from draw(table)
    yield from _notes(report)
    yield from _origin(report)


def draw(table: Table) -> Iterator[str]:
    """A table under its title, figures to the right."""
    yield f"## {escape(table.title)}"
    yield ""
    yield _line(table.columns)
    figures = len(table.columns) - table.text_columns
    yield "|" + "---|" * table.text_columns + "---:|" * figures
    for row in table.rows:
        yield _line(row)
    yield ""
    if table.note:
        yield escape(table.note)
        yield ""


def escape(text: str) -> str:
    """Text that stays text inside a table's cell."""
    return text.translate(_SPECIAL)


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(escape(cell) for cell in cells) + " |"


def _notes(report: Report) -> Iterator[str]:
    noted = [row for row in report.rows if row.notes]
    if not noted:
        return
    yield "## Notes"
    yield ""
    for row in noted:
        for note in row.notes:
            yield f"- {escape(row.name)}: {escape(note)}"
    yield ""


def _origin(report: Report) -> Iterator[str]:
    yield "## Where this was measured"
    yield ""
    for what, value in origin(report):
        yield f"- {escape(what)}: {escape(value)}"


def origin(report: Report) -> list[tuple[str, str]]:
    """Machine, versions, recipe and seed: without them no figure means anything."""
    machine = report.hardware
    return [
        ("processor", f"{machine.processor}, {machine.cores} cores, {', '.join(machine.instructions)}"),
        ("memory", f"{machine.memory_gb:g} GB"),
        ("accelerator", machine.accelerator or "none"),
        ("system", machine.system),
        ("libraries", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        ("quality baseline", report.quality_baseline or "none"),
        ("speed baseline", report.speed_baseline or "none"),
        ("recipe", report.recipe_hash),
        ("seed", str(report.seed)),
        ("polyfold", report.polyfold_version),
    ]
