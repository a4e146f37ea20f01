"""Backbones of every family load from the hub's layouts, with the ids and weights that their makers meant."""

import json
import shutil

import numpy as np
import pytest
import sentencepiece
import torch
from huggingface_hub import constants
from transformers import AutoModel, BertTokenizer

from polyfold.errors import InputError
from polyfold.model import backbone
from polyfold.model.backbone import (
    load_backbone,
    prefer_plain_attention,
    rebuild,
    replace_embedding,
    resized,
    token_embedding,
    token_lengths,
)
from polyfold.model.classifier import new_classifier
from polyfold.text import open_tokenizer, pad
from toys_torch import HUB_FOLDERS, TASKS, toy_documents, write_hub_folder

TEXTS = [*toy_documents(30, 1).texts, "unseen Wörter xyz!", "", "  waiter   cheap ", "荷物 waiter荷物"]
XLM_R = ("xlm-roberta", "mminilm-v1", "mminilm-v2")


def made(folder):
    folder.mkdir()
    return folder


def encoded(loaded, texts=TEXTS, max_length=100):
    tokenizer = open_tokenizer(loaded.folder, loaded.backbone.tokenizer)
    return tokenizer.encode(texts, max_length).ids


def states(module, ids, pad_id, length=None):
    input_ids, mask = pad(ids, pad_id, length)
    with torch.no_grad():
        return module.eval()(torch.from_numpy(input_ids), torch.from_numpy(mask))


@pytest.mark.parametrize(
    ("kind", "family", "positions", "pad_id"),
    [
        ("xlm-roberta", "xlm-roberta", 32, 1),
        ("mminilm-v2", "xlm-roberta", 32, 1),
        ("bert", "bert", 32, 0),
        ("xtremedistil", "bert", 32, 0),
        ("mminilm-v1", "bert", 32, 0),
    ],
)
def test_every_layout_loads_with_its_family_width_and_usable_positions(load, kind, family, positions, pad_id):
    loaded = load(kind).backbone
    assert (loaded.family, loaded.width, loaded.max_length) == (family, 32, positions)
    assert loaded.tokenizer.pad_id == pad_id
    assert loaded.weights == "trained"
    # The greatest length works and one token more does not: the position table is fully used.
    ids = torch.full((1, positions), 5)
    assert loaded.module(ids, torch.ones_like(ids)).shape == (1, 32)
    longer = torch.full((1, positions + 1), 5)
    with pytest.raises((IndexError, RuntimeError)):
        loaded.module(longer, torch.ones_like(longer))


@pytest.mark.parametrize("kind", HUB_FOLDERS)
def test_a_document_is_read_at_the_first_token_of_the_last_layer_as_transformers_computes_it(hub, load, kind):
    loaded = load(kind)
    ids = encoded(loaded, TEXTS[:3])
    theirs = AutoModel.from_pretrained(hub / kind, add_pooling_layer=False).eval()
    for one in ids:
        row = torch.from_numpy(one)[None]
        with torch.no_grad():
            expected = theirs(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[:, 0]
        found = states(loaded.backbone.module, [one], loaded.backbone.tokenizer.pad_id)
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", HUB_FOLDERS)
def test_padding_changes_nothing(load, kind):
    loaded = load(kind)
    ids, pad_id = encoded(loaded), loaded.backbone.tokenizer.pad_id
    together = states(loaded.backbone.module, ids, pad_id, 32)
    for row, one in enumerate(ids):
        assert torch.allclose(states(loaded.backbone.module, [one], pad_id)[0], together[row], atol=1e-5)


@pytest.mark.parametrize("kind", XLM_R)
def test_xlm_r_vocabularies_give_xlm_r_ids_with_and_without_a_tokenizer_json(hub, load, kind):
    """XLM-R numbers its own SentencePiece model's pieces from 1 on, with <s> 0, <pad> 1, </s> 2 and <unk> 3."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(hub / kind / "sentencepiece.bpe.model"))
    for text, ids in zip(TEXTS, encoded(load(kind)), strict=True):
        pieces = [3 if piece == model.unk_id() else piece + 1 for piece in model.encode(" ".join(text.split()))]
        assert ids.tolist() == [0, *pieces, 2], text


def test_multilingual_minilm_keeps_the_normalization_of_its_sentencepiece_model(tmp_path):
    """XLM-R's model folds full-width letters, ligatures and combining accents before it looks for pieces."""
    folder = write_hub_folder(tmp_path / "v1", "mminilm-v1")
    sentences = [*toy_documents(300, 5).texts, *["ABC fine café 123"] * 9]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(folder / "sentencepiece.bpe"), vocab_size=170,
        hard_vocab_limit=False, minloglevel=2, normalization_rule_name="nmt_nfkc",
    )  # fmt: skip
    loaded = load_backbone("v1", tmp_path, tmp_path)
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    for text in ("ＡＢＣ ﬁne cafe\u0301", "１２３ waiter", "ABC\u3000fine"):
        expected = [3 if piece == model.unk_id() else piece + 1 for piece in model.encode(text)]
        found = open_tokenizer(tmp_path, loaded.tokenizer).encode([text], 100).ids[0]
        assert found.tolist() == [0, *expected, 2]


def test_multilingual_minilm_loads_by_its_hub_id_too(hub, tmp_path, monkeypatch):
    """From the hub's cache, where no folder can be looked into: the configuration names the tokenizer's class."""
    cache = tmp_path / "cache" / "models--toy--v1"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    shutil.copytree(hub / "mminilm-v1", cache / "snapshots" / "abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backbone, "hub_options", lambda source: {"local_files_only": True})
    loaded = load_backbone("toy/v1", tmp_path, tmp_path)
    local = load_backbone("mminilm-v1", made(tmp_path / "local"), hub)
    for text in TEXTS:
        by_id = open_tokenizer(tmp_path, loaded.tokenizer).encode([text], 100).ids[0]
        by_folder = open_tokenizer(tmp_path / "local", local.tokenizer).encode([text], 100).ids[0]
        assert by_id.tolist() == by_folder.tolist()


@pytest.mark.parametrize("kind", ["bert", "xtremedistil"])
def test_word_pieces_are_those_of_berts_own_tokenizer(hub, load, kind):
    theirs = BertTokenizer(vocab=str(hub / kind / "vocab.txt"), do_lower_case=False)
    for text, ids in zip(TEXTS, encoded(load(kind)), strict=True):
        assert ids.tolist() == theirs(text)["input_ids"], text


def test_a_half_precision_checkpoint_is_trained_in_full_precision(tmp_path):
    write_hub_folder(tmp_path / "half", "xlm-roberta", dtype=torch.float16)
    loaded = load_backbone("half", tmp_path, tmp_path)
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float32}
    again = rebuild(loaded.family, loaded.config)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", HUB_FOLDERS)
def test_an_encoder_rebuilt_from_its_configuration_takes_the_same_weights(load, kind):
    loaded = load(kind)
    again = rebuild(loaded.backbone.family, json.loads(json.dumps(dict(loaded.backbone.config))))
    again.load_state_dict(loaded.backbone.module.state_dict())
    ids, pad_id = encoded(loaded), loaded.backbone.tokenizer.pad_id
    assert torch.equal(states(again, ids, pad_id), states(loaded.backbone.module, ids, pad_id))


@pytest.mark.parametrize("kind", HUB_FOLDERS)
def test_a_permuted_table_with_permuted_ids_is_the_same_encoder(load, kind):
    loaded = load(kind)
    ids, spec = encoded(loaded), loaded.backbone.tokenizer
    before = states(loaded.backbone.module, ids, spec.pad_id)
    table = token_embedding(loaded.backbone.module).weight.detach()
    # XLM-R counts positions from its pad id, so that one keeps its place.
    places = np.arange(len(table))
    places[4:] = np.random.default_rng(0).permutation(places[4:])
    replace_embedding(loaded.backbone.module, table[torch.from_numpy(places)], spec.pad_id)
    new_ids = np.argsort(places)
    after = states(loaded.backbone.module, [new_ids[one] for one in ids], spec.pad_id)
    assert torch.allclose(before, after, atol=1e-6)


def test_a_shorter_table_is_described_anew(load):
    loaded = load("bert")
    replace_embedding(loaded.backbone.module, torch.zeros(50, 32), 7)
    described = resized(loaded.backbone, loaded.backbone.tokenizer.model_copy(update={"pad_id": 7}))
    assert described.config["vocab_size"] == 50
    assert described.config["pad_token_id"] == 7
    rebuild("bert", described.config).load_state_dict(described.module.state_dict())


def test_plain_attention_gives_the_same_states(load):
    loaded = load("xlm-roberta")
    ids = encoded(loaded)
    before = states(loaded.backbone.module, ids, 1)
    prefer_plain_attention(loaded.backbone.module)
    assert torch.allclose(before, states(loaded.backbone.module, ids, 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["xlm-roberta", "mminilm-v1"])
def test_token_lengths_are_those_of_the_loaded_tokenizer(hub, load, kind):
    lengths = token_lengths(kind, {"train": TEXTS, "dev": TEXTS[:2]}, hub)
    assert lengths["train"].tolist() == [len(ids) for ids in encoded(load(kind))]
    assert lengths["dev"].tolist() == lengths["train"][:2].tolist()


def test_an_unknown_family_names_the_known_ones(tmp_path):
    folder = write_hub_folder(tmp_path / "other", "bert")
    settings = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "electra"}))
    with pytest.raises(
        InputError, match=r"'electra'.*\n.*bert, distilbert, modernbert, roberta, xlm-roberta.*use-multilingual"
    ):
        load_backbone("other", tmp_path, tmp_path)


def test_a_folder_that_is_not_there_is_answered_with_what_may_be_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"'no/such'.*cannot be loaded(.|\n)*use-multilingual.*folder.*hub id"):
        load_backbone("no/such", tmp_path, tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    folder = write_hub_folder(tmp_path / "bare", "xtremedistil")
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="tokenizer"):
        load_backbone("bare", tmp_path, tmp_path)


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert"])
def test_a_max_length_beyond_the_positions_is_refused_with_the_greatest_allowed(load, kind):
    loaded = load(kind).backbone
    assert new_classifier(loaded, TASKS, 32, 0).max_length == 32
    with pytest.raises(InputError, match=r"max_length 33.*32 positions\n.*32 or less"):
        new_classifier(loaded, TASKS, 33, 0)
