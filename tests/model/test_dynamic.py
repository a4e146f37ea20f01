"""Activations quantized at run time are those of ONNX's own operation."""

import numpy as np
import onnxruntime
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from polyfold.model.dynamic import DynamicQuantizer


def session():
    """DynamicQuantizeLinear and its inverse as one graph."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])] for name in "xy"]
    graph = helper.make_graph(nodes, "one", *ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString())


SESSION = session()


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-50, 50, width=32)))
def test_the_grid_is_onnx_runtimes(values):
    (expected,) = SESSION.run(None, {"x": values})
    found = DynamicQuantizer()(torch.from_numpy(values)).numpy()
    step = (max(values.max(), 0) - min(values.min(), 0)) / 255
    # A value in the middle between two steps may be rounded the other way.
    np.testing.assert_allclose(found, expected, atol=1.001 * step, rtol=1e-5)
    assert (np.abs(found - expected) > 0.5 * step).mean() < 0.4
    np.testing.assert_allclose(found, values, atol=0.501 * step + 1e-30)


def test_zero_stays_zero_and_a_tensor_of_zeros_too():
    values = torch.tensor([[-1.0, 0.0, 3.0]])
    assert DynamicQuantizer()(values)[0, 1] == 0.0
    assert torch.equal(DynamicQuantizer()(torch.zeros(2, 3)), torch.zeros(2, 3))
