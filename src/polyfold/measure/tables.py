"""The report as tables of text: Markdown and HTML only draw them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polyfold.measure.report import Report, Row, SpeedKey
from polyfold.measure.verdicts import best_int8, headline_speed_key, int8_rows

ABSENT = "–"

REAL_TEXT_TITLES = {
    "real_text": "real texts",
    "real_text_vs_padded_128": "real texts, baseline padded to 128",
}

# Baseline and int8 rows set side by side by language and by label: the columns of more do not fit a page.
MOST_COMPARED = 3


@dataclass(frozen=True)
class Table:
    """A titled table; the first `text_columns` columns are words, the others figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text_columns: int = 2


def tables(report: Report) -> list[Table]:
    """Every table that has something to say, the most important first."""
    drawn = [
        quality(report), steps(report), throughput(report), latency(report), footprint(report), fidelity(report),
        by_language(report), by_label(report), gates(report), data_by_task(report), data_by_language(report),
    ]  # fmt: skip
    return [table for table in drawn if table.rows]


def tasks_of(report: Report) -> tuple[str, ...]:
    """Names of all tasks that any row was scored on, in the order of the first such row."""
    return tuple(dict.fromkeys(task for row in report.rows for task in row.macro_f1 or {}))


def compared(report: Report) -> tuple[Row, ...]:
    """The rows set side by side by language and by label: the quality baseline, then the best int8 rows.

    Of several runtimes of one artifact only the best is taken: their labels hardly differ.
    """
    baseline = report.row(report.quality_baseline)
    chosen = [baseline] if baseline is not None and baseline.macro_f1 else []
    for row in int8_rows(report):
        known = row in chosen or (row.parent is not None and row.parent in {one.parent for one in chosen})
        if not known and len(chosen) < MOST_COMPARED:
            chosen.append(row)
    return tuple(chosen)


def points(value: float | None) -> str:
    """Macro-F1 or a rate as points, x 100."""
    return ABSENT if value is None else f"{100.0 * value:.1f}"


def figure(value: float | None) -> str:
    """A positive figure to three digits, without exponents."""
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def speed_title(key: SpeedKey) -> str:
    """A speed key in words."""
    return REAL_TEXT_TITLES.get(key) or f"dense {key.replace('x', ' × ')}"


def speed_keys(report: Report) -> tuple[SpeedKey, ...]:
    """Every key that some row has: dense shapes from the largest batch down, then real texts."""
    found = {key for row in report.rows for key in row.speed}
    shapes = sorted(found - set(REAL_TEXT_TITLES), key=lambda key: [-int(side) for side in key.split("x")])
    return (*shapes, *(key for key in REAL_TEXT_TITLES if key in found))


def quality(report: Report) -> Table:
    tasks = tasks_of(report)

    def task_cell(row: Row, task: str) -> str:
        if not row.macro_f1 or task not in row.macro_f1:
            return ABSENT
        interval = (row.macro_f1_ci95 or {}).get(task)
        bounds = f" ({points(interval[0])}–{points(interval[1])})" if interval else ""
        return points(row.macro_f1[task]) + bounds

    return _by_row(
        report,
        "Quality",
        ("verdict", "stage", "runtime", "precision", *tasks, "mean", "degradation %"),
        lambda row: (
            _verdict(report, row),
            row.stage,
            row.runtime,
            row.precision,
            *(task_cell(row, task) for task in tasks),
            points(row.mean_macro_f1),
            ABSENT if row.degradation_percent is None else f"{row.degradation_percent:.2f}",
        ),
        note="Macro-F1 × 100 on test, with bootstrap 95 % intervals. Degradation is the mean over tasks of the "
        "relative loss of macro-F1 against the quality baseline. A student is dominated where the teacher "
        "itself, compressed to int8, is at least as fast and at least as good.",
        text_columns=6,
    )


def steps(report: Report) -> Table:
    tasks, key = tasks_of(report), headline_speed_key(report.rows)

    def lost(row: Row, parent: Row, task: str) -> str:
        before, after = (parent.macro_f1 or {}).get(task), (row.macro_f1 or {}).get(task)
        return ABSENT if before is None or after is None else f"{100.0 * (after - before):+.1f}"

    def cells(row: Row, parent: Row) -> tuple[str, ...]:
        return (
            row.stage,
            parent.name,
            *(lost(row, parent, task) for task in tasks),
            _change(row.size_mb, parent.size_mb),
            _change(row.parameters_million, parent.parameters_million),
            _change(row.mflops_per_document, parent.mflops_per_document),
            _faster(report, row, key),
        )

    pairs = [
        (number, row, parent)
        for number, row in enumerate(report.rows, 1)
        if (parent := report.row(row.parent)) is not None
    ]
    timed = f"speed-up, {speed_title(key)}" if key else "speed-up"
    return Table(
        "What each step cost and gained",
        ("#", "row", "stage", "made from", *tasks, "size", "parameters", "FLOPs", timed),
        tuple((str(number), row.name, *cells(row, parent)) for number, row, parent in pairs),
        note="Against the row it was made from: macro-F1 in points (× 100), the rest relative. Where that row was "
        "not timed (torch only imitates int8), the speed-up is against the nearest row before it that was.",
        text_columns=4,
    )


def throughput(report: Report) -> Table:
    keys = speed_keys(report)

    def cell(row: Row, key: SpeedKey) -> str:
        if key not in row.speed:
            return ABSENT
        speedup = f" ({figure(row.speedup[key])}×)" if key in row.speedup else ""
        return figure(row.speed[key].documents_per_second) + speedup

    return _by_row(
        report,
        "Throughput",
        tuple(speed_title(key) for key in keys),
        lambda row: tuple(cell(row, key) for key in keys),
        note="Documents per second, and in brackets the speed-up over the speed baseline in the same run. "
        "Against a baseline that pads to 128 tokens, most of the speed-up on short texts is padding.",
    )


def latency(report: Report) -> Table:
    keys = [key for key in speed_keys(report) if any(_has_latency(row, key) for row in report.rows)]

    def cell(row: Row, key: SpeedKey) -> str:
        if not _has_latency(row, key):
            return ABSENT
        return f"{figure(row.speed[key].latency_ms_p50)} / {figure(row.speed[key].latency_ms_p99)}"

    return _by_row(
        report,
        "Latency",
        tuple(speed_title(key) for key in keys),
        lambda row: tuple(cell(row, key) for key in keys),
        note="Milliseconds, p50 / p99: of one batch for the dense shapes, of one text for real texts.",
    )


def footprint(report: Report) -> Table:
    cost = report.cost
    machine = f" of {cost.instance}" if cost and cost.instance else ""
    note = "MFLOPs are those of one document of 128 tokens, a multiplication and an addition counted as two. " + (
        f"Cost at {cost.price_per_hour_usd:g} USD an hour{machine} ({cost.source}), busy "
        f"{100 * cost.utilization:.0f} % of the time, at the throughput measured here."
        if cost
        else ""
    )
    return _by_row(
        report,
        "Size and cost",
        (
            "parameters, M",
            "trunk, M",
            "MFLOPs a document",
            "on disk, MB",
            "peak memory, MB",
            "USD per million documents",
        ),
        lambda row: (
            figure(row.parameters_million),
            figure(row.trunk_parameters_million),
            figure(row.mflops_per_document),
            figure(row.size_mb),
            figure(row.peak_memory_mb),
            figure(row.cost_usd_per_million_documents),
        ),
        note=note,
    )


def fidelity(report: Report) -> Table:
    tasks = tasks_of(report)

    def agreement(row: Row, task: str) -> str:
        value = (row.label_agreement_percent or {}).get(task)
        positives = (row.positives_percent or {}).get(task)
        if value is None:
            return ABSENT
        return f"{value:.2f}" + (f" ({positives:.1f} positive)" if positives is not None else "")

    def calibration(row: Row, task: str) -> str:
        value = (row.calibration_error or {}).get(task)
        return ABSENT if value is None else f"{100.0 * value:.2f}"

    return _by_row(
        report,
        "Parity and calibration",
        (*(f"{task}: agreement %" for task in tasks), *(f"{task}: ECE × 100" for task in tasks)),
        lambda row: (
            *(agreement(row, task) for task in tasks),
            *(calibration(row, task) for task in tasks),
        ),
        note="Agreement counts equal decisions with the torch model of the same weights: documents, or for "
        "multi-label tasks (document, label) pairs, whose share of positives stands beside it, since a head "
        "that never fires agrees with everything. ECE is the expected calibration error.",
        only=lambda row: bool(row.macro_f1),
    )


def by_language(report: Report) -> Table:
    rows, tasks = compared(report), tasks_of(report)
    languages = sorted(
        {name for row in rows for values in (row.macro_f1_by_language or {}).values() for name in values}
    )
    return Table(
        "Macro-F1 by language",
        ("language", *(f"{task}: {row.name}" for task in tasks for row in rows)),
        tuple(
            (
                language,
                *(
                    points((row.macro_f1_by_language or {}).get(task, {}).get(language))
                    for task in tasks
                    for row in rows
                ),
            )
            for language in languages
        ),
        note="× 100, averaged over the labels that occur in the language's test documents.",
        text_columns=1,
    )


def by_label(report: Report) -> Table:
    rows = compared(report)
    pairs = dict.fromkeys(
        (task, label) for row in rows for task, values in (row.f1_by_label or {}).items() for label in values
    )
    return Table(
        "F1 by label",
        ("task", "label", *(row.name for row in rows)),
        tuple(
            (task, label, *(points((row.f1_by_label or {}).get(task, {}).get(label)) for row in rows))
            for task, label in pairs
        ),
        note="× 100.",
    )


def gates(report: Report) -> Table:
    return Table(
        "Quality gates",
        ("row", "task", "language", "verdict", "drop", "allowed"),
        tuple(
            (
                gate.row,
                gate.task,
                gate.language or "all",
                "holds" if gate.passed else "BROKEN",
                f"{gate.drop:.2f}",
                f"{gate.allowed_drop:.2f}",
            )
            for gate in sorted(report.gates, key=lambda gate: gate.passed)
        ),
        note="Drop of macro-F1 against the quality baseline, in points (× 100).",
        text_columns=4,
    )


def data_by_task(report: Report) -> Table:
    data = report.data
    splits = tuple(data.documents) if data else ()
    return Table(
        "Data by task",
        ("task", "kind", "labels in training", *(f"labelled in {split}" for split in splits)),
        tuple(
            (
                task.name,
                task.kind,
                ", ".join(f"{label} {count:,}" for label, count in task.train_label_counts.items()),
                *(f"{task.labelled.get(split, 0):,}" for split in splits),
            )
            for task in (data.tasks if data else ())
        ),
        text_columns=3,
    )


def data_by_language(report: Report) -> Table:
    data = report.data
    splits = data.documents_by_language if data else {}
    languages = sorted({language for counts in splits.values() for language in counts})
    return Table(
        "Documents by language",
        ("language", *splits),
        tuple(
            (language, *(f"{counts.get(language, 0):,}" for counts in splits.values())) for language in languages
        ),
        text_columns=1,
    )


def headline(report: Report) -> list[tuple[str, str]]:
    """The few figures a reader wants first, as (what, how much)."""
    found: list[tuple[str, str]] = []
    baseline = report.row(report.quality_baseline)
    if baseline is not None and baseline.mean_macro_f1 is not None:
        found.append((f"mean macro-F1 × 100, {baseline.name} (quality baseline)", points(baseline.mean_macro_f1)))
    best = best_int8(report)
    if best is None:
        return found
    found.append((f"mean macro-F1 × 100, {best.name} (best int8 row)", points(best.mean_macro_f1)))
    if best.degradation_percent is not None:
        found.append((f"degradation, {best.name}", f"{best.degradation_percent:.2f} %"))
    for key in speed_keys(report):
        if key in best.speedup:
            found.append((f"speed-up, {speed_title(key)}", f"{figure(best.speedup[key])}×"))
    if best.size_mb is not None:
        found.append((f"on disk, {best.name}", f"{figure(best.size_mb)} MB"))
    return found


def _by_row(
    report: Report,
    title: str,
    columns: tuple[str, ...],
    cells: Callable[[Row], Sequence[str]],
    *,
    note: str = "",
    text_columns: int = 2,
    only: Callable[[Row], bool] = lambda row: True,
) -> Table:
    """One line a row of the report, numbered as in the plots; without columns it stays empty."""
    rows = tuple((str(number), row.name, *cells(row)) for number, row in enumerate(report.rows, 1) if only(row))
    return Table(title, ("#", "row", *columns), rows if columns else (), note, text_columns)


def _change(after: float | None, before: float | None) -> str:
    """Relative change in percent."""
    return f"{100.0 * (after / before - 1.0):+.0f} %" if after is not None and before else ABSENT


def _faster(report: Report, row: Row, key: SpeedKey | None) -> str:
    """Throughput over that of the nearest timed row up the chain of parents."""
    seen, parent = {row.name}, report.row(row.parent)
    while parent is not None and key not in parent.speed and parent.name not in seen:
        seen.add(parent.name)
        parent = report.row(parent.parent)
    if key is None or parent is None or key not in row.speed or key not in parent.speed:
        return ABSENT
    return f"{figure(row.speed[key].documents_per_second / parent.speed[key].documents_per_second)}×"


def _verdict(report: Report, row: Row) -> str:
    if row.name == report.quality_baseline:
        return "quality baseline"
    if row.weights == "random":
        return "random weights: speed only"
    return f"dominated by {row.dominated_by}" if row.dominated_by else ""


def _has_latency(row: Row, key: SpeedKey) -> bool:
    return key in row.speed and row.speed[key].latency_ms_p50 is not None
