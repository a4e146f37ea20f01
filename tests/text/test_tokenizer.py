"""Tokenizing laws, on a tiny SentencePiece model and tiny tokenizers JSON files, one of them on the fast road."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_unigram import write_json, xlm_r_form

from polyfold.errors import InputError
from polyfold.text import Tokenizer, TokenizerSpec, open_tokenizer

SENTENCES = [
    "the room was clean and the staff were friendly",
    "la chambre était propre et le personnel aimable",
    "das zimmer war sauber und das personal freundlich",
    "部屋はとても清潔でした",
    "номер был чистым, персонал приветливым",
]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]


def unigram_json() -> dict:
    """A tokenizers JSON in XLM-R's form whose pieces are the words and characters of the sentences."""
    words = sorted({f"▁{word}" for sentence in SENTENCES for word in sentence.split()})
    characters = sorted({character for sentence in SENTENCES for character in sentence if character != " "})
    vocab = [[piece, 0.0] for piece in SPECIALS]
    vocab += [[piece, -4.0 - 0.01 * place] for place, piece in enumerate(["▁", *words])]
    vocab += [[piece, -9.0 - 0.01 * place] for place, piece in enumerate(characters)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, piece in enumerate(SPECIALS)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": True,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
                "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]},
            },
        },
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    (folder / "framed.json").write_text(json.dumps(unigram_json()), encoding="utf8")
    (folder / "bare.json").write_text(json.dumps(unigram_json() | {"post_processor": None}), encoding="utf8")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_prefix=str(folder / "tiny"),
        vocab_size=120,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    write_json(folder / "fast", xlm_r_form())
    specs = {
        "fast json": TokenizerSpec(kind="tokenizers", file="fast/tokenizer.json", pad_id=1),
        "json": TokenizerSpec(kind="tokenizers", file="framed.json", pad_id=1),
        "json without specials": TokenizerSpec(kind="tokenizers", file="bare.json", pad_id=1),
        "sentencepiece": TokenizerSpec(kind="sentencepiece", file="tiny.model", pad_id=0, begin_id=1, end_id=2),
        "sentencepiece without specials": TokenizerSpec(kind="sentencepiece", file="tiny.model", pad_id=0),
        "sentencepiece as in XLM-R": TokenizerSpec(
            kind="sentencepiece",
            file="tiny.model",
            pad_id=1,
            offset=1,
            begin_id=0,
            end_id=2,
            unk_id=3,
            extra=1,
        ),
    }
    return {name: open_tokenizer(folder, spec) for name, spec in specs.items()}


KINDS = (
    "fast json",
    "json",
    "json without specials",
    "sentencepiece",
    "sentencepiece without specials",
    "sentencepiece as in XLM-R",
)
kinds = st.sampled_from(KINDS)
# Any code point at all, lone surrogates and NUL included, mixed with words that the tokenizers know.
anything = st.text(st.characters(exclude_categories=()), max_size=20)
words = st.lists(st.sampled_from(" ".join(SENTENCES).split()), max_size=8).map(" ".join)
documents = st.one_of(anything, words, st.tuples(words, anything).map(" ".join))


@settings(max_examples=150, deadline=None)
@given(kind=kinds, texts=st.lists(documents, max_size=6), max_length=st.integers(3, 12))
def test_a_batch_is_tokenized_as_its_documents_one_by_one(tokenizers, kind, texts, max_length):
    tokenizer = tokenizers[kind]
    batch = tokenizer.encode(texts, max_length)
    assert len(batch) == len(texts) == len(batch.truncated)
    for place, text in enumerate(texts):
        alone = tokenizer.encode([text], max_length)
        assert alone.ids[0].tolist() == batch.ids[place].tolist()
        assert alone.truncated[0] == batch.truncated[place]


@settings(max_examples=150, deadline=None)
@given(kind=kinds, text=documents, max_length=st.integers(3, 12))
def test_only_a_document_that_is_too_long_is_cut_and_it_keeps_its_frame(tokenizers, kind, text, max_length):
    tokenizer = tokenizers[kind]
    whole, cut = tokenizer.encode([text], 10_000), tokenizer.encode([text], max_length)
    assert not whole.truncated[0]
    assert cut.truncated[0] == (len(whole.ids[0]) > max_length)
    if not cut.truncated[0]:
        assert cut.ids[0].tolist() == whole.ids[0].tolist()
        return
    assert len(cut.ids[0]) == max_length
    end = 0 if "without" in kind else 1
    kept = max_length - end
    assert cut.ids[0][:kept].tolist() == whole.ids[0][:kept].tolist()
    assert cut.ids[0][kept:].tolist() == whole.ids[0][len(whole.ids[0]) - end :].tolist()


@settings(max_examples=150, deadline=None)
@given(kind=kinds, text=documents)
def test_any_string_becomes_at_least_one_id_of_the_vocabulary(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode([text], 64).ids[0]
    assert ids.dtype == np.int64
    assert len(ids) >= 1
    assert 0 <= ids.min() <= ids.max() < tokenizer.vocabulary_size


@pytest.mark.parametrize("kind", KINDS)
def test_a_lone_surrogate_is_a_replacement_character_and_a_pair_is_its_character(tokenizers, kind):
    tokenizer = tokenizers[kind]
    written = tokenizer.encode(["clean \ud83d room", "a \ud83d\ude00 b"], 64)
    meant = tokenizer.encode(["clean \ufffd room", "a \U0001f600 b"], 64)
    assert [ids.tolist() for ids in written.ids] == [ids.tolist() for ids in meant.ids]


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_character_is_the_unknown_id_and_a_known_word_is_not(tokenizers, kind):
    tokenizer = tokenizers[kind]
    known, unknown = tokenizer.encode(["the room", "the \u1234 room"], 64).ids
    assert tokenizer.unknown_id not in known.tolist()
    assert unknown.tolist().count(tokenizer.unknown_id) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_very_long_texts_and_no_texts_are_tokenized(tokenizers, kind):
    tokenizer = tokenizers[kind]
    encoding = tokenizer.encode(["room " * 50_000, "x" * 200_000], 128)
    assert encoding.truncated[0]
    assert len(encoding.ids[0]) == 128
    # Neither vocabulary knows the letter x: both libraries make one unknown token of the whole run.
    assert encoding.ids[1].tolist().count(tokenizer.unknown_id) == 1
    assert not encoding.truncated[1]
    assert len(tokenizer.encode([], 128)) == 0


def test_xlm_r_numbering_frames_documents_and_moves_every_piece_by_one(tokenizers):
    plain = tokenizers["sentencepiece without specials"]
    moved = tokenizers["sentencepiece as in XLM-R"]
    for text in [*SENTENCES, "the \u1234 room"]:
        before, after = plain.encode([text], 99).ids[0].tolist(), moved.encode([text], 99).ids[0].tolist()
        assert after == [0, *(3 if piece == 0 else piece + 1 for piece in before), 2]
    assert moved.vocabulary_size == plain.vocabulary_size + 2


@pytest.mark.parametrize("kind", KINDS)
def test_threads_that_share_a_tokenizer_do_not_disturb_each_other(tokenizers, kind):
    tokenizer = tokenizers[kind]
    texts = [*SENTENCES] * 20

    def encode(max_length: int) -> list[list[int]]:
        return [ids.tolist() for ids in tokenizer.encode(texts, max_length).ids]

    wanted = {max_length: encode(max_length) for max_length in (3, 5, 8)}
    with ThreadPoolExecutor(3) as pool:
        for max_length, ids in zip([3, 5, 8] * 10, pool.map(encode, [3, 5, 8] * 10), strict=True):
            assert ids == wanted[max_length]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_length", [-1, 0, 1, 2])
def test_a_length_without_room_for_text_is_refused(tokenizers, kind, max_length):
    specials = 0 if "without" in kind else 2
    if max_length > specials:
        assert max(tokenizers[kind].encode(SENTENCES, max_length).lengths) == max_length
        return
    with pytest.raises(InputError, match="no room for text"):
        tokenizers[kind].encode(["the room"], max_length)


@pytest.mark.parametrize("kind", ["tokenizers", "sentencepiece"])
@pytest.mark.parametrize("content", [None, b"", b"garbage" * 30, b"{}", b"\xff\xfe"])
def test_a_missing_or_damaged_tokenizer_file_is_the_users_error(tmp_path: Path, kind, content):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer|SentencePiece"):
        open_tokenizer(tmp_path, TokenizerSpec(kind=kind, file="file", pad_id=0))
