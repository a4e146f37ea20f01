"""A unigram `tokenizers` JSON as a SentencePiece model: the same pieces, the same map, scores that choose alike.

It is made in memory when a tokenizer is opened (about a second for XLM-R's 250,000 pieces, as long as the JSON's
own library takes; a tenth of that for a trimmed vocabulary), so that every folder profits, and no second file can
say something else than the first.
"""

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyfold.text.charsmap import WORD_START
from polyfold.text.encoding import Frame
from polyfold.text.scores import centred
from polyfold.text.spec import TokenizerSpec

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_FEWER_SPACES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
_SINGLE = struct.Struct("<f").pack


@dataclass(frozen=True)
class Unigram:
    """What a JSON says, as far as it is XLM-R's form.

    `pieces` by id and their scores, as written (`digits`, bytes [vocab]); `special` ids and names; the frame; and
    `form`, the text of what becomes of a document before the model has it.
    """

    pieces: Sequence[str]
    digits: np.ndarray
    special: Mapping[int, str]
    unknown_id: int
    charsmap: bytes
    frame: Frame
    form: str

    @staticmethod
    def read(path: Path, spec: TokenizerSpec) -> "Unigram | None":
        """The content of a file; None where it is of another form, or damaged, which its own library will tell."""
        try:
            # Decimals stay as they are written: what is made of them is each library's own affair.
            content = json.loads(path.read_bytes(), parse_float=str)
            if content["model"].get("type") != "Unigram" or not _splits_at_spaces(content):
                return None
            return Unigram._of(content, spec)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None

    @staticmethod
    def _of(content: Mapping[str, Any], spec: TokenizerSpec) -> "Unigram | None":
        model = content["model"]
        vocabulary = model.pop("vocab")
        pieces = [str(piece) for piece, _ in vocabulary]
        digits = np.asarray([str(score) for _, score in vocabulary], dtype="S")
        # Lists of two take ten times the room of what is in them.
        del vocabulary
        unknown, frame = model.pop("unk_id"), _frame(content["post_processor"], spec)
        # Bytes for unknown characters, sampling and the like: whatever is switched on.
        if unknown is None or frame is None or any(model[name] for name in model if name != "type"):
            return None
        added = content.get("added_tokens") or ()
        special = {int(token["id"]): str(token["content"]) for token in added}
        numbered = len(special) == len(added) and _numbered(special, pieces)
        special[unknown] = pieces[unknown]
        # Those are looked for in the text as it is, and as words.
        plain = all(name.split() == [name] and WORD_START not in name for name in special.values())
        plain &= numbered and not any(token.get("normalized") for token in added)
        scores = digits.astype(np.float64)
        normal = np.setdiff1d(np.arange(len(pieces)), list(special))
        # Both take 10 off the lowest score for an unknown character, one library without looking at special
        # pieces; a piece may not reach over a space; SentencePiece wants them distinct and not empty.
        same_lowest = bool(np.isfinite(scores).all() and scores[normal].min() == scores.min())
        simple = len(set(pieces)) == len(pieces) and WORD_START in pieces
        whole = all(piece and WORD_START not in piece[1:] and "\0" not in piece for piece in pieces)
        if not (plain and same_lowest and simple and whole):
            return None
        form = {name: content[name] for name in ("added_tokens", "normalizer", "pre_tokenizer")}
        return Unigram(pieces, digits, special, unknown, _charsmap(content["normalizer"]), frame, json.dumps(form))

    @property
    def scores(self) -> np.ndarray:
        """The scores as numbers: float64 [vocab]."""
        return self.digits.astype(np.float64)

    @property
    def marks(self) -> str:
        """Characters of which each special token's name holds one, odd ones if there are any."""
        found = {next((one for one in name if not one.isalnum()), name[0]) for name in self.special.values()}
        return "".join(sorted(found))

    @property
    def size(self) -> int:
        """Rows the embedding table needs."""
        return max(len(self.pieces), 1 + max(self.special))

    def sentencepiece(self) -> bytes:
        """The same as a SentencePiece model: its protocol buffer, written by hand.

        Its Python classes need the protobuf package, which serving goes without. Field numbers are those of
        sentencepiece_model.proto.
        """
        types = np.full(len(self.pieces), _NORMAL)
        types[[index for index in self.special if index < len(self.pieces)]] = _CONTROL
        types[self.unknown_id] = _UNKNOWN
        normal, moved = np.flatnonzero(types == _NORMAL), self.scores
        moved[normal] = centred([self.pieces[index] for index in normal.tolist()], moved[normal])
        pieces = map(_piece, self.pieces, moved.tolist(), types.tolist())
        # Type unigram; one id means unknown, the roles of begin, end and padding are not given.
        absent = 2**64 - 1
        trainer = _number(3, 1) + _number(4, len(self.pieces)) + _number(40, self.unknown_id)
        trainer += b"".join(_number(role, absent) for role in (41, 42, 43))
        normalizer = _field(1, b"polyfold") + _field(2, self.charsmap)
        normalizer += b"".join(_number(switch, 1) for switch in (3, 4, 5))
        return b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)


def _numbered(special: Mapping[int, str], pieces: Sequence[str]) -> bool:
    """Whether special tokens have the ids that `tokenizers` gives them, which does not look at those in the file.

    A token that is a piece has the piece's id; the others follow the last piece.
    """
    inside = [index for index, name in special.items() if index < len(pieces) and pieces[index] == name]
    rest = [(index, name) for index, name in special.items() if index not in inside]
    names = {name for _, name in rest}
    ids = [index for index, _ in rest]
    follow = ids == list(range(len(pieces), len(pieces) + len(rest)))
    return follow and len(set(special.values())) == len(special) and names.isdisjoint(pieces)


def _splits_at_spaces(content: Mapping[str, Any]) -> bool:
    """Whether the text is cut at white space, and each word begins with the mark."""
    first, second = content["pre_tokenizer"]["pretokenizers"]
    always = second.get("prepend_scheme", "always") == "always" and second.get("add_prefix_space", True)
    marks = second["type"] == "Metaspace" and second["replacement"] == WORD_START and always
    return bool(first["type"] == "WhitespaceSplit" and marks and second.get("split", True))


def _charsmap(normalizer: Mapping[str, Any] | None) -> bytes:
    """The precompiled character map; empty where there is no normalizer."""
    if normalizer is None:
        return b""
    if normalizer["type"] == "Sequence":
        normalizer, *others = normalizer["normalizers"]
        # Words are cut at white space anyway, however much of it there is.
        if any(other["type"] != "Strip" and other != _FEWER_SPACES for other in others):
            raise ValueError(others)
    if normalizer["type"] != "Precompiled":
        raise ValueError(normalizer["type"])
    return base64.b64decode(normalizer["precompiled_charsmap"] or "")


def _frame(processor: Mapping[str, Any] | None, spec: TokenizerSpec) -> Frame | None:
    """The special tokens around one text; None where the processor does more."""
    if processor is None:
        return Frame((), (), spec.pad_id)
    if processor["type"] in ("RobertaProcessing", "BertProcessing"):
        return Frame((int(processor["cls"][1]),), (int(processor["sep"][1]),), spec.pad_id)
    if processor["type"] != "TemplateProcessing":
        return None
    around: tuple[list[int], list[int]] = [], []
    behind = False
    for part in processor["single"]:
        if "Sequence" in part:
            if behind:
                return None
            behind = True
        else:
            token = processor["special_tokens"][part["SpecialToken"]["id"]]
            around[behind].extend(int(index) for index in token["ids"])
    return Frame(tuple(around[0]), tuple(around[1]), spec.pad_id) if behind else None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _piece(text: str, score: float, kind: int) -> bytes:
    """One piece of the model: its text, its score in single precision, its type."""
    encoded = text.encode("utf8")
    # Nearly all are shorter than 117 bytes, whose lengths are one byte each.
    if len(encoded) < 117:
        return b"\n%c\n%c%b\x15%b\x18%c" % (len(encoded) + 9, len(encoded), encoded, _SINGLE(score), kind)
    return _field(1, _field(1, encoded) + b"\x15" + _SINGLE(score) + _number(3, kind))


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
