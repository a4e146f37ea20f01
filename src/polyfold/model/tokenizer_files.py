"""Tokenizer files as a table of pieces, and the same files with pieces left out, whatever their format.

What must stay for the rest to mean the same is decided here (`Pieces`); what is worth keeping is decided in
`vocabulary.py`.
"""

import json
from pathlib import Path

import numpy as np

from polyfold.artifact import write_atomically
from polyfold.model.pieces import Pieces
from polyfold.model.tokenizer_json import json_pieces, read_json, trim_json
from polyfold.model.tokenizer_sentencepiece import read_sentencepiece, sentencepiece_pieces, trim_sentencepiece
from polyfold.text import TokenizerSpec


def read_pieces(folder: Path, spec: TokenizerSpec) -> Pieces:
    """The vocabulary of a model folder's tokenizer; InputError where its kind cannot be trimmed."""
    path = folder / spec.file
    match spec.kind:
        case "tokenizers":
            return json_pieces(read_json(path), spec, path)
        case "sentencepiece":
            return sentencepiece_pieces(read_sentencepiece(path), spec, path)


def write_pieces(folder: Path, spec: TokenizerSpec, rows: np.ndarray, target: Path) -> TokenizerSpec:
    """Write the tokenizer with only the ids in `rows` (sorted, every required one among them) into `target`."""
    positions = {int(old): new for new, old in enumerate(rows)}
    match spec.kind:
        case "tokenizers":
            content = trim_json(read_json(folder / spec.file), positions)
            data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        case "sentencepiece":
            data = trim_sentencepiece(read_sentencepiece(folder / spec.file), spec, rows)
    write_atomically(target / spec.file, data)
    ids = {"begin_id": spec.begin_id, "end_id": spec.end_id, "unk_id": spec.unk_id}
    renumbered = {name: positions[old] for name, old in ids.items() if old is not None}
    return spec.model_copy(update={"pad_id": positions[spec.pad_id], **renumbered})
