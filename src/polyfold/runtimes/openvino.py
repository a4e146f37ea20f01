"""OpenVINO on the processor, from its own IR or straight from ONNX."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from polyfold.artifact import ModelConfig
from polyfold.errors import InputError, MissingExtra
from polyfold.runtimes.session import INPUTS, SessionSpec, check_graph, model_file, output_name
from polyfold.runtimes.static_shapes import LANE_LADDERS, Run, SingleTexts, lengths_for, padded
from polyfold.system import cores, telemetry_off
from polyfold.tasks import Task
from polyfold.text.shapes import FEW_WIDTHS, PART_TOKENS, WIDTHS, full_rows, padded_rows, padded_width

LEAST_TOKENS = 256
"""Batches with fewer tokens are not split among streams: waking another costs more than it saves."""

WORTH_ALL_THREADS = 50_000_000
"""Multiply-adds of one text from which on several threads are faster than one: between a convolutional student's
20 million at 24 tokens (0.13 ms on one thread, 0.14 on two) and MiniLM-L6's 250 million (0.78 and 0.57)."""


LANES_BYTES = 80e6
"""Memory for the lanes' models of fixed lengths, which all of them share: two of MiniLM-L6's size."""


@dataclass(frozen=True)
class OpenVinoSession:
    """A compiled model with an inference request for each stream, and its outputs' positions by task.

    Batches are brought to few shapes, since every new one costs time and memory for good: documents are padded to
    the ladders of `text.shapes`, and cut into parts that hold what a part does, or a number on the ladder.
    """

    requests: tuple[Any, ...]
    positions: Mapping[str, int]
    singles: SingleTexts
    singles_for_lanes: Callable[[], SingleTexts]
    longest: int

    def lanes(self) -> "tuple[OpenVinoSession, ...]":
        """The same model as a session for each stream, which threads may use side by side.

        For many small batches: a thread that prepares the next one leaves the other streams at work. A single text
        takes one stream too, and so a third less of the processors' time.
        """
        singles = self.singles_for_lanes()
        return tuple(replace(self, requests=(one,), singles=singles) for one in self.requests)

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Mapping[str, np.ndarray]:
        """Logits by task, float32 [batch, labels]."""
        count, width = input_ids.shape
        wide = None
        if count == 1:
            if (found := self.singles.run(input_ids, attention_mask)) is not None:
                return found
            wide = self.singles.length_of(width)
        if wide is None:
            small = count * width < len(self.requests) * PART_TOKENS
            wide = padded_width(width, self.longest, FEW_WIDTHS if small else WIDTHS)
        inputs = (padded(input_ids, wide), padded(attention_mask, wide))
        rows = self._rows(count, wide)
        if count == rows:
            return _answers(self.requests[0], self.positions, inputs)
        return self._in_parts(inputs, count, rows)

    def _rows(self, count: int, width: int) -> int:
        """Documents of a part: a full one's, or so many that no stream is left without work."""
        full, streams = full_rows(width), len(self.requests)
        if count >= streams * full:
            return full
        each = -(-count // streams) if count * width > LEAST_TOKENS else count
        return padded_rows(each, full)

    def _in_parts(self, inputs: tuple[np.ndarray, np.ndarray], count: int, rows: int) -> Mapping[str, np.ndarray]:
        """A batch, `rows` at a time, each part on whichever stream is next.

        Streams need not wait for each other at every layer, as threads that share a batch do.
        """
        found: list[list[np.ndarray]] = []
        starts = range(0, count, rows)
        for number, start in enumerate(starts):
            request = self.requests[number % len(self.requests)]
            if number >= len(self.requests):
                found.append(self._collected(request))
            part = [_filled(one[start : start + rows], rows) for one in inputs]
            request.start_async(dict(zip(INPUTS, part, strict=True)), share_inputs=True)
        for number in range(max(0, len(starts) - len(self.requests)), len(starts)):
            found.append(self._collected(self.requests[number % len(self.requests)]))
        stacked = [np.concatenate(pieces)[:count] for pieces in zip(*found, strict=True)]
        return dict(zip(self.positions, stacked, strict=True))

    def _collected(self, request: Any) -> list[np.ndarray]:
        """What a started request answers, copied: its next start overwrites it."""
        request.wait()
        return [request.get_output_tensor(place).data.copy() for place in self.positions.values()]


def open_openvino(folder: Path, config: ModelConfig, tasks: Sequence[Task], spec: SessionSpec) -> OpenVinoSession:
    """Compile the .xml or .onnx file of a model folder; a missing, corrupt or foreign file is an InputError."""
    telemetry_off()
    try:
        from openvino import Core
    except ModuleNotFoundError:
        raise MissingExtra("openvino", "openvino") from None
    if spec.device != "cpu":
        raise InputError("OpenVINO computes on processors here", file=folder, hint="leave the device out")
    core = _only(Core)
    path = model_file(folder, config)
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"OpenVINO cannot read it: {reason}", file=path, hint="export it again") from None
    names = [name for port in model.outputs for name in port.get_names()]
    check_graph(path, tasks, [name for port in model.inputs for name in port.get_names()], names)
    streams = spec.streams or spec.threads or cores()
    try:
        compiled = core.compile_model(model, "CPU", _properties(spec, config.precision, streams))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"OpenVINO cannot compile it: {reason}", file=path, hint="export it again") from None
    positions = {
        task.name: next(
            index for index, port in enumerate(compiled.outputs) if output_name(task) in port.get_names()
        )
        for task in tasks
    }

    def compile_for(length: int, threads: int | None, requests: int = 1) -> Run:
        fixed = model.clone()
        fixed.reshape({name: [1, length] for name in INPUTS})
        # Not kept on disk: it is compiled beside the work, and what is read back from there takes more memory.
        own = spec.model_copy(update={"cache_dir": None, **({"threads": threads} if threads else {})})
        made = core.compile_model(fixed, "CPU", _properties(own, config.precision, requests))
        free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(requests):
            free.put(made.create_infer_request())

        def run(*inputs: np.ndarray) -> Mapping[str, np.ndarray]:
            # There are as many as threads that call this, so that none waits.
            request = free.get()
            try:
                return _answers(request, positions, inputs)
            finally:
                free.put(request)

        return run

    def reference(*inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        return _answers(compiled.create_infer_request(), positions, inputs)

    def fitting(length: int) -> Run:
        return compile_for(length, 1 if config.trunk_parameters * length < WORTH_ALL_THREADS else None)

    def singles_for_lanes() -> SingleTexts:
        lengths = lengths_for(config.trunk_parameters, config.max_length, LANE_LADDERS, LANES_BYTES)
        return SingleTexts(partial(compile_for, threads=streams, requests=streams), reference, lengths)

    singles = SingleTexts(fitting, reference, lengths_for(config.trunk_parameters, config.max_length))
    requests = tuple(compiled.create_infer_request() for _ in range(streams))
    return OpenVinoSession(requests, positions, singles, singles_for_lanes, config.max_length)


def _filled(part: np.ndarray, rows: int) -> np.ndarray:
    """A last part, its own documents repeated until it has a number that is on the ladder."""
    wanted = padded_rows(len(part), rows)
    return part if wanted == len(part) else np.concatenate([part, part[: wanted - len(part)]])


def _answers(request: Any, positions: Mapping[str, int], inputs: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    # Inputs are read in place; outputs are copied out, since the next call overwrites the request's own.
    values = request.infer(dict(zip(INPUTS, inputs, strict=True)), share_inputs=True).to_tuple()
    return {task: np.asarray(values[position]) for task, position in positions.items()}


@functools.cache
def _only(core: Callable[[], Any]) -> Any:
    """The process's one OpenVINO core.

    Its processor plugin gives the thread a signal stack of its own and, of two plugins, the one that goes last
    puts back the other's, which is freed: the next Ctrl-C is a segmentation fault (seen in 2026.4). So there is
    one, and it never goes.
    """
    return core()


def _properties(spec: SessionSpec, precision: str, streams: int) -> dict[str, Any]:
    """Streams of one thread each for batches, which are cut among them; all threads in one stream for one text.

    The precision is always said: on processors with bfloat16, OpenVINO would otherwise use it unasked.
    """
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": max(spec.threads or cores(), streams),
        "INFERENCE_PRECISION_HINT": "bf16" if spec.bf16 else "f32",
        # Two processes, or two models of one, would be pinned to the same first cores while others are idle.
        "ENABLE_CPU_PINNING": False,
    }
    if precision == "int8-weights":
        # Unasked, it would quantize what such weights are multiplied with at run time.
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    if spec.cache_dir is not None:
        # Without the weights, which lie in the model's own file: 1 MB in place of 27, read as fast.
        properties |= {"CACHE_DIR": str(spec.cache_dir), "CACHE_MODE": "OPTIMIZE_SIZE"}
    return properties
