"""Stock classifiers that share one encoder, a task each, as one stock classifier with the labels of all.

Polyfold's `transformers` export writes a folder a task. What is written here is the model after consolidation, in
transformers' own terms: every label's logit from one pass. The stock head is `out(tanh(dense(x)))` with dense a
multiple of the identity so small that tanh is linear (see polyfold.export_transformers), so the rows of all `out`
matrices fit under one dense layer, and out x multiple is the linear head over the first token's state.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from polyfold.artifact import write_atomically
from polyfold.errors import InputError
from polyfold.tasks import Task

WEIGHTS = "model.safetensors"
HEADS: Mapping[str, tuple[str, str]] = {
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj"),
}
"""By family: what its stock class calls the dense layer and the last one."""


@dataclass(frozen=True)
class Stock:
    """Stock folders by task, and what all of them say."""

    folders: Mapping[str, Path]
    tasks: tuple[Task, ...]
    family: str
    max_length: int
    pad_id: int
    pad_token: str


def read_stock(folder: Path) -> Stock:
    """The tasks of a `transformers` export: its folders in the order of their names."""
    inner = folder / "transformers"
    root = inner if inner.is_dir() else folder
    folders = {path.parent.name: path.parent for path in sorted(root.glob("*/config.json"))}
    if not folders:
        raise InputError(
            "no stock classifier here", file=folder, hint="give a folder that the export `transformers` wrote"
        )
    configs = {name: json.loads((path / "config.json").read_bytes()) for name, path in folders.items()}
    first = next(iter(configs.values()))
    family = str(first["model_type"])
    if family not in HEADS:
        raise InputError(
            f"models of family '{family}' cannot be merged into one",
            file=folder,
            hint=f"known: {', '.join(HEADS)}",
        )
    settings = json.loads((next(iter(folders.values())) / "tokenizer_config.json").read_bytes())
    tasks = tuple(_task(name, config) for name, config in configs.items())
    pad_token = str(settings["pad_token"])
    pad_id = _token_id(next(iter(folders.values())) / "tokenizer.json", pad_token)
    return Stock(folders, tasks, family, int(settings["model_max_length"]), pad_id, pad_token)


def merge(stock: Stock, target: Path) -> Path:
    """Write the one stock folder and heads.npz, the linear heads alone; returns the folder."""
    dense, last = HEADS[stock.family]
    target.mkdir(parents=True, exist_ok=True)
    folders = list(stock.folders.values())
    merged = _tensors(folders[0])
    matrices, offsets = [], []
    for folder in folders:
        tensors = merged if folder is folders[0] else _tensors(folder)
        _check_same(merged, tensors, (dense, last), folder)
        ratio = _gain(tensors, dense, folder) / _gain(merged, dense, folders[0])
        matrices.append(tensors[f"{last}.weight"] * ratio)
        offsets.append(tensors[f"{last}.bias"])
    weight, bias = np.concatenate(matrices), np.concatenate(offsets)
    heads = (weight * _gain(merged, dense, folders[0])).T
    merged |= {f"{last}.weight": weight, f"{last}.bias": bias}
    save_file(merged, target / WEIGHTS, metadata={"format": "pt"})
    np.savez(target / "heads.npz", weights=heads.astype(np.float32), biases=bias.astype(np.float32))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders[0] / name, target / name)
    names = [f"{task.name}/{label}" for task in stock.tasks for label in task.labels]
    config = json.loads((folders[0] / "config.json").read_bytes()) | {
        "id2label": {str(place): name for place, name in enumerate(names)},
        "label2id": {name: place for place, name in enumerate(names)},
        "problem_type": "multi_label_classification",
    }
    write_atomically(target / "config.json", json.dumps(config, indent=1).encode())
    return target


def _task(name: str, config: Mapping[str, Any]) -> Task:
    labels = tuple(label for _, label in sorted(config["id2label"].items(), key=lambda pair: int(pair[0])))
    kind = str(config["problem_type"]).removesuffix("_classification")
    return Task.model_validate({"name": name, "kind": kind, "labels": labels})


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping, and not iterable


def _gain(tensors: Mapping[str, np.ndarray], dense: str, folder: Path) -> float:
    """What the dense layer multiplies by, which must be all that it does."""
    weight, bias = tensors[f"{dense}.weight"], tensors[f"{dense}.bias"]
    gain = float(weight[0, 0])
    if not np.array_equal(weight, gain * np.eye(len(weight), dtype=weight.dtype)) or bias.any():
        raise InputError(
            "its head is not a linear one written as a stock head",
            file=folder,
            hint="give a folder that Polyfold's `transformers` export wrote",
        )
    return gain


def _check_same(
    first: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], heads: Sequence[str], folder: Path
) -> None:
    """InputError where two folders differ in more than their heads: they are not one model."""
    for name, values in first.items():
        if not name.startswith(tuple(heads)) and not np.array_equal(values, other[name]):
            raise InputError(
                f"its encoder differs in '{name}'", file=folder, hint="give the folders of one and the same export"
            )


def _token_id(tokenizer: Path, token: str) -> int:
    content = json.loads(tokenizer.read_bytes())
    added = {one["content"]: int(one["id"]) for one in content.get("added_tokens") or []}
    if token in added:
        return added[token]
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        return int(vocabulary[token])
    return next(place for place, (piece, _) in enumerate(vocabulary) if piece == token)
