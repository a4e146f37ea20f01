"""Where quantizers go: on every matrix product of every family, on residual sums for TensorRT, nowhere else."""

import pytest
import torch

from polyfold.model.backbone import prefer_plain_attention
from polyfold.model.placement import is_kept, layer_names, place
from polyfold.model.tracing import trace
from toys_families import FAMILIES, LAYERS, toy_batch
from toys_quantized import EVERY_FAMILY, model_of

PRODUCTS = ("linear", "conv1d", "matmul")
# What runtimes fuse into one kernel: nothing may be put between the pieces.
FUSED = ("layer_norm", "gelu", "softmax")


def traced(family):
    """The forward pass of one family's toy."""
    model = model_of(family)
    prefer_plain_attention(model.classifier.encoder)
    return trace(model.classifier.eval(), toy_batch()), model


@pytest.fixture(params=EVERY_FAMILY)
def found(request):
    return traced(request.param)[0]


def test_a_trace_computes_what_the_model_computes_and_names_every_weight():
    found, model = traced("bert")
    used = {name for operation in found.operations for name in operation.parameters.values()}
    assert used == {name for name, _ in model.classifier.named_parameters()}
    # Numbers are given in the order of computing: what is read was made before.
    for operation in found.operations:
        read = [number for number in operation.inputs if number is not None]
        assert all(number < min(operation.outputs) for number in read)
    assert {found.shapes[number] for number in found.returned} == {(3, 3), (3, 4), (3, 16)}


def test_every_weight_of_a_product_is_quantized_by_output_channel(found):
    weights = {operation.parameters[1] for operation in found.operations if operation.kind in ("linear", "conv1d")}
    for layout in ("cpu", "tensorrt"):
        assert {weight.parameter for weight in place(found, layout).weights} == weights


def test_for_tensorrt_both_inputs_of_every_product_and_of_every_residual_sum_are_int8(found):
    placement = place(found, "tensorrt")
    assert {one.grid for one in placement.activations} == {"int8"}
    for operation in found.operations:
        ports = (0,) if operation.kind in ("linear", "conv1d") else (0, 1)
        for port in ports if operation.kind in PRODUCTS else ():
            assert quantized_on_the_way(found, placement, operation, port), (operation.name, port)


def quantized_on_the_way(found, placement, operation, port):
    """Whether a quantizer stands at this input, or before the changes of shape in front of it."""
    hooks = {(one.hook.when, one.hook.operation, one.hook.port) for one in placement.activations}
    while True:
        if ("pre", operation.name, port) in hooks:
            return True
        tensor = operation.inputs[port]
        maker = found.producers[tensor]
        if ("post", maker.name, maker.outputs.index(tensor)) in hooks:
            return True
        if found.root(tensor) == tensor:
            return False
        operation, port = maker, 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_sums_of_a_transformer_are_two_a_layer_and_masks_and_positions_are_none(family):
    found, _ = traced(family)
    sums = {name for name in place(found, "tensorrt").layers if ".add." in name}
    assert len(sums) == 2 * LAYERS
    kinds = {operation.kind for operation in found.operations if layer_names(found).get(operation.name) in sums}
    assert kinds <= {"add", "__add__"}


def test_on_the_processor_activations_are_uint8_but_for_the_factors_of_attentions_scores(found):
    names = layer_names(found)
    placement = place(found, "cpu")
    for one in placement.activations:
        product = all(".matmul." in layer for layer in one.layers)
        assert one.grid == ("int8" if product else "uint8"), one
    scores = [one for one in found.operations if one.kind == "matmul" and names[one.name] in placement.layers]
    # The second product of each layer, over the softmax, stays in floating point.
    assert 2 * len(scores) == len([one for one in found.operations if one.kind == "matmul"])
    assert not [name for name in placement.layers if ".add." in name]


def test_nothing_is_put_inside_what_runtimes_fuse(found):
    for layout in ("cpu", "tensorrt"):
        hooks = [one.hook for one in place(found, layout).activations]
        kinds = {operation.name: operation.kind for operation in found.operations}
        assert not [hook for hook in hooks if hook.when == "pre" and kinds[hook.operation] in FUSED]


@pytest.mark.parametrize("layout", ["cpu", "tensorrt"])
def test_kept_layers_get_no_quantizer_and_take_none_from_the_others(found, layout):
    whole = place(found, layout)
    for name in whole.layers:
        some = place(found, layout, [name])
        assert set(some.layers) == {layer for layer in whole.layers if not is_kept(layer, [name])}
        assert {one.tensor for one in some.activations} <= {one.tensor for one in whole.activations}
    assert place(found, layout, whole.layers).layers == ()


def test_layers_are_kept_by_their_whole_name_or_whole_parts_of_it():
    name = "encoder.layer.11.attention.self.query"
    assert all(is_kept(name, [one]) for one in (name, "query", "layer.11", "self.query"))
    assert not any(is_kept(name, [one]) for one in ("layer.1", "quer", "attention.output", ""))


def test_operations_set_apart_are_quantized_by_themselves():
    found, _ = traced("bert")
    query = next(one for one in found.operations if one.module.endswith("0.attention.self.query"))
    placement = place(found, "tensorrt", apart={query.name})
    own = [one for one in placement.activations if one.hook.operation == query.name and one.hook.when == "pre"]
    assert [one.tensor for one in own] == [own[0].hook]
    assert len(own[0].layers) == 1
    shared = [one for one in placement.activations if query.module.endswith(one.layers[0].split(".")[-1])]
    assert shared
    with torch.no_grad():
        assert quantized_on_the_way(found, placement, query, 0)
