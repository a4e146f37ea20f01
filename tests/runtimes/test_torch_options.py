"""PyTorch's options: each way to run gives the reference's logits, and what cannot be is refused beforehand."""

import numpy as np
import pytest
import torch

from polyfold.errors import InputError
from polyfold.model.classifier import save_model
from polyfold.runtimes.session import SessionSpec
from polyfold.runtimes.torch import (
    PackedSession,
    TorchOptions,
    TorchSession,
    check_options,
    open_torch,
    torch_session,
)
from toys import TOY_MAX_LENGTH, write_toy_tokenizer
from toys_families import FAMILIES
from toys_gpu import GPU_LENGTH, gpu_model
from toys_pipeline import toy_ids
from toys_quantized import EVERY_FAMILY, model_of

GPU = torch.cuda.is_available()
NO_GPU = pytest.mark.skipif(not GPU, reason="torch sees no GPU on this machine")
UNPADDED = TorchOptions(unpadded=True)


def batch():
    ids, mask = toy_ids(180, (7, 12), seed=3)
    return np.where(mask == 1, ids + 4, 1), mask


def near(found, expected, tolerance):
    assert found.keys() == expected.keys() and len(found) > 1
    for name, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_an_unpadded_session_gives_the_padded_logits(family):
    session = torch_session(model_of(family).classifier, TOY_MAX_LENGTH, "cpu", UNPADDED)
    assert isinstance(session, PackedSession)
    near(session.run(*batch()), TorchSession(model_of(family).classifier).run(*batch()), 1e-4)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_processor_pads_and_a_transformer_uses_the_fused_attention(family):
    session = torch_session(model_of(family).classifier, TOY_MAX_LENGTH, "cpu", TorchOptions())
    assert isinstance(session, TorchSession)
    classifier = model_of(family).classifier
    if family in FAMILIES:
        classifier.encoder.encoder.set_attn_implementation("eager")
        assert session._module.encoder.encoder.config._attn_implementation == "sdpa"
    near(session.run(*batch()), TorchSession(classifier).run(*batch()), 1e-4)


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_half_precision_stays_near_fp32(family):
    session = TorchSession(model_of(family).classifier, dtype=torch.bfloat16)
    expected = TorchSession(model_of(family).classifier).run(*batch())
    scale = max(np.abs(values).max() for values in expected.values())
    near(session.run(*batch()), expected, 0.1 * scale)
    assert any((values != expected[name]).any() for name, values in session.run(*batch()).items())


def test_a_quantized_model_spells_its_attention_out(torch_toys):
    classifier = torch_toys["transformer"]["int8"].classifier
    classifier.encoder.encoder.set_attn_implementation("sdpa")
    torch_session(classifier, TOY_MAX_LENGTH, "cpu", TorchOptions())
    assert classifier.encoder.encoder.config._attn_implementation == "eager"


def test_a_compiled_session_gives_the_same_logits_for_batches_of_every_size(monkeypatch):
    # All but the last step, which needs a C++ compiler and a minute: capture, dynamic shapes, guards.
    compiling = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **given: compiling(module, backend="eager", **given))
    session = torch_session(model_of("xlm-roberta").classifier, TOY_MAX_LENGTH, "cpu", TorchOptions(compiled=True))
    plain = TorchSession(model_of("xlm-roberta").classifier)
    for shape in ((3, 9), (5, 12), (2, 4)):
        ids, mask = toy_ids(180, shape)
        near(session.run(ids, mask), plain.run(ids, mask), 1e-4)


def test_a_folder_opens_as_the_session_its_spec_asks_for(tmp_path):
    model = model_of("xlm-roberta")
    spec = write_toy_tokenizer(tmp_path)
    model = type(model)(model.classifier, model.tasks, type(model.backbone)(
        "xlm-roberta", model.backbone.module, model.backbone.width, model.backbone.config, spec, 32
    ), model.max_length)  # fmt: skip
    save_model(model, tmp_path, tmp_path)
    near(open_torch(tmp_path, SessionSpec()).run(*batch()), TorchSession(model.classifier).run(*batch()), 1e-4)
    for given, word in ((SessionSpec(threads=2), "threads"), (SessionSpec(streams=2), "stream")):
        with pytest.raises(InputError, match=word):
            open_torch(tmp_path, given)
    if not GPU:
        with pytest.raises(InputError, match="torch sees no GPU"):
            open_torch(tmp_path, SessionSpec(device="cuda"))
    with pytest.raises(InputError, match="bf16 in the torch runtime needs a GPU"):
        open_torch(tmp_path, SessionSpec(bf16=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "fp8"])
def test_precisions_of_the_gpu_are_refused_on_a_processor(precision):
    with pytest.raises(InputError, match=f"{precision} in the torch runtime needs a GPU") as caught:
        check_options(model_of("bert").classifier, "cpu", TorchOptions(precision=precision))
    assert "OpenVINO" in str(caught.value.hint)


def test_families_that_cannot_be_packed_are_refused_unpadded(torch_toys):
    for classifier in (model_of("use-multilingual").classifier, torch_toys["transformer"]["int8"].classifier):
        with pytest.raises(InputError, match="without padding"):
            torch_session(classifier, TOY_MAX_LENGTH, "cpu", UNPADDED)


@pytest.fixture
def pretended_gpu(monkeypatch):
    """A machine whose torch says that it has a GPU: enough for the checks that come before one is touched."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))


def test_on_a_gpu_models_and_precisions_that_do_not_go_together_are_refused(pretended_gpu, torch_toys):
    quantized = torch_toys["transformer"]["int8"].classifier
    with pytest.raises(InputError, match="fake quantizers"):
        check_options(quantized, "cuda", TorchOptions(precision="bf16"))
    with pytest.raises(InputError, match="does not compute in fp8"):
        check_options(model_of("bert").classifier, "cuda", TorchOptions(precision="fp8"))
    with pytest.raises(InputError, match="without padding"):
        check_options(model_of("distilbert").classifier, "cuda", TorchOptions(precision="int8"))
    check_options(model_of("bert").classifier, "cuda", TorchOptions(precision="int8"))


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_session_in_8_bits_stays_near_fp32(kind):
    # Built past the check: a processor computes the same products, only slowly and in bf16 around them.
    model = gpu_model()
    session = PackedSession(model.classifier, "cpu", GPU_LENGTH, TorchOptions(precision=kind))
    replaced = [part for part in session._module.layers.modules() if type(part).__name__ == "EightBitLinear"]
    assert len(replaced) == 4 + 5
    expected = TorchSession(model.classifier).run(*batch())
    scale = max(np.abs(values).max() for values in expected.values())
    near(session.run(*batch()), expected, 0.15 * scale)


@NO_GPU
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8", "fp8"])
def test_every_precision_on_a_gpu_stays_near_fp32(precision):
    model = gpu_model()
    expected = TorchSession(gpu_model().classifier).run(*batch())
    session = torch_session(model.classifier, GPU_LENGTH, "cuda", TorchOptions(precision=precision))
    scale = max(np.abs(values).max() for values in expected.values())
    for _ in range(2):
        near(session.run(*batch()), expected, 1e-3 if precision == "fp32" else 0.15 * scale)
