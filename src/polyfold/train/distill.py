"""The student stage: a smaller or different model that learns from labels and from its teacher."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from polyfold.artifact import Artifact
from polyfold.data.batches import encode, sampling_weights
from polyfold.data.dataset import Dataset, Documents
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.losses.spec import LossSpec, every_document, needs_teacher, wanted_of
from polyfold.model.backbone import Backbone
from polyfold.model.classifier import Model, load_model, new_classifier, save_model
from polyfold.model.student import BackboneInit, StudentInit, TeacherInit, build_small, piece_counts, published
from polyfold.tasks import Task
from polyfold.text import open_tokenizer
from polyfold.train.answers import TeacherSet, the_lead
from polyfold.train.evaluate import calibrated, dev_scores
from polyfold.train.fit import FitContext, FitResult, FitSpec, fit
from polyfold.train.objectives import TaskObjective
from polyfold.train.teachers import Teach, sides_of

STAGE_VERSION = 3


class StudentSpec(BaseModel):
    """A student: where its weights come from, what it minimises, how it is trained.

    `teacher: cached` computes the teacher's logits once and keeps them for every student; `online` computes
    them anew at each step. `unlabelled` adds the data's unlabelled texts, which a logit loss with `on: all` learns
    from, and every loss that looks inside the teacher.
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
        return needs_teacher(self.losses)


def distill(
    spec: StudentSpec, teachers: TeacherSet, teach: Teach, data: Dataset, base: Path, folder: Path, seed: int
) -> FitResult:
    """Train one student and leave a finished model in `folder`; `teach` opens the teachers on its documents."""
    backbone = _backbone(spec, teachers, data, base, folder, seed)
    model = new_classifier(backbone, data.tasks, data.max_length, seed)
    if isinstance(spec.init, TeacherInit):
        model = _with_heads(model, load_model(_one_model(teachers).path))
    tokenizer = open_tokenizer(folder, backbone.tokenizer)
    documents = training_documents(spec.losses, data, data.tasks, spec.unlabelled)
    train = encode(documents, tokenizer, model.max_length)
    dev = encode(data.dev, tokenizer, model.max_length)
    teacher = teach(documents, wanted_of(spec.losses)) if spec.needs_teacher else None
    sides = sides_of(model.backbone, train, teacher, seed)
    objective = TaskObjective(data.tasks, spec.losses, documents, teacher, sides)
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
    if every_document(losses):
        return data.train.followed_by(data.unlabelled, tasks) if unlabelled else data.train
    if unlabelled:
        raise InputError(
            "nothing would be learned from the unlabelled texts",
            key="unlabelled",
            hint="give a logits loss with `on: all`, or one that looks inside the teacher",
        )
    return data.train.take(np.flatnonzero(np.any([data.train.labelled(task) for task in tasks], axis=0)))


def _one_model(teachers: TeacherSet) -> Artifact:
    """The teacher that a student starts from."""
    return the_lead(teachers.lead, "a student can start from its teacher", "students.init")


def _with_heads(model: Model, teacher: Model) -> Model:
    """The model with the teacher's heads of those tasks that it knows; the others start anew."""
    known = {task.name: task for task in teacher.tasks}
    heads = {name: head for name, head in teacher.classifier.heads.items() if name in model.classifier.heads}
    with torch.no_grad():
        for name, head in heads.items():
            model.classifier.heads[name].load_state_dict(head.state_dict())
    return replace(model, tasks=tuple(known.get(task.name, task) for task in model.tasks))


def _backbone(
    spec: StudentSpec, teachers: TeacherSet, data: Dataset, base: Path, folder: Path, seed: int
) -> Backbone:
    """The student's encoder, with its tokenizer file in `folder`."""
    if isinstance(spec.init, BackboneInit):
        return published(spec.init, folder, base)
    started = isinstance(spec.init, TeacherInit)
    source = _one_model(teachers) if started else teachers.lead or teachers.artifacts[0]
    teacher = load_model(source.path)
    file = teacher.backbone.tokenizer.file
    (folder / file).write_bytes((source.path / file).read_bytes())
    if isinstance(spec.init, TeacherInit):
        return teacher.backbone
    counts = piece_counts(teacher.backbone, folder, data.train.texts, data.max_length)
    return build_small(spec.init, teacher.backbone, counts, data.max_length, seed)
