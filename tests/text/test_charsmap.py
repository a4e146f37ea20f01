"""The trie of a character map is read whole, and texts told to be read alike by both libraries are."""

import base64
import unicodedata

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from toy_unigram import SPEC, write_json, xlm_r_form

from polyfold.text.charsmap import CharacterClasses, CharacterMap
from polyfold.text.unigram import Unigram


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    return Unigram.read(write_json(tmp_path_factory.mktemp("map"), xlm_r_form()) / SPEC.file, SPEC)


@pytest.fixture(scope="module")
def characters(unigram):
    return CharacterMap.read(unigram.charsmap)


@pytest.fixture(scope="module")
def classes(characters):
    return CharacterClasses.of(characters, "<")


@pytest.fixture(scope="module")
def other(unigram):
    return normalizers.Precompiled(unigram.charsmap)


@pytest.fixture(scope="module")
def backend(unigram):
    return sentencepiece.SentencePieceProcessor(model_proto=unigram.sentencepiece())


def test_what_becomes_of_single_characters_is_what_sentencepiece_makes_of_them(characters, backend):
    assert len(characters.singles) > 4000
    assert characters.singles["ﬁ"] == "fi"
    for character, value in list(characters.singles.items())[::7]:
        # Letters around it, since spaces at the ends are dropped.
        assert backend.normalize(f"x{character}y") == f"▁x{value}y".replace(" ", "▁"), ascii(character)


def test_pairs_are_the_beginnings_of_all_that_is_composed(characters):
    pairs = {(code >> 21, code & 0x1FFFFF) for code in characters.pairs.tolist()}
    for composed in ("é", "한", "が", "ǭ"):
        decomposed = unicodedata.normalize("NFD", composed)
        assert (ord(decomposed[0]), ord(decomposed[1])) in pairs
    assert (ord("a"), ord("b")) not in pairs
    assert np.all(np.diff(characters.pairs) > 0)


marked = st.text(
    st.one_of(
        st.sampled_from(
            "ae1ﬁ™①ＡｶㅎЙ\u1112\u1161\u11ab\u0301\u0302\u0323\u20dd\ufe0f\u200d\u3099ﾞ\u093c\u09be\u06dd\r\n"
        ),
        st.characters(categories=["Mn", "Mc", "Me", "Cf", "Lm", "So", "Cn"]),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=8,
)


@settings(max_examples=400, deadline=None)
@given(marked)
def test_a_text_told_to_be_read_alike_is(classes, other, backend, text):
    odd, _ = classes.sort_out([text], np.asarray([len(text)]))
    if len(odd) == 0:
        own = other.normalize_str(text)
        assert backend.normalize(text).split("▁") == ["", *own.split()] or own.split() == []


def test_rows_are_told_of_texts_that_follow_each_other(classes):
    texts = ["plain", "", "a\x85b", "été", "e\u0301", "1 < 2", "", "＜"]
    odd, marks = classes.sort_out(texts, np.asarray([len(text) for text in texts]))
    assert odd.tolist() == [2, 4]
    assert marks.tolist() == [5, 7]


def test_without_a_map_only_what_is_no_plain_text_is_odd():
    classes = CharacterClasses.of(CharacterMap.read(base64.b64decode("")), "")
    texts = ["é e\u0301 ﬁ", "a\tb", "a▁b", "\0", "\ud800"]
    assert classes.sort_out(texts, np.asarray([len(text) for text in texts]))[0].tolist() == [1, 2, 3, 4]
