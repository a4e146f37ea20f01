"""Weights to start from: hub folders, and our own models with their heads left behind."""

import pytest
import torch

from polyfold.errors import InputError
from polyfold.model.classifier import save_model
from polyfold.model.source import open_backbone
from toys_pipeline import convolutional_model, quantized_toy, toy_ids, transformer_model


@pytest.mark.parametrize("build", [transformer_model, convolutional_model])
def test_a_saved_model_gives_its_encoder_and_its_tokenizer(build, tmp_path):
    model = build(tmp_path / "own")
    save_model(model, tmp_path / "own", tmp_path / "own")
    (tmp_path / "new").mkdir()
    backbone = open_backbone("own", tmp_path / "new", tmp_path)
    ids, mask = (torch.from_numpy(one) for one in toy_ids(40, (3, 9)))
    with torch.no_grad():
        assert torch.equal(backbone.module.eval()(ids, mask), model.classifier.encoder.eval()(ids, mask))
    assert (tmp_path / "new" / "tokenizer.json").read_bytes() == (tmp_path / "own" / "tokenizer.json").read_bytes()


def test_a_quantized_model_is_refused_with_what_to_give_instead(tmp_path):
    model = quantized_toy(convolutional_model(tmp_path / "own"))
    save_model(model, tmp_path / "own", tmp_path / "own")
    with pytest.raises(InputError, match="made from"):
        open_backbone("own", tmp_path, tmp_path)


def test_a_folder_that_is_no_model_of_ours_is_loaded_as_a_published_one(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be loaded"):
        open_backbone("empty", tmp_path, tmp_path)
