"""Model to ONNX, and for OpenVINO to its own format: int8 weights stored as int8, both axes dynamic.

The one interchange is ONNX with Q/DQ nodes, which ONNX Runtime, OpenVINO and TensorRT all read.
"""

import copy
import io
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import onnx
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from polyfold.artifact import write_config
from polyfold.errors import InputError, MissingExtra
from polyfold.export_transformers import TransformersExport
from polyfold.model.backbone import prefer_plain_attention
from polyfold.model.classifier import Model, model_config
from polyfold.model.quantized import FLOAT, precision_of, strip
from polyfold.onnx_graph import (
    drop_unused,
    fold_weights,
    merge_equal,
    quantize_at_run_time,
    store_as_bfloat16,
    store_tables_as_int8,
    widen_weights,
)
from polyfold.onnx_slimming import fuse_heads, keep_first_token
from polyfold.runtimes.session import output_name

# The newest opset that torch's script exporter maps Q/DQ and LayerNormalization to without a detour; the dynamo
# exporter fails on NNCF's fake quantizers.
OPSET = 17
STAGE_VERSION = 4


Embeddings = Literal["int8"]


class OnnxRuntimeExport(BaseModel):
    """For ONNX Runtime: `onnx/model.onnx`, or `onnx/model_quantized.onnx` where the model is quantized.

    `fp16` computes in half precision (on processors ONNX Runtime lacks the kernels and widens it again, slowly).
    `bf16` stores weights in bfloat16 and computes in fp32, since ONNX Runtime has next to no bfloat16 kernels.
    `embeddings: int8` stores the token table in int8, whatever the rest is in. `only` names the students (or
    `teacher`) to export; without it, all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["onnxruntime"] = "onnxruntime"
    precision: Literal["fp16", "bf16"] | None = None
    embeddings: Embeddings | None = None
    only: tuple[str, ...] | None = None


class OpenVinoExport(BaseModel):
    """For OpenVINO: `openvino/openvino_model.xml`. `bf16` adds a row that computes the rest in bfloat16.

    `fp16` stores weights in half precision; what is computed in is chosen when the model is loaded. The other keys
    are those of ONNX Runtime's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["openvino"] = "openvino"
    bf16: bool = False
    precision: Literal["fp16"] | None = None
    embeddings: Embeddings | None = None
    only: tuple[str, ...] | None = None


GraphExport = OnnxRuntimeExport | OpenVinoExport
ExportSpec = Annotated[GraphExport | TransformersExport, Field(discriminator="kind")]


class _Graph(nn.Module):
    """The classifier as a function of two tensors to a tuple of logits, as the exporter wants it."""

    def __init__(self, classifier: nn.Module, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.classifier = classifier
        self.tasks = tasks

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        outputs = self.classifier(input_ids, attention_mask)
        return tuple(outputs.logits[name].float() for name in self.tasks)


def export_label(spec: ExportSpec) -> str:
    """What tells this export from others of one model, in the names of rows and folders."""
    if isinstance(spec, TransformersExport):
        return spec.kind
    parts = [spec.kind, spec.precision, spec.embeddings and f"{spec.embeddings}-embeddings"]
    return "-".join(part for part in parts if part)


def stored_settings(spec: ExportSpec) -> dict[str, Any]:
    """The settings that decide what is written; `bf16` of OpenVINO's is one of loading."""
    return spec.model_dump(mode="json", exclude={"bf16", "only"})


def check_precision(spec: GraphExport, quantized: bool, name: str) -> None:
    """InputError where a quantized model is asked for in a floating-point precision."""
    if quantized and spec.precision is not None:
        raise InputError(
            f"{name} is quantized: it is exported in int8, not in {spec.precision}",
            key="export.precision",
            hint="leave precision out, name other models in `only`, or leave out the step that quantizes",
        )


def export(spec: GraphExport, model: Model, source: Path, folder: Path) -> None:
    """Write a folder that `Predictor.open` reads: graph, tokenizer and configuration; no torch needed any more."""
    native = precision_of(model.classifier)
    check_precision(spec, native != FLOAT, "the model")
    onnxruntime = spec.kind == "onnxruntime"
    # What is quantized at run time OpenVINO finds out for itself; ONNX Runtime has to be told.
    graph = to_onnx(model, half=onnxruntime and spec.precision == "fp16", integer=onnxruntime)
    if spec.embeddings is not None:
        store_tables_as_int8(graph, every_token_table=True)
    if onnxruntime and spec.precision == "bf16":
        store_as_bfloat16(graph)
    drop_unused(graph)
    onnx.checker.check_model(graph)
    folder.mkdir(parents=True, exist_ok=True)
    match spec:
        case OnnxRuntimeExport():
            suffix = "quantized" if native != FLOAT else spec.precision
            file = f"onnx/model_{suffix}.onnx" if suffix else "onnx/model.onnx"
            (folder / "onnx").mkdir(exist_ok=True)
            onnx.save(graph, folder / file)
        case OpenVinoExport():
            file = "openvino/openvino_model.xml"
            _save_openvino(graph, folder / file, spec.precision == "fp16")
    tokenizer = model.backbone.tokenizer.file
    (folder / tokenizer).write_bytes((source / tokenizer).read_bytes())
    config = model_config(model, spec.kind, exported_precision(spec, native), file)
    write_config(folder, config, model.tasks, {**model.backbone.config, "model_type": model.backbone.family})


def exported_precision(spec: GraphExport, native: str) -> str:
    """What the report calls it: `-weights` where only they are stored so, `int8-embeddings` for such a table."""
    precision = native
    if spec.precision is not None:
        computed = spec.kind == "onnxruntime" and spec.precision == "fp16"
        precision = spec.precision if computed else f"{spec.precision}-weights"
    return f"{precision}+int8-embeddings" if spec.embeddings and native == FLOAT else precision


def to_onnx(model: Model, half: bool = False, integer: bool = True) -> onnx.ModelProto:
    """The graph with inputs `input_ids`, `attention_mask` [batch, seq] and an output `logits_<task>` a task.

    `half` computes in fp16. A model whose activations are quantized at run time gets integer products if
    `integer`, else weights stored in int8 alone.
    """
    classifier = model.classifier.eval().cpu()
    prefer_plain_attention(classifier.encoder)
    example = (torch.ones(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.int64))
    example[1][0, 8:] = 0
    precision = precision_of(classifier)
    outputs = [output_name(task) for task in model.tasks]
    if precision == FLOAT:
        graph = _exported(copy.deepcopy(classifier).half() if half else classifier, model, example)
        keep_first_token(graph)
        fuse_heads(graph, outputs)
        return graph
    graph = _exported(strip(classifier, example), model, example)
    fold_weights(graph)
    merge_equal(graph)
    if precision != "int8-dynamic":
        # At run time a tensor's range is taken over all of its tokens: fewer of them would be other numbers.
        keep_first_token(graph)
    fuse_heads(graph, outputs)
    if precision == "int8-dynamic" and integer:
        quantize_at_run_time(graph)
        drop_unused(graph)
    if precision != "int8":
        widen_weights(graph)
    store_tables_as_int8(graph)
    drop_unused(graph)
    onnx.checker.check_model(graph)
    return graph


def _exported(module: nn.Module, model: Model, example: tuple[Tensor, Tensor]) -> onnx.ModelProto:
    names = tuple(task.name for task in model.tasks)
    outputs = [output_name(task) for task in model.tasks]
    both = {0: "batch", 1: "seq"}
    axes = {"input_ids": both, "attention_mask": both} | {name: {0: "batch"} for name in outputs}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The script exporter announces its own end and warns of every shape it reads while tracing.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            # In evaluation mode as a whole: the exporter gives back to all parts the mode it finds here.
            _Graph(module, names).eval(),
            example,
            buffer,  # type: ignore[arg-type]
            input_names=["input_ids", "attention_mask"],
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def _save_openvino(graph: onnx.ModelProto, path: Path, half_weights: bool) -> None:
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingExtra("openvino", "openvino") from None
    path.parent.mkdir(exist_ok=True)
    model = openvino.Core().read_model(io.BytesIO(graph.SerializeToString()))
    # Unless asked for, fp16 would halve what stays fp32 and change its values; int8 weights are small already.
    openvino.save_model(model, path, compress_to_fp16=half_weights)
