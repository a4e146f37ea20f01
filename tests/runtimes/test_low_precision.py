"""The laws of 8-bit linear layers: exact on their grids, near fp32 within the grids' steps, one row at a time."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polyfold.errors import InputError
from polyfold.runtimes.low_precision import EightBitLinear, check_capability, scaled, to_eight_bits

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine")
KINDS = ("int8", "fp8")


def layer_and_inputs(rows, into=32, out=16, seed=0, bias=True, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(into, out, bias=bias)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        # Rows and channels of different sizes: a scale too few would show.
        linear.weight.mul_(torch.logspace(-2, 2, out)[:, None])
    inputs = torch.randn(rows, into, generator=generator) * torch.logspace(-1, 1, rows)[:, None] * spread
    return linear, inputs


def emulated(linear, inputs, kind):
    """What the kernels should give, in double precision: the product of the two grids' own values."""
    rows, weight = (
        one.double() * scale.double() for one, scale in (scaled(inputs, kind), scaled(linear.weight, kind))
    )
    product = rows @ weight.T
    return product if linear.bias is None else product + linear.bias.double()


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_integer_products_are_those_of_the_grids_to_fp32s_own_rounding(rows, bias):
    linear, inputs = layer_and_inputs(rows, bias=bias)
    expected = emulated(linear, inputs, "int8")
    found = EightBitLinear(linear, "int8")(inputs).double()
    limit = 1e-6 * (inputs.abs().double() @ linear.weight.abs().double().T + 1)
    assert ((found - expected).abs() <= limit + 1e-6 * expected.abs()).all()


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_fp8_products_are_those_of_the_grids_to_bf16s_own_rounding(rows, bias):
    linear, inputs = layer_and_inputs(rows, bias=bias)
    expected = emulated(linear, inputs, "fp8")
    product = expected if linear.bias is None else expected - linear.bias.double()
    found = EightBitLinear(linear, "fp8")(inputs).double()
    # bf16 has 8 bits of mantissa: a product is off by 2^-9 of itself at most, and sums were rounded in fp32.
    sums = 1e-5 * (inputs.abs().double() @ linear.weight.abs().double().T)
    assert ((found - expected).abs() <= 2.0**-8 * product.abs() + sums + 1e-5).all()


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 12), spread=st.floats(1e-3, 1e3))
def test_int8_is_within_half_a_step_of_each_factor(seed, rows, spread):
    linear, inputs = layer_and_inputs(rows, seed=seed, spread=spread)
    steps = inputs.abs().amax(1, keepdim=True) / 127, (linear.weight.abs().amax(1, keepdim=True) / 127).T
    sizes = inputs.abs().sum(1, keepdim=True), linear.weight.abs().sum(1, keepdim=True).T
    limit = sizes[0] * steps[1] / 2 + steps[0] * sizes[1] / 2 + linear.in_features * steps[0] * steps[1] / 4
    found = EightBitLinear(linear, "int8")(inputs)
    assert ((found - linear(inputs)).abs() <= limit * 1.001 + 1e-4).all()


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 12))
def test_fp8_is_within_its_relative_step(seed, rows):
    linear, inputs = layer_and_inputs(rows, seed=seed)
    # e4m3 has 3 bits of mantissa: each factor is off by 1/16 at most, but for the smallest of a row.
    limit = (inputs.abs() @ linear.weight.abs().T) * (2 / 16 + 1 / 256 + 2.0**-8)
    tiny = inputs.abs().amax(1, keepdim=True) @ linear.weight.abs().amax(1, keepdim=True).T * linear.in_features
    found = EightBitLinear(linear, "fp8")(inputs)
    assert ((found - linear(inputs)).abs() <= limit + tiny * 2.0**-16 + 1e-4).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_document_does_not_depend_on_the_others_in_its_batch(kind):
    linear, inputs = layer_and_inputs(6)
    quantized = EightBitLinear(linear, kind)
    together = quantized(inputs)
    for number in range(6):
        torch.testing.assert_close(quantized(inputs[number : number + 1])[0], together[number])


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros_and_the_type_is_that_of_the_input(kind):
    linear, inputs = layer_and_inputs(4, bias=False)
    inputs[1] = 0
    linear.weight[3] = 0
    for dtype in (torch.float32, torch.bfloat16):
        found = EightBitLinear(copy.deepcopy(linear).to(dtype), kind)(inputs.to(dtype))
        assert found.dtype == dtype
        assert (found[1] == 0).all() and (found[:, 3] == 0).all()
        assert torch.isfinite(found).all()


def test_layers_whose_sides_do_not_fit_are_left_alone():
    module = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Sequential(nn.Linear(32, 24)), nn.Linear(24, 5))
    assert to_eight_bits(copy.deepcopy(module), "int8") == 2
    assert to_eight_bits(module, "fp8") == 1
    assert isinstance(module[0], EightBitLinear) and isinstance(module[2][0], nn.Linear)


def test_an_old_gpu_is_refused_with_what_to_do():
    check_capability("int8", (8, 0))
    check_capability("fp8", (9, 0))
    with pytest.raises(InputError, match="does not compute in fp8") as caught:
        check_capability("fp8", (8, 0))
    assert "bf16" in str(caught.value.hint)


@NO_GPU
@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 16, 17, 33, 200])
def test_a_gpu_computes_what_the_processor_does(kind, rows):
    check_capability(kind, torch.cuda.get_device_capability())
    linear, inputs = layer_and_inputs(rows)
    quantized = EightBitLinear(linear.bfloat16(), kind)
    expected = quantized(inputs.bfloat16())
    found = quantized.cuda()(inputs.bfloat16().cuda()).cpu()
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.02, atol=0.02)
