"""The sections that load.json is made into."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from polyfold.measure.tables import ABSENT, figure

from ..results_page import grid
from . import figures as made
from .figures import Level, Spread
from .load import BULK_CONNECTIONS, BULK_TEXTS
from .plot import Line, Mark, Panel, Place, draw
from .results import Load, LoadFile, ModelLoad, Tally, Turn
from .section import BULK_PERCENT, NONE, OVER_OFFLINE_MS, PERCENT_OF_OFFLINE, Section, percent_cell, spread_cell

LATENCY_PLOT = "latency.svg"
POLYFOLD = "polyfold"


def load_sections(found: LoadFile) -> list[Section]:
    """All of them, in the order of the page."""
    parts = (ceilings, singles, bulk, lone, full, answers, memory)
    return [part(found) for part in parts]


def contestants(model: ModelLoad) -> list[str]:
    """Those that were measured, Polyfold first."""
    return sorted({turn.contestant for turn in model.turns}, key=lambda name: (name != POLYFOLD, name))


def named(found: LoadFile, contestant: str) -> str:
    """A contestant's title."""
    return found.protocol.titles.get(contestant, contestant)


def ceilings(found: LoadFile) -> Section:
    """What the cores allow, first of all."""
    section = Section("Ceilings")
    cores = found.hardware.cores
    rows = []
    for model in found.models:
        offline = made.offline_rate(model)
        section.add(
            f"{model.name}.offline.texts_per_second", offline.median, found.command,
            f"{model.name}: the offline predictor, texts/s",
        )  # fmt: skip
        section.add(
            f"{model.name}.offline.single_ms_p50", Spread.of([one.single_ms_p50 for one in model.offline]).median,
            found.command, f"{model.name}: the offline predictor, one text, p50, ms",
        )  # fmt: skip
        for count, one in made.ceilings(model, cores).items():
            kind = "single" if count == 1 else "bulk"
            share = 100 * one.texts_per_second / offline.median
            rows.append(
                [
                    model.name, f"{count}", spread_cell(offline), figure(one.model_us), figure(one.http_us),
                    figure(one.generator_us), figure(one.texts_per_second), percent_cell(share),
                ]
            )  # fmt: skip
            section.add(
                f"{model.name}.{kind}.ceiling_texts_per_second", one.texts_per_second, found.command,
                f"{model.name}: ceiling at {count} a request, texts/s",
            )  # fmt: skip
            section.add(
                f"{model.name}.{kind}.http_us_a_request", one.http_us, found.command,
                f"{model.name}: HTTP and serving, {count} a request, processor µs a request",
            )  # fmt: skip
            section.add(
                f"{model.name}.{kind}.generator_us_a_request", one.generator_us, found.command,
                f"{model.name}: load generator, {count} a request, processor µs a request",
            )  # fmt: skip
    section.lines = [
        f"All processor time of the {cores} cores, divided by what a request costs: a text's time in the offline "
        "predictor (tokenizing included), a request's time in a server whose model costs nothing, and in the load "
        "generator, which runs on the same cores. No server with this predictor and this HTTP can answer more.",
        "",
        *grid(
            ["model", "texts a request", "offline, texts/s", "predictor, µs/text", "HTTP and serving, µs/request",
             "load generator, µs/request", "ceiling, texts/s", "ceiling, of offline"],
            rows,
        ),
    ]  # fmt: skip
    return section


def singles(found: LoadFile) -> Section:
    """The open loop."""
    section = Section("Single texts, open loop")
    most = found.protocol.most_p99_ms
    section.lines = [
        "Requests of one text are due at the moments of a Poisson process, whatever the server does, and latency "
        "is counted from then. A load holds where every request of every round was answered and the median of the "
        f"rounds' p99 is at most {most:g} ms. p99 in ms: median (least–most) of the rounds; **bold** where it "
        "holds.",
        "",
        f"![Latency against load]({LATENCY_PLOT})",
        "",
    ]
    panels = []
    for model in found.models:
        names = contestants(model)
        by_name = {name: made.levels(model, name, most) for name in names}
        section.lines += [f"### {model.name}", "", *_levels_table(found, model, by_name)]
        _singles_figures(section, found, model, by_name)
        panels.append(_panel(found, model, by_name))
    if any(line.points for panel in panels for line in panel.lines):
        section.plots[LATENCY_PLOT] = draw("p99 of single texts against the load", panels)
    return section


def _levels_table(found: LoadFile, model: ModelLoad, by_name: Mapping[str, Sequence[Level]]) -> list[str]:
    rates = sorted({level.rate for found_levels in by_name.values() for level in found_levels})
    rows = []
    for rate in rates:
        at = {name: next((one for one in found_levels if one.rate == rate), None)
              for name, found_levels in by_name.items()}  # fmt: skip
        share = next(one.percent_of_offline for one in at.values() if one is not None)
        rows.append([figure(rate), percent_cell(share), *(_level_cell(one) for one in at.values())])
    columns = ["texts/s", "of offline", *(f"{named(found, name)}: p99 ms" for name in by_name)]
    notes = [f"**{named(found, name)}** was not measured: {why}" for name, why in model.failed.items()]
    return [*grid(columns, rows, ()), *(line for note in notes for line in (note, ""))]


def _level_cell(level: Level | None) -> str:
    if level is None:
        return ABSENT
    cell = spread_cell(level.p99_ms)
    return f"**{cell}**" if level.holds else cell


def _singles_figures(
    section: Section, found: LoadFile, model: ModelLoad, by_name: Mapping[str, Sequence[Level]]
) -> None:
    cap = made.ceilings(model, found.hardware.cores).get(1)
    offline = made.offline_rate(model).median
    for name, found_levels in by_name.items():
        best = made.highest(found_levels)
        own = name == POLYFOLD
        base = f"{model.name}.single" if own else f"{model.name}.{name}.single"
        what = f"{model.name}, {named(found, name)}: highest load that holds"
        rate = best.rate if best else 0.0
        section.add(
            f"{base}.highest_percent_of_offline", 100 * rate / offline, found.command, f"{what}, % of offline",
            PERCENT_OF_OFFLINE if own else None, 100 * cap.texts_per_second / offline if own and cap else None,
        )  # fmt: skip
        section.add(f"{base}.highest_texts_per_second", rate, found.command, f"{what}, texts/s")
        if best:
            section.add(f"{base}.latency_ms_p99", best.p99_ms.median, found.command, f"{what}: p99, ms")
            section.add(f"{base}.latency_ms_p50", best.p50_ms.median, found.command, f"{what}: p50, ms")
        if own and cap:
            share = 100 * rate / cap.texts_per_second
            section.add(f"{base}.highest_percent_of_ceiling", share, found.command, f"{what}, % of the ceiling")
        section.short.append(
            f"**{model.name}, single texts**, {named(found, name)}: "
            + (f"{figure(rate)} texts/s within {found.protocol.most_p99_ms:g} ms (p99 "
               f"{figure(best.p99_ms.median)} ms), {percent_cell(100 * rate / offline)} of offline"
               if best else "no load that was tried holds")
            + (f", {percent_cell(100 * rate / cap.texts_per_second)} of the ceiling" if own and cap else "")
            + "."
        )  # fmt: skip


def _panel(found: LoadFile, model: ModelLoad, by_name: Mapping[str, Sequence[Level]]) -> Panel:
    lines = [
        Line(
            named(found, name).partition(",")[0],
            [Place(one.rate, one.p99_ms.median, one.p99_ms.least, one.p99_ms.most) for one in found_levels],
        )
        for name, found_levels in by_name.items()
    ]
    cap = made.ceilings(model, found.hardware.cores).get(1)
    limits = [Mark("offline predictor", made.offline_rate(model).median)]
    limits += [Mark("ceiling", cap.texts_per_second)] if cap else []
    goal = Mark(f"{found.protocol.most_p99_ms:g} ms", found.protocol.most_p99_ms)
    return Panel(model.name, "load, texts/s", "p99, ms", lines, log=True, goals=[goal], limits=limits)


def bulk(found: LoadFile) -> Section:
    """Requests of many texts."""
    title = f"{BULK_TEXTS} texts a request, closed loop, {BULK_CONNECTIONS} connections"
    section = Section(title)
    rows = []
    for model, name, rates in _each(found, "bulk", lambda load: load.texts_per_second):
        own = name == POLYFOLD
        share = Spread.of(made.percent_in_round(model, name, "bulk"))
        late = Spread.of(made.by_round(model, name, "bulk", made.p99) or [0.0])
        cap = made.ceilings(model, found.hardware.cores).get(BULK_TEXTS)
        of_ceiling = 100 * rates.median / cap.texts_per_second if own and cap else None
        rows.append(
            [model.name, named(found, name), spread_cell(rates), spread_cell(share),
             ABSENT if of_ceiling is None else percent_cell(of_ceiling), spread_cell(late)]
        )  # fmt: skip
        base = f"{model.name}.bulk" if own else f"{model.name}.{name}.bulk"
        what = f"{model.name}, {named(found, name)}: {BULK_TEXTS} texts a request"
        most = 100 * cap.texts_per_second / made.offline_rate(model).median if own and cap else None
        section.add(
            f"{base}.percent_of_offline", share.median, found.command, f"{what}, % of offline",
            BULK_PERCENT if own else None, most,
        )  # fmt: skip
        section.add(f"{base}.texts_per_second", rates.median, found.command, f"{what}, texts/s")
        section.add(f"{base}.latency_ms_p99", late.median, found.command, f"{what}: p99, ms")
        if of_ceiling is not None:
            section.add(f"{base}.percent_of_ceiling", of_ceiling, found.command, f"{what}, % of the ceiling")
        if own:
            section.short.append(
                f"**{model.name}, {BULK_TEXTS} texts a request**: {figure(rates.median)} texts/s, "
                f"{percent_cell(share.median)} of offline, p99 {figure(late.median)} ms."
            )
    columns = ["model", "server", "texts/s", "% of offline", "of the ceiling", "p99, ms"]
    section.lines = ["Of offline: within each round.", "", *grid(columns, rows, (0, 1))]
    return section


def lone(found: LoadFile) -> Section:
    """One client with one text at a time."""
    section = Section("A lone client, one text at a time")
    rows = []
    for model, name, p50s in _each(found, "lone", made.p50):
        own = name == POLYFOLD
        over = Spread.of(made.over_offline_ms(model, name))
        late = Spread.of(made.by_round(model, name, "lone", made.p99))
        alone = Spread.of([one.single_ms_p50 for one in model.offline])
        rows.append(
            [model.name, named(found, name), *map(spread_cell, (p50s, late, alone, over))]
        )  # fmt: skip
        base = f"{model.name}.lone" if own else f"{model.name}.{name}.lone"
        what = f"{model.name}, {named(found, name)}: a lone request"
        goal = OVER_OFFLINE_MS if own else None
        section.add(f"{base}.ms_over_offline", over.median, found.command, f"{what}, p50 above offline, ms", goal)
        section.add(f"{base}.latency_ms_p50", p50s.median, found.command, f"{what}, p50, ms")
        section.add(f"{base}.latency_ms_p99", late.median, found.command, f"{what}, p99, ms")
        if own:
            section.short.append(
                f"**{model.name}, a lone request**: {figure(p50s.median)} ms (p50), {figure(over.median)} ms "
                "above the predictor itself."
            )
    columns = ["model", "server", "p50, ms", "p99, ms", "offline p50, ms", "p50 above offline, ms"]
    section.lines = grid(columns, rows, (0, 1))
    return section


def full(found: LoadFile) -> Section:
    """As fast as single texts go."""
    section = Section("Single texts as fast as they are answered")
    rows = []
    for model, name, rates in _each(found, "full", lambda load: load.texts_per_second):
        own = name == POLYFOLD
        share = Spread.of(made.percent_in_round(model, name, "full"))
        cap = made.ceilings(model, found.hardware.cores).get(1) if own else None
        of_ceiling = None if cap is None else 100 * rates.median / cap.texts_per_second
        late = Spread.of(made.by_round(model, name, "full", made.p99))
        rows.append(
            [model.name, named(found, name), spread_cell(rates), spread_cell(share),
             ABSENT if of_ceiling is None else percent_cell(of_ceiling), spread_cell(late)]
        )  # fmt: skip
        base = f"{model.name}.full" if own else f"{model.name}.{name}.full"
        what = f"{model.name}, {named(found, name)}: single texts, closed loop"
        section.add(f"{base}.texts_per_second", rates.median, found.command, f"{what}, texts/s")
        section.add(f"{base}.percent_of_offline", share.median, found.command, f"{what}, % of offline")
        if of_ceiling is not None:
            section.add(f"{base}.percent_of_ceiling", of_ceiling, found.command, f"{what}, % of the ceiling")
    columns = ["model", "server", "texts/s", "% of offline", "of the ceiling", "p99, ms"]
    connections = next((load.connections for load in _all_loads(found) if load.kind == "full"), 0)
    section.lines = [f"Closed loop, {connections} connections.", "", *grid(columns, rows, (0, 1))]
    return section


def answers(found: LoadFile) -> Section:
    """Whether every answer was the right one."""
    section = Section("Answers checked")
    rows = []
    for model in found.models:
        for name in contestants(model):
            tallies = [load.tally for turn in made.turns_of(model, name) for load in turn.loads]
            rows.append([model.name, named(found, name), *_tally_cells(tallies)])
            if name == POLYFOLD:
                _answer_figures(section, found, model, made.turns_of(model, name))
    columns = ["model", "server", "requests", "answered", "refused", "lost", "mixed up", "wrong", "duplicated",
               "texts", "labels differ", "probabilities compared", "largest difference"]  # fmt: skip
    section.lines = [
        "Every answer is compared with the offline predictor's for that text: labels always, probabilities where "
        f"the request asked for them, to within {found.protocol.tolerance:g}. Int8 rounds differently in batches "
        "of other shapes, so labels may differ where the offline probabilities lie within that of the border: "
        "these are counted apart. Mixed up is an answer that could be another text's.",
        "",
        *(
            f"{model.name}: offline, probabilities of a text alone and of the same in a batch differ by up to "
            f"{model.shape_difference:.2g}."
            for model in found.models
        ),
        "",
        *grid(columns, rows, (0, 1)),
    ]
    _waiting(section, found)
    return section


def _waiting(section: Section, found: LoadFile) -> None:
    """A server that falls behind fills all connections by itself; one that keeps up must never lack one."""
    everyone = sum(load.waited_for_connection for load in _all_loads(found))
    turns = [turn for model in found.models for turn in made.turns_of(model, POLYFOLD)]
    ours = sum(load.waited_for_connection for turn in turns for load in turn.loads)
    name, what = "generator.waited_for_connection", "requests that waited for a connection"
    section.add(name, ours, found.command, f"{what}, polyfold serve", NONE)
    section.add(f"{name}.others", everyone - ours, found.command, f"{what}, the others")


def _answer_figures(section: Section, found: LoadFile, model: ModelLoad, turns: Sequence[Turn]) -> None:
    tallies = [load.tally for turn in turns for load in turn.loads]
    bad = sum(tally.bad for tally in tallies)
    name, command = model.name, found.command
    section.add(
        f"{name}.lost_or_mixed_up", bad, command, f"{name}: answers lost, mixed up, wrong, duplicated", NONE
    )
    differ = sum(tally.label_differences for tally in tallies)
    section.add(f"{name}.label_differences", differ, command, f"{name}: labels that rounding decided otherwise")
    largest = max((tally.largest_difference for tally in tallies), default=0.0)
    section.add(f"{name}.largest_difference", largest, command, f"{name}: largest difference of a probability")
    section.add(f"{name}.requests", sum(tally.sent for tally in tallies), command, f"{name}: requests sent")


def _tally_cells(tallies: Sequence[Tally]) -> list[str]:
    def total(of: Callable[[Tally], int]) -> str:
        return f"{sum(map(of, tallies)):,}"

    largest = max((one.largest_difference for one in tallies), default=0.0)
    return [
        total(lambda one: one.sent), total(lambda one: one.acknowledged), total(lambda one: one.refused),
        total(lambda one: one.lost), total(lambda one: one.mixed_up),
        total(lambda one: one.wrong + one.item_errors),
        total(lambda one: one.duplicated), total(lambda one: one.texts), total(lambda one: one.label_differences),
        total(lambda one: one.compared), f"{largest:.2g}",
    ]  # fmt: skip


def memory(found: LoadFile) -> Section:
    """Of all the server's processes, before and after a turn."""
    section = Section("Memory of the servers")
    rows = []
    for model in found.models:
        for name in contestants(model):
            turns = made.turns_of(model, name)
            before, after = (Spread.of([getattr(turn, what) for turn in turns])
                             for what in ("memory_before_mb", "memory_after_mb"))  # fmt: skip
            ready = Spread.of([turn.ready_s for turn in turns])
            rows.append(
                [model.name, named(found, name), spread_cell(ready), spread_cell(before), spread_cell(after)]
            )
            base = model.name if name == POLYFOLD else f"{model.name}.{name}"
            what = f"{model.name}, {named(found, name)}: memory after a turn, MB"
            section.add(f"{base}.memory_mb", after.median, found.command, what)
    columns = ["model", "server", "ready after, s", "before, MB", "after a turn, MB"]
    section.lines = ["Proportional set size, of all processes of a server.", "", *grid(columns, rows, (0, 1))]
    return section


def _each(
    found: LoadFile, kind: str, of: Callable[[Load], float | None]
) -> Iterator[tuple[ModelLoad, str, Spread]]:
    for model in found.models:
        for name in contestants(model):
            values = made.by_round(model, name, kind, of)
            if values:
                yield model, name, Spread.of(values)


def _all_loads(found: LoadFile) -> Iterator[Load]:
    for model in found.models:
        for turn in model.turns:
            yield from turn.loads
