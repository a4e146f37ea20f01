"""What every page of results shares: files read and checked, tables, and how a thing is said that is not there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from polyfold.errors import InputError
from polyfold.system import Hardware

_Content = TypeVar("_Content", bound=BaseModel)


def read_content(path: Path, kind: type[_Content]) -> _Content | None:
    """A JSON file as what it should be; None where there is none, InputError where it is something else."""
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"not what it should be: {first['msg']}", file=path, key=where or None) from None


def not_measured(file: str, end: str = "") -> list[str]:
    """What stands in the place of a section while the file it is made from is not there."""
    return [f"Not measured yet: there is no `{file}`{end}.", ""]


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> list[str]:
    """A Markdown table; the columns numbered in `words` are to the left, all others are figures."""
    rule = "|" + "".join("---|" if number in words else "---:|" for number in range(len(columns)))
    return [f"| {' | '.join(columns)} |", rule, *(f"| {' | '.join(row)} |" for row in rows), ""]


def listed(parts: Sequence[str], nothing: str = "none") -> str:
    """Names in a sentence."""
    return ", ".join(parts) if parts else nothing


def is_met(value: float, goal: str) -> bool:
    """Whether a figure is what its goal asks for."""
    sign, _, limit = goal.partition(" ")
    match sign:
        case ">":
            return value > float(limit)
        case ">=":
            return value >= float(limit)
        case "<=":
            return value <= float(limit)
    raise AssertionError(f"no goal is written so: {goal}")


def machine_line(machine: Hardware) -> str:
    """A machine and the runtimes on it, in one line."""
    wanted = ("torch", "openvino", "onnxruntime")
    versions = [f"{name} {machine.versions[name]}" for name in wanted if name in machine.versions]
    parts = [machine.processor, f"{machine.cores} cores", *machine.instructions]
    return ", ".join([*parts, *([machine.accelerator] if machine.accelerator else []), *versions])
