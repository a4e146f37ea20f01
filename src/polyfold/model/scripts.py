"""The script of a character, and the scripts a language is written in.

A trimmed vocabulary without byte fallback spells a new word from single characters, so all characters of the
scripts that its texts are written in stay.
"""

import unicodedata
from collections.abc import Iterable, Mapping

# First words of Unicode names that belong to another script's, or to no script at all (None: always kept).
_SCRIPT_OF_WORD: Mapping[str, str | None] = {
    "IDEOGRAPHIC": "CJK",
    "KATAKANA-HIRAGANA": "KATAKANA",
    "MODIFIER": None,
    "COMBINING": None,
    "VARIATION": None,
    "MATHEMATICAL": None,
    "DOUBLE-STRUCK": None,
    "FEMININE": None,
    "MASCULINE": None,
    "MICRO": None,
    "KELVIN": None,
    "ANGSTROM": None,
    "OHM": None,
}

# ISO 639-1 codes by script, from CLDR's list of languages and scripts (supplementalData, primary scripts). A
# language of two scripts stands in two rows. What is not here is read off the texts.
_LANGUAGES_OF_SCRIPT: Mapping[str, str] = {
    "LATIN": (
        "af az bs ca cs cy da de en es et eu fi fr ga gl ha hr hu id is it jv lt lv ms mt nl no nb nn pl pt ro sk "
        "sl sq sr su sv sw tl tr uz vi xh yo zu"
    ),
    "CYRILLIC": "be bg kk ky mk mn ru sr tg tt uk",
    "ARABIC": "ar fa ps ug ur",
    "CJK": "ja zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "GREEK": "el",
    "HEBREW": "he yi",
    "DEVANAGARI": "hi mr ne sa",
    "BENGALI": "as bn",
    "GURMUKHI": "pa",
    "GUJARATI": "gu",
    "ORIYA": "or",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "SINHALA": "si",
    "THAI": "th",
    "LAO": "lo",
    "MYANMAR": "my",
    "KHMER": "km",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
    "ETHIOPIC": "am ti",
}


def script(character: str) -> str | None:
    """The script of a letter or mark (LATIN, CJK, HANGUL, HIRAGANA ...); None for what every script shares.

    The first word of the Unicode name is the script's, with few exceptions; Python has no table of scripts.
    """
    if unicodedata.category(character)[0] not in "LM":
        return None
    words = unicodedata.name(character, "").split()
    if words and words[0] in ("FULLWIDTH", "HALFWIDTH"):
        words = words[1:]
    if not words:
        return None
    return _SCRIPT_OF_WORD.get(words[0], words[0])


def scripts_in(text: str) -> set[str]:
    """Every script that a text has letters of."""
    return {name for character in text if (name := script(character)) is not None}


def scripts_of(languages: Iterable[str]) -> frozenset[str] | None:
    """The scripts that these languages are written in; None where one of them is not in the table.

    Latin is always among them: names and brands are written in it everywhere.
    """
    found = {"LATIN"}
    for language in languages:
        # 'pt-BR' and 'zh_Hant' are written as 'pt' and 'zh' are.
        code = language.lower().replace("_", "-").split("-")[0]
        own = {name for name, codes in _LANGUAGES_OF_SCRIPT.items() if code in codes.split()}
        if not own:
            return None
        found |= own
    return frozenset(found)
