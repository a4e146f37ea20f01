"""SmoothQuant changes the numbers that are quantized and never the function."""

import copy

import pytest
import torch
from torch import nn

from polyfold.compress.calibration import Calibration
from polyfold.compress.grids import prepare_grids
from polyfold.compress.smooth_quant import SmoothQuant, smoothing_scale
from polyfold.errors import InputError
from polyfold.model.classifier import Classifier
from toys import TOY_TASKS
from toys_families import family_model
from toys_quantized import EVERY_FAMILY, SAMPLES, model_of, outputs


def prepared(classifier, alpha=0.5, **settings):
    return prepare_grids(classifier, SAMPLES, smooth_quant=SmoothQuant(alpha=alpha), **settings)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_the_smoothed_model_is_the_same_function(family, alpha):
    classifier = model_of(family).classifier
    expected = outputs(classifier)
    before = copy.deepcopy(classifier.state_dict())
    found = prepared(classifier, alpha).module
    torch.testing.assert_close(outputs(found), expected, atol=2e-5 * float(expected.abs().max()), rtol=1e-4)
    # It is another model all the same, and the one that was handed over is untouched.
    state = {name: value for name, value in found.state_dict().items() if name in before}
    assert any(not torch.allclose(value, before[name], rtol=1e-3) for name, value in state.items())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_the_scale_is_equation_four():
    generator = torch.Generator().manual_seed(0)
    largest = torch.rand(6, generator=generator) + 0.1
    weights = [torch.randn(4, 6, generator=generator), torch.randn(3, 6, generator=generator)]
    found = smoothing_scale(largest, weights, 0.3)
    for channel in range(6):
        widest = max(float(weight[:, channel].abs().max()) for weight in weights)
        assert float(found[channel]) == pytest.approx(float(largest[channel]) ** 0.3 / widest**0.7, rel=1e-5)
    # At one half, activations and weights share what is difficult evenly.
    even = smoothing_scale(largest, weights, 0.5)
    widest = torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0)
    torch.testing.assert_close(largest / even, widest * even)


def test_a_channel_that_is_always_zero_keeps_its_scale():
    scale = smoothing_scale(torch.tensor([0.0, 2.0]), [torch.tensor([[1.0, 0.0]])], 0.5)
    assert scale.tolist() == [1.0, 1.0]


def test_where_only_linear_layers_read_a_layer_norm_nothing_is_added():
    embedded = prepared(model_of("use-multilingual").classifier)
    assert not embedded.apart
    # ModernBERT normalizes before each block; only its first layer reads the embeddings' own norm, a residual too.
    assert all("Wqkv" in name for name in prepared(family_model("modernbert").classifier).apart)
    # BERT normalizes after the sum: the residual is the normalized state, so it is multiplied before the layers.
    bert = prepared(family_model("bert").classifier)
    assert len(bert.apart) == 3 * 4


def test_an_outlier_channel_costs_less_when_smoothed():
    model = family_model("bert")
    with torch.no_grad():
        for part in model.classifier.modules():
            if isinstance(part, nn.LayerNorm):
                part.weight[3] *= 60.0
        for name, part in model.classifier.named_modules():
            if name.endswith(("query", "key", "value", "intermediate.dense")):
                part.weight[:, 3] /= 60.0
    expected = outputs(model.classifier)
    spec = Calibration(method="min_max")

    def error(grids):
        # The heads read one token of the last LayerNorm, and are not smoothed.
        return float((outputs(grids.quantized(["heads"])) - expected).abs().mean())

    plain = error(prepare_grids(model.classifier, SAMPLES, calibration=spec))
    assert error(prepared(model.classifier, calibration=spec)) < 0.2 * plain


def test_a_model_without_a_layer_norm_before_linear_layers_is_refused():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(250, 8)

        def forward(self, input_ids, attention_mask):
            return (self.table(input_ids) * attention_mask.unsqueeze(2)).sum(dim=1)

    with pytest.raises(InputError, match="nothing to move outliers into"):
        prepared(Classifier(Plain(), 8, TOY_TASKS))
