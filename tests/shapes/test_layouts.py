"""Whatever files a backbone is published as, its tokenizer and encoder come out as its makers meant them."""

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from polyfold.errors import InputError
from polyfold.model.backbone import (
    family_of,
    load_backbone,
    prefer_plain_attention,
    rebuild,
    replace_embedding,
    resized,
    token_embedding,
)
from polyfold.model.classifier import new_classifier, save_model
from polyfold.text import open_tokenizer, pad
from toys_shapes import SHAPES, write_shape
from toys_torch import TASKS, WORDS, toy_documents, word_pieces

TEXTS = [*toy_documents(20, 1).texts, "unseen Wörter xyz!", "", "☃ waiter", "word " * 40]
BY_NAME = {shape.name: shape for shape in SHAPES}
MMBERT = BY_NAME["mmBERT-small"]


@pytest.fixture(scope="module")
def mmbert(tmp_path_factory):
    """The folder of a toy mmBERT; four layers, the first and the last of them global."""
    return write_shape(tmp_path_factory.mktemp("hub") / "mmbert", MMBERT)


def loaded(folder, target):
    target.mkdir(exist_ok=True)
    return load_backbone(str(folder), target, target)


def states(module, ids, pad_id):
    input_ids, mask = pad(ids, pad_id)
    with torch.no_grad():
        return module.eval()(torch.from_numpy(input_ids), torch.from_numpy(mask))


def test_every_shape_that_must_work_is_in_the_list():
    assert [shape.hub_id for shape in SHAPES] == [
        "FacebookAI/xlm-roberta-base",
        "google-bert/bert-base-multilingual-cased",
        "nreimers/mMiniLMv2-L12-H384-distilled-from-XLMR-Large",
        "nreimers/mMiniLMv2-L6-H384-distilled-from-XLMR-Large",
        "microsoft/Multilingual-MiniLM-L12-H384",
        "microsoft/xtremedistil-l6-h384-uncased",
        "jhu-clsp/mmBERT-small",
    ]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_true_configurations_have_the_published_number_of_parameters(shape):
    """Counted on the meta device, so that no memory is taken."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(**shape.config)
    options = {} if config.model_type == "modernbert" else {"add_pooling_layer": False}
    with torch.device("meta"):
        encoder = AutoModel.from_config(config, **options)
    assert sum(value.numel() for value in encoder.parameters()) / 1e6 == pytest.approx(shape.parameters, abs=0.6)


@pytest.mark.parametrize("told", [True, False])
def test_a_cased_vocabulary_alone_is_read_with_its_capitals(tmp_path, told):
    """Without a tokenizer_config.json transformers would lower every text, and no capital would be met."""
    folder = write_shape(tmp_path / "hub", BY_NAME["bert-base-multilingual-cased"])
    (folder / "tokenizer.json").unlink()
    pieces = [*word_pieces()[:-1], "Waiter"]  # as long as the table
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf8")
    if not told:
        (folder / "tokenizer_config.json").unlink()
    backbone = loaded(folder, tmp_path / "out")
    ids = open_tokenizer(tmp_path / "out", backbone.tokenizer).encode(["Waiter waiter"], 9).ids[0]
    assert [pieces[index] for index in ids] == ["[CLS]", "Waiter", "waiter", "[SEP]"]


@pytest.mark.parametrize("told", [True, False])
def test_an_uncased_vocabulary_alone_lowers_texts(tmp_path, told):
    folder = write_shape(tmp_path / "hub", BY_NAME["xtremedistil-l6-h384-uncased"])
    if not told:
        (folder / "tokenizer_config.json").unlink()
    backbone = loaded(folder, tmp_path / "out")
    ids = open_tokenizer(tmp_path / "out", backbone.tokenizer).encode(["WAITER Waiter"], 9).ids[0]
    assert [word_pieces()[index] for index in ids] == ["[CLS]", "waiter", "waiter", "[SEP]"]


def test_a_sentencepiece_model_alone_gives_the_ids_of_the_json_beside_it(tmp_path):
    folder = write_shape(tmp_path / "hub", BY_NAME["xlm-roberta-base"])
    both = loaded(folder, tmp_path / "both")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    alone = loaded(folder, tmp_path / "alone")
    assert both.tokenizer == alone.tokenizer
    first, second = (open_tokenizer(tmp_path / name, alone.tokenizer) for name in ("both", "alone"))
    for one, other in zip(first.encode(TEXTS, 99).ids, second.encode(TEXTS, 99).ids, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_loading_is_silent_about_weights_that_nobody_reads(tmp_path, shape, caplog, capsys):
    """Poolers and language-model heads: every one of these has some."""
    folder = write_shape(tmp_path / "hub", shape)
    capsys.readouterr()
    with caplog.at_level(logging.WARNING):
        loaded(folder, tmp_path / "out")
    assert "UNEXPECTED" not in caplog.text
    assert capsys.readouterr().err == ""


def test_missing_weights_are_named(tmp_path):
    folder = write_shape(tmp_path / "hub", MMBERT)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if name.endswith("layers.1.attn.Wqkv.weight"))
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks weights: .*layers\.1\.attn\.Wqkv\.weight"):
        loaded(folder, tmp_path / "out")


def test_a_family_is_told_without_loading_weights(tmp_path, mmbert):
    assert family_of("use-multilingual", tmp_path) == "use-multilingual"
    assert family_of(str(mmbert), tmp_path) == family_of(mmbert.name, mmbert.parent) == "modernbert"
    (tmp_path / "ours").mkdir()
    model = new_classifier(loaded(mmbert, tmp_path / "ours"), TASKS, 24, 0)
    save_model(model, tmp_path / "ours", tmp_path / "ours")
    assert family_of("ours", tmp_path) == "modernbert"


# --- ModernBERT: rotary positions, local and global attention ---


def test_mmbert_loads_with_all_its_positions(tmp_path, mmbert):
    backbone = loaded(mmbert, tmp_path / "out")
    assert (backbone.family, backbone.width, backbone.max_length) == ("modernbert", 32, 64)
    assert new_classifier(backbone, TASKS, 64, 0).max_length == 64
    with pytest.raises(InputError, match="64 or less"):
        new_classifier(backbone, TASKS, 65, 0)


def test_mmbert_falls_back_to_bytes_where_it_has_no_piece(tmp_path, mmbert):
    backbone = loaded(mmbert, tmp_path / "out")
    tokenizer = open_tokenizer(tmp_path / "out", backbone.tokenizer)
    vocabulary = json.loads((tmp_path / "out" / "tokenizer.json").read_bytes())["model"]["vocab"]
    ids = tokenizer.encode(["☃"], 20).ids[0]
    assert [vocabulary[f"<0x{byte:02X}>"] for byte in "☃".encode()] == ids[1:-1].tolist()
    assert (ids[0], ids[-1]) == (2, 1)
    assert tokenizer.unknown_id not in np.concatenate(tokenizer.encode([*TEXTS, *WORDS], 99).ids)


def test_mmberts_local_attention_leaves_out_what_is_outside_its_window(tmp_path, mmbert):
    """Otherwise the toy would not tell a window from none: here the two global layers are made local too."""
    backbone = loaded(mmbert, tmp_path / "out")
    local = rebuild("modernbert", {**backbone.config, "layer_types": ["sliding_attention"] * 4})
    local.load_state_dict(backbone.module.state_dict())
    ids = np.arange(270, 310)
    changed = np.where(np.arange(40) > 4 * 4, ids + 40, ids)  # further than four windows of 4 can carry it
    first, second = states(local, [ids, changed], 0)
    assert torch.allclose(first, second, atol=1e-6)
    first, second = states(backbone.module, [ids, changed], 0)
    assert not torch.allclose(first, second, atol=1e-4)


def test_mmbert_gives_the_same_states_in_plain_attention_padded_and_rebuilt(tmp_path, mmbert):
    backbone = loaded(mmbert, tmp_path / "out")
    encoding = open_tokenizer(tmp_path / "out", backbone.tokenizer).encode(TEXTS, 64)
    together = states(backbone.module, encoding.ids, 0)
    for row, one in enumerate(encoding.ids):
        assert torch.allclose(states(backbone.module, [one], 0)[0], together[row], atol=1e-5)
    again = rebuild(backbone.family, json.loads(json.dumps(dict(backbone.config))))
    again.load_state_dict(backbone.module.state_dict())
    assert torch.allclose(states(again, encoding.ids, 0), together, atol=1e-6)
    prefer_plain_attention(backbone.module)
    assert torch.allclose(states(backbone.module, encoding.ids, 0), together, atol=1e-5)


def test_a_cut_table_names_no_special_token_that_it_does_not_hold(tmp_path, mmbert, caplog):
    """English ModernBERT has its special tokens last: their ids are beyond a trimmed table."""
    backbone = loaded(mmbert, tmp_path / "out")
    backbone.config.update(eos_token_id=450, cls_token_id=451)
    replace_embedding(backbone.module, token_embedding(backbone.module).weight.detach()[:300], 0)
    described = resized(backbone, backbone.tokenizer)
    assert (described.config["eos_token_id"], described.config["cls_token_id"]) == (None, None)
    assert described.config["bos_token_id"] == 2
    with caplog.at_level(logging.WARNING):
        rebuild("modernbert", described.config)
    assert "must be" not in caplog.text
