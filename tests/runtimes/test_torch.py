"""The laws of PyTorch as a runtime: a saved model comes back bit for bit, its quantizers included."""

import json

import numpy as np
import pytest
import torch

from polyfold.model.backbone import prefer_plain_attention, token_embedding
from polyfold.model.classifier import load_model
from polyfold.model.quantized import HOOKS, QUANTIZERS_FILE, quantizer_config
from polyfold.predictor import Predictor
from polyfold.runtimes.torch import TorchSession
from toys_pipeline import toy_ids, toy_rows


@pytest.fixture(scope="module", params=["transformer", "convolutional"])
def toy(request, torch_toys):
    return torch_toys[request.param]


def ids_for(toy, shape=(16, 12), seed=1):
    return toy_ids(token_embedding(toy["fp32"].classifier.encoder).num_embeddings, shape, seed)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_saved_model_comes_back_bit_for_bit(toy, precision):
    model, folder = toy[precision], toy["folders"][precision]["torch"]
    loaded = load_model(folder)
    before, after = model.classifier.state_dict(), loaded.classifier.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(HOOKS in name for name in before) == (precision == "int8")
    if precision == "fp32":
        # Exporting has switched the model that was saved to plain attention; an int8 one must come back so.
        prefer_plain_attention(loaded.classifier.encoder)
    ids, mask = ids_for(toy)
    expected = TorchSession(model.classifier).run(ids, mask)
    for name, values in TorchSession(loaded.classifier).run(ids, mask).items():
        np.testing.assert_array_equal(values, expected[name])
    assert (loaded.tasks, loaded.max_length, loaded.parameters) == (
        model.tasks,
        model.max_length,
        model.parameters,
    )


def test_the_quantizers_configuration_survives_json(toy):
    folder = toy["folders"]["int8"]["torch"]
    written = json.loads((folder / QUANTIZERS_FILE).read_bytes())
    assert written == json.loads(json.dumps(quantizer_config(toy["int8"].classifier)))
    assert written == json.loads(json.dumps(quantizer_config(load_model(folder).classifier)))
    assert not (toy["folders"]["fp32"]["torch"] / QUANTIZERS_FILE).exists()


def test_a_session_neither_drops_out_nor_keeps_gradients(toy):
    model = load_model(toy["folders"]["fp32"]["torch"])
    model.classifier.train()
    session = TorchSession(model.classifier)
    ids, mask = ids_for(toy)
    first, second = session.run(ids, mask), session.run(ids, mask)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
        assert values.dtype == np.float32
    assert all(parameter.grad is None for parameter in model.classifier.parameters())


def test_an_int8_model_predicts_again_and_again(toy):
    # NNCF's quantizers are autograd functions that refuse inference tensors: a second call used them up.
    predictor = Predictor.open(toy["folders"]["int8"]["torch"])
    texts = [row["text"] for row in toy_rows()[:9]]
    assert predictor.predict(texts) == predictor.predict(texts)
