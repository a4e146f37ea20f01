"""The report's figures as plain plotly traces: data and axes only, colours come from the page's theme."""

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from polyfold.measure.report import Report, Row
from polyfold.measure.tables import compared, speed_title, tasks_of
from polyfold.measure.verdicts import best_int8, headline_speed_key, lineage

# Readable on white and on near-black alike, and apart for the usual forms of colour blindness.
PALETTE = ("#3b7dd8", "#e0802b", "#2f9e6e", "#b565c4", "#d64a5b", "#8c6d4f", "#2aa5b8", "#8a8f98")
FAMILY_COLOR = {"teacher": PALETTE[0], "student": PALETTE[1], None: "#8a8f98"}
RUNTIME_SYMBOL = {"torch": "circle", "onnxruntime": "square", "openvino": "diamond", "tensorrt": "hexagon"}

# Pixels of a heat map's row; of its axes and labels.
_ROW_HEIGHT, _FRAME_HEIGHT = 26, 80


@dataclass(frozen=True)
class Figure:
    """One plot: `wide` ones take the whole width, others stand two in a line."""

    title: str
    note: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    wide: bool = False
    height: int = 380


def figures(report: Report) -> list[Figure]:
    """Every figure the report has data for; none where nothing was scored."""
    return [*_speed_against_quality(report), *_languages(report), *_labels(report), *_best_row(report)]


def _speed_against_quality(report: Report) -> Iterator[Figure]:
    key = headline_speed_key([row for row in report.rows if row.macro_f1])
    if key is None:
        return
    traces, lines = [], []
    for number, row in enumerate(report.rows, 1):
        if key not in row.speed:
            continue
        speed, quality = row.speed[key].documents_per_second, row.mean_macro_f1
        if quality is None:
            lines.append(_speed_only(speed, row.name))
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": _text(f"{number} · {row.name}"),
                "x": [speed],
                "y": [100.0 * quality],
                "text": [str(number)],
                "textfont": {"color": "#ffffff", "size": 11},
                "marker": {
                    "size": 22,
                    "color": FAMILY_COLOR[lineage(row, report.rows)],
                    "symbol": RUNTIME_SYMBOL[row.runtime],
                },
                "hovertemplate": f"{_text(row.name)}<br>%{{x:.3s}} documents/s<br>%{{y:.2f}}<extra></extra>",
            }
        )
    layout: dict[str, Any] = {
        "xaxis": log_axis([row.speed[key].documents_per_second for row in report.rows if key in row.speed])
        | {"title": {"text": f"documents per second, {speed_title(key)}"}},
        "yaxis": {"title": {"text": "mean macro-F1 × 100"}},
        "shapes": [line["shape"] for line in lines],
        "annotations": [line["annotation"] for line in lines],
        "legend": {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
    }
    # A legend entry takes a line at worst.
    height = 440 + 22 * len(traces)
    note = (
        "Up and to the right is better. Blue: the teacher and its compressed forms; orange: students. Circle: "
        "torch; square: ONNX Runtime; diamond: OpenVINO. Dotted lines have a speed but no quality."
    )
    yield Figure("Speed against quality", note, traces, layout, wide=True, height=height)


def log_axis(values: list[float]) -> dict[str, Any]:
    """A logarithmic axis with room at both ends, its ticks at 1, 2 and 5 times powers of ten."""
    low, high = min(values) / 1.5, max(values) * 1.5
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:,g}" for tick in ticks],
    }


def _speed_only(speed: float, name: str) -> dict[str, dict[str, Any]]:
    """A row that was never scored, as a line at its speed; on a log axis annotations count in powers of ten."""
    return {
        "shape": {
            "type": "line", "xref": "x", "yref": "paper", "x0": speed, "x1": speed, "y0": 0, "y1": 1,
            "line": {"dash": "dot", "width": 1.5, "color": "#8a8f98"},
        },
        "annotation": {
            "xref": "x", "yref": "paper", "x": math.log10(speed), "y": 0.02, "text": _text(name),
            "showarrow": False, "textangle": -90, "xanchor": "left", "yanchor": "bottom",
        },
    }  # fmt: skip


def _languages(report: Report) -> Iterator[Figure]:
    best, baseline = best_int8(report), report.row(report.quality_baseline)
    if best is None or not best.macro_f1_by_language:
        return
    tasks = tasks_of(report)
    values = best.macro_f1_by_language
    languages = sorted({language for scores in values.values() for language in scores}, reverse=True)

    def cells(row: Row) -> list[list[float | None]]:
        scores = row.macro_f1_by_language or {}
        return [[_percent(scores.get(task, {}).get(language)) for task in tasks] for language in languages]

    after = cells(best)
    height = _FRAME_HEIGHT + _ROW_HEIGHT * len(languages)
    note = f"Macro-F1 × 100 of {best.name}."
    yield _heat_map("Languages and tasks", note, (list(tasks), languages, after), "sequential", height)
    if baseline is None or not baseline.macro_f1_by_language or baseline is best:
        return
    drop = [
        [None if a is None or b is None else b - a for a, b in zip(row_after, row_before, strict=True)]
        for row_after, row_before in zip(after, cells(baseline), strict=True)
    ]
    note = f"Points of macro-F1 that {best.name} loses against {baseline.name}; negative is a gain."
    yield _heat_map("Drop against the baseline", note, (list(tasks), languages, drop), "diverging", height)


def _labels(report: Report) -> Iterator[Figure]:
    rows = compared(report)
    for task in tasks_of(report):
        scored = [row for row in rows if row.f1_by_label and task in row.f1_by_label]
        traces = [
            {
                "type": "bar",
                "name": _text(row.name),
                "x": [_text(label) for label in (row.f1_by_label or {})[task]],
                "y": [100.0 * value for value in (row.f1_by_label or {})[task].values()],
                "marker": {"color": PALETTE[place]},
                "hovertemplate": "%{x}: %{y:.1f}<extra>" + _text(row.name) + "</extra>",
            }
            for place, row in enumerate(scored)
        ]
        if traces:
            layout: dict[str, Any] = {
                "barmode": "group",
                "xaxis": {"type": "category", "showgrid": False},
                "yaxis": {"range": [0, 100], "title": {"text": "F1 × 100"}},
                "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
                "showlegend": True,
            }
            yield Figure(f"F1 by label: {task}", "", traces, layout, wide=True, height=360 + 12 * len(traces))


def _best_row(report: Report) -> Iterator[Figure]:
    """Confusion and calibration of the best int8 row (of the baseline where there is none)."""
    row = best_int8(report) or report.row(report.quality_baseline)
    if row is None:
        return
    for task, counts in (row.confusion or {}).items():
        labels = list((row.f1_by_label or {}).get(task, {}))
        if counts and isinstance(counts[0][0], list):
            yield _found_and_missed(row, task, labels, counts)
        elif counts:
            yield _confusion(row, task, labels, counts)
    for task in row.reliability or {}:
        yield _calibration(report, row, task)


def _confusion(row: Row, task: str, labels: list[str], counts: Any) -> Figure:
    shares = [[100.0 * count / max(sum(line), 1) for count in line] for line in counts]
    figure = _heat_map(
        f"Confusion: {task}",
        f"Percent of each true label's documents (a line) that {row.name} gave each label (a column).",
        (labels, labels[::-1], shares[::-1]),
        "sequential",
        _FRAME_HEIGHT + 40 + _ROW_HEIGHT * len(labels),
    )
    figure.layout["xaxis"]["title"] = {"text": "given"}
    figure.layout["yaxis"]["title"] = {"text": "true"}
    return figure


def _found_and_missed(row: Row, task: str, labels: list[str], counts: Any) -> Figure:
    """A multi-label task has a 2 x 2 table a label: what of its support was found, missed, wrongly given."""
    columns = ["found", "missed", "wrongly given"]
    shares = []
    for (_, wrong), (missed, found) in counts:
        support = max(missed + found, 1)
        shares.append([100.0 * value / support for value in (found, missed, wrong)])
    return _heat_map(
        f"Confusion: {task}",
        f"Of {row.name}, in percent of the documents that truly carry the label; 'wrongly given' may pass 100.",
        (columns, labels[::-1], shares[::-1]),
        "sequential",
        _FRAME_HEIGHT + 40 + _ROW_HEIGHT * len(labels),
    )


def _calibration(report: Report, row: Row, task: str) -> Figure:
    baseline = report.row(report.quality_baseline)
    shown = [row] if baseline is None or baseline is row else [baseline, row]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": "perfect", "hoverinfo": "skip",
            "line": {"dash": "dot", "width": 1.5, "color": "#8a8f98"},
        }
    ]  # fmt: skip
    for place, one in enumerate(shown):
        bins = (one.reliability or {}).get(task, ())
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": _text(one.name),
                "x": [part.confidence for part in bins],
                "y": [part.accuracy for part in bins],
                "customdata": [part.count for part in bins],
                "line": {"color": PALETTE[place], "width": 2},
                "hovertemplate": "said %{x:.2f}, right %{y:.2f} of %{customdata}<extra></extra>",
            }
        )
    layout: dict[str, Any] = {
        "xaxis": {"range": [0, 1.02], "title": {"text": "confidence"}},
        "yaxis": {"range": [0, 1.02], "title": {"text": "share right"}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "showlegend": True,
    }
    return Figure(f"Calibration: {task}", "The nearer to the diagonal, the better.", traces, layout, height=420)


def _heat_map(
    title: str, note: str, content: tuple[list[str], list[str], list[Any]], scale: str, height: int
) -> Figure:
    """Annotated cells; of `content`, the names of columns and lines, and the values by line."""
    columns, lines, values = content
    known = [value for line in values for value in line if value is not None]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": [_text(name) for name in columns],
        "y": [_text(name) for name in lines],
        "z": values,
        "texttemplate": "%{z:.1f}",
        "hovertemplate": "%{y}, %{x}: %{z:.2f}<extra></extra>",
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
        # The page replaces the name by colours of its theme.
        "colorscale": scale,
    }
    if scale == "diverging":
        # A drop below one point is noise and must not look like an alarm.
        limit = max([1.0, *map(abs, known)])
        trace |= {"zmin": -limit, "zmax": limit}
    else:
        # Scores lie close together, far from 0: spread the colours over what occurs.
        trace |= {"zmin": 0.0 if min(known, default=0.0) < 10.0 else min(known), "zmax": 100.0}
    layout: dict[str, Any] = {
        "margin": {"l": 56, "r": 16, "t": 28, "b": 12},
        "xaxis": {"type": "category", "side": "top", "showgrid": False},
        "yaxis": {"type": "category", "showgrid": False},
    }
    return Figure(title, note, [trace], layout, height=height)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100.0 * value


def _text(name: str) -> str:
    # Plotly reads a small set of HTML tags in its texts; a user's label must stay a label.
    return html.escape(name, quote=False)
