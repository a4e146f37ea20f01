"""OpenVINO on the processor, from its own IR or straight from ONNX."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyfold.artifact import ModelConfig
from polyfold.errors import InputError, MissingExtra
from polyfold.runtimes.session import Session, SessionSpec, check_graph, model_file, output_name
from polyfold.system import cores, telemetry_off
from polyfold.tasks import Task


@dataclass(frozen=True)
class OpenVinoSession:
    """A compiled model with one inference request, and its outputs' positions by task."""

    request: Any
    positions: dict[str, int]

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
        """Logits by task, float32 [batch, labels]."""
        # Inputs are read in place; outputs are copied out, since the next call overwrites the request's own.
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
        values = self.request.infer(feeds, share_inputs=True).to_tuple()
        return {task: np.asarray(values[position]) for task, position in self.positions.items()}


def open_openvino(folder: Path, config: ModelConfig, tasks: Sequence[Task], spec: SessionSpec) -> Session:
    """Compile the .xml or .onnx file of a model folder; a missing, corrupt or foreign file is an InputError."""
    telemetry_off()
    try:
        from openvino import Core
    except ModuleNotFoundError:
        raise MissingExtra("openvino", "openvino") from None
    core = _only(Core)
    path = model_file(folder, config)
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"OpenVINO cannot read it: {reason}", file=path, hint="export it again") from None
    names = [name for port in model.outputs for name in port.get_names()]
    check_graph(path, tasks, [name for port in model.inputs for name in port.get_names()], names)
    try:
        compiled = core.compile_model(model, "CPU", _properties(spec, config.precision))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"OpenVINO cannot compile it: {reason}", file=path, hint="export it again") from None
    positions = {
        task.name: next(
            index for index, port in enumerate(compiled.outputs) if output_name(task) in port.get_names()
        )
        for task in tasks
    }
    return OpenVinoSession(compiled.create_infer_request(), positions)


@functools.cache
def _only(core: Callable[[], Any]) -> Any:
    """The process's one OpenVINO core.

    Its processor plugin gives the thread a signal stack of its own and, of two plugins, the one that goes last
    puts back the other's, which is freed: the next Ctrl-C is a segmentation fault (seen in 2026.4). So there is
    one, and it never goes.
    """
    return core()


def _properties(spec: SessionSpec, precision: str) -> dict[str, Any]:
    """One big synchronous batch at a time: the latency hint, one stream over all threads.

    The precision is always said: on processors with bfloat16, OpenVINO would otherwise use it unasked.
    """
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": spec.streams,
        "INFERENCE_NUM_THREADS": spec.threads or cores(),
        "INFERENCE_PRECISION_HINT": "bf16" if spec.bf16 else "f32",
    }
    if precision == "int8-weights":
        # Unasked, it would quantize what such weights are multiplied with at run time.
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    if spec.cache_dir is not None:
        properties["CACHE_DIR"] = str(spec.cache_dir)
    return properties
