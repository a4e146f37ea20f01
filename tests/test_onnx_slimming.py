"""Less work, the same logits: the last layer for the first token alone, one product for all heads."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from polyfold.compress.grids import prepare_grids
from polyfold.export import to_onnx
from polyfold.onnx_graph import drop_unused
from polyfold.onnx_slimming import fuse_heads, keep_first_token
from toys_families import toy_batch
from toys_quantized import EMBEDDED, EVERY_FAMILY, SAMPLES, model_of

SLICED = tuple(family for family in EVERY_FAMILY if family not in (EMBEDDED, "modernbert"))


def run(graph, seed=3):
    """All logits side by side, in ONNX Runtime without its own rewriting."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
    ids, mask = (one.numpy() for one in toy_batch(seed))
    return np.concatenate(session.run(None, {"input_ids": ids, "attention_mask": mask}), axis=1)


def copied(graph):
    return onnx.ModelProto.FromString(graph.SerializeToString())


@pytest.fixture(scope="module")
def plain_graphs():
    """Every family in fp32 and int8, exported as it is: what slimming starts from."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polyfold.export.keep_first_token", lambda graph: False)
        patch.setattr("polyfold.export.fuse_heads", lambda graph, outputs: False)
        for family in EVERY_FAMILY:
            model = model_of(family)
            quantized = prepare_grids(model.classifier, SAMPLES).quantized()
            found[family, "fp32"] = to_onnx(model)
            found[family, "int8"] = to_onnx(replace(model, classifier=quantized))
    return found


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_the_logits_are_the_same(plain_graphs, family, precision):
    plain = plain_graphs[family, precision]
    slim = copied(plain)
    assert keep_first_token(slim) == (family != EMBEDDED)
    assert fuse_heads(slim, [output.name for output in slim.graph.output])
    drop_unused(slim)
    onnx.checker.check_model(slim, full_check=True)
    for seed in range(4):
        # The shapes of products differ, and with them the order of sums in fp32.
        np.testing.assert_allclose(run(slim, seed), run(plain, seed), rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("family", SLICED)
def test_behind_the_last_layers_attention_every_tensor_is_one_token_long(plain_graphs, family, precision):
    slim = copied(plain_graphs[family, precision])
    keep_first_token(slim)
    lengths = {}
    for node in slim.graph.node:
        if node.op_type == "LayerNormalization":
            lengths[node.output[0]] = None
    probed = copied(slim)
    for name in lengths:
        probed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probed.SerializeToString(), options, ["CPUExecutionProvider"])
    ids, mask = (one.numpy() for one in toy_batch())
    values = session.run(list(lengths), {"input_ids": ids, "attention_mask": mask})
    widths = [value.shape[1] for value in values]
    # An embedding normalization and two a layer, of three layers: the last layer's two see one token.
    assert widths == [ids.shape[1]] * 5 + [1, 1]


def test_all_heads_are_one_product(plain_graphs):
    for graph in plain_graphs.values():
        slim = copied(graph)
        before = sum(node.op_type == "Gemm" for node in slim.graph.node)
        fuse_heads(slim, [output.name for output in slim.graph.output])
        after = sum(node.op_type == "Gemm" for node in slim.graph.node)
        assert before - after == len(slim.graph.output) - 1


def test_exports_are_slim():
    graph = to_onnx(model_of("bert"))
    assert any(node.op_type == "Split" for node in graph.graph.node)
    assert any("first_token" in name for node in graph.graph.node for name in node.input)


def tiny(nodes, initializers, outputs=("logits_a",)):
    """A graph over float states [batch, seq, 4]."""
    states = helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "seq", 4])
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()]
    graph = helper.make_graph(nodes, "tiny", [states], made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def values_of(graph, seq=5):
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    states = np.random.default_rng(0).normal(size=(2, seq, 4)).astype(np.float32)
    return session.run(None, {"states": states})


def test_what_is_also_read_whole_stays_whole():
    nodes = [
        helper.make_node("Relu", ["states"], ["kept"]),
        helper.make_node("Tanh", ["kept"], ["narrow"]),
        helper.make_node("Gather", ["narrow", "zero"], ["first"], axis=1),
        helper.make_node("ReduceSum", ["kept"], ["all"], keepdims=0),
        helper.make_node("Add", ["first", "all"], ["logits_a"]),
    ]
    plain = tiny(nodes, {"zero": np.asarray(0, np.int64)})
    slim = copied(plain)
    assert keep_first_token(slim)
    assert [node.op_type for node in slim.graph.node].count("Slice") == 1
    np.testing.assert_array_equal(values_of(slim)[0], values_of(plain)[0])


@pytest.mark.parametrize("mixing", ["ReduceMax", "Softmax over tokens", "a table of positions"])
def test_what_mixes_tokens_is_computed_whole(mixing):
    node = {
        "ReduceMax": helper.make_node("ReduceMax", ["states"], ["mixed"], axes=[1], keepdims=1),
        "Softmax over tokens": helper.make_node("Softmax", ["states"], ["mixed"], axis=1),
        "a table of positions": helper.make_node("Add", ["states", "table"], ["mixed"]),
    }[mixing]
    nodes = [node, helper.make_node("Gather", ["mixed", "zero"], ["logits_a"], axis=1)]
    table = np.arange(20, dtype=np.float32).reshape(5, 4)
    plain = tiny(nodes, {"zero": np.asarray(0, np.int64), "table": table})
    slim = copied(plain)
    keep_first_token(slim)
    np.testing.assert_array_equal(values_of(slim)[0], values_of(plain)[0])


@pytest.mark.parametrize("index", [1, -1])
def test_a_graph_that_reads_another_token_is_left_alone(index):
    gather = helper.make_node("Gather", ["states", "which"], ["logits_a"], axis=1)
    graph = tiny([gather], {"which": np.asarray(index, np.int64)})
    before = graph.SerializeToString()
    assert not keep_first_token(graph)
    assert graph.SerializeToString() == before


def test_heads_of_different_inputs_stay_apart():
    weights = {"w": np.ones((3, 4), np.float32), "b": np.zeros(3, np.float32), "zero": np.asarray(0, np.int64)}
    nodes = [
        helper.make_node("Gather", ["states", "zero"], ["first"], axis=1),
        helper.make_node("Relu", ["first"], ["other"]),
        helper.make_node("Gemm", ["first", "w", "b"], ["logits_a"], transB=1),
        helper.make_node("Gemm", ["other", "w", "b"], ["logits_b"], transB=1),
    ]
    graph = tiny(nodes, weights, ("logits_a", "logits_b"))
    before = graph.SerializeToString()
    assert not fuse_heads(graph, ["logits_a", "logits_b"])
    assert graph.SerializeToString() == before
