"""ONNX Runtime, on the processor or on a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from polyfold.artifact import ModelConfig
from polyfold.errors import InputError, MissingExtra
from polyfold.runtimes.session import Session, SessionSpec, check_graph, model_file, output_name
from polyfold.system import cores, telemetry_off
from polyfold.tasks import Task

# ONNX Runtime's level for errors: its warnings about constant folding are no news to a user.
ERRORS_ONLY = 3

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


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
    for name, asked in (("bf16 is", spec.bf16), ("streams are", spec.streams not in (None, 1))):
        if asked:
            hint = "give runtime openvino, or leave it out"
            raise InputError(f"{name} OpenVINO's option", file=folder, hint=hint)
    provider = PROVIDERS[spec.device]
    if provider not in onnxruntime.get_available_providers():
        raise _without(provider, folder)
    onnxruntime.disable_telemetry_events()
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
        backend = onnxruntime.InferenceSession(str(path), _options(onnxruntime, spec), providers=[provider])
    except unusable as error:
        raise InputError(f"ONNX Runtime cannot load it: {error}", file=path, hint="export it again") from None
    # A provider whose own libraries are missing is dropped without an error, and the processor steps in.
    if provider not in backend.get_providers():
        raise _without(provider, folder)
    inputs, outputs = backend.get_inputs(), backend.get_outputs()
    check_graph(path, tasks, [one.name for one in inputs], [one.name for one in outputs])
    return OnnxRuntimeSession(backend, {task.name: output_name(task) for task in tasks})


def _options(onnxruntime: ModuleType, spec: SessionSpec) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec.threads or cores()
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spec.spinning else "0")
    # Patterns are kept for every shape that was ever seen, and batches have thousands; they gained no time.
    options.enable_mem_pattern = False
    return options


def _without(provider: str, folder: Path) -> InputError:
    return InputError(
        f"this ONNX Runtime cannot use its {provider}",
        file=folder,
        key="device",
        hint="install onnxruntime-gpu in place of onnxruntime, with the CUDA it wants, or give device cpu",
    )
