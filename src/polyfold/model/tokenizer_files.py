"""Tokenizer files as a table of pieces, and the same files with pieces left out.

What must stay for the rest to mean the same is decided here (`Pieces.special`, `Pieces.anchors`); what is worth
keeping is decided in `vocabulary.py`.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyfold.artifact import write_atomically
from polyfold.errors import InputError, MissingExtra
from polyfold.text import TokenizerSpec

WORD_START = "▁"
"""U+2581, which SentencePiece writes for the space before a word."""

# Special by their names, for files that do not list them among their added tokens.
_SPECIAL_NAMES = frozenset(
    ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

NewId = Callable[[int], int]
"""The new id of an old id that is kept."""


@dataclass(frozen=True)
class Pieces:
    """A tokenizer's vocabulary by model id, `[vocab]` each.

    `texts` holds None where an id has no piece (a hole in a WordPiece numbering). `special` marks what no
    trimming may drop: control, unknown, padding, byte and added tokens, and rows that no piece stands for.
    `anchors` marks the pieces with the lowest and highest score of a unigram model: both libraries score an
    unknown character 10 below the lowest score in the vocabulary (and SentencePiece a user-defined symbol by the
    highest), so that the segmentation of every text hangs on these two.
    """

    texts: tuple[str | None, ...]
    special: np.ndarray
    anchors: np.ndarray
    prefix: str

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def present(self) -> np.ndarray:
        """Ids that are rows of the embedding table: bool [vocab]."""
        return np.asarray([text is not None for text in self.texts], dtype=bool)

    @property
    def required(self) -> np.ndarray:
        """Ids that every trimmed vocabulary holds: bool [vocab]."""
        return np.asarray(self.special | self.anchors)

    def core(self, index: int) -> str:
        """A piece without the mark of a word's start or continuation; a piece that is only the mark stays."""
        text = self.texts[index] or ""
        return text.removeprefix(self.prefix) or text


def read_pieces(folder: Path, spec: TokenizerSpec) -> Pieces:
    """The vocabulary of a model folder's tokenizer; InputError where its kind cannot be trimmed."""
    match spec.kind:
        case "tokenizers":
            return _json_pieces(_read_json(folder / spec.file), spec)
        case "sentencepiece":
            return _sentencepiece_pieces(_read_sentencepiece(folder / spec.file), spec)


def write_pieces(folder: Path, spec: TokenizerSpec, rows: np.ndarray, target: Path) -> TokenizerSpec:
    """Write the tokenizer with only the ids in `rows` (sorted, every required one among them) into `target`."""
    positions = {int(old): new for new, old in enumerate(rows)}
    new_id = positions.__getitem__
    match spec.kind:
        case "tokenizers":
            content = _trim_json(_read_json(folder / spec.file), positions)
            data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        case "sentencepiece":
            data = _trim_sentencepiece(_read_sentencepiece(folder / spec.file), spec, rows)
    write_atomically(target / spec.file, data)
    return spec.model_copy(
        update={
            "pad_id": new_id(spec.pad_id),
            **{
                name: new_id(old)
                for name in ("begin_id", "end_id", "unk_id")
                if (old := getattr(spec, name)) is not None
            },
        }
    )


# --- tokenizers JSON ---


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        kind = content["model"]["type"]
    except OSError as error:
        raise InputError(f"cannot read the tokenizer: {error}", file=path) from None
    except (ValueError, KeyError, TypeError):
        raise InputError("not a tokenizers JSON", file=path) from None
    if kind not in ("Unigram", "WordPiece"):
        raise InputError(
            f"a tokenizer of model '{kind}' cannot be trimmed",
            file=path,
            hint="trimming knows Unigram and WordPiece; leave the trim_vocabulary step out for this backbone",
        )
    return dict(content)


def _json_pieces(content: dict[str, Any], spec: TokenizerSpec) -> Pieces:
    model = content["model"]
    if model["type"] == "Unigram":
        pieces = {index: str(piece) for index, (piece, _) in enumerate(model["vocab"])}
    else:
        pieces = {int(index): str(piece) for piece, index in model["vocab"].items()}
    added = {int(token["id"]): str(token["content"]) for token in content.get("added_tokens") or []}
    texts = {**pieces, **added}
    size = max(texts) + 1

    special = np.zeros(size, dtype=bool)
    special[[*added, *_processor_ids(content.get("post_processor")), spec.pad_id]] = True
    if (padding := content.get("padding")) is not None:
        special[padding["pad_id"]] = True
    if model.get("unk_id") is not None:
        special[model["unk_id"]] = True
    names = _SPECIAL_NAMES | {model.get("unk_token")}
    for index, text in texts.items():
        if text in names or (model.get("byte_fallback") and _BYTE.fullmatch(text)):
            special[index] = True

    anchors = np.zeros(size, dtype=bool)
    if model["type"] == "Unigram":
        # The Rust library takes the lowest over the whole vocabulary, special pieces included.
        anchors[int(np.argmin([score for _, score in model["vocab"]]))] = True
    prefix = WORD_START if model["type"] == "Unigram" else str(model.get("continuing_subword_prefix", "##"))
    return Pieces(tuple(texts.get(index) for index in range(size)), special, anchors, prefix)


def _processor_ids(processor: dict[str, Any] | None) -> list[int]:
    """Every id that a post-processor writes."""
    found: list[int] = []

    def note(old: int) -> int:
        found.append(old)
        return old

    _map_processor(processor, note)
    return found


def _map_processor(processor: dict[str, Any] | None, new_id: NewId) -> dict[str, Any] | None:
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
            return processor


def _trim_json(content: dict[str, Any], positions: dict[int, int]) -> dict[str, Any]:
    new_id = positions.__getitem__
    model = dict(content["model"])
    if model["type"] == "Unigram":
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in positions]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_id(model["unk_id"])
    else:
        kept = sorted((old, piece) for piece, old in model["vocab"].items() if old in positions)
        model["vocab"] = {piece: new_id(old) for old, piece in kept}
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


# --- SentencePiece ---


def _read_sentencepiece(path: Path) -> Any:
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from sentencepiece import sentencepiece_model_pb2 as schema
    except ImportError:
        raise MissingExtra("protobuf", "train") from None
    model = schema.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise InputError(f"not a SentencePiece model: {error}", file=path) from None
    if not model.pieces:
        raise InputError("not a SentencePiece model: it holds no pieces", file=path)
    if model.trainer_spec.model_type != schema.TrainerSpec.UNIGRAM:
        kind = schema.TrainerSpec.ModelType.Name(model.trainer_spec.model_type)
        raise InputError(
            f"a SentencePiece model of type {kind} cannot be trimmed",
            file=path,
            hint="trimming knows UNIGRAM; leave the trim_vocabulary step out for this backbone",
        )
    return model


def _sentencepiece_pieces(model: Any, spec: TokenizerSpec) -> Pieces:
    """Model ids are piece ids plus `offset`; the rows before and behind them belong to no piece and stay."""
    before, after = [""] * spec.offset, [""] * spec.extra
    texts = (*before, *(piece.piece for piece in model.pieces), *after)
    normal = np.asarray([piece.type == piece.NORMAL for piece in model.pieces], dtype=bool)
    scores = np.asarray([piece.score for piece in model.pieces], dtype=np.float64)

    special = np.ones(len(texts), dtype=bool)
    special[spec.offset : spec.offset + len(normal)] = ~normal
    special[[i for i in (spec.pad_id, spec.begin_id, spec.end_id, spec.unk_id) if i is not None]] = True

    anchors = np.zeros(len(texts), dtype=bool)
    if normal.any():
        anchors[spec.offset + int(np.argmin(np.where(normal, scores, np.inf)))] = True
        anchors[spec.offset + int(np.argmax(np.where(normal, scores, -np.inf)))] = True
    return Pieces(texts, special, anchors, WORD_START)


def _trim_sentencepiece(model: Any, spec: TokenizerSpec, rows: np.ndarray) -> bytes:
    pieces = rows[(rows >= spec.offset) & (rows < spec.offset + len(model.pieces))] - spec.offset
    positions = {int(old): new for new, old in enumerate(pieces)}
    trimmed = type(model)()
    trimmed.CopyFrom(model)
    # A model may carry sample sentences with their pieces, which some releases of the library check when they
    # load it: they are true of the full vocabulary only. Not every release's schema knows that field.
    trimmed.DiscardUnknownFields()
    if "self_test_data" in trimmed.DESCRIPTOR.fields_by_name:
        trimmed.ClearField("self_test_data")
    trimmed.ClearField("pieces")
    trimmed.pieces.extend(model.pieces[int(old)] for old in pieces)
    trainer = trimmed.trainer_spec
    trainer.vocab_size = len(pieces)
    for name in ("unk_id", "bos_id", "eos_id", "pad_id"):
        old = getattr(trainer, name)
        if positions.get(old, old) != old:
            setattr(trainer, name, positions[old])
    return bytes(trimmed.SerializeToString(deterministic=True))
