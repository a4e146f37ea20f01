"""Fake quantization on toys: it is near the model it came from, trains, and comes back from disk bit for bit."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polyfold.compress.grids import prepare_grids
from polyfold.model.backbone import prefer_plain_attention
from polyfold.model.classifier import Model, load_model, new_classifier, own_parameters, save_model
from polyfold.model.quantized import (
    FLOAT,
    HOOKS,
    QUANTIZERS_FILE,
    is_quantized,
    precision_of,
    quantize_rows,
    quantizer_config,
    snap_rows,
    strip,
)
from polyfold.text import open_tokenizer, pad
from toys_torch import MAX_LENGTH, TASKS, toy_documents, toy_model


@settings(deadline=None)
@given(hnp.arrays(np.float32, (4, 6), elements=st.floats(-100, 100, width=32)))
def test_a_table_on_its_grid_is_at_most_half_a_step_away_and_stays_where_it_is(values):
    snapped = snap_rows(torch.from_numpy(values)).numpy()
    steps = np.abs(values).max(axis=1, keepdims=True) / 127
    assert (np.abs(snapped - values) <= 0.5001 * steps + 1e-30).all()
    integers, scales = quantize_rows(snapped)
    assert integers.dtype == np.int8
    assert integers.astype(np.float32) * scales[:, None] == pytest.approx(snapped, rel=1e-6)
    largest = np.abs(values).max(axis=1)
    assert (np.abs(integers).max(axis=1)[largest > 1e-30] == 127).all()


def batches(folder, model, count=16, size=8):
    texts = toy_documents(count, 1).texts
    ids = open_tokenizer(folder, model.backbone.tokenizer).encode(texts, model.max_length).ids
    return [
        tuple(torch.from_numpy(array) for array in pad(ids[start : start + size], model.backbone.tokenizer.pad_id))
        for start in range(0, count, size)
    ]


@pytest.mark.parametrize(
    "mode,precision", [("static", "int8"), ("dynamic", "int8-dynamic"), ("weight_only", "int8-weights")]
)
def test_a_quantized_model_says_how_and_comes_back_from_disk_saying_it(mode, precision, plain, tmp_path):
    model, source = plain
    assert (precision_of(model.classifier), is_quantized(model.classifier)) == (FLOAT, False)
    samples = batches(source, model)
    fake = Model(prepare_grids(model.classifier, samples, mode).quantized(), *described_parts(model))
    assert (precision_of(fake.classifier), is_quantized(fake.classifier)) == (precision, True)
    save_model(fake, tmp_path / "saved", source)
    again = load_model(tmp_path / "saved")
    assert precision_of(again.classifier) == precision
    with torch.no_grad():
        found, wanted = again.classifier(*samples[0]).logits, fake.classifier.eval()(*samples[0]).logits
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_quantizers_file_may_name_no_module_but_nncfs_and_ours(plain, tmp_path):
    model, source = plain
    fake = Model(prepare_grids(model.classifier, batches(source, model)).quantized(), *described_parts(model))
    save_model(fake, tmp_path / "saved", source)
    file = tmp_path / "saved" / QUANTIZERS_FILE
    file.write_text(file.read_text().replace("nncf.torch.quantization.layers", "subprocess"))
    with pytest.raises(Exception, match="untrusted path"):
        load_model(tmp_path / "saved")


def described_parts(model):
    return model.tasks, model.backbone, model.max_length


def described(module):
    """The quantizers' configuration in an order of its own."""
    return sorted(json.dumps(one, sort_keys=True) for one in quantizer_config(module)["compression_state"])


@pytest.fixture(params=["use-multilingual", "bert"])
def plain(request, load, tmp_path):
    """A toy classifier and the folder with its tokenizer."""
    if request.param == "use-multilingual":
        return toy_model(tmp_path / "source"), tmp_path / "source"
    loaded = load("bert")
    return new_classifier(loaded.backbone, TASKS, MAX_LENGTH, 0), loaded.folder


def test_fake_quantizers_are_close_to_the_model_trainable_and_saved_whole(plain, tmp_path):
    model, source = plain
    samples = batches(source, model)
    # As the compression step does: a fused attention would hide its matrix products from the quantizers.
    prefer_plain_attention(model.classifier.encoder)
    with torch.no_grad():
        exact = model.classifier.eval()(*samples[0]).logits
    parameters = model.parameters
    quantized = prepare_grids(model.classifier, samples).quantized()
    fake = Model(quantized, model.tasks, model.backbone, model.max_length)
    assert fake.parameters == parameters
    assert any(HOOKS in name for name in quantized.state_dict())
    assert not any(HOOKS in name for name in own_parameters(quantized))

    quantized.train()
    outputs = quantized(*samples[0]).logits
    sum(values.square().sum() for values in outputs.values()).backward()
    scales = [value.grad for name, value in quantized.named_parameters() if HOOKS in name and value.requires_grad]
    assert scales
    assert any(grad is not None and torch.count_nonzero(grad) for grad in scales)
    with torch.no_grad():
        for name, parameter in quantized.named_parameters():
            if HOOKS not in name:
                parameter.add_(0.001 * torch.sign(parameter))
        expected = quantized.eval()(*samples[0]).logits
    for name, values in expected.items():
        spread = float(exact[name].std())
        assert 0 < float((values - exact[name]).abs().max()) < spread, name

    save_model(fake, tmp_path / "saved", source)
    again = load_model(tmp_path / "saved")
    assert again.parameters == parameters
    assert described(again.classifier) == described(quantized)
    with torch.no_grad():
        for batch in samples:
            found, wanted = again.classifier(*batch).logits, quantized(*batch).logits
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        stripped = strip(again.classifier, samples[0])(*samples[0]).logits
    for name, values in stripped.items():
        assert torch.allclose(values, expected[name], atol=0.05 * float(exact[name].std())), name
