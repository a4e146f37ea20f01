"""FLOPs of a document are read off a configuration, and are those that torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from polyfold.artifact import Stage
from polyfold.export import OnnxRuntimeExport, export
from polyfold.measure.operations import TOKENS, encoder_mflops, mflops_of
from polyfold.model.backbone import Transformer
from polyfold.model.classifier import save_model
from toys_pipeline import convolutional_model, transformer_model


@pytest.fixture(params=[transformer_model, convolutional_model], ids=["transformer", "convolutional"])
def model(request, tmp_path):
    return request.param(tmp_path / "source")


def finished(folder):
    return Stage("teacher", "toy", 1, {}).finish(folder, {})


def test_they_are_what_torch_counts_for_the_whole_classifier_and_the_same_for_its_export(model, tmp_path):
    save_model(model, tmp_path / "torch", tmp_path / "source")
    export(OnnxRuntimeExport(), model, tmp_path / "source", tmp_path / "onnx")
    ids = torch.ones(1, TOKENS, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.classifier.eval()(ids, ids)
    told = [mflops_of([finished(tmp_path / name)]) for name in ("torch", "onnx")]
    assert told[0] == told[1] == counter.get_total_flops() / 1e6


def test_a_set_of_models_needs_the_sum(model, tmp_path):
    save_model(model, tmp_path / "torch", tmp_path / "source")
    artifact = finished(tmp_path / "torch")
    assert mflops_of([artifact, artifact]) == 2 * mflops_of([artifact])


def test_of_a_family_that_is_not_known_nothing_is_said(tmp_path):
    from transformers import GPT2Config, GPT2Model

    model = transformer_model(tmp_path / "source")
    assert encoder_mflops(model.backbone.module) > 0
    other = GPT2Model(GPT2Config(vocab_size=8, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    assert encoder_mflops(Transformer(other)) is None
