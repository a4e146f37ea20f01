"""Surgery on ONNX graphs: weights stored as int8 or bfloat16, equal nodes merged, products made integer ones.

Each function changes the graph it is given, and none but the last two changes a number it computes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from polyfold.model.quantized import quantize_rows

INPUT_IDS = "input_ids"
LARGE = 256
"""Tensors with fewer elements are not worth storing in fewer bits."""


def constants_of(graph: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Every constant tensor by name: initializers, and what Constant and Identity nodes make of them."""
    found = {initializer.name: initializer for initializer in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def fold_weights(graph: onnx.ModelProto) -> None:
    """Replace each float weight in front of a QuantizeLinear by the int8 tensor that node would make of it.

    The exporter leaves weights in fp32 and quantizes them at load; folded, the file is almost four times smaller.
    A transposition behind the weight is done here as well, so that products read what is stored.
    """
    constants = constants_of(graph)
    readers = readers_of(graph)
    removed = []
    for node in list(graph.graph.node):
        if node.op_type != "QuantizeLinear" or node.input[0] not in constants:
            continue
        scale, zero_point = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        integers = quantize_linear(numpy_helper.to_array(constants[node.input[0]]), scale, zero_point, _axis(node))
        removed.append(node)
        (dequantize,) = readers[node.output[0]]
        following = readers.get(dequantize.output[0], [])
        if integers.ndim == 2 and [one.op_type for one in following] == ["Transpose"]:
            (transpose,) = following
            integers = np.ascontiguousarray(integers.T)
            del dequantize.attribute[:]
            dequantize.attribute.append(helper.make_attribute("axis", 1 - _axis(node)))
            dequantize.output[0] = transpose.output[0]
            removed.append(transpose)
        graph.graph.initializer.append(numpy_helper.from_array(integers, node.output[0]))
    for node in removed:
        graph.graph.node.remove(node)


def merge_equal(graph: onnx.ModelProto) -> None:
    """Quantize a tensor once for all that read it: equal nodes over equal inputs become one."""
    constants = constants_of(graph)
    contents: dict[tuple[Any, ...], str] = {}
    names: dict[str, str] = {}
    for name, tensor in constants.items():
        key = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        # Large weights are never equal by chance, and not read through these nodes.
        if np.prod(tensor.dims, dtype=np.int64) <= 4 * LARGE**2:
            names[name] = contents.setdefault(key, name)
    seen: dict[tuple[Any, ...], Any] = {}
    for node in list(graph.graph.node):
        for place, name in enumerate(node.input):
            if name not in constants:
                node.input[place] = names.get(name, name)
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear", "Mul"):
            continue
        attributes = tuple(sorted(one.SerializeToString() for one in node.attribute))
        node_key = (node.op_type, tuple(names.get(name, name) for name in node.input), attributes)
        if node_key in seen:
            names[node.output[0]] = seen[node_key].output[0]
            graph.graph.node.remove(node)
        else:
            seen[node_key] = node


def widen_weights(graph: onnx.ModelProto) -> None:
    """Compute in floating point with weights stored as int8: a cast and a product in place of DequantizeLinear.

    Runtimes fold the two when they load the model; a DequantizeLinear would run again with every batch.
    """
    constants = constants_of(graph)
    for node in list(graph.graph.node):
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        integers, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
        shape = [1] * integers.ndim
        shape[_axis(node)] = -1
        name = node.output[0]
        graph.graph.initializer.append(numpy_helper.from_array(scale.reshape(shape), f"{name}.scale"))
        nodes = [
            helper.make_node("Cast", [node.input[0]], [f"{name}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]),
        ]
        _replace(graph, node, nodes)


def quantize_at_run_time(graph: onnx.ModelProto) -> None:
    """Turn every product with an int8 weight into an integer one, its input quantized when it is known.

    DynamicQuantizeLinear, MatMulInteger, and a product with both scales: what ONNX Runtime has one kernel for.
    """
    constants = constants_of(graph)
    sources = {node.output[0]: node for node in graph.graph.node}
    for node in list(graph.graph.node):
        weight = sources.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        if weight is None or weight.op_type != "DequantizeLinear" or weight.input[0] not in constants:
            continue
        integers, scale = (numpy_helper.to_array(constants[name]) for name in weight.input[:2])
        if next((one.i for one in node.attribute if one.name == "transB"), 0):
            integers = np.ascontiguousarray(integers.T)
        out = node.output[0]
        tensors = {
            f"{out}.int8": integers,
            f"{out}.zero": np.zeros((), np.int8),
            f"{out}.scale": scale.reshape(-1),
        }
        graph.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else None
        read = f"{node.input[0]}.dynamic"
        nodes = []
        if read not in sources:
            names = [read, f"{read}.scale", f"{read}.zero"]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [node.input[0]], names))
            sources[read] = nodes[0]
        product = [read, f"{out}.int8", f"{read}.zero", f"{out}.zero"]
        nodes += [
            helper.make_node("MatMulInteger", product, [f"{out}.integer"]),
            helper.make_node("Cast", [f"{out}.integer"], [f"{out}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{read}.scale", f"{out}.scale"], [f"{out}.scales"]),
            helper.make_node("Mul", [f"{out}.float", f"{out}.scales"], [f"{out}.product" if bias else out]),
        ]
        if bias:
            nodes.append(helper.make_node("Add", [f"{out}.product", bias], [out]))
        _replace(graph, node, nodes)


def store_tables_as_int8(graph: onnx.ModelProto, every_token_table: bool = False) -> None:
    """Look tokens up in an int8 table and scale only the rows that were found.

    Tables that lie on their int8 grid already are stored so without changing a number; with `every_token_table`
    the one that token ids are looked up in is put on its grid, whatever it holds. A DequantizeLinear in front of
    the lookup would blow the whole table up to fp32 when the model is loaded.
    """
    constants = constants_of(graph)
    for node in list(graph.graph.node):
        if node.op_type != "Gather" or node.input[0] not in constants:
            continue
        table = _table(constants[node.input[0]])
        if table is None:
            continue
        integers, scales = quantize_rows(table.astype(np.float32))
        exact = np.array_equal(integers.astype(np.float32) * scales[:, None], table)
        if not exact and not (every_token_table and node.input[1] == INPUT_IDS):
            continue
        ids, found = node.input[1], node.output[0]
        graph.graph.initializer.append(numpy_helper.from_array(integers, f"{found}.table"))
        graph.graph.initializer.append(numpy_helper.from_array(scales[:, None], f"{found}.scales"))
        last = found if table.dtype == np.float32 else f"{found}.wide"
        nodes = [
            helper.make_node("Gather", [f"{found}.table", ids], [f"{found}.int8"], axis=0),
            helper.make_node("Cast", [f"{found}.int8"], [f"{found}.float"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{found}.scales", ids], [f"{found}.scale"], axis=0),
            helper.make_node("Mul", [f"{found}.float", f"{found}.scale"], [last]),
        ]
        if last != found:
            nodes.append(helper.make_node("Cast", [last], [found], to=TensorProto.FLOAT16))
        _replace(graph, node, nodes)


def store_as_bfloat16(graph: onnx.ModelProto) -> None:
    """Store large fp32 weights in bfloat16, widened again where they are read; tables after the lookup."""
    constants = constants_of(graph)
    readers = readers_of(graph)
    for name, tensor in constants.items():
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims, dtype=np.int64) < LARGE:
            continue
        lookups = [node for node in readers.get(name, []) if node.op_type == "Gather" and node.input[0] == name]
        others = [node for node in readers.get(name, []) if node not in lookups and node.op_type != "Identity"]
        if not lookups and not others:
            continue
        graph.graph.initializer.append(bfloat16(numpy_helper.to_array(tensor), f"{name}.bf16"))
        for node in lookups:
            found = node.output[0]
            gather = helper.make_node("Gather", [f"{name}.bf16", node.input[1]], [f"{found}.bf16"], axis=0)
            _replace(
                graph, node, [gather, helper.make_node("Cast", [f"{found}.bf16"], [found], to=TensorProto.FLOAT)]
            )
        if others:
            widened = helper.make_node("Cast", [f"{name}.bf16"], [f"{name}.wide"], to=TensorProto.FLOAT)
            graph.graph.node.insert(0, widened)
        for node in others:
            for place, read in enumerate(node.input):
                if read == name:
                    node.input[place] = f"{name}.wide"


def bfloat16(values: np.ndarray, name: str) -> onnx.TensorProto:
    """A tensor rounded to bfloat16, halves to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return helper.make_tensor(name, TensorProto.BFLOAT16, values.shape, rounded.tobytes(), raw=True)


def drop_unused(graph: onnx.ModelProto) -> None:
    """Remove constants, and nodes that only name them, that nothing reads any more, until nothing changes."""
    idle = ("Constant", "Identity", "DequantizeLinear", "Transpose")
    while True:
        used = {name for node in graph.graph.node for name in node.input} | {
            one.name for one in graph.graph.output
        }
        dead = [node for node in graph.graph.node if node.op_type in idle and not used & set(node.output)]
        unused = [initializer for initializer in graph.graph.initializer if initializer.name not in used]
        if not dead and not unused:
            return
        for node in dead:
            graph.graph.node.remove(node)
        for initializer in unused:
            graph.graph.initializer.remove(initializer)


def quantize_linear(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, axis: int) -> np.ndarray:
    """ONNX QuantizeLinear: round half to even of values / scale, plus zero point, saturated."""
    if scale.ndim == 1 and scale.size > 1:
        shape = [1] * values.ndim
        shape[axis] = scale.size
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    limits = np.iinfo(zero_point.dtype)
    rounded = np.rint(values / scale) + zero_point.astype(np.float32)
    return np.clip(rounded, limits.min, limits.max).astype(zero_point.dtype)


def _table(tensor: onnx.TensorProto) -> np.ndarray | None:
    """A constant that may be a table of embeddings, in fp32 or fp16."""
    if tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16) or len(tensor.dims) != 2:
        return None
    return numpy_helper.to_array(tensor)


def _axis(node: onnx.NodeProto) -> int:
    return next((one.i for one in node.attribute if one.name == "axis"), 1)


def readers_of(graph: onnx.ModelProto) -> Mapping[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def _replace(graph: onnx.ModelProto, node: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes in the place of one, so that the order stays one in which they can be computed."""
    name = node.output[0]
    place = next(place for place, one in enumerate(graph.graph.node) if one.output[0] == name)
    del graph.graph.node[place]
    for offset, new in enumerate(nodes):
        graph.graph.node.insert(place + offset, new)
