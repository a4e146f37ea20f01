"""The one exception for a user's mistake; the command line prints its message and exits with code 2."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Something the user gave cannot be used: says what, where, what is allowed and what to do next."""

    def __init__(
        self,
        problem: str,
        *,
        file: Path | str | None = None,
        row: int | None = None,
        key: str | None = None,
        hint: str | None = None,
    ) -> None:
        """`row` counts documents from 1 (a CSV header is not a row); `hint` says what is allowed or what to do."""
        where = [str(file)] if file is not None else []
        where += [f"row {row}"] if row is not None else []
        where += [f"key '{key}'"] if key is not None else []
        message = f"{', '.join(where)}: {problem}" if where else problem
        super().__init__(f"{message}\n  -> {hint}" if hint else message)
        self.problem = problem
        self.file = file
        self.row = row
        self.key = key
        self.hint = hint


@contextmanager
def within(what: str) -> Iterator[None]:
    """Puts before what is said of a mistake which part of the user's it was found in."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"{what}: {error.problem}", file=error.file, row=error.row, key=error.key, hint=error.hint
        ) from None


class MissingExtra(InputError):
    """A part of Polyfold was asked for whose optional packages are not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"'{package}' is not installed, and this needs it",
            hint=f"install it with: pip install 'polyfold[{extra}]'",
        )
