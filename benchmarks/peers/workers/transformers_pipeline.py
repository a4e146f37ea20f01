"""transformers' own `pipeline("text-classification")` in fp32: one model for all tasks, or one model a task.

`settings.folders`: one folder whose labels are those of all tasks in a row, or a folder a task by its name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from worker import Job, Scores, decided, serve, split_tasks


class OneModel:
    """All labels from one pass; softmax and thresholds a task are left to the caller, as its users would do it."""

    batch_sizes: Sequence[int] = (1, 8, 32, 64)

    def __init__(self, job: Job) -> None:
        self.tasks, folder = job.tasks, Path(job.settings["folder"])
        self.files: Sequence[Path] = [folder]
        self.classify = _pipeline(folder)
        self.places = {label: place for place, label in self.classify.model.config.id2label.items()}

    def answer(self, texts: list[str], batch_size: int) -> object:
        return decided(self.tasks, self.scores(texts, batch_size))

    def scores(self, texts: list[str], batch_size: int) -> Scores:
        found = self.classify(texts, batch_size=batch_size, truncation=True, top_k=None, function_to_apply="none")
        return split_tasks(self.tasks, _matrix(found, self.places))


class ModelPerTask:
    """One pipeline after the other, each over its own copy of the weights."""

    batch_sizes: Sequence[int] = (1, 8, 32, 64)

    def __init__(self, job: Job) -> None:
        folders = {name: Path(folder) for name, folder in job.settings["folders"].items()}
        self.files: Sequence[Path] = list(folders.values())
        self.multi = {task["name"] for task in job.tasks if task["kind"] == "multi_label"}
        self.pipelines = {name: _pipeline(folder) for name, folder in folders.items()}

    def answer(self, texts: list[str], batch_size: int) -> object:
        return {
            name: classify(texts, batch_size=batch_size, truncation=True, top_k=None if name in self.multi else 1)
            for name, classify in self.pipelines.items()
        }

    def scores(self, texts: list[str], batch_size: int) -> Scores:
        found = {}
        for name, classify in self.pipelines.items():
            places = {label: place for place, label in classify.model.config.id2label.items()}
            answers = classify(texts, batch_size=batch_size, truncation=True, top_k=None)
            found[name] = _matrix(answers, places)
        return found


def _pipeline(folder: Path) -> Any:
    from transformers import pipeline

    return pipeline("text-classification", model=str(folder), device="cpu")


def _matrix(answers: list[list[dict[str, Any]]], places: dict[str, int]) -> np.ndarray:
    values = np.empty((len(answers), len(places)), np.float32)
    for row, answer in enumerate(answers):
        for one in answer:
            values[row, places[one["label"]]] = one["score"]
    return values


def _open(job: Job) -> OneModel | ModelPerTask:
    return OneModel(job) if "folder" in job.settings else ModelPerTask(job)


if __name__ == "__main__":
    serve(_open)
