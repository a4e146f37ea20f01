"""A page of tables and plots as one HTML file with everything in it; it loads nothing, from nowhere."""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path

from polyfold.errors import MissingExtra
from polyfold.measure.plots import Figure
from polyfold.measure.tables import Table

TEMPLATES = Path(__file__).with_name("templates")
LONGEST_FIGURE = 12
"""Characters of a headline that fit in large letters."""

Facts = Sequence[tuple[str, str]]
"""(What, how much), in the order they are shown."""


@dataclass(frozen=True)
class Page:
    """What stands on a page: the first table, then the figures, then the other tables and the lists of facts."""

    title: str
    heading: str
    alerts: Sequence[str]
    headline: Facts
    tables: Sequence[Table]
    figures: Sequence[Figure]
    facts: Sequence[tuple[str, Facts]] = ()


def draw_page(page: Page) -> str:
    """The page in light or dark, as the reader's system is.

    plotly.js stands in it once, and only where something is plotted. The page's own policy forbids every request
    and every script but the two whose hashes it names, so a label can never become code.
    """
    scripts = [_plotly(), _newlines((TEMPLATES / "report.js").read_text(encoding="utf8"))] if page.figures else []
    parts = [*_head(page.title, scripts), *_body(page), *_scripts(page.figures, scripts)]
    return "\n".join(parts) + "\n"


def _head(title: str, scripts: list[str]) -> Iterator[str]:
    allowed = " ".join(f"'sha256-{_hash(script)}'" for script in scripts) or "'none'"
    # Plotly writes style elements and draws images from data; nothing else is allowed in.
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(title)}</title>"
    yield f"<style>\n{(TEMPLATES / 'report.css').read_text(encoding='utf8')}</style>\n</head>"


def _body(page: Page) -> Iterator[str]:
    yield f"<body>\n<main>\n<h1>{escape(page.heading)}</h1>"
    if page.alerts:
        lines = "".join(f"<li>{escape(alert)}</li>" for alert in page.alerts)
        yield f'<ul class="alerts">{lines}</ul>'
    facts = "".join(_fact(what, value) for what, value in page.headline)
    if facts:
        yield f'<dl class="headline">{facts}</dl>'
    yield '<div class="grid">'
    for table in page.tables[:1]:
        yield from _table(table)
    for number, figure in enumerate(page.figures):
        yield _plot(number, figure)
    for table in page.tables[1:]:
        yield from _table(table)
    for title, found in page.facts:
        yield from _facts(title, found)
    yield "</div>\n</main>"


def _fact(what: str, value: str) -> str:
    # A model's name in the size of a figure would reach over its neighbours.
    if len(value) <= LONGEST_FIGURE:
        return f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>"
    name = escape(value).replace(".", ".<wbr>")
    return f'<div><dt>{escape(what)}</dt><dd class="long">{name}</dd></div>'


def _plot(number: int, figure: Figure) -> str:
    width = "card wide" if figure.wide else "card"
    note = f'<p class="note">{escape(figure.note)}</p>' if figure.note else ""
    return (
        f'<section class="{width}"><h2>{escape(figure.title)}</h2>{note}'
        f'<div id="figure-{number}" style="height: {figure.height}px"></div></section>'
    )


def _table(table: Table) -> Iterator[str]:
    figure = ' class="figure"'

    def cells(tag: str, values: tuple[str, ...]) -> str:
        return "".join(
            f"<{tag}{figure if place >= table.text_columns else ''}>{escape(value)}</{tag}>"
            for place, value in enumerate(values)
        )

    yield f'<section class="card wide"><h2>{escape(table.title)}</h2>'
    if table.note:
        yield f'<p class="note">{escape(table.note)}</p>'
    yield f'<div class="scroll"><table><thead><tr>{cells("th", table.columns)}</tr></thead><tbody>'
    for row in table.rows:
        yield f"<tr>{cells('td', row)}</tr>"
    yield "</tbody></table></div></section>"


def _facts(title: str, facts: Facts) -> Iterator[str]:
    lines = "".join(f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>" for what, value in facts)
    yield f'<section class="card wide"><h2>{escape(title)}</h2><dl class="facts">{lines}</dl></section>'


def _scripts(drawn: Sequence[Figure], scripts: list[str]) -> Iterator[str]:
    if drawn:
        # "<" is written as an escape, so that no label can close the element.
        data = json.dumps([asdict(figure) for figure in drawn], ensure_ascii=False).replace("<", r"\u003c")
        yield f'<script type="application/json" id="figures">{data}</script>'
    for script in scripts:
        yield f"<script>{script}</script>"
    yield "</body>\n</html>"


def _plotly() -> str:
    if find_spec("plotly") is None:
        raise MissingExtra("plotly", "train")
    from plotly.offline import get_plotlyjs

    return _newlines(get_plotlyjs())


def _newlines(script: str) -> str:
    # Browsers hash a script after they have turned every line end into \n.
    return script.replace("\r\n", "\n").replace("\r", "\n")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
