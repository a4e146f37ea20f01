"""Scripts of characters and of languages."""

import pytest

from polyfold.model.scripts import script, scripts_in, scripts_of


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("a", "LATIN"), ("é", "LATIN"), ("ａ", "LATIN"), ("я", "CYRILLIC"), ("語", "CJK"), ("々", "CJK"),
        ("한", "HANGUL"), ("の", "HIRAGANA"), ("ホ", "KATAKANA"), ("ｶ", "KATAKANA"), ("ー", "KATAKANA"),
        ("ع", "ARABIC"), ("ไ", "THAI"), ("\u0e34", "THAI"), ("\u0301", None), ("٣", None), ("3", None),
        ("。", None), ("€", None), ("😀", None), ("\ufe0f", None), ("\x00", None), ("\ud800", None),
    ],
)  # fmt: skip
def test_scripts_of_letters_and_of_what_has_none(character, name):
    assert script(character) == name


def test_the_scripts_of_a_text_are_those_of_its_letters():
    assert scripts_in("Straße 12, ул. Мира – 東京") == {"LATIN", "CYRILLIC", "CJK"}
    assert scripts_in("3.14 €!") == set()


def test_languages_have_their_scripts_and_latin():
    assert scripts_of(["ja"]) == {"LATIN", "CJK", "HIRAGANA", "KATAKANA"}
    assert scripts_of(["en", "ru", "ar", "ko"]) == {"LATIN", "CYRILLIC", "ARABIC", "HANGUL"}
    assert scripts_of(["pt-BR", "zh_Hant", "TH"]) == {"LATIN", "CJK", "THAI"}
    assert scripts_of(["sr"]) == {"LATIN", "CYRILLIC"}


def test_a_language_that_is_not_in_the_table_is_read_off_the_texts():
    assert scripts_of(["en", "tlh"]) is None


@pytest.mark.parametrize(
    ("language", "sample"),
    [
        ("ar", "مرحبا"), ("de", "Größe"), ("en", "size"), ("es", "tamaño"), ("fr", "taille"), ("ja", "サイズの大"),
        ("ko", "크기"), ("nl", "maat"), ("pt", "tamanho"), ("ru", "размер"), ("tr", "büyüklük"), ("zh", "尺寸"),
        ("hi", "आकार"), ("th", "ขนาด"), ("el", "μέγεθος"), ("he", "גודל"), ("ka", "ზომა"), ("hy", "չափ"),
        ("am", "መጠን"), ("ta", "அளவு"), ("te", "పరిమాణం"), ("km", "ទំហំ"), ("lo", "ຂະໜາດ"), ("my", "အရွယ်"),
    ],
)  # fmt: skip
def test_words_of_a_language_are_written_in_its_scripts(language, sample):
    found = scripts_of([language])
    assert found is not None
    assert scripts_in(sample) <= found
