"""The fast road of a unigram JSON: the ids of `tokenizers` on every text, however odd."""

import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_unigram import SENTENCES, SPEC, added, write_json, xlm_r_form

from polyfold.model.tokenizer_files import read_pieces, write_pieces
from polyfold.text import JsonTokenizer, UnigramTokenizer, open_tokenizer
from polyfold.text.unigram import Unigram

SHARED = Path(__file__).parents[2] / ".." / "shared"

WORDS = " ".join(SENTENCES).split()
# What the two libraries treat differently, or might: names of special tokens, in full width too; spaces; marks
# behind mapped and unmapped characters; Hangul letters; halfwidth sounds; joined and removed characters; powers.
ODD = [
    "<s>", "</s>", "<mask>", "<unk>", "＜s＞", "<\x01s>", "<ｓ>", "﹤/s＞", "<", ">", "<3", "[MASK]",
    "▁", "▁▁", "_", " ", "  ", "\t", "\r\n", "\n\n", "\x0b", "\x0c", "\x1c", "\x85", "\xa0",
    "\u1680", "\u2003", "\u2028", "\u200b", "\u3000", "\ufeff", "\u00ad", "\0", "\x01", "\x7f",
    "\x9f", "\ud800", "\udc00", "\U0001f600", "\ufffd", "\ufffe", "e\u0301", "é\u0323",
    "a\u0302\u0301", "\u0301", "™\ufe0f", "ﬁ\u0301", "①\u20dd", "１\ufe0f\u20e3", "\u00a8", "…", "½",
    "㌀", "ﷺ", "Ω", "K", "ſ", "\u1112\u1161\u11ab", "\u1112", "\u1161", "ㅎㅏㄴ", "ﾊﾞ", "ﾊﾟ", "ﾞ",
    "は\u3099", "का", "क़", "क्ष", "ক\u09be", "ൊ", "กำ", "ะ", "ʼn", "\u06001", "1\u0600", "👩\u200d💻",
    "🇩🇪", "👍🏽", "\U000e0041", "...", "....", ".......", "!!!!!", "hahaha", "hahahah", "55555",
    "하하하", "ㅋㅋㅋㅋ", "\u3164", "\uffa0",
]  # fmt: skip
fragments = st.one_of(
    st.sampled_from(ODD), st.sampled_from(WORDS), st.text(st.characters(exclude_categories=()), max_size=4)
)
nasty = st.lists(fragments, max_size=10).map("".join)
periods = st.tuples(st.text("ha.!53", min_size=1, max_size=3), st.integers(1, 9), st.text("ha.!5", max_size=2))
texts = st.one_of(nasty, periods.map(lambda parts: parts[0] * parts[1] + parts[2]), st.text())


@pytest.fixture(scope="module")
def content():
    return xlm_r_form()


@pytest.fixture(scope="module")
def folder(content, tmp_path_factory):
    return write_json(tmp_path_factory.mktemp("unigram"), content)


@pytest.fixture(scope="module")
def fast(folder):
    tokenizer = open_tokenizer(folder, SPEC, threads=2)
    assert isinstance(tokenizer, UnigramTokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def whole(folder):
    return JsonTokenizer(folder, SPEC)


@pytest.fixture(scope="module")
def xlm_r(tmp_path_factory):
    packed = SHARED / "tokenizers" / "xlm-roberta.json.gz"
    if not packed.exists():
        pytest.skip("XLM-R's tokenizer is not beside the repository")
    folder = tmp_path_factory.mktemp("xlm_r")
    (folder / SPEC.file).write_bytes(gzip.decompress(packed.read_bytes()))
    return open_tokenizer(folder, SPEC), JsonTokenizer(folder, SPEC)


def assert_same(tokenizer, whole, some, max_length=10_000):
    found, wanted = tokenizer.encode(some, max_length), whole.encode(some, max_length)
    for text, own, other in zip(some, found.ids, wanted.ids, strict=True):
        assert own.tolist() == other.tolist(), f"{text!a}"
    assert found.truncated.tolist() == wanted.truncated.tolist()


@settings(max_examples=300, deadline=None)
@given(some=st.lists(texts, min_size=1, max_size=5), max_length=st.sampled_from([3, 5, 9, 1000]))
@example(some=[*ODD], max_length=1000)
@example(some=[f"the{odd}room" for odd in ODD], max_length=1000)
@example(some=[f"a {odd} {odd}b" for odd in ODD], max_length=1000)
def test_any_text_gets_the_ids_of_the_json(fast, whole, some, max_length):
    assert_same(fast, whole, some, max_length)


def test_ordinary_texts_take_the_fast_road_and_odd_ones_the_other(fast):
    lengths = np.asarray([len(one) for one in SENTENCES])
    # The last but one holds a lone "<", which spells no special token.
    assert fast._unlike(SENTENCES, lengths) == []
    odd = ["a <s> b", "＜s＞", "a\x85b", "a▁b", "\u1112\u1161", "a" * 5000, "\ud800"]
    assert fast._unlike(odd, np.asarray([len(one) for one in odd])) == list(range(len(odd)))


def test_powers_of_one_word_side_by_side_are_cut_as_by_the_json(fast, whole):
    pieces = fast._backend.encode(["the ....", "the ...", "hahahaha"], out_type=str)
    assert pieces[0][-2:] in (["...", "."], [".", "..."])
    assert_same(fast, whole, ["the ....", "the ...", "hahahahaha", "the ☃.... room....", "a.... b.... ß...."])


def test_thousands_of_texts_are_cut_in_chunks_and_stay_in_order(fast):
    some = [f"{SENTENCES[i % len(SENTENCES)]} {i} {ODD[i % len(ODD)]}" for i in range(9000)]
    whole = fast.encode(some, 12)
    for row in (0, 1, 1022, 1023, 1024, 8999):
        assert whole.ids[row].tolist() == fast.encode([some[row]], 12).ids[0].tolist()
    assert len(whole) == 9000


def test_the_frame_the_size_and_the_unknown_id_are_those_of_the_json(fast, whole):
    assert fast.vocabulary_size == whole.vocabulary_size
    assert fast.unknown_id == whole.unknown_id == 3
    assert fast._frame == whole._frame


def test_threads_share_it(fast):
    some = [*SENTENCES, *ODD] * 5
    wanted = fast.encode(some, 9).flat.tolist()
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: fast.encode(some, 9).flat.tolist(), range(9)):
            assert found == wanted


@pytest.mark.parametrize(
    "case",
    [
        "bpe",
        "bytes",
        "no unknown",
        "no words",
        "two spaces",
        "lowercase",
        "pair",
        "normalized",
        "over a space",
        "numbers",
        "sampled",
    ],
)
def test_a_json_of_another_form_is_left_to_its_own_library(content, tmp_path, case):
    model, vocab = content["model"], content["model"]["vocab"]
    other = {
        "bpe": {"model": {"type": "BPE", "vocab": {"a": 0, "<unk>": 1}, "merges": [], "unk_token": "<unk>"}},
        "bytes": {"model": {**model, "byte_fallback": True}},
        "no unknown": {"model": {**model, "unk_id": None}},
        "no words": {"pre_tokenizer": content["pre_tokenizer"]["pretokenizers"][1]},
        "two spaces": {"model": {**model, "vocab": [*vocab, ["the▁room", -7.0]]}},
        "lowercase": {"normalizer": {"type": "Lowercase"}},
        "pair": {"post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}},
        "normalized": {"added_tokens": [{**content["added_tokens"][0], "normalized": True}]},
        "numbers": {"added_tokens": [*content["added_tokens"], added(len(vocab) + 5, "<extra>")]},
        "sampled": {"model": {**model, "alpha": 0.0, "other": True}},
        "over a space": {"added_tokens": [{**content["added_tokens"][0], "content": "the room"}]},
    }[case]
    folder = write_json(tmp_path, {**content, **other})
    assert isinstance(open_tokenizer(folder, SPEC), JsonTokenizer)
    assert len(open_tokenizer(folder, SPEC).encode(["a a"], 9)) == 1


def test_without_a_character_map_a_text_is_cut_as_it_is(content, tmp_path):
    folder = write_json(tmp_path, {**content, "normalizer": None})
    tokenizer = open_tokenizer(folder, SPEC)
    assert isinstance(tokenizer, UnigramTokenizer)
    assert_same(tokenizer, JsonTokenizer(folder, SPEC), [*ODD, *(f"the{odd}room" for odd in ODD), *SENTENCES])


def test_normalizers_that_only_drop_spaces_change_nothing(content, fast, tmp_path):
    parts = [
        content["normalizer"],
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ]
    folder = write_json(tmp_path, {**content, "normalizer": {"type": "Sequence", "normalizers": parts}})
    tokenizer = open_tokenizer(folder, SPEC)
    assert isinstance(tokenizer, UnigramTokenizer)
    some = [*ODD, *(f" the  {odd}  room " for odd in ODD), *SENTENCES]
    assert_same(tokenizer, JsonTokenizer(folder, SPEC), some)
    assert tokenizer.encode(some, 99).flat.tolist() == fast.encode(some, 99).flat.tolist()
    parts[1] = {**parts[1], "content": "_"}
    folder = write_json(tmp_path, {**content, "normalizer": {"type": "Sequence", "normalizers": parts}})
    assert isinstance(open_tokenizer(folder, SPEC), JsonTokenizer)


def test_a_trimmed_vocabulary_takes_the_fast_road_too(fast, folder, tmp_path):
    pieces = read_pieces(folder, SPEC)
    kept = pieces.required.copy()
    kept[fast.encode(SENTENCES[:4], 99).flat] = True
    (tmp_path / "trimmed").mkdir()
    spec = write_pieces(folder, SPEC, np.flatnonzero(kept), tmp_path / "trimmed")
    trimmed = open_tokenizer(tmp_path / "trimmed", spec)
    assert isinstance(trimmed, UnigramTokenizer)
    assert trimmed.vocabulary_size < 0.7 * fast.vocabulary_size
    assert_same(trimmed, JsonTokenizer(tmp_path / "trimmed", spec), [*ODD, *SENTENCES])


def test_a_json_without_special_tokens_around_a_text_adds_none(content, tmp_path):
    folder = write_json(tmp_path, {**content, "post_processor": None})
    tokenizer = open_tokenizer(folder, SPEC)
    assert isinstance(tokenizer, UnigramTokenizer)
    assert_same(tokenizer, JsonTokenizer(folder, SPEC), ["", *SENTENCES], 5)
    assert tokenizer.encode([""], 5).ids[0].tolist() == [1]


def test_the_model_written_by_hand_is_what_the_library_of_protocol_buffers_reads(content, tmp_path):
    from sentencepiece import sentencepiece_model_pb2 as schema

    unigram = Unigram.read(write_json(tmp_path, content) / SPEC.file, SPEC)
    model = schema.ModelProto()
    model.ParseFromString(unigram.sentencepiece())
    assert [piece.piece for piece in model.pieces] == [piece for piece, _ in content["model"]["vocab"]]
    assert model.trainer_spec.model_type == model.trainer_spec.UNIGRAM
    assert (model.trainer_spec.unk_id, model.trainer_spec.bos_id, model.trainer_spec.pad_id) == (3, -1, -1)
    assert model.normalizer_spec.add_dummy_prefix
    assert model.normalizer_spec.precompiled_charsmap == unigram.charsmap
    control = {piece.piece for piece in model.pieces if piece.type == piece.CONTROL}
    assert control == {"<s>", "<pad>", "</s>", "<mask>"}


@settings(max_examples=200, deadline=None)
@given(some=st.lists(texts, min_size=1, max_size=5))
@example(some=[f"a{odd}b {odd}" for odd in ODD])
def test_xlm_rs_own_vocabulary_gives_the_same_ids_on_odd_texts(xlm_r, some):
    assert_same(*xlm_r, some)


def test_xlm_rs_own_vocabulary_gives_the_same_ids_on_texts_of_fifty_languages(xlm_r):
    seen, languages = [], set()
    for name, column, every in (("corpus", "text", 24), ("feedback", "text", 32)):
        path = SHARED / "data" / f"{name}.parquet"
        if not path.exists():
            pytest.skip("the corpora are not beside the repository")
        table = pq.read_table(path, columns=[column, "lang"])
        table = table.take(np.arange(0, table.num_rows, every))
        seen += table[column].to_pylist()
        languages |= set(table["lang"].to_pylist())
    assert len(seen) > 25_000
    assert len(languages) > 50
    assert_same(*xlm_r, seen)
