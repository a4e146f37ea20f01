"""Work done in a process of its own, so that its time and memory are its own; and what a process's memory is.

    found = run_fresh(Path("benchmarks/growth_child.py"), {"what": "tokens", "model": "runs/demo/..."})

A job goes to the script as JSON on its command line; the last line of its standard output comes back as JSON.
Nothing here imports what is measured.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from pydantic import BaseModel, ConfigDict

from polyfold.errors import InputError

ROLLUP, MAPS = Path("/proc/self/smaps_rollup"), Path("/proc/self/smaps")
MEMORY = {"Rss": "resident_mb", "Pss": "proportional_mb", "Anonymous": "anonymous_mb"}
NOT_FILES = ("[heap]", "[stack]", "[anon]", "[vdso]", "[vvar]")
TOLD = 1500
"""Characters of a failed process's last words that are passed on."""


class Spread(BaseModel):
    """A figure over rounds: the median, and its extremes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    median: float
    least: float
    most: float
    rounds: int


@dataclass(frozen=True)
class Fresh:
    """What a job answered, and how long its process lived, start and end included."""

    answer: dict[str, Any]
    wall_s: float


def run_fresh(script: Path, job: Mapping[str, Any]) -> Fresh:
    """Run `script` with `job` in a new Python; InputError with its last words where it fails."""
    started = perf_counter()
    command = [sys.executable, str(script), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall_s = perf_counter() - started
    if done.returncode:
        said = done.stderr.strip()[-TOLD:]
        raise InputError(f"a process ended with {done.returncode}: {said}", file=script.name)
    return Fresh(json.loads(done.stdout.splitlines()[-1]), wall_s)


def spread(values: Sequence[float], digits: int = 3) -> Spread:
    """Median and extremes."""
    rounded = [round(value, digits) for value in (median(values), min(values), max(values))]
    return Spread(median=rounded[0], least=rounded[1], most=rounded[2], rounds=len(values))


def parse_rollup(lines: Iterable[str]) -> dict[str, float]:
    """Resident, proportional and anonymous memory in MB (1e6 bytes), from /proc/PID/smaps_rollup.

    Anonymous pages are the process's own; the rest of what is resident is pages of files, which other processes
    share and the kernel may drop. Proportional memory divides shared pages among those who share them.
    """
    fields = dict(line.split(":", 1) for line in lines if ":" in line and "-" not in line.split(":", 1)[0])
    return {name: round(int(fields[field].split()[0]) * 1024 / 1e6, 1) for field, name in MEMORY.items()}


def parse_maps(lines: Iterable[str]) -> Counter[str]:
    """Resident MB by what is mapped: a file's own name, or "[heap]" and "[anon]"; from /proc/PID/smaps."""
    found: Counter[str] = Counter()
    name = ""
    for line in lines:
        head, _, rest = line.partition(":")
        if "-" in head.split(" ")[0]:
            parts = line.split(None, 5)
            path = parts[5].strip() if len(parts) > 5 else "[anon]"
            name = path if path in NOT_FILES else Path(path).name
        elif head == "Rss":
            found[name] += int(rest.split()[0])
    return Counter({name: round(kilobytes * 1024 / 1e6, 1) for name, kilobytes in found.items()})


def resident() -> dict[str, float]:
    """This process's memory now."""
    return parse_rollup(ROLLUP.read_text().splitlines())


def largest_maps(most: int = 10) -> dict[str, float]:
    """What this process's resident memory consists of, the largest parts by name."""
    return dict(parse_maps(MAPS.read_text().splitlines()).most_common(most))


def answer(content: Mapping[str, Any]) -> None:
    """Hand a job's result to the process that asked."""
    print(json.dumps(content), flush=True)
