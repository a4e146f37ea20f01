"""Exported graphs of every layout and mode, node by node: what is int8, what is not, and that it all runs."""

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from polyfold.compress.smooth_quant import SmoothQuant
from polyfold.export import OnnxRuntimeExport, OpenVinoExport, export, to_onnx
from polyfold.model.backbone import token_embedding
from polyfold.onnx_graph import constants_of
from polyfold.predictor import Predictor
from toys_pipeline import quantized_toy, toy_ids


@pytest.fixture(scope="module", params=["transformer", "convolutional"])
def toy(request, torch_toys):
    """One family's models and folders."""
    return torch_toys[request.param]


@pytest.fixture(scope="module")
def for_tensorrt(toy):
    """The quantized model in TensorRT's layout, and its graph."""
    model = quantized_toy(toy["fp32"], layout="tensorrt")
    return model, to_onnx(model)


def makers(graph):
    return {name: node for node in graph.graph.node for name in node.output}


def source(found, name):
    """The node that makes a tensor, before changes of shape and cuts, which alter no value."""
    node = found.get(name)
    while node is not None and node.op_type in (
        "Transpose",
        "Reshape",
        "Identity",
        "Pad",
        "Flatten",
        "Unsqueeze",
        "Slice",
    ):
        node = found.get(node.input[0])
    return node


def test_for_tensorrt_both_inputs_of_every_product_and_residual_sum_are_symmetric_int8(for_tensorrt):
    model, graph = for_tensorrt
    found, constants = makers(graph), constants_of(graph)
    products = [node for node in graph.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    sums = [
        node for node in graph.graph.node if node.op_type == "Add" and is_residual(node, found, constants, graph)
    ]
    transformer = model.backbone.family == "bert"
    # Two layers of eight products, and the heads; three branches of two convolutions.
    assert len(products) == (2 * 8 + 1 if transformer else 1 + 6 + 7 + 1)
    assert len(sums) == (4 if transformer else 6)
    for node in products + sums:
        for name in node.input[:2]:
            dequantize = source(found, name)
            assert dequantize is not None and dequantize.op_type == "DequantizeLinear", (node.name, name)
            zero_point = numpy_helper.to_array(constants[dequantize.input[2]])
            assert zero_point.dtype == np.int8 and not zero_point.any()
            scale = numpy_helper.to_array(constants[dequantize.input[1]])
            # A scale an output channel for weights, one for activations.
            assert (scale.size > 1) == (dequantize.input[0] in constants)


def is_residual(node, found, constants, graph):
    """Whether a sum adds what went into a block to what came out of it; a mask is added just before a softmax."""
    read = [one.op_type for one in graph.graph.node if node.output[0] in one.input]
    if any(name in constants for name in node.input) or "Softmax" in read:
        return False
    one, other = (before(name, found) for name in node.input)
    smaller, larger = sorted((one, other), key=len)
    return smaller <= larger and any(name in found and found[name].op_type == "QuantizeLinear" for name in smaller)


def before(name, found):
    """Names of all tensors that a tensor was computed from, itself among them."""
    seen, queue = set(), [name]
    while queue:
        current = queue.pop()
        if current in found and current not in seen:
            seen.add(current)
            queue += found[current].input
    # In the last layer what goes into a block is cut to the first token on the way round it.
    return {name.removesuffix(".first") for name in seen}


def test_for_tensorrt_nothing_stands_inside_what_it_fuses(for_tensorrt):
    model, graph = for_tensorrt
    quantizing = ("QuantizeLinear", "DequantizeLinear")
    # GELU as the exporter writes it: x / sqrt(2), Erf, + 1, x *, * 0.5.
    inside = ("Erf", "Softmax", "LayerNormalization", "Relu", "Tanh")
    readers = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = makers(graph)
    erfs = [node for node in graph.graph.node if node.op_type == "Erf"]
    assert len(erfs) == (2 if model.backbone.family == "bert" else 0)
    for erf in erfs:
        chain = [found[erf.input[0]], erf]
        for _ in range(3):
            (following,) = readers[chain[-1].output[0]]
            chain.append(following)
        assert [node.op_type for node in chain] == ["Div", "Erf", "Add", "Mul", "Mul"]
    assert sum(node.op_type == "LayerNormalization" for node in graph.graph.node) in (2, 5)
    for node in graph.graph.node:
        if node.op_type in inside:
            maker = source(found, node.input[0])
            assert maker is None or maker.op_type not in quantizing, node.op_type


def test_a_tensor_is_quantized_once_for_all_that_read_it(for_tensorrt, toy):
    for graph in (for_tensorrt[1], to_onnx(toy["int8"])):
        read = [tuple(node.input) for node in graph.graph.node if node.op_type == "QuantizeLinear"]
        assert len(read) == len(set(read)) > 5


@pytest.mark.parametrize("runtime", [OnnxRuntimeExport(), OpenVinoExport()], ids=["onnxruntime", "openvino"])
def test_every_layout_and_mode_runs_and_computes_what_torch_imitates(runtime, toy, tmp_path):
    ids, mask = toy_ids(token_embedding(toy["fp32"].classifier.encoder).num_embeddings, (64, 16), 9)
    settings = [{"layout": "tensorrt"}, {"mode": "weight_only"}, {"smooth_quant": SmoothQuant()}]
    # OpenVINO quantizes activations at run time in groups of its own.
    settings += [{"mode": "dynamic"}] if runtime.kind == "onnxruntime" else []
    for number, chosen in enumerate(settings):
        model = quantized_toy(toy["fp32"], **chosen)
        export(runtime, model, toy["source"], tmp_path / str(number))
        found = Predictor.open(tmp_path / str(number)).session.run(ids, mask)
        with torch.no_grad():
            expected = model.classifier(torch.from_numpy(ids), torch.from_numpy(mask)).logits
        for name, values in expected.items():
            assert np.median(np.abs(found[name] - values.numpy())) < 1e-4, chosen


def test_dynamic_quantization_leaves_no_float_product_with_a_weight(toy):
    graph = to_onnx(quantized_toy(toy["fp32"], mode="dynamic"))
    kinds = [node.op_type for node in graph.graph.node]
    # Attention's own products have no weight; convolutions keep int8 weights and compute in floating point.
    assert kinds.count("MatMul") == (4 if toy["fp32"].backbone.family == "bert" else 0)
    assert kinds.count("MatMulInteger") == (13 if toy["fp32"].backbone.family == "bert" else 9)
    assert "DynamicQuantizeLinear" in kinds and "Gemm" not in kinds and "QuantizeLinear" not in kinds
    # Each weight is there once.
    static = stored_bytes(to_onnx(toy["int8"]))
    assert stored_bytes(graph) < 1.1 * static


def stored_bytes(graph):
    """Bytes of every constant tensor of a graph."""
    return sum(numpy_helper.to_array(one).nbytes for one in graph.graph.initializer)
