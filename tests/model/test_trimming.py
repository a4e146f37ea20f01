"""A trimmed model answers covered texts exactly as the full one does, and every other text somehow."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from polyfold.model.backbone import load_backbone, token_embedding
from polyfold.model.classifier import Model, load_model, new_classifier, save_model
from polyfold.model.tokenizer_files import read_pieces
from polyfold.model.trimming import TrimVocabulary, trim
from polyfold.model.vocabulary import choose_pieces, count_pieces
from polyfold.text import open_tokenizer, pad
from toys_torch import CHARACTERS, MAX_LENGTH, TASKS, WORDS, toy_documents, toy_use_backbone

KINDS = ("use-multilingual", "xlm-roberta", "mminilm-v1", "bert", "bpe of bytes")
COUNTED = toy_documents(25, 1).texts
OTHERS = toy_documents(60, 2).texts
FOREIGN = ["", " ", "xyz €", "waiter荷物", "привет мир", "w a i t e r", "\x00", "a" * 300, "😀 invoice"]


def spoken(texts, language="und"):
    """Texts as trimming takes them."""
    return ((language, text) for text in texts)


def logits(folder, model, texts):
    ids = open_tokenizer(folder, model.backbone.tokenizer).encode(texts, model.max_length).ids
    batch = tuple(torch.from_numpy(array) for array in pad(ids, model.backbone.tokenizer.pad_id))
    with torch.no_grad():
        return torch.cat(list(model.classifier.eval()(*batch).logits.values()), dim=1)


def make(kind, load, folder):
    if kind == "use-multilingual":
        return toy_use_backbone(folder / "full"), folder / "full"
    if kind == "bpe of bytes":
        write_modernbert(folder / "hub" / "modernbert")
        (folder / "full").mkdir()
        return load_backbone("modernbert", folder / "full", folder / "hub"), folder / "full"
    loaded = load(kind)
    return loaded.backbone, loaded.folder


def write_modernbert(folder):
    """The newest layout: a BPE over bytes, special tokens at its end, named by id in the configuration."""
    from transformers import ModernBertConfig, ModernBertModel

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [*WORDS, *COUNTED, *OTHERS],
        trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False),
    )
    names = ("[CLS]", "[SEP]", "[PAD]", "[MASK]")
    backend.add_special_tokens([AddedToken(name) for name in names])
    begin, end, pad_id, _ = ids = [backend.token_to_id(name) for name in names]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", begin), ("[SEP]", end)]
    )
    config = ModernBertConfig(
        vocab_size=max(ids) + 9, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=32, pad_token_id=pad_id, bos_token_id=begin, eos_token_id=end, cls_token_id=begin,
        sep_token_id=end,
    )  # fmt: skip
    torch.manual_seed(0)
    ModernBertModel(config).save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))


def trimmed(kind, load, folder, spec):
    """The full model's logits on all texts, the trimmed model, its folder, and what trimming said."""
    backbone, source = make(kind, load, folder)
    model = new_classifier(backbone, TASKS, MAX_LENGTH, 0)
    before = logits(source, model, [*COUNTED, *OTHERS])
    full = open_tokenizer(source, backbone.tokenizer)
    target = folder / "trimmed"
    target.mkdir()
    told = trim(spec, backbone, source, target, spoken(COUNTED), spoken(OTHERS))
    small = Model(model.classifier, model.tasks, told.backbone, model.max_length)
    return before, full, small, target, told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep_characters", [True, False])
def test_logits_are_the_same_on_every_text_whose_pieces_are_kept(kind, keep_characters, load, tmp_path):
    spec = TrimVocabulary(coverage=1.0, keep_characters=keep_characters)
    before, full, small, target, told = trimmed(kind, load, tmp_path, spec)
    rows = told.report.pieces_after
    assert rows == token_embedding(small.classifier.encoder).num_embeddings < told.report.pieces_before
    tokenizer = open_tokenizer(target, small.backbone.tokenizer)
    assert tokenizer.vocabulary_size == rows
    texts = [*COUNTED, *OTHERS]
    counted = {int(i) for ids in full.encode(COUNTED, 1000).ids for i in ids}
    covered = [set(ids.tolist()) <= counted for ids in full.encode(texts, 1000).ids]
    assert all(covered[: len(COUNTED)])
    assert 0 < sum(covered[len(COUNTED) :]) < len(OTHERS)
    after = logits(target, small, texts)
    assert torch.allclose(after[covered], before[covered], atol=1e-6)
    # The trim did cut something: some text is now read otherwise, unless every character piece is still there.
    assert told.report.changed_share > 0


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_are_not_covered_fall_back_to_characters_and_to_the_unknown_piece(kind, load, tmp_path):
    _, full, small, target, told = trimmed(kind, load, tmp_path, TrimVocabulary(coverage=0.6))
    tokenizer = open_tokenizer(target, small.backbone.tokenizer)
    assert torch.isfinite(logits(target, small, [*FOREIGN, *OTHERS])).all()
    unknown = tokenizer.unknown_id
    dropped = [word for word in WORDS if word.isascii() and len(full.encode([word], 100).ids[0]) == 3]
    lengths = [len(ids) for ids in tokenizer.encode(dropped, 100).ids]
    spelled = [word for word, length in zip(dropped, lengths, strict=True) if length > 3]
    assert spelled, "some word was cut from the vocabulary"
    for ids in tokenizer.encode(spelled, 100).ids:
        # Latin letters were seen, so all of them stayed: a word is spelled, never lost.
        assert unknown not in ids
    for ids in tokenizer.encode(["€", "Ω"], 100).ids:
        assert unknown in ids if unknown is not None else len(ids) > 3
    assert told.figures()["dev_texts_with_new_unknown"] == pytest.approx(told.report.gained_unknown_share)
    assert told.figures()["pieces_after"] < told.figures()["pieces_before"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_trimmed_model_is_saved_and_loaded_like_any_other(kind, load, tmp_path):
    _, _, small, target, _ = trimmed(kind, load, tmp_path, TrimVocabulary(coverage=0.9))
    expected = logits(target, small, OTHERS)
    save_model(small, tmp_path / "saved", target)
    again = load_model(tmp_path / "saved")
    assert torch.equal(logits(tmp_path / "saved", again, OTHERS), expected)
    assert again.trunk_parameters == small.trunk_parameters


def test_special_tokens_that_the_configuration_names_keep_their_meaning(load, tmp_path):
    _, full, small, target, _ = trimmed("bpe of bytes", load, tmp_path, TrimVocabulary(coverage=0.9))
    before, after = (
        read_pieces(folder, one.spec)
        for folder, one in ((tmp_path / "full", full), (target, open_tokenizer(target, small.backbone.tokenizer)))
    )
    expected = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "cls": "[CLS]", "sep": "[SEP]"}
    assert len(after) < len(before)
    for role, name in expected.items():
        for config in (small.backbone.config, small.classifier.encoder.encoder.config.to_dict()):
            assert after.texts[config[f"{role}_token_id"]] == name


@pytest.mark.parametrize("kind", ["use-multilingual", "xlm-roberta"])
def test_a_size_is_the_number_of_rows(kind, load, tmp_path):
    spec = TrimVocabulary(size=len(CHARACTERS) + 40)
    _, _, small, _, _ = trimmed(kind, load, tmp_path, spec)
    assert token_embedding(small.classifier.encoder).num_embeddings <= spec.size


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from([*WORDS, "xyz", "€"]), max_size=8), st.integers(0, 3))
def test_any_text_gets_the_same_logits_if_its_pieces_are_kept(toys, words, which):
    full_folder, full, target, small, rows = toys[which]
    text = " ".join(words)
    ids = open_tokenizer(full_folder, full.backbone.tokenizer).encode([text], 1000).ids[0]
    after = logits(target, small, [text])
    assert torch.isfinite(after).all()
    unknown = open_tokenizer(full_folder, full.backbone.tokenizer).unknown_id
    # A WordPiece unknown hides the pieces that led to its dead end, so it tells nothing of what is covered.
    if np.isin(ids, rows).all() and not (which == 3 and unknown in ids):
        assert torch.allclose(after, logits(full_folder, full, [text]), atol=1e-6)


@pytest.fixture(scope="module")
def toys(hub, tmp_path_factory):
    """Of each kind the full model, the trimmed model and the rows it kept."""
    found = []
    for kind in KINDS[:4]:
        folder = tmp_path_factory.mktemp("toys")
        models = []
        for name in ("full", "cut"):
            (folder / name).mkdir()
            backbone = (
                toy_use_backbone(folder / name)
                if kind == "use-multilingual"
                else load_backbone(kind, folder / name, hub)
            )
            models.append(new_classifier(backbone, TASKS, MAX_LENGTH, 0))
        full, cut = models
        spec = full.backbone.tokenizer
        counts = count_pieces(open_tokenizer(folder / "full", spec), COUNTED)
        rows = choose_pieces(read_pieces(folder / "full", spec), counts, 0.9, None, True)
        target = folder / "trimmed"
        target.mkdir()
        cutting = TrimVocabulary(coverage=0.9)
        told = trim(cutting, cut.backbone, folder / "cut", target, spoken(COUNTED), spoken(OTHERS))
        assert told.report.pieces_after == len(rows)
        small = Model(cut.classifier, cut.tasks, told.backbone, cut.max_length)
        found.append((folder / "full", full, target, small, rows))
    return found
