"""The sections on pruning: what each target costs and saves, and which cut another one beats at no cost."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compression_inputs import (
    Inputs,
    Scored,
    dominators,
    pruned_encoder,
    pruned_transformer,
    rounds_by_line,
    tasks_of,
)
from compression_page import (
    DEAR,
    EARNS,
    MOST_DEGRADATION_PERCENT,
    SPEED_KEYS,
    Section,
    loss_in_words,
    lost,
    points,
    ratio_cell,
    run_command,
)
from compression_plot import DOMINATED, KEPT, WHOLE, Panel, Point, draw_svg
from compression_speed import DENSE, REAL
from polyfold.measure.tables import ABSENT
from results_page import grid, listed
from summarize import plain

# The least that a cut must save of FLOPs, bytes or time to be worth its while.
LEAST_SAVING = 0.05
RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "compression"
IDLE = "saves too little"


@dataclass(frozen=True)
class Cut:
    """What a pruning table is about: its rows (the whole model first), its figures' prefix, its quality's name."""

    rows: Sequence[Scored]
    prefix: str
    quality: str
    command: str
    speed_command: str | None


def pruning_encoder(inputs: Inputs) -> Section:
    """The embedded encoder, cut by one target at a time; scored on test."""
    section = Section("Pruning the embedded encoder")
    if inputs.encoder is None:
        return section.missing("pruning-encoder/report.json")
    rows = pruned_encoder(inputs.encoder, rounds_by_line(inputs.encoder, RECIPES), inputs.speed)
    teacher = inputs.encoder.row(inputs.encoder.quality_baseline)
    assert teacher is not None
    widths = [(high - low) * 50 for low, high in (teacher.macro_f1_ci95 or {}).values()]
    about = (
        f"Test macro-F1 × 100 on {teacher.test_documents:,} documents, seed {inputs.encoder.seed} alone; the"
        " whole one's"
        f" 95 % intervals are ± {listed([f'{width:.1f}' for width in widths])} by task. Size is that of the"
        " model's folder."
    )
    made = run_command(inputs.encoder)
    cut = Cut(rows, "pruning_encoder", "macro_f1_x100", made, inputs.speed.command if inputs.speed else None)
    _pruning(section, cut, about)
    return section


def pruning_transformer(inputs: Inputs) -> Section:
    """The six-layer teacher, cut by one target at a time; scored on dev alone."""
    section = Section("Pruning the transformer")
    found = inputs.transformer
    if found is None:
        return section.missing("pruning-transformer/dev.json")
    about = (
        f"**Dev, not test:** macro-F1 × 100 on {found.scored_on}, one seed, read off the run's log and manifests:"
        " its report was never made. Thresholds and temperatures were"
        f" fitted on the same documents.{_dev_noise(inputs)} Size is that of the encoder's weights in fp32."
    )
    rows = pruned_transformer(found, inputs.speed)
    made = f"polyfold run {found.recipe} --out runs/compression"
    _pruning(
        section,
        Cut(
            rows, "pruning_transformer", "dev_macro_f1_x100", made, inputs.speed.command if inputs.speed else None
        ),
        about,
    )
    return section


def _dev_noise(inputs: Inputs) -> str:
    """How wide the encoder's intervals on test would be on as few documents as dev has."""
    told = re.search(r"([0-9,]+) documents", inputs.transformer.scored_on) if inputs.transformer else None
    teacher = inputs.encoder.row(inputs.encoder.quality_baseline) if inputs.encoder else None
    if told is None or teacher is None or not teacher.macro_f1_ci95 or not teacher.test_documents:
        return ""
    wider = (teacher.test_documents / int(told[1].replace(",", ""))) ** 0.5
    widths = [f"± {wider * (high - low) * 50:.1f} ({task})" for task, (low, high) in teacher.macro_f1_ci95.items()]
    return f" On so few, the encoder's 95 % intervals would be {listed(widths)}: small differences mean little."


def _pruning(section: Section, cut: Cut, about: str) -> None:
    whole, tasks, by = cut.rows[0], tasks_of(cut.rows), dominators(cut.rows)
    verdicts = {row.name: _verdict(row, whole, by) for row in cut.rows}
    keys = [key for key in (DENSE, REAL) if any(key in row.speedup for row in cut.rows)]
    table = []
    for row in cut.rows:
        _pruning_figures(section, cut, row)
        flops = (
            f"{row.mflops:,.0f} ({100 * row.mflops / whole.mflops:.0f} %)"
            if row.mflops and whole.mflops
            else ABSENT
        )
        cells = [row.name, *(points(row.macro_f1[task]) for task in tasks), points(row.mean), lost(row)]
        rounds = str(row.rounds) if row.rounds is not None else ABSENT
        cells += [f"{row.size_mb:,.0f}" if row.size_mb is not None else ABSENT, flops, rounds]
        table.append([*cells, *(ratio_cell(row.speedup.get(key)) for key in keys), verdicts[row.name]])
    costs = [
        "degradation %",
        "size, MB",
        "MFLOPs a document",
        "rounds",
        *(f"speed-up, {SPEED_KEYS[key]}" for key in keys),
    ]
    columns = ["cut", *tasks, "mean", *costs]
    name = f"{cut.prefix.replace('_', '-')}.svg"
    section.plots[name] = _plot(section.title, cut, by)
    section.lines = [
        *grid([*columns, "verdict"], table, (0, len(columns))),
        f"![{section.title}: quality against cost]({name})",
        "",
        "Orange: the whole model; blue: dominated by none; hollow: dominated. Up and towards less cost is better.",
        "",
        about,
        "",
    ]
    if not keys:
        section.lines += ["Speed is not measured yet: there is no `speed.json`.", ""]
    section.lines += _controls(cut.rows)
    earning = [_earning(row, whole) for row in cut.rows if verdicts[row.name] == EARNS]
    idle = [f"`{row.name}`" for row in cut.rows if verdicts[row.name] == IDLE]
    dev = " (by dev scores)" if cut.quality.startswith("dev") else ""
    section.short = [
        f"**{section.title}: what earns its place**{dev} is {listed(earning)}. What is left is dominated or loses"
        f" more than {MOST_DEGRADATION_PERCENT} %{', or saves next to nothing: ' + listed(idle) if idle else ''}."
    ]


def _verdict(row: Scored, whole: Scored, by: Mapping[str, str]) -> str:
    if row is whole:
        return "whole"
    if row.name in by:
        return f"dominated by {by[row.name]}"
    savings = [
        1 - one / two for one, two in ((row.mflops, whole.mflops), (row.size_mb, whole.size_mb)) if one and two
    ]
    savings += [1 - 1 / one.least for one in row.speedup.values()]
    if max(savings, default=0.0) < LEAST_SAVING:
        return IDLE
    return EARNS if (row.degradation_percent or 0.0) <= MOST_DEGRADATION_PERCENT else DEAR


def _earning(row: Scored, whole: Scored) -> str:
    parts = []
    if row.mflops and whole.mflops and abs(change := row.mflops / whole.mflops - 1) >= 0.005:
        parts.append(f"{100 * change:+.0f} % FLOPs")
    if row.size_mb and whole.size_mb and abs(change := row.size_mb / whole.size_mb - 1) >= 0.005:
        parts.append(f"{100 * change:+.0f} % size")
    if REAL in row.speedup:
        parts.append(f"{row.speedup[REAL].value:.2f}x as fast")
    return f"`{row.name}` ({', '.join([*parts, loss_in_words(row)])})"


def _pruning_figures(section: Section, cut: Cut, row: Scored) -> None:
    name = f"{cut.prefix}.{plain(row.name)}"
    for task, value in row.macro_f1.items():
        section.add(f"{name}.{cut.quality}.{task}", 100 * value, cut.command)
    dev = cut.quality.removesuffix("macro_f1_x100")
    for what, cost in (
        (f"{dev}degradation_percent", row.degradation_percent),
        ("mflops", row.mflops),
        ("size_mb", row.size_mb),
    ):
        if cost is not None:
            section.add(f"{name}.{what}", cost, cut.command)
    for key, ratio in row.speedup.items():
        assert cut.speed_command is not None
        section.add(f"{name}.speedup.{key}", ratio.value, cut.speed_command)


def _controls(rows: Sequence[Scored]) -> list[str]:
    """A row whose name is another's and one word more is that one, made in another way."""
    names = {row.name: row for row in rows}
    told = []
    for row in rows:
        base, _, word = row.name.rpartition("-")
        if base in names and word.isalpha():
            difference = 100 * (row.mean - names[base].mean)
            more = f" in {row.rounds} rounds" if (row.rounds or 1) > (names[base].rounds or 1) else ""
            told.append(f"`{row.name}` {difference:+.1f}{more}")
    if not told:
        return []
    return [f"The same cut made in another way, mean macro-F1 × 100 against the plain one: {listed(told)}.", ""]


def _plot(title: str, cut: Cut, by: Mapping[str, str]) -> str:
    whole = cut.rows[0]
    colors = {row.name: WHOLE if row is whole else DOMINATED if row.name in by else KEPT for row in cut.rows}

    def placed(values: Mapping[str, float]) -> list[Point]:
        kept = [row for row in cut.rows if row.name in values]
        return [Point(row.name, values[row.name], 100 * row.mean, colors[row.name]) for row in kept]

    flops = {row.name: 100 * row.mflops / whole.mflops for row in cut.rows if row.mflops and whole.mflops}
    panels = [Panel(placed(flops), "FLOPs left, %", less_is_better=True)]
    speeds = {row.name: row.speedup[REAL].value for row in cut.rows if REAL in row.speedup}
    if whole.name in speeds:
        panels.append(Panel(placed(speeds), "times as fast, real lengths", less_is_better=False))
    quality = "mean macro-F1 × 100, " + ("dev" if cut.quality.startswith("dev") else "test")
    return draw_svg(title, quality, panels)
