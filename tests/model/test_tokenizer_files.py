"""Laws of trimmed tokenizer files: the same pieces where they are kept, the defined fallback elsewhere."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimming_examples import (
    KINDS,
    SENTENCES,
    WORDS,
    XLM_R_LAYOUT,
    Example,
    make_examples,
    sentencepiece_model,
    template,
    train_sentencepiece,
    unigram_json,
    wordpiece_json,
)

from polyfold.errors import InputError
from polyfold.model.tokenizer_files import read_pieces
from polyfold.model.vocabulary import choose_pieces, count_pieces, trim_tokenizer
from polyfold.text import TokenizerSpec


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Example]:
    return make_examples(tmp_path_factory.mktemp("full"))


kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 2**32 - 1)
shares = st.sampled_from([0.0, 0.1, 0.5, 0.9])
phrases = st.lists(st.sampled_from([*WORDS, "[ORDER]", "[MASK]", "<s>"]), max_size=8).map(" ".join)
mixtures = st.text(st.sampled_from("".join(WORDS) + "  ▁#0ß\u4e00\U0001f600\x00"), max_size=20)
texts = st.one_of(phrases, mixtures, st.tuples(phrases, mixtures).map("".join), st.text(max_size=10))


def some_ids(example: Example, share: float, seed: int) -> np.ndarray:
    present = np.flatnonzero(example.pieces.present)
    return present[np.random.default_rng(seed).random(len(present)) < share]


@settings(max_examples=150, deadline=None)
@given(kind=kinds, text=texts, share=shares, seed=seeds)
def test_a_text_whose_pieces_are_kept_has_the_same_pieces(examples, kind, text, share, seed):
    full = examples[kind]
    ids = full.ids(text)
    if full.hides_pieces and full.tokenizer.unknown_id in ids:
        return
    with tempfile.TemporaryDirectory() as folder:
        trimmed, rows = full.trimmed([*ids, *some_ids(full, share, seed)], Path(folder))
        assert rows[trimmed.ids(text)].tolist() == ids


@settings(max_examples=40, deadline=None)
@given(kind=kinds, share=st.sampled_from([0.5, 0.9, 0.97]), seed=seeds)
def test_texts_made_of_kept_pieces_have_the_same_pieces_whenever_the_full_ones_are_kept(
    examples, kind, share, seed
):
    full = examples[kind]
    with tempfile.TemporaryDirectory() as folder:
        trimmed, rows = full.trimmed(some_ids(full, share, seed), Path(folder))
        pieces = trimmed.pieces
        draw = np.random.default_rng(seed)
        for _ in range(20):
            chosen = draw.integers(0, len(pieces), size=5)
            text = "".join((pieces.texts[i] or "").replace("▁", " ").replace("##", "") for i in chosen)
            ids = full.ids(text)
            if set(ids) <= set(rows.tolist()) and not (full.hides_pieces and full.tokenizer.unknown_id in ids):
                assert rows[trimmed.ids(text)].tolist() == ids


@settings(max_examples=30, deadline=None)
@given(kind=kinds, share=shares, seed=seeds)
def test_rows_are_sorted_hold_what_was_asked_and_carry_every_special_id(examples, kind, share, seed):
    full = examples[kind]
    keep = some_ids(full, share, seed)
    with tempfile.TemporaryDirectory() as folder:
        trimmed, rows = full.trimmed(keep, Path(folder))
        assert np.all(np.diff(rows) > 0)
        assert set(keep.tolist()) <= set(rows.tolist())
        assert trimmed.tokenizer.vocabulary_size == len(rows)
        before = full.pieces
        after = trimmed.pieces
        assert [before.texts[old] for old in rows] == list(after.texts)
        assert before.special.sum() == after.special.sum() == before.special[rows].sum()
        assert rows[trimmed.spec.pad_id] == full.spec.pad_id
        if full.spec.kind == "sentencepiece":
            names = ("unk_id", "bos_id", "eos_id")
            old, new = full.content(), trimmed.content()
            for name in names:
                piece = old.pieces[getattr(old.trainer_spec, name)].piece
                assert new.pieces[getattr(new.trainer_spec, name)].piece == piece
            assert new.trainer_spec.vocab_size == len(new.pieces)
        if full.tokenizer.unknown_id is not None:
            assert rows[trimmed.tokenizer.unknown_id] == full.tokenizer.unknown_id
        assert rows[trimmed.ids("")].tolist() == full.ids("")


@pytest.mark.parametrize("kind", KINDS)
def test_trimming_with_everything_kept_changes_nothing(examples, kind, tmp_path):
    full = examples[kind]
    trimmed, rows = full.trimmed(np.arange(full.tokenizer.vocabulary_size), tmp_path)
    assert rows.tolist() == list(range(full.tokenizer.vocabulary_size))
    assert trimmed.spec == full.spec
    assert trimmed.content() == full.content()


@settings(max_examples=30, deadline=None)
@given(kind=kinds, seed=seeds)
def test_trimming_twice_is_trimming_once_with_the_smaller_set(examples, kind, seed):
    full = examples[kind]
    larger = some_ids(full, 0.6, seed)
    smaller = larger[: len(larger) // 2]
    with tempfile.TemporaryDirectory() as folder:
        first, rows = full.trimmed(larger, Path(folder) / "first")
        second, rows_of_first = first.trimmed(np.searchsorted(rows, smaller), Path(folder) / "second")
        once, rows_once = full.trimmed(smaller, Path(folder) / "once")
        assert rows[rows_of_first].tolist() == rows_once.tolist()
        assert second.spec == once.spec
        assert second.content() == once.content()


@settings(max_examples=30, deadline=None)
@given(text=phrases, share=shares, seed=seeds)
def test_both_libraries_give_the_same_new_ids(examples, text, share, seed):
    one, other = examples["unigram"], examples["sentencepiece as in XLM-R"]
    text = text.replace("[MASK]", "").replace("<s>", "")
    # SentencePiece's sample pieces are added tokens in the JSON: kept on both sides. So are both anchors.
    keep = [*some_ids(one, share, seed), *np.flatnonzero(other.pieces.required)]
    with tempfile.TemporaryDirectory() as folder:
        json_trimmed, json_rows = one.trimmed(keep, Path(folder) / "json")
        model_trimmed, model_rows = other.trimmed(keep, Path(folder) / "model")
        assert json_rows.tolist() == model_rows.tolist()
        if "[ORDER]" not in text:
            assert json_trimmed.ids(text) == model_trimmed.ids(text)


PRICED = [("▁", -2.0), ("a", -6.0), ("b", -6.0), ("cd", -6.0), ("abc", -1.0), ("x", -20.0)]


@pytest.mark.parametrize("kind", ["tokenizers", "sentencepiece"])
def test_an_unknown_character_costs_what_it_did_before(kind, tmp_path):
    """Without "x" an unknown d would cost 16, not 30, and "abc" + unknown would win over "a b cd" (18)."""
    content = json.dumps(unigram_json(PRICED)).encode() if kind == "tokenizers" else sentencepiece_model(PRICED)
    (tmp_path / "file").write_bytes(content)
    layout = {"pad_id": 1} if kind == "tokenizers" else XLM_R_LAYOUT
    full = Example.open(tmp_path, TokenizerSpec(kind=kind, file="file", **layout))
    ids = full.ids("abcd")
    assert ids == [0, 4, 5, 6, 7, 2]
    trimmed, rows = full.trimmed([*ids, 8], tmp_path / "trimmed")
    assert rows[trimmed.ids("abcd")].tolist() == ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_whose_piece_is_gone_falls_back_to_its_characters(examples, kind, tmp_path):
    full = examples[kind]
    pieces = full.pieces
    characters = [index for index in range(len(pieces)) if len(pieces.cores[index]) == 1]
    trimmed, rows = full.trimmed(characters, tmp_path)
    text = "the price"
    assert len(trimmed.ids(text)) > len(full.ids(text))
    cores = [pieces.cores[old] for old in rows[trimmed.ids(text)][1:-1]]
    assert "".join(cores).replace("▁", "").replace(" ", "") == "theprice"


@pytest.mark.parametrize("kind", KINDS)
def test_a_character_whose_piece_is_gone_is_unknown_or_bytes(examples, kind, tmp_path):
    full = examples[kind]
    pieces = full.pieces
    keep = [index for index in range(len(pieces)) if "й" not in (pieces.texts[index] or "") and index % 3 != 0]
    trimmed, rows = full.trimmed(keep, tmp_path)
    old = rows[trimmed.ids("й")].tolist()
    if kind == "bpe of bytes":
        assert [pieces.texts[index] for index in old[1:-1]] == ["Ð", "¹"]
    elif "bytes" in kind:
        assert [pieces.texts[index] for index in old[-3:-1]] == ["<0xD0>", "<0xB9>"]
        assert full.tokenizer.unknown_id not in old
    else:
        assert old.count(full.tokenizer.unknown_id) == 1


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("processor", ["BertProcessing", "RobertaProcessing"])
def test_the_frame_survives_whatever_post_processor_writes_it(tmp_path, processor, nested):
    content = wordpiece_json()
    vocab = content["model"]["vocab"]
    frame = {"type": processor, "sep": ["[END]", vocab["[END]"]], "cls": ["[BEGIN]", vocab["[BEGIN]"]]}
    if processor == "RobertaProcessing":
        frame |= {"trim_offsets": True, "add_prefix_space": False}
    content["post_processor"] = {"type": "Sequence", "processors": [frame]} if nested else frame
    (tmp_path / "wordpiece.json").write_text(json.dumps(content), encoding="utf8")
    spec = TokenizerSpec(kind="tokenizers", file="wordpiece.json", pad_id=vocab["[PAD]"])
    full = Example.open(tmp_path, spec)
    ids = full.ids("the room was clean")
    assert [ids[0], ids[-1]] == [vocab["[BEGIN]"], vocab["[END]"]]
    trimmed, rows = full.trimmed(ids, tmp_path / "trimmed")
    assert len(rows) < 20
    assert rows[trimmed.ids("the room was clean")].tolist() == ids
    assert trimmed.content()["padding"]["pad_id"] == trimmed.spec.pad_id


def test_holes_in_a_wordpiece_numbering_close(tmp_path):
    content = wordpiece_json()
    content["added_tokens"] = []
    vocab = {piece: 3 * index for piece, index in content["model"]["vocab"].items()}
    content["model"]["vocab"] = vocab
    content["post_processor"] = template(("[BEGIN]", vocab["[BEGIN]"]), ("[END]", vocab["[END]"]))
    content["padding"] = None
    (tmp_path / "wordpiece.json").write_text(json.dumps(content), encoding="utf8")
    spec = TokenizerSpec(kind="tokenizers", file="wordpiece.json", pad_id=vocab["[PAD]"])
    full = Example.open(tmp_path, spec)
    counts = count_pieces(full.tokenizer, SENTENCES)
    trimmed, rows = full.trimmed(choose_pieces(full.pieces, counts, 1.0), tmp_path / "trimmed")
    assert np.all(rows % 3 == 0)
    for text in SENTENCES:
        assert rows[trimmed.ids(text)].tolist() == full.ids(text)


def test_kinds_that_cannot_be_trimmed_are_named_with_those_that_can(tmp_path):
    content = unigram_json(PRICED)
    content["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    (tmp_path / "words.json").write_text(json.dumps(content), encoding="utf8")
    with pytest.raises(InputError, match=r"'WordLevel'(.|\n)*Unigram, WordPiece and BPE"):
        trim_tokenizer(
            tmp_path, TokenizerSpec(kind="tokenizers", file="words.json", pad_id=0), np.arange(1), tmp_path
        )
    train_sentencepiece(tmp_path, "words", model_type="word", vocab_size=50)
    with pytest.raises(InputError, match=r"type WORD(.|\n)*UNIGRAM and BPE"):
        trim_tokenizer(
            tmp_path, TokenizerSpec(kind="sentencepiece", file="words.model", pad_id=0), np.arange(1), tmp_path
        )


@pytest.mark.parametrize("kind", ["tokenizers", "sentencepiece"])
@pytest.mark.parametrize("content", [None, b"", b"garbage" * 30, b"{}"])
def test_a_missing_or_damaged_file_is_the_users_error(kind, content, tmp_path):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer|SentencePiece"):
        read_pieces(tmp_path, TokenizerSpec(kind=kind, file="file", pad_id=0))


def test_sample_sentences_that_hold_for_the_full_model_only_are_left_out(tmp_path):
    # Field 4 of the model: samples (field 1) of an input (1) and its expected pieces (2).
    sample = b"\x0a\x08the room" + b"\x12\x0cthe the room"
    whole = b"\x0a" + bytes([len(sample)]) + sample
    data = sentencepiece_model(PRICED) + b"\x22" + bytes([len(whole)]) + whole
    (tmp_path / "file").write_bytes(data)
    full = Example.open(tmp_path, TokenizerSpec(kind="sentencepiece", file="file", **XLM_R_LAYOUT))
    full.trimmed([4, 5], tmp_path / "trimmed")
    assert b"the room" in data
    assert b"the room" not in (tmp_path / "trimmed" / "file").read_bytes()
