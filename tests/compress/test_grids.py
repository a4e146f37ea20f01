"""Quantizing some layers and not others: what is kept computes in floating point, and biases keep their means."""

import numpy as np
import pytest
import torch

from polyfold.compress.calibration import Calibration
from polyfold.compress.grids import BATCH, calibration_samples, prepare_grids
from polyfold.data.batches import EncodedDocuments
from polyfold.model.placement import place
from polyfold.text import Encoding
from toys_families import family_model
from toys_quantized import EVERY_FAMILY, SAMPLES, model_of, outputs
from toys_torch import toy_documents

MODES = ("static", "dynamic", "weight_only")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_every_family_is_quantized_in_every_mode_and_stays_near(family, mode):
    classifier = model_of(family).classifier
    expected = outputs(classifier)
    found = outputs(prepare_grids(classifier, SAMPLES, mode).quantized())
    assert 0 < float((found - expected).abs().mean()) < 0.2 * float(expected.abs().mean())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layout", ["cpu", "tensorrt"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "use-multilingual"])
def test_a_model_with_every_layer_kept_is_the_float_model(family, layout, mode):
    classifier = model_of(family).classifier
    grids = prepare_grids(classifier, SAMPLES, mode, layout)
    # Beside the attention that is spelled out for quantizers: a fused one rounds otherwise.
    assert torch.equal(outputs(grids.quantized(grids.layers)), outputs(grids.module))
    torch.testing.assert_close(outputs(grids.module), outputs(classifier), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "use-multilingual"])
def test_a_kept_layer_computes_in_floating_point(family):
    classifier = model_of(family).classifier
    grids = prepare_grids(classifier, SAMPLES)
    keep = "encoder.layer.1.intermediate.dense" if family == "bert" else "projection"
    module = grids.quantized([keep])
    parts = dict(module.named_modules())
    path = next(name for name in parts if name.endswith(keep))
    caught = {}
    parts[path].register_forward_hook(lambda part, inputs, output: caught.update(x=inputs[0], y=output))
    outputs(module)
    own = dict(classifier.named_parameters())
    expected = torch.nn.functional.linear(caught["x"].detach(), own[f"{path}.weight"], own[f"{path}.bias"])
    torch.testing.assert_close(caught["y"], expected)
    # The same layer quantized does not.
    whole = grids.quantized()
    dict(whole.named_modules())[path].register_forward_hook(lambda part, inputs, output: caught.update(z=output))
    outputs(whole)
    assert float((caught["z"] - expected).abs().max().detach()) > 1e-4


def test_weights_are_on_a_grid_of_their_own_by_output_channel():
    grids = prepare_grids(family_model("bert").classifier, SAMPLES)
    parts = dict(grids.quantized().named_modules())
    parameters = dict(grids.module.named_parameters())
    for weight in place(grids.found, "cpu").weights:
        quantizer = parts[f"__nncf_hooks.pre_hooks.{weight.hook.operation}__1.0"]
        values = parameters[weight.parameter].detach()
        scale = values.abs().flatten(1).amax(dim=1) / 127
        torch.testing.assert_close(quantizer.scale.detach().flatten() / 127, scale)
        with torch.no_grad():
            rounded = quantizer(values)
        steps = rounded / scale.reshape(-1, *(1 for _ in values.shape[1:]))
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
        assert float(steps.abs().max()) <= 127.001


@pytest.mark.parametrize("family", ["bert", "use-multilingual"])
def test_corrected_biases_leave_the_mean_of_every_layers_output_where_it_was(family):
    classifier = model_of(family).classifier
    grids = prepare_grids(classifier, SAMPLES, "dynamic")
    quantized = dict(grids.quantized().named_parameters())
    before = dict(grids.module.named_parameters())
    parts = dict(grids.quantized().named_modules())
    checked = 0
    for weight in place(grids.found, "cpu").weights:
        if weight.parameter not in grids.means or before[weight.parameter].ndim != 2:
            continue
        bias = f"{weight.parameter.removesuffix('weight')}bias"
        with torch.no_grad():
            rounded = parts[f"__nncf_hooks.pre_hooks.{weight.hook.operation}__1.0"](before[weight.parameter])
        mean = grids.means[weight.parameter]
        exact = before[weight.parameter] @ mean + before[bias]
        torch.testing.assert_close(rounded @ mean + quantized[bias], exact, atol=1e-5, rtol=1e-4)
        checked += 1
    assert checked >= (15 if family == "bert" else 4)


def test_calibration_batches_hold_documents_of_like_length_drawn_by_the_seed():
    lengths = np.random.default_rng(0).integers(3, 30, 60)
    ids = [np.arange(length, dtype=np.int64) + 5 for length in lengths]
    encoded = EncodedDocuments(toy_documents(60, 1), Encoding.of(ids), pad_id=1)

    class OnlySeed:
        seed = 3

    samples = calibration_samples(OnlySeed(), encoded, 40)
    assert sum(len(batch) for batch, _ in samples) == 40
    longest = [int(mask.sum(dim=1).max()) for _, mask in samples]
    assert longest == sorted(longest)
    assert all(len(batch) == BATCH for batch, _ in samples)
    assert all(int((mask == 0).sum()) <= 0.5 * mask.numel() for _, mask in samples)
    again = calibration_samples(OnlySeed(), encoded, 40)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(samples, again, strict=True))
    assert sum(len(batch) for batch, _ in calibration_samples(OnlySeed(), encoded, 1000)) == 60


def test_ranges_decide_what_static_quantization_computes():
    classifier = family_model("bert").classifier
    found = [
        outputs(prepare_grids(classifier, SAMPLES, calibration=Calibration(method=method)).quantized())
        for method in ("min_max", "mean_min_max", "percentile")
    ]
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
