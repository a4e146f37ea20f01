"""Linear heads over fixed features, one a task, kept as arrays: to answer with them takes numpy alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Fit = Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Features [n, width] and 0/1 or class numbers [n] to weights [rows, width] and biases [rows]."""


def fit_heads(features: Any, train: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], fit: Fit) -> Any:
    """Weights [width, labels of all tasks] and biases [labels]; labels that are missing are left out a task."""
    weights, biases = [], []
    for task in tasks:
        for weight, bias in _task_heads(features, train["labels"][task["name"]], task, fit):
            weights.append(weight)
            biases.append(bias)
    # Row after row in memory: scipy's sparse product would copy a transposed view whole in every call.
    joined = np.ascontiguousarray(np.concatenate(weights).T, dtype=np.float32)
    return joined, np.concatenate(biases).astype(np.float32)


def _task_heads(features: Any, labels: Sequence[Any], task: Mapping[str, Any], fit: Fit) -> Any:
    rows = [row for row, label in enumerate(labels) if label is not None]
    truth, width = np.array([labels[row] for row in rows], np.int64), features.shape[1]
    if task["kind"] == "multi_label":
        for place in range(len(task["labels"])):
            column = truth[:, place]
            if column.min() == column.max():
                # Never seen, or never absent: nothing to learn but that.
                yield np.zeros((1, width)), np.array([20.0 if column[0] else -20.0])
            else:
                weight, bias = fit(features[rows], column)
                yield weight[-1:], bias[-1:]
        return
    seen = np.unique(truth)
    if len(seen) == 1:
        yield (
            np.zeros((len(task["labels"]), width)),
            np.where(np.arange(len(task["labels"])) == seen[0], 20.0, -20.0),
        )
        return
    weight, bias = fit(features[rows], truth)
    if len(seen) == 2 and len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full, offsets = np.zeros((len(task["labels"]), width)), np.full(len(task["labels"]), -20.0)
    full[seen], offsets[seen] = weight, bias
    yield full, offsets


def save_heads(path: Path, weights: np.ndarray, biases: np.ndarray) -> None:
    """Two arrays in one file."""
    np.savez(path, weights=weights, biases=biases)


def load_heads(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Weights [width, labels] and biases [labels]."""
    with np.load(path) as found:
        return found["weights"], found["biases"]
