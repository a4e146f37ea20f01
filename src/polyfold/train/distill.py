"""The student stage: a smaller or different model that learns from labels and from its teacher."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from polyfold.artifact import Artifact
from polyfold.data.batches import encode, sampling_weights
from polyfold.data.dataset import Dataset, Documents
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.model.backbone import Backbone, load_backbone, token_embedding
from polyfold.model.classifier import load_model, new_classifier, save_model
from polyfold.model.student import BackboneInit, StudentInit, TeacherInit, build_small
from polyfold.tasks import Task
from polyfold.text import open_tokenizer
from polyfold.train.evaluate import calibrated, dev_scores
from polyfold.train.fit import FitContext, FitResult, FitSpec, fit
from polyfold.train.objectives import LossSpec, TaskObjective
from polyfold.train.teachers import Teacher, open_cached_teacher, open_online_teacher, require_tasks

STAGE_VERSION = 1


class StudentSpec(BaseModel):
    """A student: where its weights come from, what it minimises, how it is trained.

    `teacher: cached` computes the teacher's logits once and keeps them for every student; `online` computes
    them anew at each step. `unlabelled` adds the data's unlabelled texts, which only a logit loss
    with `on: all` learns from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="student", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    init: StudentInit
    losses: tuple[LossSpec, ...] = Field(default=(LabelLoss(), LogitLoss()), min_length=1)
    fit: FitSpec = FitSpec()
    teacher: Literal["cached", "online"] = "cached"
    unlabelled: bool = False

    @property
    def needs_teacher(self) -> bool:
        """Whether some loss imitates the teacher."""
        return any(loss.kind == "logits" for loss in self.losses)


def distill(
    spec: StudentSpec,
    teachers: Sequence[Artifact],
    data: Dataset,
    base: Path,
    folder: Path,
    cache: Path,
    seed: int,
) -> FitResult:
    """Train one student and leave a finished model in `folder`; teacher logits are kept in `cache`."""
    backbone = _backbone(spec, teachers, data, base, folder, seed)
    model = new_classifier(backbone, data.tasks, data.max_length, seed)
    if isinstance(spec.init, TeacherInit):
        model = load_model(_multi_task(teachers).path).with_tasks(data.tasks)
    tokenizer = open_tokenizer(folder, backbone.tokenizer)
    documents = training_documents(spec.losses, data, data.tasks, spec.unlabelled)
    train = encode(documents, tokenizer, model.max_length)
    dev = encode(data.dev, tokenizer, model.max_length)
    teach = open_teacher(spec.teacher, teachers, documents, data.tasks, cache) if spec.needs_teacher else None
    objective = TaskObjective(data.tasks, spec.losses, documents, teach)
    weights = sampling_weights(documents, data.tasks, spec.fit.batch)
    context = FitContext(folder, seed, spec.name, dev_scores(data.tasks, dev, spec.name))
    result = fit(model.classifier, train, objective, spec.fit, weights, context)
    if spec.fit.epochs:
        model = replace(model, backbone=replace(model.backbone, weights="trained"))
    save_model(calibrated(model, dev, spec.name), folder, folder)
    return result


def training_documents(
    losses: Sequence[LossSpec], data: Dataset, tasks: Sequence[Task], unlabelled: bool
) -> Documents:
    """The documents that some loss learns from: the labelled ones, or with `on: all` every one there is."""
    everything = any(loss.kind == "logits" and loss.on == "all" for loss in losses)
    if everything:
        return data.train.followed_by(data.unlabelled, tasks) if unlabelled else data.train
    if unlabelled:
        raise InputError(
            "nothing would be learned from the unlabelled texts",
            key="unlabelled",
            hint="give a logits loss with `on: all`",
        )
    return data.train.take(np.flatnonzero(np.any([data.train.labelled(task) for task in tasks], axis=0)))


def open_teacher(
    mode: Literal["cached", "online"],
    teachers: Sequence[Artifact],
    documents: Documents,
    tasks: Sequence[Task],
    cache: Path,
) -> Teacher:
    """The teacher's logits for these documents, read from the cache or computed at each step."""
    for artifact in teachers:
        require_tasks(artifact.config()[1], tasks)
    if mode == "online":
        return open_online_teacher(teachers, documents)
    return open_cached_teacher(teachers, documents, cache)


def _multi_task(teachers: Sequence[Artifact]) -> Artifact:
    if len(teachers) != 1:
        raise InputError(
            "a student can start from its teacher only where that is one multi-task model",
            key="students.init",
            hint="use teacher.mode: {kind: multi_task}, or init: {kind: backbone, name: ...}",
        )
    return teachers[0]


def _backbone(
    spec: StudentSpec, teachers: Sequence[Artifact], data: Dataset, base: Path, folder: Path, seed: int
) -> Backbone:
    """The student's encoder, with its tokenizer file in `folder`."""
    if isinstance(spec.init, BackboneInit):
        return load_backbone(spec.init.name, folder, base)
    source = _multi_task(teachers) if isinstance(spec.init, TeacherInit) else teachers[0]
    teacher = load_model(source.path)
    file = teacher.backbone.tokenizer.file
    (folder / file).write_bytes((source.path / file).read_bytes())
    if isinstance(spec.init, TeacherInit):
        return teacher.backbone
    tokenizer = open_tokenizer(folder, teacher.backbone.tokenizer)
    ids = np.concatenate(tokenizer.encode(data.train.texts, data.max_length).ids)
    counts = np.bincount(ids, minlength=token_embedding(teacher.backbone.module).num_embeddings)
    return build_small(spec.init, teacher.backbone, counts, data.max_length, seed)
