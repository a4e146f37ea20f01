"""The laws of preparing a graph for TensorRT: the same outputs, and nothing left that it cannot take."""

import copy
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from polyfold.compress.grids import prepare_grids
from polyfold.errors import InputError
from polyfold.export import to_onnx
from polyfold.runtimes.tensorrt_graph import (
    check_quantization,
    in_half,
    inline_constants,
    narrow_inputs,
    prepare,
    replace_cumsum,
    widen_tables,
)
from toys import TOY_MAX_LENGTH
from toys_pipeline import toy_ids
from toys_quantized import SAMPLES, model_of

TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def graphs():
    """Exported graphs by family and quantization: None, or a layout or mode."""
    found = {}
    for family in ("xlm-roberta", "bert", "use-multilingual"):
        model = model_of(family)
        found[family, None] = to_onnx(model)
        for layout in ("tensorrt",) if family == "xlm-roberta" else ("tensorrt", "cpu"):
            quantized = prepare_grids(model.classifier, SAMPLES, layout=layout).quantized(())
            found[family, layout] = to_onnx(replace(model, classifier=quantized))
    dynamic = prepare_grids(model_of("bert").classifier, SAMPLES, mode="dynamic").quantized(())
    found["bert", "dynamic"] = to_onnx(replace(model_of("bert"), classifier=dynamic))
    return found


def run(graph, shape=(6, 11), seed=2):
    """Logits of a graph in ONNX Runtime, whichever integers it takes; unoptimized, so run as it stands."""
    ids, mask = toy_ids(180, shape, seed)
    narrow = graph.graph.input[0].type.tensor_type.elem_type == TensorProto.INT32
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.where(mask == 1, ids + 4, 1), "attention_mask": mask}
    return session.run(
        None, {name: values.astype(np.int32) if narrow else values for name, values in feeds.items()}
    )


@pytest.mark.parametrize("layout", [None, "tensorrt"])
@pytest.mark.parametrize("family", ["xlm-roberta", "bert", "use-multilingual"])
def test_a_prepared_graph_gives_the_same_logits(graphs, family, layout):
    graph = graphs[family, layout]
    before = graph.SerializeToString()
    prepared = prepare(graph, TOY_MAX_LENGTH)
    assert graph.SerializeToString() == before
    for shape in ((6, 11), (1, 1), (2, TOY_MAX_LENGTH)):
        for found, expected in zip(run(prepared, shape), run(graph, shape), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", [None, "tensorrt"])
@pytest.mark.parametrize("family", ["xlm-roberta", "bert", "use-multilingual"])
def test_nothing_is_left_that_tensorrt_cannot_take(graphs, family, layout):
    prepared = prepare(graphs[family, layout], TOY_MAX_LENGTH)
    kinds = [node.op_type for node in prepared.graph.node]
    assert not set(kinds) & {"CumSum", "Constant", "Identity"}
    assert ("QuantizeLinear" in kinds) == (layout is not None)
    constants = {one.name: one for one in prepared.graph.initializer}
    int8 = {name for name, one in constants.items() if one.data_type == TensorProto.INT8}
    for node in prepared.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert node.input[1] in constants and node.input[2] in constants
        else:
            assert not int8 & set(node.input), node.op_type
    assert {one.type.tensor_type.elem_type for one in prepared.graph.input} == {TensorProto.INT32}


@pytest.mark.parametrize("layout", [None, "tensorrt"])
@pytest.mark.parametrize("family", ["xlm-roberta", "bert", "use-multilingual"])
def test_half_precision_stays_near_and_its_outputs_are_fp32(graphs, family, layout):
    graph = graphs[family, layout]
    for found, expected in zip(run(prepare(graph, TOY_MAX_LENGTH, "fp16")), run(graph), strict=True):
        assert found.dtype == np.float32
        limit = 0.25 if layout else 0.03
        np.testing.assert_allclose(found, expected, atol=limit * np.abs(expected).max())


@pytest.mark.parametrize("half", ["fp16", "bf16"])
@pytest.mark.parametrize("layout", [None, "tensorrt"])
def test_in_half_precision_every_floating_tensor_is_in_it_but_positions_and_outputs(graphs, layout, half):
    prepared = prepare(graphs["xlm-roberta", layout], TOY_MAX_LENGTH, half)
    wide = {one.name for one in prepared.graph.initializer if one.data_type == TensorProto.FLOAT}
    assert wide == {"cumsum.triangle"}
    # Shape inference is strict: a node whose inputs are of two types is an error.
    inferred = onnx.shape_inference.infer_shapes(prepared, check_type=True, strict_mode=True)
    types = {one.name: one.type.tensor_type.elem_type for one in inferred.graph.value_info}
    read = {name for node in inferred.graph.node if node.op_type == "Softmax" for name in node.input}
    assert {types[name] for name in read} == {TYPES[half]}


def test_what_half_precision_cannot_hold_becomes_its_largest():
    graph = one_node("Add", ["x", "fill"], {"fill": np.array([np.finfo(np.float32).min, 1.0], np.float32)})
    for half, largest in (("fp16", 65504.0), ("bf16", 3.3895314e38)):
        found = in_half(graph, half).graph.initializer[0]
        values = numpy_helper.to_array(found).astype(np.float32)
        np.testing.assert_allclose(values, [-largest, 1.0], rtol=1e-6)


@pytest.mark.parametrize("family", ["bert", "use-multilingual"])
def test_a_model_quantized_for_processors_is_refused_with_what_to_do(graphs, family):
    with pytest.raises(InputError, match="quantized for processors") as caught:
        prepare(graphs[family, "cpu"], TOY_MAX_LENGTH)
    assert "layout: tensorrt" in str(caught.value.hint)


def test_a_model_quantized_at_run_time_is_refused(graphs):
    with pytest.raises(InputError, match="quantized at run time"):
        prepare(graphs["bert", "dynamic"], TOY_MAX_LENGTH)


def one_node(kind, inputs, constants, shape=(2,), number=TensorProto.FLOAT, **attributes):
    """A graph of one node from `x` to `y`."""
    node = helper.make_node(kind, inputs, ["y"], **attributes)
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", number, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("zero", [None, np.array(3, np.int8), np.array(0, np.uint8)])
def test_every_kind_of_asymmetric_quantization_is_refused(zero):
    constants = {"scale": np.array(0.1, np.float32)} | ({} if zero is None else {"zero": zero})
    with pytest.raises(InputError, match="quantized for processors"):
        check_quantization(one_node("QuantizeLinear", ["x", *constants], constants))
    whole = {"scale": np.array(0.1, np.float32), "zero": np.array(0, np.int8)}
    check_quantization(one_node("QuantizeLinear", ["x", *whole], whole))
    with pytest.raises(InputError, match="constants"):
        check_quantization(one_node("QuantizeLinear", ["x", "x", "zero"], whole))


def looked_up(graph, rows):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows})[0]


@pytest.mark.parametrize("scale", [np.array(0.5, np.float32), np.array([0.5, 1, 2, 4, 8], np.float32)])
def test_a_table_behind_a_dequantization_is_multiplied_out(scale):
    table = np.random.default_rng(0).integers(-127, 128, (5, 3)).astype(np.int8)
    constants = {"table": table, "scale": scale, "zero": np.zeros_like(scale, np.int8)}
    graph = one_node("Gather", ["wide", "x"], constants, number=TensorProto.INT64)
    graph.graph.node.insert(0, helper.make_node("DequantizeLinear", ["table", "scale", "zero"], ["wide"], axis=0))
    expected = looked_up(graph, np.array([4, 1]))
    widen_tables(graph)
    assert [node.op_type for node in graph.graph.node] == ["Gather"]
    assert {one.data_type for one in graph.graph.initializer} == {TensorProto.FLOAT}
    np.testing.assert_array_equal(looked_up(graph, np.array([4, 1])), expected)


def test_running_sums_are_exact_up_to_the_longest_document():
    graph = one_node(
        "CumSum", ["ones", "axis"], {"axis": np.array(1, np.int64)}, ("batch", "seq"), TensorProto.INT64
    )
    graph.graph.node.insert(0, helper.make_node("Cast", ["x"], ["ones"], to=TensorProto.INT32))
    graph.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    replace_cumsum(graph, 600)
    narrow_inputs(graph)
    assert "CumSum" not in {node.op_type for node in graph.graph.node}
    for seq in (1, 7, 600):
        values = np.random.default_rng(seq).integers(0, 2, (3, seq)).astype(np.int32)
        np.testing.assert_array_equal(looked_up(graph, values), values.cumsum(axis=1))


def test_constants_and_their_other_names_become_initializers_of_one_name():
    graph = one_node("Add", ["x", "third"], {"first": np.ones(2, np.float32)})
    graph.graph.node.insert(0, helper.make_node("Identity", ["first"], ["second"]))
    graph.graph.node.insert(1, helper.make_node("Identity", ["second"], ["third"]))
    before = copy.deepcopy(graph)
    inline_constants(graph)
    assert [list(node.input) for node in graph.graph.node] == [["x", "first"]]
    values = np.array([1, 2], np.float32)
    np.testing.assert_array_equal(looked_up(graph, values), looked_up(before, values))
