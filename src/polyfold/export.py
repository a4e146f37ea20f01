"""Model to ONNX, and for OpenVINO to its own format: int8 weights stored as int8, both axes dynamic.

The one interchange is ONNX with Q/DQ nodes, which ONNX Runtime, OpenVINO and TensorRT all read.
"""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from polyfold.artifact import write_config
from polyfold.errors import MissingExtra
from polyfold.model.backbone import prefer_plain_attention
from polyfold.model.classifier import Model, model_config
from polyfold.model.quantized import HOOKS, quantize_rows, strip

# The newest opset that torch's script exporter maps Q/DQ and LayerNormalization to without a detour; the dynamo
# exporter fails on NNCF's fake quantizers.
OPSET = 17
STAGE_VERSION = 2


class OnnxRuntimeExport(BaseModel):
    """For ONNX Runtime: `onnx/model.onnx`, or `onnx/model_quantized.onnx` where the model is quantized."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["onnxruntime"] = "onnxruntime"


class OpenVinoExport(BaseModel):
    """For OpenVINO: `openvino/openvino_model.xml`. `bf16` adds a row that computes the rest in bfloat16."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["openvino"] = "openvino"
    bf16: bool = False


ExportSpec = Annotated[OnnxRuntimeExport | OpenVinoExport, Field(discriminator="kind")]


class _Graph(nn.Module):
    """The classifier as a function of two tensors to a tuple of logits, as the exporter wants it."""

    def __init__(self, classifier: nn.Module, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.classifier = classifier
        self.tasks = tasks

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        outputs = self.classifier(input_ids, attention_mask)
        return tuple(outputs.logits[name] for name in self.tasks)


def export(spec: ExportSpec, model: Model, source: Path, folder: Path) -> None:
    """Write a folder that `Predictor.open` reads: graph, tokenizer and configuration; no torch needed any more."""
    quantized = any(HOOKS in name for name in model.classifier.state_dict())
    precision = "int8" if quantized else "fp32"
    folder.mkdir(parents=True, exist_ok=True)
    graph = to_onnx(model, quantized)
    match spec:
        case OnnxRuntimeExport():
            file = "onnx/model_quantized.onnx" if quantized else "onnx/model.onnx"
            (folder / "onnx").mkdir(exist_ok=True)
            onnx.save(graph, folder / file)
        case OpenVinoExport():
            file = "openvino/openvino_model.xml"
            _save_openvino(graph, folder / file)
    tokenizer = model.backbone.tokenizer.file
    (folder / tokenizer).write_bytes((source / tokenizer).read_bytes())
    config = model_config(model, spec.kind, precision, file)
    write_config(folder, config, model.tasks, {**model.backbone.config, "model_type": model.backbone.family})


def to_onnx(model: Model, quantized: bool) -> onnx.ModelProto:
    """The graph with inputs `input_ids`, `attention_mask` [batch, seq] and an output `logits_<task>` a task."""
    classifier = model.classifier.eval().cpu()
    prefer_plain_attention(classifier.encoder)
    example = (torch.ones(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.int64))
    example[1][0, 8:] = 0
    module = strip(classifier, example) if quantized else classifier
    names = tuple(task.name for task in model.tasks)
    outputs = [f"logits_{name}" for name in names]
    both = {0: "batch", 1: "seq"}
    axes = {"input_ids": both, "attention_mask": both} | {name: {0: "batch"} for name in outputs}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The script exporter announces its own end and warns of every shape it reads while tracing.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Graph(module, names),
            example,
            buffer,  # type: ignore[arg-type]
            input_names=["input_ids", "attention_mask"],
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    return fold_weights(graph) if quantized else graph


def fold_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Replace each fp32 weight in front of a QuantizeLinear by the int8 tensor that node would make of it.

    The exporter leaves weights in fp32 and quantizes them at load; folded, the file is almost four times
    smaller and computes the same numbers.
    """
    constants = {initializer.name: initializer for initializer in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    folded, added = [], []
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in constants:
            values = numpy_helper.to_array(constants[node.input[0]])
            scale = numpy_helper.to_array(constants[node.input[1]])
            zero_point = numpy_helper.to_array(constants[node.input[2]])
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            integers = quantize_linear(values, scale, zero_point, axis)
            added.append(numpy_helper.from_array(integers, node.output[0]))
            folded.append(node)
    for node in folded:
        graph.graph.node.remove(node)
    graph.graph.initializer.extend(added)
    _store_tables_as_int8(graph, constants)
    _drop_unused(graph)
    onnx.checker.check_model(graph)
    return graph


def _store_tables_as_int8(graph: onnx.ModelProto, constants: Mapping[str, onnx.TensorProto]) -> None:
    """Look tokens up in an int8 table and scale only the rows that were found.

    Only tables that lie on their int8 grid (`snap_rows` left the token table there), so no number changes. A
    DequantizeLinear in front of the lookup would blow the whole table up to fp32 when the model is loaded.
    """
    tables = [
        (position, node)
        for position, node in enumerate(graph.graph.node)
        if node.op_type == "Gather" and node.input[0] in constants and _on_grid(constants[node.input[0]])
    ]
    # From the last to the first, so that positions stay true while nodes are replaced.
    for position, node in reversed(tables):
        integers, scales = quantize_rows(numpy_helper.to_array(constants[node.input[0]]))
        name, ids, found = node.name or node.output[0], node.input[1], node.output[0]
        graph.graph.initializer.append(numpy_helper.from_array(integers, f"{name}.int8"))
        graph.graph.initializer.append(numpy_helper.from_array(scales[:, None], f"{name}.scale"))
        nodes = [
            helper.make_node("Gather", [f"{name}.int8", ids], [f"{found}.int8"], axis=0),
            helper.make_node("Cast", [f"{found}.int8"], [f"{found}.float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}.scale", ids], [f"{found}.scale"], axis=0),
            helper.make_node("Mul", [f"{found}.float", f"{found}.scale"], [found]),
        ]
        del graph.graph.node[position]
        for offset, new in enumerate(nodes):
            graph.graph.node.insert(position + offset, new)


def _on_grid(tensor: onnx.TensorProto) -> bool:
    """Whether a constant is a table whose rows int8 holds exactly; a trained position table is none."""
    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) != 2:
        return False
    table = numpy_helper.to_array(tensor)
    integers, scales = quantize_rows(table)
    return bool(np.array_equal(integers.astype(np.float32) * scales[:, None], table))


def quantize_linear(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, axis: int) -> np.ndarray:
    """ONNX QuantizeLinear: round half to even of values / scale, plus zero point, saturated."""
    if scale.ndim == 1 and scale.size > 1:
        shape = [1] * values.ndim
        shape[axis] = scale.size
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    limits = np.iinfo(zero_point.dtype)
    rounded = np.rint(values / scale) + zero_point.astype(np.float32)
    return np.clip(rounded, limits.min, limits.max).astype(zero_point.dtype)


def _drop_unused(graph: onnx.ModelProto) -> None:
    """Remove constants and identities that nothing reads any more, until nothing changes."""
    while True:
        used = {name for node in graph.graph.node for name in node.input} | {o.name for o in graph.graph.output}
        dead = [
            node
            for node in graph.graph.node
            if node.op_type in ("Constant", "Identity") and not used & set(node.output)
        ]
        unused = [initializer for initializer in graph.graph.initializer if initializer.name not in used]
        if not dead and not unused:
            return
        for node in dead:
            graph.graph.node.remove(node)
        for initializer in unused:
            graph.graph.initializer.remove(initializer)


def _save_openvino(graph: onnx.ModelProto, path: Path) -> None:
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingExtra("openvino", "openvino") from None
    path.parent.mkdir(exist_ok=True)
    model = openvino.Core().read_model(io.BytesIO(graph.SerializeToString()))
    # fp16 compression would halve what stays fp32 and change its values; int8 weights are small already.
    openvino.save_model(model, path, compress_to_fp16=False)
