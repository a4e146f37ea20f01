"""The sections made from benchmark.json and student.json: throughput, parts, ladders, load, costs, quality."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from polyfold.benchmark import tables
from polyfold.benchmark.results import Arrivals, Benchmark, Entry, Peaks, Point
from polyfold.benchmark.results import Figure as Measured
from polyfold.measure.compare import Comparison
from polyfold.measure.markdown import escape
from polyfold.measure.speed import PADDED, REAL_TEXT
from polyfold.measure.tables import ABSENT, Table, figure, speed_title
from polyfold.metrics import degradation_percent
from results_page import grid, listed
from speed_inputs import BENCHMARK, MINILM, STUDENT, Inputs, carriers, fp32_agreement
from speed_page import (
    MEMORY,
    NO_COUNT,
    QUALITY,
    Bound,
    Section,
    latency_bound,
    rate_bound,
    share_cell,
    speedup_bound,
    spread_cell,
    told,
)
from summarize import plain

ROLES = {MINILM: "MiniLM-L6 in int8", "student": "The best student"}
TAIL = "a tail latency is mostly waiting in line, which no peak bounds"
PARTS = (
    "tokenizing has its floor in `tokenizing.json`; the rest is what planning, padding, deciding and noise take"
)
ENERGY = "no least energy is worked out"
PUBLISHED = "docs/results/speed"
YARDSTICK = "a peak is what floors are made of"
RECIPES = Path(__file__).parents[1] / "recipes"


def throughput(inputs: Inputs) -> Section:
    """Every artifact under every speed key, beside the baseline, with its agreement; and the rows of the goals."""
    section, found = Section("Throughput"), inputs.benchmark
    if found is None:
        return section.missing(BENCHMARK)
    if found.baseline is not None:
        for key, one in found.baseline.speed.items():
            name = f"baseline.documents_per_second.{key}"
            section.add(name, one.timing.documents_per_second, found.command, rate_bound(one))
        rates = [f"{_rate(one)} on {speed_title(key)}" for key, one in found.baseline.speed.items()]
        section.short = [f"**The baseline**, {escape(found.baseline.name)} in fp32 in PyTorch: {listed(rates)}."]
    for entry in found.entries:
        _speed_figures(section, f"artifact.{plain(entry.name)}", entry, found.command)
    for role, carrier in carriers(inputs).items():
        _speed_figures(section, role, carrier.entry, found.command)
        section.lines += [
            f"The figures named `{role}.` are those of `{carrier.entry.name}`, {carrier.why()}: one artifact for"
            " all of them.",
            "",
        ]
        section.short += [_in_short(role, carrier.entry)]
    for key in dict.fromkeys(key for entry in found.entries for key in entry.speed):
        section.lines += [f"### {speed_title(key).capitalize()}", "", *_by_artifact(found, key)]
    section.lines += [*_how_to_read(found), ""]
    section.table(tables.agreement(found))
    return section


def _speed_figures(section: Section, name: str, entry: Entry, command: str) -> None:
    """An artifact's figures under one name: as itself, and again as the row of the goals that it carries."""
    for key, one in entry.speed.items():
        timing = one.timing
        section.add(f"{name}.documents_per_second.{key}", timing.documents_per_second, command, rate_bound(one))
        section.add(f"{name}.latency_ms_p50.{key}", timing.latency_ms_p50, command, latency_bound(one))
        section.add(f"{name}.latency_ms_p99.{key}", timing.latency_ms_p99, command, TAIL)
        if one.speedup is not None:
            section.add(f"{name}.speedup.{key}", one.speedup, command, speedup_bound(one))
    agreed = fp32_agreement(entry)
    for task, value in agreed.label_agreement_percent.items() if agreed is not None else ():
        section.add(f"{name}.label_agreement_percent.{task}", value, command, QUALITY)


def _in_short(role: str, entry: Entry) -> str:
    parts = [
        f"{told(one.speedup)}x XLM-R on {speed_title(key)} ({_rate(one)})"
        for key, one in entry.speed.items()
        if one.speedup is not None
    ]
    if REAL_TEXT in entry.speed:
        parts.append(f"one real text in {told(entry.speed[REAL_TEXT].timing.latency_ms_p50)} ms (p50)")
    agreed = fp32_agreement(entry)
    if agreed is not None:
        parts.append(f"its labels are the fp32 model's in {agreed.least:.2f} % of cases or more, by task")
    return f"**{ROLES[role]}** (`{entry.name}`): {listed(parts, 'not timed')}."


def _rate(one: Measured) -> str:
    of_floor = f", {share_cell(one.share)} of the floor" if one.share is not None else ""
    return f"{figure(one.timing.documents_per_second)} documents/s{of_floor}"


def _by_artifact(found: Benchmark, key: str) -> list[str]:
    tasks = _tasks(found)
    rows = []
    if found.baseline is not None and key in found.baseline.speed:
        one = found.baseline.speed[key]
        rows.append([f"{escape(found.baseline.name)} (baseline)", *_cells(one, "1"), ABSENT])
    for entry in found.entries:
        if key in entry.speed:
            one = entry.speed[key]
            name = escape(entry.name) + (" (random weights)" if entry.weights == "random" else "")
            rows.append([name, *_cells(one, figure(one.speedup)), _agreed(entry, tasks)])
    columns = [
        "artifact", "documents/s (least–most)", "speed-up", "floor, documents/s", "share", "p50 ms", "p99 ms",
        "floor, ms", "share of p50", f"agreement % ({' / '.join(tasks)})" if tasks else "agreement %",
    ]  # fmt: skip
    return grid(columns, rows)


def _cells(one: Measured, speedup: str) -> list[str]:
    timing = one.timing
    least, most = timing.documents_per_second_least, timing.documents_per_second_most
    return [
        spread_cell(timing.documents_per_second, least, most),
        speedup,
        figure(one.floor_documents_per_second),
        share_cell(one.share),
        figure(timing.latency_ms_p50),
        figure(timing.latency_ms_p99),
        figure(one.floor_latency_ms),
        share_cell(one.latency_share),
    ]


def _tasks(found: Benchmark) -> list[str]:
    """Every task that any agreement tells of."""
    agreed = [one for entry in found.entries for one in entry.agreement]
    return list(dict.fromkeys(task for one in agreed for task in one.label_agreement_percent))


def _agreed(entry: Entry, tasks: Sequence[str]) -> str:
    found = fp32_agreement(entry)
    if found is None:
        return "itself" if (entry.runtime, entry.precision) == ("torch", "fp32") else "not compared"
    values = found.label_agreement_percent
    return " / ".join(f"{values[task]:.2f}" if task in values else ABSENT for task in tasks)


def _how_to_read(found: Benchmark) -> list[str]:
    """What the columns mean, and what the baseline is."""
    baseline = ""
    if found.baseline is not None:
        one = found.baseline
        weights = "" if one.weights == "trained" else f" with {one.weights} weights (speed hangs on none)"
        padded = f", {one.padded_batch_size} documents a batch where it pads" if one.padded_batch_size else ""
        baseline = f" The baseline is {escape(one.name)} in fp32 in PyTorch{weights}, on all cores{padded}."
    return [
        "Medians over interleaved rounds. The floor is what the machine's own measured peaks would allow at best:"
        " operations over peak rate or bytes of weights over bandwidth, whichever takes longer, without padding;"
        " tokenizing, lookups, norms and activations count as free. The share is the floor's time over the"
        " measured one. Real texts go through the whole predictor, tokenizing included, and latency is that of"
        " one text; for dense shapes it is that of a batch. Agreement counts labels that are those of the fp32"
        f" model of the same weights before quantization.{baseline}"
    ]


def quality(inputs: Inputs) -> Section:
    """What the best student lost against the teacher in fp32."""
    section, found = Section("What the best student lost"), inputs.student
    if found is None:
        return section.missing(STUDENT)
    command = compare_command(found)
    pairs = {one.task: one.quality for one in found.tasks if one.quality is not None}
    if not pairs:
        section.lines = ["The two were compared without labels: there is no macro-F1.", ""]
        return section
    rows = []
    for task, one in pairs.items():
        section.add(f"teacher.macro_f1_x100.{task}", 100 * one.first, command, QUALITY)
        section.add(f"student.macro_f1_x100.{task}", 100 * one.second, command, QUALITY)
        apart = f"{100 * one.difference:+.2f} ({100 * one.ci95[0]:+.2f} to {100 * one.ci95[1]:+.2f})"
        rows.append([task, f"{one.documents:,}", f"{100 * one.first:.2f}", f"{100 * one.second:.2f}", apart])
    lost = degradation_percent(
        {task: one.first for task, one in pairs.items()}, {task: one.second for task, one in pairs.items()}
    )
    section.add("student.degradation_percent", lost, command, QUALITY)
    sides = [f"{Path(one.folder).name} ({one.runtime}, {one.precision})" for one in (found.first, found.second)]
    columns = ["task", "documents", "teacher", "student", "difference (95 % interval)"]
    section.lines = [
        *grid(columns, rows),
        f"Macro-F1 × 100 on {escape(found.texts)}, {sum(found.documents.values()):,} in all. The teacher is"
        f" `{sides[0]}`, the student `{sides[1]}`. **Degradation: {told(lost)} %**, the mean over tasks of the"
        " relative loss. What bfloat16 beside int8 changes on top is in the label agreement of that row.",
        "",
    ]
    section.short = [f"**The best student** lost {told(lost)} % of the teacher's macro-F1 (mean over tasks)."]
    return section


def compare_command(found: Comparison) -> str:
    """How student.json was made; the comparison keeps its folders and its recipe's name, not its command line."""
    name = found.texts.rpartition(" ")[2]
    recipes = sorted(RECIPES.rglob(f"{name}.yaml"))
    recipe = recipes[0].relative_to(RECIPES.parent).as_posix() if recipes else "RECIPE"
    sides = f"{found.first.folder} {found.second.folder}"
    return f"polyfold compare {sides} --data {recipe} --json {PUBLISHED}/{STUDENT}"


def parts(inputs: Inputs) -> Section:
    """Where the whole predictor's time goes."""
    section, found = Section("Where the predictor's time goes"), inputs.benchmark
    if found is None:
        return section.missing(BENCHMARK)
    for entry in found.entries:
        if entry.breakdown is None:
            continue
        one, name = entry.breakdown, f"artifact.{plain(entry.name)}.parts"
        alone, share = one.model.documents_per_second, one.model_share
        bound = NO_COUNT if share is None else Bound(alone / share, share)
        section.add(
            f"{name}.tokenizing.documents_per_second", one.tokenizing.documents_per_second, found.command, PARTS
        )
        section.add(f"{name}.model.documents_per_second", alone, found.command, bound)
        section.add(f"{name}.rest_percent", one.rest_percent, found.command, PARTS)
    _without_heading(section, tables.parts(found))
    return section


def _without_heading(section: Section, table: Table) -> None:
    """The one table of a section, which needs no heading of its own."""
    section.table(table)
    section.lines = section.lines[2:] or ["Not measured in this run.", ""]


def ladders(inputs: Inputs) -> Section:
    """Batch size, length, token budget, threads: a row an artifact, a column a rung."""
    section, found = Section("Ladders"), inputs.benchmark
    if found is None:
        return section.missing(BENCHMARK)
    for name, title, note in tables.LADDERS:
        rows = list(_rungs(found, name))
        if not rows:
            continue
        values = sorted({point.value for _, _, points in rows for point in points})
        cells = []
        for entry, work, points in rows:
            by_value = {point.value: point for point in points}
            rungs = [_rung(by_value[value]) if value in by_value else ABSENT for value in values]
            cells.append([escape(entry.name), work, *rungs, tables.agreed(entry)])
            for point in points:
                _ladder_figure(section, entry, point, found.command)
        columns = ["artifact", "work", *(f"{value:,}" for value in values), "agreement %"]
        section.lines += [f"### {title}", "", *grid(columns, cells, (0, 1)), f"Columns: {name}. {note}", ""]
    if not section.lines:
        section.lines = ["Not measured in this run.", ""]
        return section
    section.lines += [
        "Documents a second, and the share of the floor. Agreement here and under load is the least of all tasks"
        " with the model that was exported.",
        "",
    ]
    return section


def _rungs(found: Benchmark, name: str) -> Iterator[tuple[Entry, str, list[Point]]]:
    """An artifact's points on one ladder, by kind of work where a ladder has several."""
    for entry in found.entries:
        points = [one for one in entry.sweeps if one.ladder == name]
        by_work: dict[str, list[Point]] = {}
        for point in points:
            work = {"batch size": "dense", "length": "dense"}.get(name) or speed_title(point.key)
            by_work.setdefault(work, []).append(point)
        for work, some in by_work.items():
            yield entry, work, some


def _rung(point: Point) -> str:
    one = point.figure
    share = f" ({share_cell(one.share)})" if one.share is not None else ""
    return f"{figure(one.timing.documents_per_second)}{share}"


def _ladder_figure(section: Section, entry: Entry, point: Point, command: str) -> None:
    name = f"artifact.{plain(entry.name)}.{plain(point.ladder)}.{point.value}.{point.key}.documents_per_second"
    section.add(name, point.figure.timing.documents_per_second, command, rate_bound(point.figure))


def arrivals(inputs: Inputs) -> Section:
    """Latency of texts that arrive at random."""
    section, found = Section("Latency under load"), inputs.benchmark
    if found is None:
        return section.missing(BENCHMARK)
    for entry in found.entries:
        for one in entry.arrivals:
            _load_figures(section, entry, one, found.command)
    _without_heading(section, tables.arrivals(found))
    return section


def _load_figures(section: Section, entry: Entry, one: Arrivals, command: str) -> None:
    name = f"artifact.{plain(entry.name)}.load_{100 * one.load:g}_percent.together_{one.together}"
    floor, share = one.floor_latency_ms, one.latency_share
    bound = NO_COUNT if floor is None or share is None else Bound(floor, share)
    section.add(f"{name}.latency_ms_p50", one.latency_ms_p50, command, bound)
    section.add(f"{name}.latency_ms_p99", one.latency_ms_p99, command, TAIL)


def costs(inputs: Inputs) -> Section:
    """Size, memory, energy of each artifact, and the machine's peaks."""
    section, found = Section("Size, memory, energy, and the machine's peaks"), inputs.benchmark
    if found is None:
        return section.missing(BENCHMARK)
    for entry in found.entries:
        name = f"artifact.{plain(entry.name)}"
        section.add(f"{name}.size_mb", entry.size_mb, found.command, MEMORY)
        if entry.memory_mb is not None:
            section.add(f"{name}.peak_memory_mb", entry.memory_mb, found.command, MEMORY)
        if entry.energy is not None:
            joules = entry.energy.joules_per_1000_documents
            section.add(f"{name}.joules_per_1000_documents", joules, found.command, ENERGY)
    for peaks in found.peaks:
        for what, value in _peaks(peaks):
            section.add(f"machine.{peaks.threads}_threads.{what}", value, found.command, YARDSTICK)
    section.table(tables.footprint(found))
    section.table(tables.peaks(found))
    return section


def _peaks(peaks: Peaks) -> Iterator[tuple[str, float]]:
    for precision, value in peaks.gigaoperations_per_second.items():
        yield f"{precision}.gigaoperations_per_second", value
    for one in peaks.bandwidths:
        size = re.sub(r"\W", "_", f"{one.megabytes:g}")
        yield f"reading_{size}_mb.gigabytes_per_second", one.gigabytes_per_second


def shares_in_words(inputs: Inputs) -> list[str]:
    """Which of the four keys share one measurement: said once, below the goals."""
    found = inputs.benchmark
    if found is None or not any({REAL_TEXT, PADDED} <= entry.speed.keys() for entry in found.entries):
        return []
    return [
        "An artifact's own side of both real-text figures is one measurement; what differs is whether the"
        " baseline pads every text to 128 tokens, as the paper's protocol does, or sorts by length as well."
        " Most of the difference between the two is padding.",
        "",
    ]
