"""Opens a model folder on the runtime that it names, on one that was asked for, or on the fastest.

Only what is opened is imported.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from polyfold.artifact import ModelConfig
from polyfold.errors import InputError, MissingExtra
from polyfold.runtimes.fastest import Opened, choose_and_open
from polyfold.runtimes.session import Session, SessionSpec
from polyfold.tasks import Task

RuntimeChoice = Literal["auto", "onnxruntime", "openvino", "torch", "tensorrt"]
Device = Literal["cpu", "cuda"]


def open_session(
    folder: Path, config: ModelConfig, tasks: Sequence[Task], spec: SessionSpec, runtime: str | None = None
) -> Session:
    """A session of `folder` for `tasks`: on `runtime`, without it on the one `config.json` names."""
    if runtime == "auto":
        return open_fastest(folder, config, tasks, spec).session
    wanted = runtime or config.runtime
    possible = runtimes_of(config)
    if wanted not in possible:
        raise InputError(
            f"this model cannot be opened in '{wanted}'", file=folder, hint=f"it opens in {', '.join(possible)}"
        )
    match wanted:
        case "onnxruntime":
            from polyfold.runtimes.onnxruntime import open_onnxruntime

            return open_onnxruntime(folder, config, tasks, spec)
        case "openvino":
            from polyfold.runtimes.openvino import open_openvino

            return open_openvino(folder, config, tasks, spec)
        case "tensorrt":
            from polyfold.runtimes.tensorrt import open_tensorrt

            return open_tensorrt(folder, config, tasks, spec)
        case _:
            try:
                from polyfold.runtimes.torch import open_torch
            except ModuleNotFoundError as error:
                raise MissingExtra(error.name or "torch", "train") from None
            return open_torch(folder, spec)


def open_fastest(folder: Path, config: ModelConfig, tasks: Sequence[Task], spec: SessionSpec) -> Opened:
    """A session on the runtime that is the fastest correct one here, with how it was found; measured once."""
    opener = partial(open_session, folder, config, tasks)
    return choose_and_open(folder, config, tasks, spec, runtimes_of(config), opener)


def runtimes_of(config: ModelConfig) -> tuple[str, ...]:
    """Where this model can be opened, its own runtime first: an ONNX graph in several, others only there."""
    if Path(config.file).suffix != ".onnx":
        return (config.runtime,)
    return tuple(dict.fromkeys((config.runtime, "onnxruntime", "openvino", "tensorrt")))
