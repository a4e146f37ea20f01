"""`report.html`: the whole report as one page."""

from polyfold.measure.gates import sentence
from polyfold.measure.markdown import origin
from polyfold.measure.page import Facts, Page, draw_page
from polyfold.measure.plots import figures
from polyfold.measure.report import Report
from polyfold.measure.tables import headline, tables


def html(report: Report) -> str:
    """The report as a page that holds all it needs."""
    notes = [(row.name, note) for row in report.rows for note in row.notes]
    facts: list[tuple[str, Facts]] = [("Notes", notes)] if notes else []
    return draw_page(
        Page(
            title=f"{report.name}: Polyfold report",
            heading=report.name,
            alerts=[sentence(gate) for gate in report.broken_gates] + list(report.warnings),
            headline=headline(report),
            tables=tables(report),
            figures=figures(report),
            facts=[*facts, ("Where this was measured", origin(report))],
        )
    )
