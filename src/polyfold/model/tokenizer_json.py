"""A `tokenizers` JSON (Unigram, WordPiece, BPE) as a table of pieces, and the same JSON with pieces left out."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polyfold.errors import InputError
from polyfold.model.merges import MergeTable, trim_merges
from polyfold.model.pieces import WORD_START, Pieces
from polyfold.text import TokenizerSpec

KINDS = ("Unigram", "WordPiece", "BPE")

# Special by their names, for files that do not list them among their added tokens.
_SPECIAL_NAMES = frozenset(
    ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_ALL_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))

NewId = Callable[[int], int]
"""The new id of an old id that is kept."""


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file whose model is one of `KINDS`."""
    try:
        content = json.loads(path.read_bytes())
        kind = content["model"]["type"]
    except OSError as error:
        raise InputError(f"cannot read the tokenizer: {error}", file=path) from None
    except (ValueError, KeyError, TypeError):
        raise InputError("not a tokenizers JSON", file=path) from None
    if kind not in KINDS:
        raise InputError(
            f"a tokenizer of model '{kind}' cannot be trimmed",
            file=path,
            hint="trimming knows Unigram, WordPiece and BPE; leave the trim_vocabulary step out for this backbone",
        )
    return dict(content)


def json_pieces(content: Mapping[str, Any], spec: TokenizerSpec, path: Path) -> Pieces:
    """The vocabulary by id; InputError where a special token is named that it does not hold."""
    model = content["model"]
    if model["type"] == "Unigram":
        pieces = {index: str(piece) for index, (piece, _) in enumerate(model["vocab"])}
    else:
        pieces = {int(index): str(piece) for piece, index in model["vocab"].items()}
    added = {int(token["id"]): str(token["content"]) for token in content.get("added_tokens") or []}
    texts = {**pieces, **added}
    size = max(texts, default=-1) + 1

    special = np.zeros(size, dtype=bool)
    special[list(added)] = True
    for name, index in _named_ids(content, spec):
        if index not in texts:
            raise InputError(
                f"the {name} token has id {index}, which no piece of the vocabulary has",
                file=path,
                hint="give the tokenizer that the model was trained with",
            )
        special[index] = True
    names = _SPECIAL_NAMES | {model.get("unk_token")}
    letters = _BYTE_OF_LETTER if _by_bytes(content) else {}
    for index, text in texts.items():
        if text in names or text in letters or (model.get("byte_fallback") and _BYTE.fullmatch(text)):
            special[index] = True

    anchors = np.zeros(size, dtype=bool)
    if model["type"] == "Unigram":
        # The Rust library takes the lowest over the whole vocabulary, special pieces included.
        anchors[int(np.argmin([score for _, score in model["vocab"]]))] = True
    return Pieces(
        texts=tuple(texts.get(index) for index in range(size)),
        cores=tuple(_core(texts.get(index), model, bool(letters)) for index in range(size)),
        special=special,
        anchors=anchors,
        chains=MergeTable.of_model(model) if model["type"] == "BPE" else None,
        spells_all=bool(letters) or _spells_all(model, set(texts.values())),
    )


def trim_json(content: Mapping[str, Any], positions: Mapping[int, int]) -> dict[str, Any]:
    """The same tokenizer with only the old ids in `positions`, each by its new id."""
    new_id = positions.__getitem__
    model = dict(content["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in positions]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_id(model["unk_id"])
    else:
        kept = sorted((old, piece) for piece, old in model["vocab"].items() if old in positions)
        model["vocab"] = {piece: new_id(old) for old, piece in kept}
    if model["type"] == "BPE":
        model["merges"] = trim_merges(model, model["vocab"])
    trimmed = {**content, "model": model}
    if content.get("added_tokens"):
        # Tokens outside the model's vocabulary have the highest ids, and the library numbers them on from its
        # end: sorted rows keep both true.
        trimmed["added_tokens"] = [{**token, "id": new_id(int(token["id"]))} for token in content["added_tokens"]]
    if content.get("padding") is not None:
        trimmed["padding"] = {**content["padding"], "pad_id": new_id(content["padding"]["pad_id"])}
    if content.get("post_processor") is not None:
        trimmed["post_processor"] = _map_processor(content["post_processor"], new_id)
    return trimmed


def _named_ids(content: Mapping[str, Any], spec: TokenizerSpec) -> Iterator[tuple[str, int]]:
    """Every id that something outside the vocabulary points to, with a name for it."""
    yield "padding", spec.pad_id
    if (padding := content.get("padding")) is not None:
        yield "padding", int(padding["pad_id"])
    if (unknown := content["model"].get("unk_id")) is not None:
        yield "unknown", int(unknown)
    for index in _processor_ids(content.get("post_processor")):
        yield "begin or end", index


def _core(text: str | None, model: Mapping[str, Any], by_bytes: bool) -> str:
    """A piece without the mark of a word's start, continuation or end; one that is only the mark stays."""
    if text is None:
        return ""
    if by_bytes:
        letters = [_BYTE_OF_LETTER.get(letter) for letter in text]
        if None in letters:
            return text
        try:
            decoded = bytes(letter for letter in letters if letter is not None).decode("utf8")
        except UnicodeDecodeError:
            return ""
        return decoded.removeprefix(" ") or decoded
    prefix = model.get("continuing_subword_prefix", "##") if model["type"] == "WordPiece" else WORD_START
    if model["type"] == "BPE":
        prefix = model.get("continuing_subword_prefix") or WORD_START
        text = text.removesuffix(model.get("end_of_word_suffix") or "") or text
    return text.removeprefix(prefix) or text


def _spells_all(model: Mapping[str, Any], texts: set[str]) -> bool:
    """Whether a character without a piece still has an id; the libraries fail on it, or drop it, where not."""
    bytes_stay = bool(model.get("byte_fallback")) and texts >= _ALL_BYTES
    unknown = model.get("unk_id") is not None if model["type"] == "Unigram" else model.get("unk_token") in texts
    return bytes_stay or unknown


def _by_bytes(content: Mapping[str, Any]) -> bool:
    """Whether pieces are made of bytes that are written as letters (GPT-2's way: RoBERTa, ModernBERT)."""
    parts = [content.get("pre_tokenizer"), content.get("normalizer")]
    while parts:
        part = parts.pop()
        if part is None:
            continue
        if part["type"] == "ByteLevel":
            return True
        parts += [*part.get("pretokenizers", ()), *part.get("normalizers", ())]
    return False


def _byte_letters() -> dict[str, int]:
    """GPT-2's letter for each byte: printable Latin-1 stands for itself, the rest is moved behind U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(moved)}


_BYTE_OF_LETTER: Mapping[str, int] = _byte_letters()


def _processor_ids(processor: Mapping[str, Any] | None) -> list[int]:
    """Every id that a post-processor writes."""
    found: list[int] = []

    def note(old: int) -> int:
        found.append(old)
        return old

    _map_processor(processor, note)
    return found


def _map_processor(processor: Mapping[str, Any] | None, new_id: NewId) -> dict[str, Any] | None:
    """A post-processor with its ids replaced, those inside a Sequence too; one without ids as it was."""
    if processor is None:
        return None
    match processor["type"]:
        case "Sequence":
            parts = [_map_processor(part, new_id) for part in processor["processors"]]
            return {**processor, "processors": parts}
        case "TemplateProcessing":
            tokens = {
                name: {**token, "ids": [new_id(int(old)) for old in token["ids"]]}
                for name, token in processor["special_tokens"].items()
            }
            return {**processor, "special_tokens": tokens}
        case "RobertaProcessing" | "BertProcessing":
            ends = {name: [processor[name][0], new_id(int(processor[name][1]))] for name in ("sep", "cls")}
            return {**processor, **ends}
        case _:
            return dict(processor)
