"""The driver's end of a crowd of clients that misbehave."""

import json
import subprocess
import sys
from types import TracebackType

from polyfold.errors import InputError

from .jobs import ROOT

OPEN_SECONDS = 120.0


class Crowd:
    """A crowd that has connected; leaves with the `with` block."""

    def __init__(self, kind: str, port: int, count: int, seconds: float, key: str | None = None) -> None:
        self._seconds = seconds
        arguments = [kind, str(port), str(count), str(seconds), *([key] if key else [])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.service.crowd", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("ready "):
            _, said = self._process.communicate()
            raise InputError(f"the crowd did not come: {(line + said).strip()[-800:]}")
        self.opened = int(line.split()[1])

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def left(self) -> dict[str, float]:
        """What became of its clients, once its time is over."""
        said, errors = self._process.communicate(timeout=self._seconds + OPEN_SECONDS)
        if self._process.returncode:
            raise InputError(f"the crowd failed: {errors.strip()[-800:]}")
        found: dict[str, float] = json.loads(said.splitlines()[-1])
        return found
