"""Charts over powers of ten or two as SVG, written by hand: no library, no script, like compression_plot.py."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from compression_plot import BOTTOM, FONT, GRID, INK, KEPT, LEFT, RIGHT, TOP

WIDTH, HEIGHT, TITLE = 400, 280, 28
FEW = 4
"""Powers of ten that are too few for an axis: one that spans less is marked by powers of two."""


@dataclass(frozen=True)
class Chart:
    """One line through its points, x on a logarithmic axis; y too, or from zero on a plain one."""

    points: Sequence[tuple[float, float]]
    x_title: str
    y_title: str
    from_zero: bool = False


def draw_charts(title: str, rows: Sequence[Sequence[Chart]]) -> str:
    """Rows of charts under one title."""
    width = WIDTH * max((len(row) for row in rows), default=1)
    height = TITLE + HEIGHT * len(rows)
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' "
        f"height='{height}' role='img' {FONT}>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        f"<text x='{LEFT}' y='20' font-size='13' font-weight='bold' fill='{INK}'>{escape(title)}</text>",
    ]
    for down, row in enumerate(rows):
        for across, chart in enumerate(row):
            lines.append(f"<g transform='translate({across * WIDTH} {TITLE + down * HEIGHT})'>")
            lines += _chart(chart)
            lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def powers(low: float, high: float) -> list[float]:
    """Marks of a logarithmic axis that encloses both: powers of ten, or of two where those would be few."""
    for base in (10.0, 2.0):
        first, last = math.floor(math.log(low, base) + 1e-9), math.ceil(math.log(high, base) - 1e-9)
        marks = [base**power for power in range(first, max(last, first + 1) + 1)]
        if base == 2.0 or len(marks) >= FEW:
            return marks
    raise AssertionError


def steps(high: float) -> list[float]:
    """Marks of a plain axis from zero to at least `high`: three to eight, at 1, 2 or 5 times a power of ten."""
    size = 10.0 ** math.floor(math.log10(high))
    step = next(part * size for part in (0.2, 0.5, 1.0, 2.0) if high / (part * size) <= 6)
    return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)]


def _chart(chart: Chart) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    xs, ys = ([point[axis] for point in chart.points] for axis in (0, 1))
    across, up = powers(min(xs), max(xs)), steps(max(ys)) if chart.from_zero else powers(min(ys), max(ys))

    def x_of(value: float) -> float:
        return LEFT + math.log(value / across[0]) / math.log(across[-1] / across[0]) * (right - LEFT)

    def y_of(value: float) -> float:
        plain = value / up[-1]
        share = plain if chart.from_zero else math.log(value / up[0]) / math.log(up[-1] / up[0])
        return bottom - share * (bottom - TOP)

    for value in across:
        x = x_of(value)
        yield f"<line x1='{x:.1f}' y1='{TOP}' x2='{x:.1f}' y2='{bottom}' stroke='{GRID}'/>"
        yield _text(x, bottom + 16, short(value), "middle")
    for value in up:
        y = y_of(value)
        yield f"<line x1='{LEFT}' y1='{y:.1f}' x2='{right}' y2='{y:.1f}' stroke='{GRID}'/>"
        yield _text(LEFT - 6, y + 4, short(value), "end")
    yield _text((LEFT + right) / 2, HEIGHT - 12, chart.x_title, "middle")
    yield _text(LEFT, TOP - 8, chart.y_title, "start")
    places = [(x_of(x), y_of(y)) for x, y in sorted(chart.points)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f"<polyline points='{line}' fill='none' stroke='{KEPT}' stroke-width='1.5'/>"
    for x, y in places:
        yield f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{KEPT}'/>"


def short(value: float) -> str:
    """A number as a mark says it: 4,096 and not 4k, for no reader has to guess; a million as 1e+06."""
    return f"{value:,.0f}" if 1 <= value < 1e6 else f"{value:g}"


def _text(x: float, y: float, what: str, anchor: str) -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' font-size='10.5' text-anchor='{anchor}' fill='{INK}'"
    return f"<text {place}>{escape(what)}</text>"
