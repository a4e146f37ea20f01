"""An encoder's outline has the shape of the encoder itself, without a single weight of it."""

import pytest

from polyfold.errors import InputError
from polyfold.model.backbone import load_backbone
from polyfold.model.internals import shape_of
from polyfold.model.outline import outline, outline_small, with_layers
from polyfold.model.student import ConvolutionalInit, TransformerInit, small_encoder
from toys_torch import save_artifact, toy_model, write_hub_folder


@pytest.mark.parametrize("kind", ("bert", "xlm-roberta", "roberta", "distilbert"))
def test_the_outline_of_a_published_encoder_has_its_shape(kind, tmp_path):
    write_hub_folder(tmp_path / kind, kind)
    drawn, real = outline(kind, tmp_path), load_backbone(kind, tmp_path, tmp_path)
    assert {value.device.type for value in drawn.module.parameters()} == {"meta"}
    assert shape_of(drawn) == shape_of(real)
    assert shape_of(with_layers(drawn, (1,))).layers == 1


@pytest.mark.parametrize(
    "init",
    (
        TransformerInit(layers=3, width=16, heads=4),
        ConvolutionalInit(embedding_width=16, branch_width=8, sentence_width=24, dense_width=8),
    ),
    ids=lambda init: init.kind,
)
def test_the_outline_of_a_small_encoder_has_its_shape(init):
    drawn = outline_small(init)
    assert shape_of(drawn) == shape_of(small_encoder(init, drawn.tokenizer, 100, 32))


def test_the_outline_of_a_finished_model_has_its_shape_and_layers_must_exist(tmp_path):
    model = toy_model(tmp_path / "source")
    artifact = save_artifact(model, tmp_path / "source", tmp_path)
    drawn = outline(str(artifact.path), tmp_path)
    assert shape_of(drawn) == shape_of(model.backbone)
    with pytest.raises(InputError, match="no layers to choose from"):
        with_layers(drawn, (0,))
    with pytest.raises(InputError, match="there is no layer 3"):
        with_layers(outline_small(TransformerInit(layers=3, width=16, heads=4)), (0, 3))
