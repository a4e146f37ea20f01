"""Lines with whiskers as SVG, written by hand: no library, no script."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 380
LEFT, RIGHT, TOP, BOTTOM, TITLE = 62, 18, 62, 46, 28
INK, GRID, FAINT = "#30343a", "#e4e6ea", "#70757d"
COLORS = ("#2f6fce", "#c4621a", "#2f9e6e")
LETTER = 5.8


@dataclass(frozen=True)
class Place:
    """A point and how far the rounds spread around it."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """A name and its points, from left to right."""

    name: str
    points: Sequence[Place]


@dataclass(frozen=True)
class Mark:
    """A line across: a goal (of y) or a limit (of x)."""

    what: str
    at: float


@dataclass(frozen=True)
class Panel:
    """One plot; y from zero on, or through powers of ten."""

    title: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    log: bool
    goals: Sequence[Mark] = ()
    limits: Sequence[Mark] = ()


def draw(title: str, panels: Sequence[Panel]) -> str:
    """Panels side by side."""
    width, height = WIDTH * len(panels), HEIGHT + TITLE
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' "
        f"height='{height}' role='img' font-family='sans-serif'>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        _text(LEFT, 20, title, "start", size=14, bold=True),
    ]
    for number, panel in enumerate(panels):
        lines.append(f"<g transform='translate({number * WIDTH} {TITLE})'>")
        lines += _panel(panel)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


@dataclass(frozen=True)
class Axis:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        at, low, high = (math.log10(one) if self.log else one for one in (value, self.low, self.high))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def marks(self) -> list[float]:
        """Powers of ten, or at most eight round numbers."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1)]
        step = steps(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * number for number in range(first, last + 1)]


def steps(span: float) -> float:
    """1, 2 or 5 times a power of ten, at most eight of them in a span."""
    size = 10.0 ** math.floor(math.log10(span))
    return next(part * size for part in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if span / (part * size) <= 8)


def axes(panel: Panel) -> tuple[Axis, Axis]:
    """Wide enough for all that is drawn."""
    points = [point for line in panel.lines for point in line.points]
    xs = [point.x for point in points] + [mark.at for mark in panel.limits]
    ys = [value for point in points for value in (point.y, point.low, point.high)]
    ys += [mark.at for mark in panel.goals]
    across = Axis(0.0, 1.04 * max(xs), LEFT, WIDTH - RIGHT)
    if panel.log:
        low, high = 10.0 ** math.floor(math.log10(min(ys))), 10.0 ** math.ceil(math.log10(max(ys)))
        return across, Axis(low, high if high > low else 10 * low, HEIGHT - BOTTOM, TOP, log=True)
    return across, Axis(0.0, 1.1 * max(ys), HEIGHT - BOTTOM, TOP)


def _panel(panel: Panel) -> Iterator[str]:
    across, up = axes(panel)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    yield _text(LEFT, 14, panel.title, "start", FAINT)
    x = float(LEFT)
    for line, color in zip(panel.lines, COLORS, strict=False):
        yield f"<circle cx='{x + 5:.1f}' cy='30' r='4' fill='{color}'/>"
        yield _text(x + 13, 34, line.name, "start")
        x += 30 + LETTER * len(line.name)
    for value in across.marks():
        at = across(value)
        yield f"<line x1='{at:.1f}' y1='{TOP}' x2='{at:.1f}' y2='{bottom}' stroke='{GRID}'/>"
        yield _text(at, bottom + 16, f"{value:,.10g}", "middle")
    for value in up.marks():
        at = up(value)
        yield f"<line x1='{LEFT}' y1='{at:.1f}' x2='{right}' y2='{at:.1f}' stroke='{GRID}'/>"
        yield _text(LEFT - 6, at + 4, f"{value:,.10g}", "end")
    yield _text((LEFT + right) / 2, HEIGHT - 10, panel.x_title, "middle")
    yield _text(LEFT, TOP - 10, panel.y_title, "start", FAINT)
    for mark in panel.goals:
        at = up(mark.at)
        yield f"<line x1='{LEFT}' y1='{at:.1f}' x2='{right}' y2='{at:.1f}' stroke='{INK}' stroke-dasharray='5 4'/>"
        yield _text(right - 2, at - 4, mark.what, "end")
    for mark in panel.limits:
        at = across(mark.at)
        ends = f"x1='{at:.1f}' y1='{TOP}' x2='{at:.1f}' y2='{bottom}'"
        yield f"<line {ends} stroke='{FAINT}' stroke-dasharray='2 3'/>"
        place = f"rotate(-90 {at - 4:.1f} {bottom - 6})"
        yield f"<g transform='{place}'>{_text(at - 4, bottom - 6, mark.what, 'start', FAINT)}</g>"
    for line, color in zip(panel.lines, COLORS, strict=False):
        yield from _line(line, color, across, up)


def _line(line: Line, color: str, across: Axis, up: Axis) -> Iterator[str]:
    places = " ".join(f"{across(one.x):.1f},{up(one.y):.1f}" for one in line.points)
    yield f"<polyline points='{places}' fill='none' stroke='{color}' stroke-width='1.6'/>"
    for one in line.points:
        x, y = across(one.x), up(one.y)
        yield (
            f"<line x1='{x:.1f}' y1='{up(one.low):.1f}' x2='{x:.1f}' y2='{up(one.high):.1f}' stroke='{color}' "
            "stroke-opacity='0.6'/>"
        )
        yield f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.2' fill='{color}'/>"


def _text(
    x: float, y: float, what: str, anchor: str, color: str = INK, *, size: float = 10.5, bold: bool = False
) -> str:
    weight = " font-weight='bold'" if bold else ""
    # A white rim, so that lines which pass behind leave the words readable.
    rim = "paint-order='stroke' stroke='#ffffff' stroke-width='3' stroke-linejoin='round'"
    place = f"x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' fill='{color}' {rim}{weight}"
    return f"<text {place}>{escape(what)}</text>"
