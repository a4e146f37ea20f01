"""Where weights to start from are found: a published encoder, a folder in the hub's layout, or our own model."""

import json
from pathlib import Path

from polyfold.artifact import CONFIG, read_config
from polyfold.errors import InputError
from polyfold.model.backbone import Backbone, load_backbone
from polyfold.model.classifier import load_model


def open_backbone(name: str, folder: Path, base: Path) -> Backbone:
    """An encoder by name, its tokenizer copied to `folder`; of a Polyfold model the heads are left behind.

    `name` is `use-multilingual`, a hub id, or a folder seen from `base`. InputError where it is none of these, or
    a model that is quantized or exported already.
    """
    local = Path(name) if Path(name).is_absolute() else base / name
    if not _ours(local):
        return load_backbone(name, folder, base)
    check_trainable(name, base)
    backbone = load_model(local).backbone
    file = backbone.tokenizer.file
    (folder / file).write_bytes((local / file).read_bytes())
    return backbone


def check_trainable(name: str, base: Path) -> None:
    """InputError for a model of ours that no encoder to be trained can be taken from."""
    local = Path(name) if Path(name).is_absolute() else base / name
    if _ours(local) and read_config(local)[0].precision != "fp32":
        raise InputError(
            "a quantized model cannot be trained further", file=local, hint="give the model it was made from"
        )


def _ours(folder: Path) -> bool:
    """Whether a folder holds a model that Polyfold saved."""
    try:
        return "polyfold" in json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return False
