"""A SentencePiece model (unigram, BPE) as a table of pieces, and the same model with pieces left out."""

from pathlib import Path
from typing import Any

import numpy as np

from polyfold.errors import InputError, MissingExtra
from polyfold.model.merges import ScoredChains
from polyfold.model.pieces import WORD_START, Pieces
from polyfold.text import TokenizerSpec


def read_sentencepiece(path: Path) -> Any:
    """The model's protocol buffer; InputError where it is none, or of a type that is neither unigram nor BPE."""
    try:
        from google.protobuf.message import DecodeError
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
    if model.trainer_spec.model_type not in (schema.TrainerSpec.UNIGRAM, schema.TrainerSpec.BPE):
        kind = schema.TrainerSpec.ModelType.Name(model.trainer_spec.model_type)
        raise InputError(
            f"a SentencePiece model of type {kind} cannot be trimmed",
            file=path,
            hint="trimming knows UNIGRAM and BPE; leave the trim_vocabulary step out for this backbone",
        )
    return model


def is_bpe(model: Any) -> bool:
    """Whether the model joins pairs (BPE) rather than searching the best path (unigram)."""
    return bool(model.trainer_spec.model_type == model.trainer_spec.BPE)


def sentencepiece_pieces(model: Any, spec: TokenizerSpec, path: Path) -> Pieces:
    """Model ids are piece ids plus `offset`; the rows before and behind them belong to no piece and stay."""
    before, after = [""] * spec.offset, [""] * spec.extra
    texts = (*before, *(piece.piece for piece in model.pieces), *after)
    normal = np.asarray([piece.type == piece.NORMAL for piece in model.pieces], dtype=bool)
    scores = np.asarray([piece.score for piece in model.pieces], dtype=np.float64)

    special = np.ones(len(texts), dtype=bool)
    special[spec.offset : spec.offset + len(normal)] = ~normal
    roles = {"padding": spec.pad_id, "begin": spec.begin_id, "end": spec.end_id, "unknown": spec.unk_id}
    for role, index in roles.items():
        if index is not None and not 0 <= index < len(texts):
            raise InputError(
                f"the {role} token has id {index}, which no piece of the vocabulary has",
                file=path,
                hint="give the tokenizer that the model was trained with",
            )
        if index is not None:
            special[index] = True

    anchors = np.zeros(len(texts), dtype=bool)
    if normal.any() and not is_bpe(model):
        anchors[spec.offset + int(np.argmin(np.where(normal, scores, np.inf)))] = True
        anchors[spec.offset + int(np.argmax(np.where(normal, scores, -np.inf)))] = True
    # Control, unknown and byte pieces are never joined from others.
    joined = {
        one.piece: one.score for one in model.pieces if one.type in (one.NORMAL, one.USER_DEFINED, one.UNUSED)
    }
    # Models that put the mark behind a word have it as a suffix.
    cores = tuple(text.removeprefix(WORD_START).removesuffix(WORD_START) or text for text in texts)
    return Pieces(texts, cores, special, anchors, ScoredChains(joined) if is_bpe(model) else None)


def trim_sentencepiece(model: Any, spec: TokenizerSpec, rows: np.ndarray) -> bytes:
    """The same model with only the ids in `rows` (of the embedding table, sorted)."""
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
