"""The teacher stage: one multi-task model, or one model a task."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from polyfold.data.batches import encode, sampling_weights
from polyfold.data.dataset import Dataset
from polyfold.losses.labels import LabelLoss
from polyfold.model.backbone import Backbone, load_backbone, resized
from polyfold.model.classifier import new_classifier, save_model
from polyfold.model.trimming import TrimVocabulary, trim
from polyfold.text import open_tokenizer
from polyfold.train.evaluate import calibrated, dev_scores
from polyfold.train.fit import FitContext, FitResult, FitSpec, fit
from polyfold.train.objectives import TaskObjective

STAGE_VERSION = 1


class MultiTask(BaseModel):
    """One model for all tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["multi_task"] = "multi_task"


class PerTask(BaseModel):
    """One model for each task, trained on the documents labelled for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["per_task"] = "per_task"


class TeacherSpec(BaseModel):
    """The uncompressed model, trained on labels alone; every loss of quality is counted from it.

    `trim` cuts the backbone's vocabulary before training: only then is it cheap to train the table as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    mode: Annotated[MultiTask | PerTask, Field(discriminator="kind")] = MultiTask()
    trim: TrimVocabulary | None = None
    loss: LabelLoss = LabelLoss()
    fit: FitSpec = FitSpec()

    def task_sets(self, tasks: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
        """The tasks of each model to be trained: all at once, or one by one."""
        return (tasks,) if self.mode.kind == "multi_task" else tuple((name,) for name in tasks)


def train_teacher(
    spec: TeacherSpec, names: tuple[str, ...], data: Dataset, base: Path, folder: Path, seed: int, label: str
) -> FitResult:  # fmt: skip
    """Train one teacher on the named tasks and leave a finished model in `folder`."""
    tasks = tuple(task for task in data.tasks if task.name in names)
    backbone = _backbone(spec, data, base, folder)
    model = new_classifier(backbone, tasks, data.max_length, seed)
    tokenizer = open_tokenizer(folder, backbone.tokenizer)
    labelled = np.flatnonzero(np.any([data.train.labelled(task) for task in tasks], axis=0))
    train = encode(data.train.take(labelled), tokenizer, model.max_length)
    dev = encode(data.dev, tokenizer, model.max_length)
    objective = TaskObjective(tasks, (spec.loss,), train.documents)
    weights = sampling_weights(train.documents, tasks, spec.fit.batch)
    context = FitContext(folder, seed, label, dev_scores(tasks, dev, label))
    result = fit(model.classifier, train, objective, spec.fit, weights, context)
    if spec.fit.epochs:
        model = replace(model, backbone=replace(backbone, weights="trained"))
    save_model(calibrated(model, dev, label), folder, folder)
    return result


def _backbone(spec: TeacherSpec, data: Dataset, base: Path, folder: Path) -> Backbone:
    """The backbone, trimmed if asked for, with its tokenizer in `folder`."""
    if spec.trim is None:
        return load_backbone(spec.backbone, folder, base)
    with TemporaryDirectory() as scratch:
        whole = load_backbone(spec.backbone, Path(scratch), base)
        texts = chain(data.train.texts, data.unlabelled.texts if spec.trim.unlabelled else ())
        source = (Path(scratch), whole.tokenizer)
        trimmed = trim(spec.trim, whole.module, source, folder, texts, data.dev.texts)
    return resized(whole, trimmed.tokenizer)
