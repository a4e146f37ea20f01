"""What a person sees while Polyfold works: progress bars with time left, notes and warnings, all on stderr."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def stderr() -> Console:
    """A console on standard error, so that standard output stays free for results."""
    return Console(stderr=True, highlight=False)


def note(message: str) -> None:
    """One line of information; markup in user text is not interpreted."""
    stderr().print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """One warning, visibly so."""
    stderr().print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)


class Bar:
    """One running progress bar."""

    def __init__(self, progress: Progress, label: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=total, detail="")

    def advance(self, steps: int = 1, detail: str = "") -> None:
        """Move on by `steps`; `detail` (a loss, say) stands behind the bar."""
        self._progress.update(self._task, advance=steps, detail=detail)

    def jump(self, done: int) -> None:
        """Set the count of finished steps, when a resumed run starts in the middle."""
        self._progress.update(self._task, completed=done)


@contextmanager
def progress_bar(label: str, total: int | None) -> Iterator[Bar]:
    """A bar with count, elapsed and remaining time; on a log file it prints only its final state."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    with Progress(*columns, console=stderr(), refresh_per_second=4) as progress:
        yield Bar(progress, label, total)
