"""TensorRT on an NVIDIA GPU: an engine built from the exported ONNX graph, kept on disk, run in torch's memory.

An engine belongs to one version of TensorRT and one kind of GPU, and building one takes minutes: with a
`cache_dir` it is built once. This file has never met a GPU yet (docs/GPU.md says what has been tested, and how).
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyfold.artifact import ModelConfig, write_atomically
from polyfold.console import warn
from polyfold.errors import InputError, MissingExtra
from polyfold.runtimes.session import Session, SessionSpec, check_graph, model_file, output_name
from polyfold.system import telemetry_off
from polyfold.tasks import Task

LARGEST_BATCH = 256
"""Documents a call; larger batches are cut. Memory is set aside for this many of the greatest length."""

WORKSPACE_BYTES = 4 * 2**30

PREPARATION = 1
"""Raised when graphs are prepared or engines are built otherwise: engines on disk are then built anew."""


@dataclass(frozen=True)
class Range:
    """One axis of a profile: the least and most it may be, and what kernels are chosen for."""

    least: int
    best: int
    most: int


@dataclass(frozen=True)
class Profile:
    """Shapes that one set of kernels serves."""

    batch: Range
    seq: Range

    def holds(self, batch: int, seq: int) -> bool:
        """Whether a batch of this shape is within."""
        return self.batch.least <= batch <= self.batch.most and self.seq.least <= seq <= self.seq.most


def profiles_for(max_length: int) -> tuple[Profile, ...]:
    """One for a text at a time, one for batches: their kernels differ. The first that holds a shape serves it."""
    seq = Range(1, min(32, max_length), max_length)
    return (
        Profile(Range(1, 1, 4), seq),
        Profile(Range(1, 32, LARGEST_BATCH), Range(1, min(128, max_length), max_length)),
    )


def profile_of(profiles: Sequence[Profile], batch: int, seq: int) -> int:
    """The number of the first profile that holds a shape; InputError where a document is too long for all."""
    for number, profile in enumerate(profiles):
        if profile.holds(batch, seq):
            return number
    longest = max(profile.seq.most for profile in profiles)
    raise InputError(f"a batch of {batch} x {seq} tokens", hint=f"the engine was built for up to {longest} tokens")


def cut(batch: int, most: int) -> list[slice]:
    """Rows of a batch in parts of at most `most`, as equal as can be: parts of one size suit one kernel."""
    parts = max(1, -(-batch // most))
    ends = [batch * number // parts for number in range(parts + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def engine_name(graph: bytes, version: str, gpu: str, profiles: Sequence[Profile]) -> str:
    """A file name over all that decides an engine: graph, TensorRT, GPU, profiles, and how this file builds."""
    digest = hashlib.sha256(graph)
    for part in (version, gpu, repr(tuple(profiles)), str(PREPARATION), str(WORKSPACE_BYTES)):
        digest.update(b"\0" + part.encode())
    return f"{digest.hexdigest()[:32]}.engine"


def kept(path: Path | None, read: Callable[[bytes], Any], build: Callable[[], bytes]) -> Any:
    """What `read` makes of the file, or of what `build` gives, which is then kept there.

    A file that `read` makes None of is damaged, or another driver's, and is built anew.
    """
    if path is not None and path.is_file():
        found = read(path.read_bytes())
        if found is not None:
            return found
        warn(f"{path}: TensorRT cannot load this engine; it is built again")
    content = build()
    if path is not None:
        write_atomically(path, content)
    return read(content)


def open_tensorrt(folder: Path, config: ModelConfig, tasks: Sequence[Task], spec: SessionSpec) -> Session:
    """Build or load the engine of an exported ONNX graph; `bf16` computes in bfloat16 all that is not int8.

    InputError where TensorRT, torch or a GPU is missing, or the graph is not for TensorRT.
    """
    telemetry_off()
    trt, torch = _packages()
    if spec.threads is not None or spec.streams not in (None, 1):
        raise InputError("threads and streams are no options of TensorRT", file=folder, hint="leave them out")
    path = model_file(folder, config)
    content = prepared_bytes(path, tasks, config.max_length, spec.bf16)
    if spec.device != "cuda":
        raise InputError("TensorRT computes on GPUs only", key="device", hint="give device cuda")
    if not torch.cuda.is_available():
        raise InputError(
            "TensorRT needs a GPU, and torch sees none", key="device", hint="use onnxruntime or openvino"
        )
    profiles = profiles_for(config.max_length)
    logger = trt.Logger(trt.Logger.ERROR)
    runtime = trt.Runtime(logger)
    gpu = f"{torch.cuda.get_device_name()} {torch.cuda.get_device_capability()}"
    target = None
    if spec.cache_dir is not None:
        target = spec.cache_dir / engine_name(content, str(trt.__version__), gpu, profiles)

    def build() -> bytes:
        return build_engine(trt, logger, content, profiles, path)

    engine = kept(target, runtime.deserialize_cuda_engine, build)
    if engine is None:
        raise InputError("TensorRT cannot load the engine that it built", file=path, hint="update TensorRT")
    return TensorRtSession(runtime, engine, torch, tasks, profiles)


def prepared_bytes(path: Path, tasks: Sequence[Task], longest: int, bf16: bool) -> bytes:
    """The graph of a model file as TensorRT takes it; InputError where it cannot be, or does not fit `tasks`."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "onnx", "tensorrt") from None
    from polyfold.runtimes.tensorrt_graph import prepare

    if path.suffix != ".onnx":
        raise InputError(
            "TensorRT reads ONNX graphs only", file=path, hint="export the model with kind onnxruntime"
        )
    try:
        graph = onnx.load(path)
    except DecodeError as error:
        raise InputError(f"not an ONNX graph: {error}", file=path, hint="export it again") from None
    check_graph(path, tasks, [one.name for one in graph.graph.input], [one.name for one in graph.graph.output])
    try:
        return bytes(prepare(graph, longest, "bf16" if bf16 else None).SerializeToString(deterministic=True))
    except InputError as error:
        raise InputError(error.problem, file=path, hint=error.hint) from None


def build_engine(trt: Any, logger: Any, graph: bytes, profiles: Sequence[Profile], path: Path) -> bytes:
    """A serialized engine, computing in the graph's own types; InputError with what TensorRT has against it."""
    builder = trt.Builder(logger)
    # Asked for up to TensorRT 10; from 11 on networks are no other.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        reasons = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise InputError(f"TensorRT cannot read the graph: {reasons}", file=path, hint="update TensorRT")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    # fp32 means fp32: products of ten bits of mantissa are asked for by bf16.
    config.clear_flag(trt.BuilderFlag.TF32)
    for one in profiles:
        profile = builder.create_optimization_profile()
        shapes = [(getattr(one.batch, name), getattr(one.seq, name)) for name in ("least", "best", "most")]
        for number in range(network.num_inputs):
            profile.set_shape(network.get_input(number).name, *shapes)
        config.add_optimization_profile(profile)
    found = builder.build_serialized_network(network, config)
    if found is None:
        raise InputError("TensorRT cannot build an engine of this graph", file=path, hint="use onnxruntime")
    return bytes(found)


class TensorRtSession:
    """A loaded engine with a context a profile; inputs and outputs are torch tensors on its GPU."""

    def __init__(
        self, runtime: Any, engine: Any, torch: Any, tasks: Sequence[Task], profiles: Sequence[Profile]
    ) -> None:
        # The engine lives no longer than the runtime that made it.
        self._runtime, self._engine, self._torch = runtime, engine, torch
        self._labels = {task.name: (output_name(task), len(task.labels)) for task in tasks}
        self._profiles = tuple(profiles)
        self._stream = torch.cuda.Stream()
        self._contexts = []
        for number in range(len(self._profiles)):
            context = engine.create_execution_context()
            context.set_optimization_profile_async(number, self._stream.cuda_stream)
            self._contexts.append(context)
        self._stream.synchronize()

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Mapping[str, np.ndarray]:
        """Logits by task, float32 [batch, labels]."""
        most = max(profile.batch.most for profile in self._profiles)
        parts = [self._part(input_ids[rows], attention_mask[rows]) for rows in cut(len(input_ids), most)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._labels}

    def _part(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
        torch, shape = self._torch, input_ids.shape
        context = self._contexts[profile_of(self._profiles, *shape)]
        with torch.cuda.stream(self._stream):
            inputs = {
                name: torch.from_numpy(values.astype(np.int32)).cuda(non_blocking=True)
                for name, values in (("input_ids", input_ids), ("attention_mask", attention_mask))
            }
            outputs = {
                task: torch.empty((shape[0], labels), dtype=torch.float32, device="cuda")
                for task, (_, labels) in self._labels.items()
            }
            for name, tensor in inputs.items():
                context.set_input_shape(name, tuple(shape))
                context.set_tensor_address(name, tensor.data_ptr())
            for task, tensor in outputs.items():
                context.set_tensor_address(self._labels[task][0], tensor.data_ptr())
            if not context.execute_async_v3(self._stream.cuda_stream):
                raise InputError(
                    "TensorRT could not run the engine", hint="delete it from cache_dir and try again"
                )
            return {task: tensor.cpu().numpy() for task, tensor in outputs.items()}


def _packages() -> tuple[Any, Any]:
    try:
        import tensorrt
    except ModuleNotFoundError:
        raise MissingExtra("tensorrt", "tensorrt") from None
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingExtra("torch", "tensorrt") from None
    return tensorrt, torch
