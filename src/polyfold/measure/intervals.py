"""Figures of values with their intervals, side by side in groups: what comparisons and ablations show."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyfold.measure.plots import PALETTE, Figure


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, in the unit of the axis."""

    value: float
    low: float
    high: float


def interval_bars(
    title: str, note: str, axis: str, groups: Sequence[str], series: Mapping[str, Mapping[str, Interval]]
) -> Figure:
    """Bars with error bars: one cluster a group, in it one bar a series that has a value there."""
    traces = [
        _trace(name, [(group, values[group]) for group in groups if group in values], place)
        for place, (name, values) in enumerate(series.items())
    ]
    layout: dict[str, Any] = {
        "barmode": "group",
        "xaxis": {"type": "category", "showgrid": False, "categoryarray": [_text(group) for group in groups]},
        # The page's theme hides the line at 0, by which these are read.
        "yaxis": {"title": {"text": axis}, "zeroline": True, "zerolinecolor": "#8a8f98", "zerolinewidth": 1.5},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "showlegend": True,
    }
    wide = sum(len(values) for values in series.values()) > 8
    return Figure(title, note, traces, layout, wide=wide, height=360 + 12 * len(traces))


def _trace(name: str, points: Sequence[tuple[str, Interval]], place: int) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": _text(name),
        "x": [_text(group) for group, _ in points],
        "y": [point.value for _, point in points],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [point.high - point.value for _, point in points],
            "arrayminus": [point.value - point.low for _, point in points],
            "thickness": 1.2,
            "width": 3,
        },
        "marker": {"color": PALETTE[place % len(PALETTE)]},
        "hovertemplate": "%{x}: %{y:.2f}<extra>" + _text(name) + "</extra>",
    }


def _text(name: str) -> str:
    # Plotly reads a small set of HTML tags in its texts; a user's label must stay a label.
    return html.escape(name, quote=False)
