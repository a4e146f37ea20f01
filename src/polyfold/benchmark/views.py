"""`benchmark.md`, `benchmark.html` and what the console says: the same tables, and plots on the page."""

from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Drawn
from rich.text import Text

from polyfold.artifact import write_atomically
from polyfold.benchmark.figures import figures
from polyfold.benchmark.results import HTML, JSON, MARKDOWN, Benchmark
from polyfold.benchmark.tables import arrivals, headline, speed, tables
from polyfold.measure.markdown import draw, escape
from polyfold.measure.page import Facts, Page, draw_page
from polyfold.measure.tables import Table

LEFT_OUT = frozenset(
    {"least–most", "floor, documents/s", "floor, ms", "answers/s", "most ms", "requests", "share of p50 %"}
)
"""Columns that a terminal has no room for."""


def write_benchmark(found: Benchmark, folder: Path) -> None:
    """All three files, each whole or not at all."""
    # Drawn before the first is written: what cannot be drawn leaves nothing behind.
    files = {
        JSON: found.model_dump_json(indent=2),
        MARKDOWN: benchmark_markdown(found),
        HTML: benchmark_html(found),
    }
    for name, content in files.items():
        write_atomically(folder / name, content.encode())


def benchmark_markdown(found: Benchmark) -> str:
    """The whole result in GitHub's Markdown."""
    lines = ["# Benchmark", ""]
    lines += [f"- {escape(what)}: **{escape(value)}**" for what, value in headline(found)]
    lines.append("")
    for table in tables(found):
        lines += draw(table)
    for title, facts in _facts(found):
        lines += [f"## {title}", "", *(f"- {escape(what)}: {escape(value)}" for what, value in facts), ""]
    return "\n".join(lines).rstrip() + "\n"


def benchmark_html(found: Benchmark) -> str:
    """The whole result as one page that loads nothing."""
    return draw_page(
        Page(
            title="Polyfold benchmark",
            heading="Benchmark",
            alerts=list(alerts(found)),
            headline=list(headline(found)),
            tables=tables(found),
            figures=figures(found),
            facts=_facts(found),
        )
    )


def alerts(found: Benchmark) -> Iterator[str]:
    """What a reader must know before trusting a figure."""
    busy = found.power_before.others_percent
    if busy is not None and busy > 10:
        yield f"the machine was busy: others used {busy:.0f} % of the processor when this began"
    if found.stolen_percent is not None and found.stolen_percent > 1:
        yield f"the hypervisor gave {found.stolen_percent:.1f} % of the time to others"
    for entry in found.entries:
        if entry.weights == "random":
            yield f"'{entry.name}' has random weights: its speed is real, its agreement says little"
        elif entry.agreement and entry.agreement[0].least < 99.0:
            yield f"'{entry.name}' agrees with its fp32 model on only {entry.agreement[0].least:.2f} % of a task"
        shares = [one.share for one in entry.speed.values() if one.share is not None]
        if max(shares, default=0.0) > 1:
            yield f"'{entry.name}' is faster than its floor: the peaks were measured while the machine was busy"


def print_benchmark(found: Benchmark) -> None:
    """The main tables on standard output, narrower than on the page, and where and how they were measured.

    A list above says what the numbers in the tables stand for: 80 columns have no room for names.
    """
    console = Console()
    console.print("Artifacts", style="bold")
    for number, name in legend(found):
        console.print(f"  {number}  {name}", markup=False, highlight=False, soft_wrap=True)
    short = numbered(found)
    for table in (speed(short), arrivals(short)):
        if table.rows:
            console.print()
            console.print(_narrow(table))
    for title, facts in _facts(found):
        console.print()
        console.print(title, style="bold")
        for what, value in facts:
            console.print(f"  {what}: {value}", markup=False, highlight=False, soft_wrap=True)


def legend(found: Benchmark) -> Iterator[tuple[str, str]]:
    """Each number of the console's tables and what it stands for; the baseline is 0."""
    if found.baseline is not None:
        yield "0", f"{found.baseline.name} (baseline, fp32 in PyTorch)"
    for number, entry in enumerate(found.entries, start=1):
        yield f"{number}", entry.name


def numbered(found: Benchmark) -> Benchmark:
    """The same result with numbers for names."""
    entries = tuple(
        entry.model_copy(update={"name": f"{number}"}) for number, entry in enumerate(found.entries, start=1)
    )
    baseline = found.baseline and found.baseline.model_copy(update={"name": "0"})
    return found.model_copy(update={"entries": entries, "baseline": baseline})


def _narrow(table: Table) -> Drawn:
    shown = [place for place, name in enumerate(table.columns) if name not in LEFT_OUT]
    drawn = Drawn(title=table.title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for place in shown:
        # A word a line: no column is wider than its figures need, and only a row's words are ever broken.
        heading = "#" if place == 0 else "\n".join(table.columns[place].split())
        drawn.add_column(heading, justify="right" if place >= table.text_columns else "left", overflow="fold")
    for row in table.rows:
        # A cell is text, whatever brackets a name has.
        drawn.add_row(*(Text(row[place]) for place in shown))
    return drawn


def _facts(found: Benchmark) -> list[tuple[str, Facts]]:
    notes = [("run", note) for note in found.notes]
    notes += [("run", alert) for alert in alerts(found)]
    notes += [(entry.name, note) for entry in found.entries for note in entry.notes]
    facts: list[tuple[str, Facts]] = [("Notes", notes)] if notes else []
    return [*facts, ("How this was measured", _origin(found))]


def _origin(found: Benchmark) -> Facts:
    machine, texts = found.hardware, found.texts
    stolen = "not told" if found.stolen_percent is None else f"{found.stolen_percent:.2f} %"
    rows = [
        ("command", found.command),
        ("begun", f"{found.started}, {found.seconds:,.0f} seconds"),
        (
            "texts",
            f"{texts.used:,} of {texts.distinct:,} distinct ones, of {texts.given:,} in {texts.source}; tokens: "
            f"mean {texts.mean_tokens:.1f}, median {texts.median_tokens:g}, most {texts.most_tokens}",
        ),
        ("processor", f"{machine.processor}, {machine.cores} cores, {', '.join(machine.instructions)}"),
        ("memory", f"{machine.memory_gb:g} GB"),
        ("system", machine.system),
        ("libraries", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        ("power before", found.power_before.sentence()),
        ("power after", found.power_after.sentence()),
        ("time given to other machines", stolen),
        ("polyfold", found.polyfold_version),
    ]
    if found.baseline is not None:
        baseline = found.baseline
        own = "its own tokenizer" if baseline.own_tokenizer else "the first artifact's token ids"
        rows.append(
            (
                "baseline",
                f"{baseline.name}, {baseline.weights} weights, {own}, best batch size when padded "
                f"{baseline.padded_batch_size or 'not measured'}",
            )
        )
    return rows
