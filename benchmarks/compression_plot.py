"""Quality against cost as SVG, written by hand: no library, no script, readable on light and dark pages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

PANEL_WIDTH, HEIGHT = 460, 420
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 44, 46
KEPT, WHOLE, DOMINATED, INK, GRID = "#2f6fce", "#c4621a", "#9aa0a8", "#30343a", "#e4e6ea"
FONT = "font-family='sans-serif'"
LETTER, LINE = 5.6, 11


@dataclass(frozen=True)
class Point:
    """One row: where it lies, and whether it is the whole model, kept or dominated."""

    name: str
    x: float
    y: float
    color: str


@dataclass(frozen=True)
class Panel:
    """One plot: its points, what its x axis says, and whether less of x is better."""

    points: Sequence[Point]
    x_title: str
    less_is_better: bool


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def draw_svg(title: str, y_title: str, panels: Sequence[Panel]) -> str:
    """The panels side by side under one title."""
    width = PANEL_WIDTH * len(panels)
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {HEIGHT}' width='{width}' "
        f"height='{HEIGHT}' role='img' {FONT}>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{width}' height='{HEIGHT}' fill='#ffffff'/>",
        f"<text x='{LEFT}' y='20' font-size='13' font-weight='bold' fill='{INK}'>{escape(title)}</text>",
    ]
    for number, panel in enumerate(panels):
        lines.append(f"<g transform='translate({number * PANEL_WIDTH} 0)'>")
        lines += _panel(panel, y_title)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def _panel(panel: Panel, y_title: str) -> Iterator[str]:
    right, bottom = PANEL_WIDTH - RIGHT, HEIGHT - BOTTOM
    across = _scale([0.0, *(one.x for one in panel.points)], LEFT, right)
    up = _scale([one.y for one in panel.points], bottom, TOP)
    for value in _ticks(across):
        x = across(value)
        yield f"<line x1='{x:.1f}' y1='{TOP}' x2='{x:.1f}' y2='{bottom}' stroke='{GRID}'/>"
        yield _text(x, bottom + 16, f"{value:g}", "middle")
    for value in _ticks(up):
        y = up(value)
        yield f"<line x1='{LEFT}' y1='{y:.1f}' x2='{right}' y2='{y:.1f}' stroke='{GRID}'/>"
        yield _text(LEFT - 6, y + 4, f"{value:g}", "end")
    yield _text((LEFT + right) / 2, HEIGHT - 12, panel.x_title, "middle")
    yield _text(LEFT, TOP - 8, y_title, "start")
    line = " ".join(f"{across(one.x):.1f},{up(one.y):.1f}" for one in _best(panel))
    yield f"<polyline points='{line}' fill='none' stroke='{KEPT}' stroke-dasharray='4 3' stroke-opacity='0.6'/>"
    places = [(across(one.x), up(one.y)) for one in panel.points]
    for one, (x, y) in zip(panel.points, places, strict=True):
        fill = "#ffffff" if one.color == DOMINATED else one.color
        yield f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4.5' fill='{fill}' stroke='{one.color}' stroke-width='1.5'/>"
    yield from _labels(panel.points, places)


def _best(panel: Panel) -> list[Point]:
    """The points than which none is better in both directions, from one end to the other."""
    sign = 1 if panel.less_is_better else -1
    best: list[Point] = []
    for one in sorted(panel.points, key=lambda one: (sign * one.x, -one.y)):
        if not best or one.y > best[-1].y:
            best.append(one)
    return best


def _labels(points: Sequence[Point], places: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Names beside their points: each at the first place where it covers nothing that is drawn."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for one, (x, y) in zip(points, places, strict=True):
        width = LETTER * len(one.name)
        right, left, centre = x + 8, x - 8 - width, x - width / 2
        beside, below, above = y - LINE / 2, y + LINE / 2, y - 1.5 * LINE
        choices = [(right, beside), (left, beside), (right, below), (right, above), (left, below), (left, above)]
        choices += [(side, y + step * LINE) for step in (0.6, -1.6, 1.5, -2.5) for side in (centre, right, left)]
        start, top = min(choices, key=lambda at: _covered((*at, at[0] + width, at[1] + LINE), taken))
        taken.append((start, top, start + width, top + LINE))
        yield _text(start, top + LINE - 2, one.name, "start", INK if one.color != DOMINATED else "#70757d")


_Box = tuple[float, float, float, float]


def _covered(box: _Box, taken: Sequence[_Box]) -> float:
    """Square pixels that a box shares with others, and very many where it leaves the panel."""
    shared = 0.0
    for other in taken:
        across = min(box[2], other[2]) - max(box[0], other[0])
        down = min(box[3], other[3]) - max(box[1], other[1])
        shared += max(across, 0.0) * max(down, 0.0)
    outside = box[0] < LEFT or box[2] > PANEL_WIDTH - 2 or box[1] < TOP or box[3] > HEIGHT - BOTTOM
    return shared + (1e6 if outside else 0.0)


def _scale(values: Sequence[float], start: float, end: float) -> _Scale:
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 1.0
    return _Scale(low - (room if low else 0.0), high + room, start, end)


def _ticks(scale: _Scale) -> list[float]:
    step = next(
        step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if (scale.high - scale.low) / step <= 8
    )
    first, last = int(scale.low // step) + (scale.low % step > 0), int(scale.high // step)
    return [round(step * number, 6) for number in range(first, last + 1)]


def _text(x: float, y: float, what: str, anchor: str, color: str = INK) -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' font-size='10.5' text-anchor='{anchor}' fill='{color}'"
    return f"<text {place}>{escape(what)}</text>"
