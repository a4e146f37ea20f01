"""ONNX Runtime on the processor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyfold.artifact import ModelConfig
from polyfold.errors import InputError, MissingExtra
from polyfold.runtimes.session import Session, SessionSpec, check_graph, model_file, output_name
from polyfold.system import cores, telemetry_off
from polyfold.tasks import Task

# ONNX Runtime's level for errors: its warnings about constant folding are no news to a user.
ERRORS_ONLY = 3


@dataclass(frozen=True)
class OnnxRuntimeSession:
    """A loaded ONNX graph."""

    backend: Any
    outputs: dict[str, str]

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
        """Logits by task, float32 [batch, labels]."""
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        values = self.backend.run(list(self.outputs.values()), feeds)
        return dict(zip(self.outputs, values, strict=True))


def open_onnxruntime(folder: Path, config: ModelConfig, tasks: Sequence[Task], spec: SessionSpec) -> Session:
    """Load the ONNX file of a model folder; a missing, corrupt or foreign file is an InputError."""
    telemetry_off()
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as failures
    except ModuleNotFoundError:
        raise MissingExtra("onnxruntime", "train") from None
    if spec.bf16:
        raise InputError("bf16 is OpenVINO's option", file=folder, hint="use an OpenVINO artifact or leave it out")
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.threads or cores()
    options.inter_op_num_threads = spec.streams
    options.log_severity_level = ERRORS_ONLY
    path = model_file(folder, config)
    # These share no base class but Exception.
    unusable = (
        failures.Fail,
        failures.InvalidArgument,
        failures.InvalidGraph,
        failures.InvalidProtobuf,
        failures.NoSuchFile,
        failures.NotImplemented,
        failures.RuntimeException,
    )
    try:
        backend = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except unusable as error:
        raise InputError(f"ONNX Runtime cannot load it: {error}", file=path, hint="export it again") from None
    inputs, outputs = backend.get_inputs(), backend.get_outputs()
    check_graph(path, tasks, [one.name for one in inputs], [one.name for one in outputs])
    return OnnxRuntimeSession(backend, {task.name: output_name(task) for task in tasks})
