"""An environment a peer, made by pip: what one library pins must not decide what another gets."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyfold.artifact import write_atomically

ROOT = Path(__file__).resolve().parents[2]
BUILT = "built.json"
BUILD_SECONDS = 1800

# The range that the project itself states: pip then takes the processor build where the index offers one.
TORCH = "torch>=2.8,<2.14"


class PeerFailed(Exception):
    """A peer that could not be installed, opened or asked; the message is the reason, and goes into the result."""


@dataclass(frozen=True)
class Environment:
    """What is installed, and the distributions whose versions are worth telling."""

    name: str
    requirements: Sequence[str]
    versions: Sequence[str]


ENVIRONMENTS: Mapping[str, Environment] = {
    one.name: one
    for one in (
        Environment(
            "transformers", (TORCH, "transformers>=5,<6"), ("torch", "transformers", "tokenizers", "numpy")
        ),
        Environment(
            "export",
            (TORCH, "transformers>=5,<6", "onnx>=1.17", "onnxruntime>=1.20"),
            ("torch", "transformers", "onnx", "onnxruntime"),
        ),
        Environment(
            "onnxruntime",
            ("onnxruntime>=1.20", "tokenizers>=0.21", "numpy>=1.26"),
            ("onnxruntime", "tokenizers", "numpy"),
        ),
        Environment(
            "sentence-transformers",
            (TORCH, "sentence-transformers[openvino]>=6,<7", "datasets>=3"),
            ("sentence-transformers", "optimum-intel", "openvino", "nncf", "transformers", "torch"),
        ),
        Environment(
            "model2vec",
            ("model2vec>=0.7", "scikit-learn>=1.5"),
            ("model2vec", "tokenizers", "scikit-learn", "numpy"),
        ),
        Environment("scikit-learn", ("scikit-learn>=1.5",), ("scikit-learn", "scipy", "numpy")),
        # In place, so that an environment that is used again measures today's code.
        Environment(
            "polyfold",
            ("-e", f"{ROOT}[openvino]"),
            ("polyfold", "openvino", "onnxruntime", "sentencepiece", "tokenizers", "numpy"),
        ),
    )
}


def python_of(environment: Environment, work: Path) -> Path:
    """The interpreter of a finished environment, made now unless one of the same requirements is there."""
    folder = work / "environments" / environment.name
    python = folder / "bin" / "python"
    wanted = digest(environment.requirements)
    built = folder / BUILT
    if built.is_file() and python.exists() and json.loads(built.read_bytes())["requirements"] == wanted:
        return python
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--no-input", *environment.requirements],
    )
    with log.open("w", encoding="utf8") as file:
        for command in commands:
            file.write(f"$ {' '.join(command)}\n")
            file.flush()
            _run(command, file, log, environment.name)
    write_atomically(built, json.dumps({"requirements": wanted}).encode())
    return python


def _run(command: Sequence[str], log_file: object, log: Path, name: str) -> None:
    # The driver's own packages must not be seen from within.
    surroundings = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        done = subprocess.run(
            command,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=BUILD_SECONDS,
            env=surroundings,
        )  # type: ignore[call-overload]
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"environment '{name}': pip took more than {BUILD_SECONDS} s") from None
    if done.returncode != 0:
        raise PeerFailed(f"environment '{name}': {complaint(log.read_text(encoding='utf8'))}")


def complaint(log: str) -> str:
    """pip's own words on what went wrong: its lines of errors, or the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return " ".join(errors[-2:] or lines[-1:]) or "pip failed and said nothing"


def digest(requirements: Sequence[str]) -> str:
    """What an environment must have been made from to be used again: its requirements and this Python."""
    made_from = [f"{sys.version_info.major}.{sys.version_info.minor}", *requirements]
    if "-e" in requirements:
        made_from.append((ROOT / "pyproject.toml").read_text(encoding="utf8"))
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def size_mb(python: Path) -> float:
    """Megabytes (1e6 bytes) of an environment; links, such as those to the interpreter, are not followed."""
    files = (path for path in python.parents[1].rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files) / 1e6
