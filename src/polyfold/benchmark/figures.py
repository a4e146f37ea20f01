"""A benchmark's plots as plain plotly traces; colours of page and axes come from the page's theme."""

from collections.abc import Iterator, Sequence
from html import escape
from importlib.util import find_spec
from typing import Any

from polyfold.benchmark.results import Benchmark, Entry, Ladder
from polyfold.benchmark.results import Figure as Speed
from polyfold.measure.plots import PALETTE, Figure, log_axis
from polyfold.measure.speed import PADDED, REAL_TEXT
from polyfold.measure.tables import speed_title

LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}


def figures(found: Benchmark) -> list[Figure]:
    """Every plot there is data for; none without plotly, which draws them."""
    if find_spec("plotly") is None:
        return []
    return [
        *_shares(found),
        *_ladder(found, "batch size", "documents a batch"),
        *_ladder(found, "length", "tokens a document"),
        *_ladder(found, "token budget", "tokens a batch"),
        *_ladder(found, "threads", "threads"),
        *_arrivals(found),
        *_parts(found),
    ]


def _shares(found: Benchmark) -> Iterator[Figure]:
    """Bars of throughput beside what the floor allows."""
    keys = list(dict.fromkeys(key for entry in found.entries for key in entry.speed))
    # An artifact's side of both real-text keys is one measurement.
    for key in (key for key in keys if key != PADDED):
        timed = [entry for entry in found.entries if key in entry.speed]
        names = [_text(entry.name) for entry in timed]
        speeds = [entry.speed[key] for entry in timed]
        traces = [_measured(names, speeds), _allowed(names, speeds)]
        layout: dict[str, Any] = {
            "barmode": "group",
            # A part of the name a line: side by side, whole names would be turned aslant and cut off.
            "xaxis": {
                "type": "category",
                "showgrid": False,
                "tickvals": names,
                "ticktext": [name.replace(".", ".<br>") for name in names],
            },
            "yaxis": _log_y(traces, "documents/s"),
            "legend": LEGEND,
            "showlegend": True,
        }
        title = f"Throughput and its floor: {speed_title(key)}"
        yield Figure(title, "Bars reach from the least to the most over rounds.", traces, layout)


def _measured(names: list[str], speeds: Sequence[Speed]) -> dict[str, Any]:
    rates = [one.timing.documents_per_second for one in speeds]
    return {
        "type": "bar",
        "name": "measured",
        "x": names,
        "y": rates,
        "marker": {"color": PALETTE[0]},
        "error_y": _spread(speeds),
        "hovertemplate": "%{x}: %{y:.4s} documents/s<extra></extra>",
    }


def _allowed(names: list[str], speeds: Sequence[Speed]) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": "at the machine's peak",
        "x": names,
        "y": [one.floor_documents_per_second for one in speeds],
        "marker": {"color": PALETTE[7]},
        "hovertemplate": "%{x}: at best %{y:.4s} documents/s<extra></extra>",
    }


def _spread(speeds: Sequence[Speed]) -> dict[str, Any]:
    timings = [one.timing for one in speeds]
    return {
        "type": "data",
        "symmetric": False,
        "array": [one.documents_per_second_most - one.documents_per_second for one in timings],
        "arrayminus": [one.documents_per_second - one.documents_per_second_least for one in timings],
        "thickness": 1.2,
    }


def _ladder(found: Benchmark, name: Ladder, axis: str) -> Iterator[Figure]:
    """Throughput along a ladder, its floor dotted in the same colour."""
    traces: list[dict[str, Any]] = []
    for place, entry in enumerate(found.entries):
        for key in _lines(entry, name):
            points = [one for one in entry.sweeps if one.ladder == name and key in (None, one.key)]
            colour = PALETTE[place % len(PALETTE)]
            title = _text(entry.name if key is None else f"{entry.name}, {speed_title(key)}")
            line = {"color": colour, "width": 2, "dash": "solid" if key in (None, REAL_TEXT) else "dash"}
            common = {"type": "scatter", "x": [one.value for one in points], "legendgroup": title}
            speeds = [one.figure for one in points]
            traces.append(
                common
                | {
                    "mode": "lines+markers",
                    "name": title,
                    "y": [one.timing.documents_per_second for one in speeds],
                    "error_y": _spread(speeds),
                    "line": line,
                    "hovertemplate": "%{x}: %{y:.4s} documents/s<extra>" + title + "</extra>",
                }
            )
            if any(one.floor_documents_per_second for one in speeds):
                traces.append(
                    common
                    | {
                        "mode": "lines",
                        "name": f"{title}: at best",
                        "y": [one.floor_documents_per_second for one in speeds],
                        "line": {"color": colour, "width": 1.2, "dash": "dot"},
                        "hovertemplate": "%{x}: at best %{y:.4s} documents/s<extra></extra>",
                    }
                )
    if traces:
        values = sorted({one.value for entry in found.entries for one in entry.sweeps if one.ladder == name})
        ticks = [f"{value:,}" for value in values]
        layout: dict[str, Any] = {
            "xaxis": {"type": "log", "title": {"text": axis}, "tickvals": values, "ticktext": ticks},
            "yaxis": _log_y(traces, "documents/s"),
            "legend": {"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0},
            "showlegend": True,
        }
        height = 400 + 18 * len(traces)
        note = "Dotted: what the machine's peaks would allow."
        yield Figure(f"Throughput by {name}", note, traces, layout, height=height)


def _lines(entry: Entry, name: Ladder) -> list[str | None]:
    """A line a kind of work where a ladder has several (threads); else one."""
    if name != "threads":
        return [None] if any(one.ladder == name for one in entry.sweeps) else []
    return list(dict.fromkeys(one.key for one in entry.sweeps if one.ladder == name))


def _arrivals(found: Benchmark) -> Iterator[Figure]:
    """p50 and p99 by load, for each number of texts taken together."""
    for together in sorted({one.together for entry in found.entries for one in entry.arrivals}):
        traces: list[dict[str, Any]] = []
        for place, entry in enumerate(found.entries):
            points = [one for one in entry.arrivals if one.together == together]
            for name, values, dash in (
                ("p50", [one.latency_ms_p50 for one in points], "solid"),
                ("p99", [one.latency_ms_p99 for one in points], "dot"),
            ):
                title = _text(f"{entry.name}, {name}")
                traces.append(
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "name": title,
                        "x": [one.arrivals_per_second for one in points],
                        "y": values,
                        "line": {"color": PALETTE[place % len(PALETTE)], "width": 2, "dash": dash},
                        "hovertemplate": "%{x:.4s} texts/s: %{y:.3s} ms<extra>" + title + "</extra>",
                    }
                )
        layout: dict[str, Any] = {
            "xaxis": {"title": {"text": "texts that arrive a second"}},
            "yaxis": _log_y(traces, "ms from when a text was due"),
            "legend": {"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0},
            "showlegend": True,
        }
        taken = "one at a time" if together == 1 else f"up to {together} together"
        yield Figure(f"Latency under load, {taken}", "", traces, layout, height=400 + 18 * len(traces))


def _parts(found: Benchmark) -> Iterator[Figure]:
    """The whole predictor's time as one bar an artifact."""
    told = [(entry.name, entry.breakdown) for entry in found.entries if entry.breakdown is not None]
    if not told:
        return
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "y": [_text(entry) for entry, _ in told],
            "x": [max(0.0, value(one)) for _, one in told],
            "marker": {"color": PALETTE[place]},
            "hovertemplate": "%{y}: %{x:.1f} %<extra>" + name + "</extra>",
        }
        for place, (name, value) in enumerate(
            (
                ("tokenizing", lambda one: one.tokenizing_percent),
                ("model", lambda one: one.model_percent),
                ("rest", lambda one: one.rest_percent),
            )
        )
    ]
    layout: dict[str, Any] = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "percent of the time on real texts"}},
        "yaxis": {"type": "category", "showgrid": False},
        "legend": LEGEND,
        "showlegend": True,
    }
    yield Figure("Where the time goes", "", traces, layout, height=200 + 40 * len(told))


def _log_y(traces: Sequence[dict[str, Any]], title: str) -> dict[str, Any]:
    """A logarithmic axis for what the traces show; plotly's own labels run into each other on one."""
    return log_axis([value for trace in traces for value in trace["y"] if value is not None]) | {
        "title": {"text": title}
    }


def _text(name: str) -> str:
    # Plotly reads a small set of HTML tags in its texts; a name must stay a name.
    return escape(name, quote=False)
