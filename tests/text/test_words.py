"""Words cut with a few pieces get the ids that the whole vocabulary gives them."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_unigram import SENTENCES, SPEC, added, write_json, xlm_r_form

from polyfold.text import JsonTokenizer, UnigramTokenizer, open_tokenizer
from polyfold.text.unigram import Unigram
from polyfold.text.words import TOGETHER

EXTRA = "<extra>"
letters = "".join(sorted({*"".join(SENTENCES).replace(" ", ""), *"▁....hh!!55ß☃\U0001f600<>unks"}))
words = st.text(st.sampled_from(letters), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The toy with scores of many digits, of which `tokenizers` need not read the nearest double, and one token
    behind the vocabulary."""
    content = xlm_r_form()
    vocabulary = content["model"]["vocab"]
    content["added_tokens"].append(added(len(vocabulary), EXTRA))
    content["model"]["vocab"] = [[piece, f"#{score:.22f}#"] for piece, score in vocabulary]
    written = write_json(tmp_path_factory.mktemp("words"), content) / SPEC.file
    written.write_text(written.read_text(encoding="utf8").replace('"#', "").replace('#"', ""), encoding="utf8")
    return written.parent


@pytest.fixture(scope="module")
def fast(folder):
    tokenizer = open_tokenizer(folder, SPEC, threads=1)
    assert isinstance(tokenizer, UnigramTokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def model(folder):
    """The whole vocabulary's model, which takes a word as it is."""
    return JsonTokenizer(folder, SPEC)._backend.model


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=6))
@example(["▁....", "▁hahahaha", "☃☃ß", "<unk>", "<s>", "<mask>", "☃<unk>☃"])
def test_any_words_get_the_ids_of_the_whole_vocabulary(fast, model, some):
    found = fast._cutter.cut(some)
    assert found == {word: [token.id for token in model.tokenize(word)] for word in some}


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=6))
def test_the_pieces_looked_for_are_all_that_stand_in_the_words_and_no_others(folder, fast, some):
    pieces = Unigram.read(folder / SPEC.file, SPEC).pieces
    wanted = {index for index, piece in enumerate(pieces) if any(piece in word for word in some)}
    unknown = {fast.unknown_id}
    assert fast._cutter._within(some) - unknown == wanted - unknown


def test_more_words_than_go_together_and_one_longer_than_that_are_cut_all_the_same(fast, model):
    row = "".join(SENTENCES).replace(" ", "")
    some = [row[start : start + 9] * 3 for start in range(len(row) - 9)] * 2
    some.append("▁" + row * (2 * TOGETHER // len(row) + 2))
    assert sum(map(len, set(some))) > 3 * TOGETHER
    assert fast._cutter.cut(some) == {word: [token.id for token in model.tokenize(word)] for word in some}


def test_a_text_is_split_into_the_models_words_and_the_ids_of_tokens_it_spells(fast):
    extra = fast.vocabulary_size - 1
    assert fast._splitter.parts([f"the  room<s>x {EXTRA}", "", "＜s＞\u2028a"]) == [
        ["▁the", "▁room", 0, "▁x", extra],
        [],
        ["▁<s>", "▁a"],
    ]


@settings(deadline=None)
@given(st.lists(st.one_of(words, st.sampled_from([EXTRA, "<s>", "<mask>", " ", "\ud800"])), max_size=9))
def test_a_token_behind_the_vocabulary_keeps_its_id(folder, fast, parts):
    found, wanted = (one.encode(["".join(parts)], 99) for one in (fast, JsonTokenizer(folder, SPEC)))
    assert found.flat.tolist() == wanted.flat.tolist()


def test_scores_are_kept_as_they_are_written(folder):
    unigram = Unigram.read(folder / SPEC.file, SPEC)
    content = json.loads((folder / SPEC.file).read_bytes(), parse_float=str)
    assert [score.decode() for score in unigram.digits.tolist()] == [
        score for _, score in content["model"]["vocab"]
    ]


def test_a_long_document_is_split_no_further_than_its_tokens_are_kept(fast, folder):
    text = f"{' '.join(SENTENCES)} " * 40
    assert len(text) > 4096
    whole = JsonTokenizer(folder, SPEC)
    for most in (3, 9, 60, 100_000):
        found, wanted = fast.encode([text, "the room"], most), whole.encode([text, "the room"], most)
        assert found.flat.tolist() == wanted.flat.tolist()
        assert found.truncated.tolist() == wanted.truncated.tolist()
