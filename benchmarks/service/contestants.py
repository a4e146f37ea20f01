"""Who serves: Polyfold, a plain FastAPI route, and LitServe; all answer the same question in the same form.

The plain route is what a team writes first: one `def` that calls the predictor, in FastAPI's thread pool, one at
a time, since a model's sessions are not for several threads at once. LitServe has a virtual environment of its
own, made by pip. Its batches hold up to `LITSERVE_BATCH` requests and wait `LITSERVE_WAIT_S` for more; with its
default of no wait its loop spins, which on two shared cores costs more than it gains.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..peers.environments import ROOT, Environment, python_of

Name = Literal["polyfold", "fastapi", "litserve"]
NAMES: tuple[Name, ...] = ("polyfold", "fastapi", "litserve")
SERVERS = Path(__file__).parent / "servers"
LITSERVE_BATCH, LITSERVE_WAIT_S = 64, 0.002
LITSERVE = Environment(
    "litserve", ("-e", f"{ROOT}[openvino]", "litserve>=0.2.19,<0.3"), ("litserve", "fastapi", "uvicorn", "pyzmq")
)
TITLES = {
    "polyfold": "polyfold serve",
    "fastapi": "a plain FastAPI route, no batching",
    "litserve": f"LitServe, batches of up to {LITSERVE_BATCH}, waiting up to {1000 * LITSERVE_WAIT_S:g} ms",
}


@dataclass(frozen=True)
class Subject:
    """A model to serve: its name in figures and its folder."""

    name: str
    folder: Path

    @staticmethod
    def parse(given: str) -> "Subject":
        """NAME=FOLDER."""
        name, _, folder = given.partition("=")
        if not name.isidentifier() or not folder:
            raise ValueError(f"'{given}' is not NAME=FOLDER")
        return Subject(name, Path(folder))


def polyfold_command(models: Sequence[str], port: int, options: Sequence[str] = ()) -> list[str]:
    """`polyfold serve`, from the environment that this runs in."""
    command = Path(sys.executable).with_name("polyfold")
    return [str(command), "serve", *models, "--port", str(port), *options]


def command_of(contestant: Name, subject: Subject, port: int, work: Path, options: Sequence[str]) -> list[str]:
    """How a contestant is started; PeerFailed where LitServe cannot be installed. `options` are Polyfold's own."""
    folder = str(subject.folder.resolve())
    match contestant:
        case "polyfold":
            return polyfold_command([f"{subject.name}={folder}"], port, options)
        case "fastapi":
            return [sys.executable, str(SERVERS / "plain_route.py"), folder, str(port)]
        case "litserve":
            python = python_of(LITSERVE, work.resolve())
            wait = str(LITSERVE_WAIT_S)
            return [str(python), str(SERVERS / "litserve_api.py"), folder, str(port), str(LITSERVE_BATCH), wait]
