"""Quality against speed as SVG, speeds on a logarithmic axis: no library, no script, in the manner of
`compression_plot.py`, whose axes are linear."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from .results import PeerResult, PeersFile

WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 66, 50
POLYFOLD, PEER, FITTED, INK, GRID, FAINT = "#2f6fce", "#c4621a", "#2f9e6e", "#30343a", "#e4e6ea", "#70757d"
LETTER, LINE = 5.7, 12
SYMBOLS = {"polyfold": POLYFOLD, "shared": PEER, "fitted": FITTED}


@dataclass(frozen=True)
class Axis:
    """From values to pixels, through `log10` where `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        at, low, high = (math.log10(one) if self.log else one for one in (value, self.low, self.high))
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def draw(content: PeersFile) -> str | None:
    """The plot, or None where no peer has both a speed and a quality."""
    scored = [one for one in content.peers if one.speed and one.quality]
    unscored = [one for one in content.peers if one.speed and not one.quality]
    if not scored:
        return None
    rates = [one.speed.documents_per_second for one in (*scored, *unscored) if one.speed]
    points = [100 * one.quality.mean_macro_f1 for one in scored if one.quality]
    across = Axis(min(rates) / 1.5, max(rates) * 1.9, LEFT, WIDTH - RIGHT, log=True)
    room = max(0.5, 0.08 * (max(points) - min(points)))
    up = Axis(min(points) - room, max(points) + room, HEIGHT - BOTTOM, TOP, log=False)
    return "\n".join([*_frame(content, across, up), *_marks(scored, unscored, across, up), "</svg>", ""])


def _frame(content: PeersFile, across: Axis, up: Axis) -> Iterator[str]:
    yield (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' "
        f"height='{HEIGHT}' role='img' font-family='sans-serif'>"
    )
    yield "<title>Quality against speed, Polyfold and its peers</title>"
    yield f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#ffffff'/>"
    yield _text(LEFT, 20, "Quality against speed, Polyfold and its peers", "start", size=14, bold=True)
    machine = content.hardware
    yield _text(
        LEFT, 38, f"Speeds of one and the same run: {machine.processor}, {machine.cores} cores; texts to labels "
        "of all tasks. Bars: least to most of the rounds.", "start", FAINT,
    )  # fmt: skip
    legend = ((POLYFOLD, "Polyfold"), (PEER, "peers, the same weights"), (FITTED, "peers, fitted here"))
    x = float(LEFT)
    for color, what in legend:
        yield f"<circle cx='{x + 5:.1f}' cy='{TOP - 12}' r='4.5' fill='{color}'/>"
        yield _text(x + 13, TOP - 8, what, "start")
        x += 30 + LETTER * len(what)
    for value in log_ticks(across.low, across.high):
        at = across(value)
        yield f"<line x1='{at:.1f}' y1='{TOP}' x2='{at:.1f}' y2='{HEIGHT - BOTTOM}' stroke='{GRID}'/>"
        yield _text(at, HEIGHT - BOTTOM + 16, f"{value:,g}", "middle")
    for value in ticks(up.low, up.high):
        at = up(value)
        yield f"<line x1='{LEFT}' y1='{at:.1f}' x2='{WIDTH - RIGHT}' y2='{at:.1f}' stroke='{GRID}'/>"
        yield _text(LEFT - 6, at + 4, f"{value:g}", "end")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "documents per second (logarithmic)", "middle")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield f"<g transform='rotate(-90 14 {middle})'>{_text(14, middle, 'mean macro-F1 × 100', 'middle')}</g>"


def _marks(scored: Sequence[PeerResult], unscored: Sequence[PeerResult], across: Axis, up: Axis) -> Iterator[str]:
    taken: list[tuple[float, float, float, float]] = []
    places = []
    for one in scored:
        assert one.speed and one.quality
        x, y = across(one.speed.documents_per_second), up(100 * one.quality.mean_macro_f1)
        color = SYMBOLS["polyfold" if one.group == "polyfold" else one.weights]
        ends = across(one.speed.least), across(one.speed.most)
        yield f"<line x1='{ends[0]:.1f}' y1='{y:.1f}' x2='{ends[1]:.1f}' y2='{y:.1f}' stroke='{color}'/>"
        yield f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5' fill='{color}'><title>{escape(one.title)}</title></circle>"
        places.append((one.name, x, y))
        taken.append((x - 6, y - 6, x + 6, y + 6))
    best = sorted(kept([(one.speed.documents_per_second, one.quality.mean_macro_f1) for one in scored]))  # type: ignore[union-attr]
    line = " ".join(f"{across(x):.1f},{up(100 * y):.1f}" for x, y in best)
    yield f"<polyline points='{line}' fill='none' stroke='{INK}' stroke-dasharray='4 3' stroke-opacity='0.5'/>"
    for name, x, y in places:
        start, top = _free(name, x, y, taken)
        taken.append((start, top, start + LETTER * len(name), top + LINE))
        yield _text(start, top + LINE - 2, name, "start")
    for one in unscored:
        assert one.speed
        x = across(one.speed.documents_per_second)
        yield (
            f"<line x1='{x:.1f}' y1='{TOP}' x2='{x:.1f}' y2='{HEIGHT - BOTTOM}' stroke='{FAINT}' "
            "stroke-dasharray='2 3'/>"
        )
        yield (
            f"<g transform='rotate(-90 {x - 4:.1f} {HEIGHT - BOTTOM - 6})'>"
            f"{_text(x - 4, HEIGHT - BOTTOM - 6, f'{one.name} (not scored)', 'start', FAINT)}</g>"
        )


def kept(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (speed, quality) pairs that no other beats in both."""
    best: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda one: (-one[0], -one[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two positive values."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]


def ticks(low: float, high: float) -> list[float]:
    """At most nine round values between two."""
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if (high - low) / step <= 9)
    return [round(step * number, 6) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _free(
    name: str, x: float, y: float, taken: Sequence[tuple[float, float, float, float]]
) -> tuple[float, float]:
    """Where a name beside its point covers least of what is drawn."""
    width = LETTER * len(name)
    rows = [y + shift * LINE for shift in (-0.5, -1.6, 0.6, -2.7, 1.7)]
    choices = [(side, top) for top in rows for side in (x + 9, x - 9 - width)]
    choices += [(x - width / 2, top) for top in (y - 1.9 * LINE, y + 0.8 * LINE)]

    def covered(at: tuple[float, float]) -> float:
        box = (at[0], at[1], at[0] + width, at[1] + LINE)
        shared = sum(
            max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
            * max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
            for other in taken
        )
        outside = box[0] < LEFT or box[2] > WIDTH - 4 or box[1] < TOP or box[3] > HEIGHT - BOTTOM
        return shared + (1e6 if outside else 0.0)

    return min(choices, key=covered)


def _text(
    x: float, y: float, what: str, anchor: str, color: str = INK, *, size: float = 10.5, bold: bool = False
) -> str:
    weight = " font-weight='bold'" if bold else ""
    # A white rim, so that lines which pass behind leave the words readable.
    rim = "paint-order='stroke' stroke='#ffffff' stroke-width='3' stroke-linejoin='round'"
    place = f"x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' fill='{color}' {rim}{weight}"
    return f"<text {place}>{escape(what)}</text>"
