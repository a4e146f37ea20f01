"""What every runtime offers: token ids in, logits by task out, numpy on both sides."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from polyfold.artifact import ModelConfig
from polyfold.errors import InputError
from polyfold.tasks import Task

INPUTS = ("input_ids", "attention_mask")


class SessionSpec(BaseModel):
    """How a runtime uses the machine; without `threads` it uses every core the process may.

    `bf16` lets OpenVINO compute what is not int8 in bfloat16. `streams` parts of a batch run side by
    side in OpenVINO, without it one a thread. `cache_dir` keeps OpenVINO's compiled model between starts.
    `device` says where torch and ONNX Runtime compute; TensorRT knows GPUs only, OpenVINO only processors here.
    `spinning` lets ONNX Runtime's threads wait for work in a busy loop: quicker on cores of one's own, slower
    where others want them too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: int | None = Field(default=None, ge=1)
    bf16: bool = False
    streams: int | None = Field(default=None, ge=1)
    cache_dir: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    spinning: bool = True


class Session(Protocol):
    """A loaded model; one thread at a time may call it."""

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Mapping[str, np.ndarray]:
        """Logits by task, float32 [batch, labels], of int64 ids and mask [batch, seq]."""
        ...


def output_name(task: Task) -> str:
    """The graph output that holds a task's logits."""
    return f"logits_{task.name}"


def model_file(folder: Path, config: ModelConfig) -> Path:
    """The model file that `config.json` names, checked to be there."""
    path = folder / config.file
    if not path.is_file():
        raise InputError(
            "the model file that config.json names is missing", file=path, hint="copy it or export it again"
        )
    return path


def check_graph(path: Path, tasks: Sequence[Task], inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Refuse a graph that does not fit `config.json`: a missing input, or a task without logits."""
    missing = [name for name in INPUTS if name not in set(inputs)]
    missing += [name for name in map(output_name, tasks) if name not in set(outputs)]
    if missing:
        raise InputError(
            f"the model has no input or output named {', '.join(missing)}",
            file=path,
            hint="config.json and the model file must come from the same export",
        )
