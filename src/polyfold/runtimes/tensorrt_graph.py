"""An exported ONNX graph as TensorRT takes it: a pure function of the graph, with the same outputs.

TensorRT multiplies in int8 where both factors pass through symmetric Q/DQ pairs (the layout `tensorrt` places them
so), reads int8 tensors nowhere else, wants scales to be constants, and computes in the types that the graph states
("strong typing", the only way from TensorRT 11 on). What it cannot take is rewritten or refused here, where it can
be tested on any machine.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from polyfold.errors import InputError
from polyfold.onnx_graph import bfloat16, drop_unused

Half = Literal["fp16", "bf16"]

HALVES: Mapping[Half, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

HALF_OPSET = 19
"""From here on Q/DQ nodes may have scales in half precision, and so stand in a graph that is all in it."""

REFUSED = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv")
PAIR = ("QuantizeLinear", "DequantizeLinear")


def prepare(graph: onnx.ModelProto, longest: int, half: Half | None = None) -> onnx.ModelProto:
    """The graph for TensorRT, inputs int32 [batch, seq] and outputs fp32; `longest` bounds seq.

    With `half` all that is not int8 is computed in that precision. InputError where it is quantized as TensorRT
    cannot compute.
    """
    found = copy.deepcopy(graph)
    inline_constants(found)
    check_quantization(found)
    widen_tables(found)
    if half is not None:
        found = in_half(found, half)
    replace_cumsum(found, longest)
    narrow_inputs(found)
    del found.graph.value_info[:]
    onnx.checker.check_model(found)
    return found


def inline_constants(graph: onnx.ModelProto) -> None:
    """Make an initializer of every Constant node, and let readers of an Identity read what it names."""
    renamed: dict[str, str] = {}
    known = {one.name for one in graph.graph.initializer}
    outputs = {one.name for one in graph.graph.output}
    for node in list(graph.graph.node):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = graph.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            known.add(tensor.name)
        elif node.op_type == "Identity" and node.input[0] in known and node.output[0] not in outputs:
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
            known.add(node.output[0])
        else:
            continue
        graph.graph.node.remove(node)
    for node in graph.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)


def check_quantization(graph: onnx.ModelProto) -> None:
    """InputError unless every Q/DQ pair is symmetric int8 with constant scales, and nothing else is quantized."""
    constants = {one.name: one for one in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type in REFUSED:
            raise InputError(
                f"TensorRT has no {node.op_type}: this model's activations are quantized at run time",
                hint="quantize it with mode static and layout tensorrt",
            )
        if node.op_type not in PAIR:
            continue
        if any(name not in constants for name in node.input[1:]):
            raise InputError("TensorRT wants the scales of Q/DQ nodes to be constants", hint="export it again")
        zero = constants[node.input[2]] if len(node.input) > 2 else None
        # Without a zero point ONNX means uint8.
        if zero is None or zero.data_type != TensorProto.INT8 or numpy_helper.to_array(zero).any():
            raise InputError(
                "this model is quantized for processors, in uint8 or with zero points: TensorRT wants neither",
                hint="quantize it with layout tensorrt: {kind: int8_ptq, layout: tensorrt}",
            )


def widen_tables(graph: onnx.ModelProto) -> None:
    """Store int8 tables that are looked up in floating point: TensorRT reads int8 in Q/DQ pairs only.

    The whole numbers stay what they are, and what scaled the rows that were found still does. A table behind a
    DequantizeLinear is multiplied out.
    """
    constants = {one.name: one for one in graph.graph.initializer}
    widened: dict[str, str] = {}
    for node in list(graph.graph.node):
        if node.op_type == "DequantizeLinear" and node.input[0] in constants and _only_looked_up(graph, node):
            table, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
            shape = [1] * table.ndim
            shape[_axis(node)] = -1
            values = table.astype(np.float32) * (scale.reshape(shape) if scale.size > 1 else scale)
            graph.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            graph.graph.node.remove(node)
        elif node.op_type == "Gather" and _is_int8(constants.get(node.input[0])):
            name = node.input[0]
            if name not in widened:
                widened[name] = f"{name}.wide"
                values = numpy_helper.to_array(constants[name]).astype(np.float32)
                graph.graph.initializer.append(numpy_helper.from_array(values, widened[name]))
            node.input[0] = widened[name]
    drop_unused(graph)


def in_half(graph: onnx.ModelProto, half: Half) -> onnx.ModelProto:
    """Every fp32 tensor in half precision, but the outputs, which are widened again; integers stay as they are.

    What half precision cannot hold is brought to its largest value: the fill of masked scores is fp32's lowest.
    """
    found: onnx.ModelProto = version_converter.convert_version(graph, HALF_OPSET)
    for tensor in found.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(_halved(numpy_helper.to_array(tensor), tensor.name, half))
    for node in found.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = HALVES[half]
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_halved(numpy_helper.to_array(attribute.t), attribute.t.name, half))
    for output in found.graph.output:
        inner = f"{output.name}.half"
        for node in found.graph.node:
            _rename(node.output, output.name, inner)
            _rename(node.input, output.name, inner)
        found.graph.node.append(helper.make_node("Cast", [inner], [output.name], to=TensorProto.FLOAT))
    del found.graph.value_info[:]
    return found


def replace_cumsum(graph: onnx.ModelProto, longest: int) -> None:
    """Running sums of whole numbers along seq as a product with a triangle of ones, exact in fp32.

    XLM-R numbers its positions so; TensorRT's own operator is a loop, which neither fuses nor takes integers in
    every version.
    """
    constants = {one.name: one for one in graph.graph.initializer}
    if not any(node.op_type == "CumSum" for node in graph.graph.node):
        return
    extra = {
        "cumsum.triangle": np.triu(np.ones((longest, longest), np.float32)),
        "cumsum.first": np.zeros(2, np.int64),
        "cumsum.axes": np.array([0, 1], np.int64),
        "cumsum.last": np.array([1], np.int64),
    }
    graph.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in extra.items())
    for node in list(graph.graph.node):
        if node.op_type != "CumSum":
            continue
        axis = constants.get(node.input[1])
        assert axis is not None and int(numpy_helper.to_array(axis).item()) in (1, -1), "a sum along seq"
        assert not any(one.i for one in node.attribute), "an inclusive sum from the left"
        out, name = node.output[0], f"{node.output[0]}.cumsum"
        nodes = [
            helper.make_node("Shape", [node.input[0]], [f"{name}.shape"]),
            helper.make_node("Gather", [f"{name}.shape", "cumsum.last"], [f"{name}.seq"], axis=0),
            helper.make_node("Concat", [f"{name}.seq", f"{name}.seq"], [f"{name}.square"], axis=0),
            helper.make_node(
                "Slice", ["cumsum.triangle", "cumsum.first", f"{name}.square", "cumsum.axes"], [f"{name}.ones"]
            ),
            helper.make_node("Cast", [node.input[0]], [f"{name}.float"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", [f"{name}.float", f"{name}.ones"], [f"{name}.sums"]),
            helper.make_node("Cast", [f"{name}.sums"], [out], to=_type_of(graph, node.input[0])),
        ]
        place = next(index for index, one in enumerate(graph.graph.node) if one.output[0] == out)
        del graph.graph.node[place]
        for offset, new in enumerate(nodes):
            graph.graph.node.insert(place + offset, new)


def narrow_inputs(graph: onnx.ModelProto) -> None:
    """Take int32 in place of int64: half of what has to be brought to the device, and all versions take it."""
    for entry in graph.graph.input:
        if entry.type.tensor_type.elem_type != TensorProto.INT64:
            continue
        entry.type.tensor_type.elem_type = TensorProto.INT32
        for node in graph.graph.node:
            _rename(node.input, entry.name, f"{entry.name}.int64")
        widen = helper.make_node("Cast", [entry.name], [f"{entry.name}.int64"], to=TensorProto.INT64)
        graph.graph.node.insert(0, widen)


def _type_of(graph: onnx.ModelProto, name: str) -> int:
    """The integer type of a running sum's input, which a Cast made of a mask."""
    maker = next(node for node in graph.graph.node if name in node.output)
    assert maker.op_type == "Cast", f"the type of {name} is not known"
    return int(next(one.i for one in maker.attribute if one.name == "to"))


def _only_looked_up(graph: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    readers = [one for one in graph.graph.node if node.output[0] in one.input]
    return bool(readers) and all(one.op_type == "Gather" and one.input[0] == node.output[0] for one in readers)


def _is_int8(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == TensorProto.INT8


def _axis(node: onnx.NodeProto) -> int:
    return next((int(one.i) for one in node.attribute if one.name == "axis"), 1)


def _halved(values: np.ndarray, name: str, half: Half) -> onnx.TensorProto:
    if half == "fp16":
        limit = float(np.finfo(np.float16).max)
        return numpy_helper.from_array(np.clip(values, -limit, limit).astype(np.float16), name)
    # The largest bfloat16 is 0x7f7f; what is larger would be rounded to infinity.
    limit = float(np.array(0x7F7F0000, np.uint32).view(np.float32))
    return bfloat16(np.clip(values, -limit, limit), name)


def _rename(names: Any, old: str, new: str) -> None:
    for place, name in enumerate(names):
        if name == old:
            names[place] = new
