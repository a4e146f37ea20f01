"""The laws of surgery on graphs: the numbers stay the same, or are rounded as ONNX itself would round them."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from polyfold.onnx_graph import (
    bfloat16,
    drop_unused,
    fold_weights,
    merge_equal,
    quantize_at_run_time,
    quantize_linear,
    store_as_bfloat16,
    store_tables_as_int8,
    widen_weights,
)

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(0, 1, (20, 24)).astype(np.float32)
BIAS = RANDOM.normal(0, 1, 20).astype(np.float32)
TABLE = RANDOM.normal(0, 1, (50, 24)).astype(np.float32)
IDS = RANDOM.integers(0, 50, (3, 5))
MASK = np.ones_like(IDS)


def graph_of(nodes, tensors, rank=3):
    """input_ids [batch, seq] to y, through a table of embeddings."""
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)]
    kept = [numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def quantized():
    """A lookup, then two linear layers over the same quantized tensor, as torch's exporter writes them."""
    scale = (np.abs(WEIGHT).max(axis=1) / 127).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["x"])]
    tensors = {"table": TABLE, "bias": BIAS, "w": WEIGHT, "ws": scale, "wz": np.zeros(20, np.int8)}
    for number in (0, 1):
        tensors |= {f"s{number}": np.float32(0.03), f"z{number}": np.uint8(128)}
        nodes += [
            helper.make_node("QuantizeLinear", ["x", f"s{number}", f"z{number}"], [f"xq{number}"]),
            helper.make_node("DequantizeLinear", [f"xq{number}", f"s{number}", f"z{number}"], [f"xd{number}"]),
            helper.make_node("QuantizeLinear", ["w", "ws", "wz"], [f"wq{number}"], axis=0),
            helper.make_node("DequantizeLinear", [f"wq{number}", "ws", "wz"], [f"wd{number}"], axis=0),
            helper.make_node("Transpose", [f"wd{number}"], [f"wt{number}"], perm=[1, 0]),
            helper.make_node("MatMul", [f"xd{number}", f"wt{number}"], [f"p{number}"]),
        ]
    nodes += [helper.make_node("Add", ["p0", "bias"], ["a"]), helper.make_node("Mul", ["a", "p1"], ["y"])]
    return graph_of(nodes, tensors)


def run(graph):
    onnx.checker.check_model(graph)
    return onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"input_ids": IDS})[0]


def kinds(graph):
    return [node.op_type for node in graph.graph.node]


def stored(graph):
    return {one.name: numpy_helper.to_array(one) for one in graph.graph.initializer}


def test_folding_and_merging_change_no_bit_and_leave_one_quantizer_a_tensor():
    graph = quantized()
    before = run(graph)
    fold_weights(graph)
    drop_unused(graph)
    np.testing.assert_array_equal(run(graph), before)
    assert "Transpose" not in kinds(graph)
    assert kinds(graph).count("QuantizeLinear") == 2
    weights = [values for values in stored(graph).values() if values.size == WEIGHT.size]
    assert [(one.dtype, one.shape) for one in weights] == [(np.dtype(np.int8), (24, 20))] * 2
    merge_equal(graph)
    drop_unused(graph)
    np.testing.assert_array_equal(run(graph), before)
    assert kinds(graph).count("QuantizeLinear") == 1


def test_a_weight_that_is_only_stored_as_int8_is_the_same_weight():
    graph = quantized()
    fold_weights(graph)
    before = run(graph)
    widen_weights(graph)
    drop_unused(graph)
    np.testing.assert_allclose(run(graph), before, rtol=1e-4, atol=1e-6)
    # What is left quantizes the activations.
    assert kinds(graph).count("DequantizeLinear") == 2
    assert not [one for one in stored(graph).values() if one.dtype == np.float32 and one.shape == (24, 20)]


@pytest.mark.parametrize("gemm", [False, True])
def test_products_with_activations_quantized_at_run_time_are_integer_ones_and_near(gemm):
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["all"])]
    tensors = {"table": TABLE, "first": np.int64(0), "w": WEIGHT, "bias": BIAS, "wz": np.zeros(20, np.int8)}
    tensors |= {"ws": (np.abs(WEIGHT).max(axis=1) / 127).astype(np.float32)}
    nodes += [
        helper.make_node("Gather", ["all", "first"], ["x"], axis=1),
        helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=0),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
    ]
    if gemm:
        nodes.append(helper.make_node("Gemm", ["x", "wd", "bias"], ["y"], transB=1))
    else:
        nodes.append(helper.make_node("Transpose", ["wd"], ["wt"], perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", ["x", "wt"], ["y"]))
    graph = graph_of(nodes, tensors, rank=2)
    fold_weights(graph)
    before = run(graph)
    quantize_at_run_time(graph)
    drop_unused(graph)
    found = kinds(graph)
    assert {"DynamicQuantizeLinear", "MatMulInteger"} <= set(found)
    assert not {"MatMul", "Gemm", "DequantizeLinear"} & set(found)
    x = TABLE[IDS[:, 0]]
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    bound = 0.51 * step * np.abs(WEIGHT).sum(axis=1).max()
    assert 0 < np.abs(run(graph) - before).max() < bound


def test_a_table_on_its_grid_is_stored_as_int8_exactly_and_another_only_if_asked():
    integers = RANDOM.integers(-127, 128, (50, 24)).astype(np.float32)
    integers[:, 0] = 127
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["y"])]
    on_grid = graph_of(nodes, {"table": integers * np.float32(0.125)})
    before = run(on_grid)
    store_tables_as_int8(on_grid)
    drop_unused(on_grid)
    np.testing.assert_array_equal(run(on_grid), before)
    assert {one.dtype for one in stored(on_grid).values()} == {np.dtype(np.int8), np.dtype(np.float32)}
    other = graph_of(nodes, {"table": TABLE})
    store_tables_as_int8(other)
    assert stored(other)["table"].dtype == np.float32
    store_tables_as_int8(other, every_token_table=True)
    drop_unused(other)
    steps = np.abs(TABLE[IDS]).max(axis=-1, keepdims=True) / 127
    assert (np.abs(run(other) - TABLE[IDS]) <= 0.501 * steps).all()
    assert sum(one.nbytes for one in stored(other).values()) < 0.3 * TABLE.nbytes


def test_bfloat16_is_torchs():
    values = np.concatenate([RANDOM.normal(0, 10.0**power, 500) for power in range(-8, 8)]).astype(np.float32)
    values = np.concatenate([values, np.float32([0.0, -0.0, 1.0, 1.00390625, 1.01171875])]).reshape(-1, 1)
    tensor = bfloat16(values, "b")
    bits = np.frombuffer(tensor.raw_data, np.uint16)
    expected = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(bits, expected.ravel())
    assert tensor.data_type == TensorProto.BFLOAT16 and list(tensor.dims) == list(values.shape)


def test_weights_in_bfloat16_compute_what_the_rounded_weights_compute():
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "bias"], ["y"]),
    ]

    def rounded(values):
        return torch.from_numpy(values).bfloat16().float().numpy()

    weights = {"table": TABLE, "w": np.ascontiguousarray(WEIGHT.T), "bias": BIAS}
    graph = graph_of(nodes, weights)
    store_as_bfloat16(graph)
    drop_unused(graph)
    large = {"table": rounded(TABLE), "w": rounded(weights["w"]), "bias": BIAS}
    np.testing.assert_allclose(run(graph), run(graph_of(nodes, large)), rtol=1e-6, atol=1e-6)
    assert graph.ByteSize() < 0.6 * graph_of(nodes, weights).ByteSize()


def test_surgery_leaves_nothing_to_do_twice():
    graph = quantized()
    for operation in (fold_weights, merge_equal, store_tables_as_int8, drop_unused):
        operation(graph)
    again = copy.deepcopy(graph)
    for operation in (merge_equal, store_tables_as_int8, drop_unused):
        operation(again)
    assert again.SerializeToString() == graph.SerializeToString()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), signed=st.booleans(), axis=st.sampled_from([None, 0, 1]))
def test_quantize_linear_is_onnx_runtimes_own(data, signed, axis):
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 5))
    count = 1 if axis is None else (rows, columns)[axis]
    scales = data.draw(st.lists(st.floats(2**-10, 8.0, width=32), min_size=count, max_size=count))
    dtype = np.int8 if signed else np.uint8
    limits = np.iinfo(dtype)
    zeros = data.draw(st.lists(st.integers(limits.min, limits.max), min_size=count, max_size=count))
    scale, zero_point = np.array(scales, np.float32), np.array(zeros, dtype)
    if axis is None:
        scale, zero_point = scale.reshape(()), zero_point.reshape(())
    # Halves of a step are where rounding can differ, hundreds of steps are where it saturates.
    steps = st.one_of(st.integers(-800, 800).map(lambda half: half / 2), st.floats(-400, 400, width=32))
    drawn = data.draw(st.lists(steps, min_size=rows * columns, max_size=rows * columns))
    along = np.ones((rows, columns)) if axis is None else np.expand_dims(scale, 1 - axis)
    values = (np.array(drawn).reshape(rows, columns) * along * (scale if axis is None else 1)).astype(np.float32)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **({} if axis is None else {"axis": axis}))
    kind = TensorProto.INT8 if signed else TensorProto.UINT8
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("y", kind, [None, None])],
        [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero_point, "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": values})
    found = quantize_linear(values, scale, zero_point, 1 if axis is None else axis)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_quantize_linear_rounds_halves_to_even_and_saturates():
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1000.0, -1000.0], np.float32)
    one, zero = np.array(1.0, np.float32), np.array(0, np.int8)
    assert quantize_linear(values, one, zero, 1).tolist() == [0, 2, 2, 0, -2, 127, -128]
