"""What the sections of the page share: figures with goals, cells, and what is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from polyfold.measure.tables import figure

from .figures import Spread

PERCENT_OF_OFFLINE, BULK_PERCENT, OVER_OFFLINE_MS = ">= 45", ">= 85", "<= 2"
BYTES_A_REQUEST = "<= 32"
"""The smallest object that a request could leave behind, and the reference to it, are more: 36 in CPython."""

SOAK_REQUESTS = ">= 1000000"
NONE, ALL = "<= 0", ">= 1"


@dataclass(frozen=True)
class Figure:
    """One number, what it should be (None: nothing was asked), and how to measure it again."""

    value: float
    goal: str | None
    command: str


@dataclass(frozen=True)
class Entry:
    """A figure with what it is in words, and what would be the most that can be had, where that is known."""

    figure: Figure
    what: str
    most: float | None = None


@dataclass
class Section:
    """A part of the page: lines, one-line conclusions, figures by name, and plots by file name."""

    title: str
    lines: list[str] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    plots: dict[str, str] = field(default_factory=dict)

    def add(
        self, name: str, value: float, command: str, what: str, goal: str | None = None, most: float | None = None
    ) -> None:
        """One figure, under a name that stands once."""
        assert name not in self.entries, f"two figures are named '{name}'"
        self.entries[name] = Entry(Figure(float(f"{value:.6g}"), goal, command), what, most)


def told(value: float) -> str:
    """Four digits, so that a figure just beside its goal is seen to be."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def spread_cell(one: Spread | None) -> str:
    """A median with the least and the most of the rounds."""
    if one is None:
        return "–"
    return f"{figure(one.median)} ({figure(one.least)}–{figure(one.most)})"


def percent_cell(value: float) -> str:
    """A share in percent."""
    return f"{figure(value)} %"


def facts_cell(facts: Mapping[str, float | str]) -> str:
    """What a fault's scene noted."""
    parts = [
        f"{name.replace('_', ' ')} {value if isinstance(value, str) else figure(value) if value else '0'}"
        for name, value in facts.items()
    ]
    return ", ".join(parts)
