"""A SentencePiece model as a `tokenizers` JSON that gives the same ids, for tools that read nothing else.

The special tokens that `TokenizerSpec` puts around a text become the JSON's own. A run of unknown characters is
one unknown piece in both. Three kinds of texts may get other ids than from SentencePiece itself (of 39,979 texts
in 50 languages, 11 did with the embedded encoder's model, all of the second kind):

- those that spell out a special token, a byte piece or a user-defined symbol (`<s>`): a JSON reads it as that one;
- unigram: where two segmentations score the same (as a rule the same pieces in another order, "..." and "." of
  "....") or nearly so: SentencePiece adds a text's scores in single precision, `tokenizers` a word's in double;
  BPE: where two overlapping pairs make the same piece, of which SentencePiece takes the left one and `tokenizers`
  the one that comes first in its table of merges;
- with a precompiled character map, rare sequences with combining marks: `tokenizers` looks up whole graphemes.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from polyfold.errors import InputError
from polyfold.model.pieces import WORD_START
from polyfold.model.tokenizer_sentencepiece import is_bpe, read_sentencepiece
from polyfold.text import TokenizerSpec

_MASK = "<mask>"


def to_tokenizers_json(folder: Path, spec: TokenizerSpec) -> str:
    """The JSON of a model folder's SentencePiece tokenizer; InputError where it cannot say what the model does."""
    path = folder / spec.file
    model = read_sentencepiece(path)
    settings = model.normalizer_spec
    if model.trainer_spec.treat_whitespace_as_suffix or not settings.escape_whitespaces:
        raise InputError(
            "a SentencePiece model that does not write a space as a mark before the word cannot be converted",
            file=path,
            hint="train it with treat_whitespace_as_suffix=false and escape_whitespaces=true",
        )
    unused = [piece for piece in model.pieces if piece.type == piece.UNUSED]
    if unused:
        raise InputError(
            f"{len(unused)} pieces are marked as unused, which the JSON cannot say",
            file=path,
            hint="trim the vocabulary instead",
        )
    texts = _texts(model, spec)
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added_tokens(model, spec, texts)),
        "normalizer": {"type": "Sequence", "normalizers": list(_normalizers(settings))},
        "pre_tokenizer": _pre_tokenizer(model),
        "post_processor": _frame(spec, texts),
        "decoder": {
            "type": "Metaspace",
            "replacement": WORD_START,
            "prepend_scheme": "always" if settings.add_dummy_prefix else "never",
            "split": True,
        },
        "model": _bpe(model, spec, texts) if is_bpe(model) else _unigram(model, spec, texts),
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _texts(model: Any, spec: TokenizerSpec) -> list[str]:
    """A name for every id: the pieces' own, and the special tokens' where they belong to no piece."""
    names: dict[int, str] = {}
    roles = {"<s>": spec.begin_id, "</s>": spec.end_id, "<unk>": _unknown(model, spec), "<pad>": spec.pad_id}
    for name, index in roles.items():
        piece = _piece(model, spec, index)
        # With an offset, the pieces' own control pieces lie in rows that mean something else (XLM-R).
        other = piece is None or (spec.offset and not _spells(piece))
        if index is not None and index not in names and other:
            names[index] = name
    if spec.extra:
        names[spec.offset + len(model.pieces) + spec.extra - 1] = _MASK
    taken = set(names.values()) | {piece.piece for piece in model.pieces if _spells(piece)}
    texts = []
    for index in range(spec.offset + len(model.pieces) + spec.extra):
        piece = _piece(model, spec, index)
        name = names.get(index) or ("" if piece is None else piece.piece)
        if index not in names and (piece is None or not _spells(piece)):
            name = name if name and name not in taken else f"<unused{index}>"
            taken.add(name)
        texts.append(name)
    return texts


def _piece(model: Any, spec: TokenizerSpec, index: int | None) -> Any:
    """The piece whose row this id is, if it is one's."""
    place = -1 if index is None else index - spec.offset
    return model.pieces[place] if 0 <= place < len(model.pieces) else None


def _spells(piece: Any) -> bool:
    """Whether a piece may come from a text."""
    return piece.type in (piece.NORMAL, piece.BYTE, piece.USER_DEFINED)


def _unknown(model: Any, spec: TokenizerSpec) -> int:
    if spec.unk_id is not None:
        return spec.unk_id
    return spec.offset + next(place for place, piece in enumerate(model.pieces) if piece.type == piece.UNKNOWN)


def _added_tokens(model: Any, spec: TokenizerSpec, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for index, text in enumerate(texts):
        piece = _piece(model, spec, index)
        if piece is None or not _spells(piece) or piece.type == piece.USER_DEFINED:
            own = piece is not None and piece.type == piece.USER_DEFINED
            yield {"id": index, "content": text, **flags, "special": not own}


def _normalizers(settings: Any) -> Iterator[dict[str, Any]]:
    """SentencePiece's own order: the character map, spaces, then the mark before the first word."""
    if settings.precompiled_charsmap:
        encoded = base64.b64encode(settings.precompiled_charsmap).decode("ascii")
        yield {"type": "Precompiled", "precompiled_charsmap": encoded}
    if settings.remove_extra_whitespaces:
        yield {"type": "Replace", "pattern": {"Regex": "^ +"}, "content": ""}
        yield {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    yield {"type": "Replace", "pattern": {"String": " "}, "content": WORD_START}
    if settings.remove_extra_whitespaces:
        yield {"type": "Replace", "pattern": {"Regex": f"{WORD_START}+$"}, "content": ""}
    if settings.add_dummy_prefix:
        yield {"type": "Prepend", "prepend": WORD_START}


def _pre_tokenizer(model: Any) -> dict[str, Any] | None:
    """Words one by one, so that the library can remember them, where no piece goes over the edge of a word."""
    pieces = [piece.piece for piece in model.pieces if _spells(piece)]
    if WORD_START not in pieces or any(WORD_START in piece[1:] for piece in pieces):
        return None
    return {
        "type": "Split",
        "pattern": {"String": WORD_START},
        "behavior": "MergedWithNext",
        "invert": False,
    }


def _frame(spec: TokenizerSpec, texts: Sequence[str]) -> dict[str, Any] | None:
    """`begin_id`, the text, `end_id`; of a pair the second text goes between two of the latter."""
    ends = [index for index in (spec.begin_id, spec.end_id) if index is not None]
    if not ends:
        return None

    def token(index: int | None) -> list[dict[str, Any]]:
        return [] if index is None else [{"SpecialToken": {"id": texts[index], "type_id": 0}}]

    begin, end = token(spec.begin_id), token(spec.end_id)
    first, second = ([{"Sequence": {"id": name, "type_id": 0}}] for name in ("A", "B"))
    return {
        "type": "TemplateProcessing",
        "single": [*begin, *first, *end],
        "pair": [*begin, *first, *end, *end, *second, *end],
        "special_tokens": {
            texts[index]: {"id": texts[index], "ids": [index], "tokens": [texts[index]]} for index in ends
        },
    }


def _unigram(model: Any, spec: TokenizerSpec, texts: Sequence[str]) -> dict[str, Any]:
    pieces = [_piece(model, spec, index) for index in range(len(texts))]
    # The library scores an unknown character by the lowest score of all: only true pieces may have it.
    scores = [0.0 if piece is None or piece.type != piece.NORMAL else piece.score for piece in pieces]
    return {
        "type": "Unigram",
        "unk_id": _unknown(model, spec),
        "vocab": [[text, score] for text, score in zip(texts, scores, strict=True)],
        "byte_fallback": any(piece.type == piece.BYTE for piece in model.pieces),
    }


def _bpe(model: Any, spec: TokenizerSpec, texts: Sequence[str]) -> dict[str, Any]:
    """Every pair of pieces that makes a piece is a merge, best score first."""
    scores = {piece.piece: piece.score for piece in model.pieces if piece.type == piece.NORMAL}
    merges = [
        [whole[:cut], whole[cut:]]
        for whole in sorted(scores, key=lambda piece: -scores[piece])
        for cut in range(1, len(whole))
        if whole[:cut] in scores and whole[cut:] in scores
    ]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": texts[_unknown(model, spec)],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": any(piece.type == piece.BYTE for piece in model.pieces),
        "ignore_merges": False,
        "vocab": {text: index for index, text in enumerate(texts)},
        "merges": merges,
    }
