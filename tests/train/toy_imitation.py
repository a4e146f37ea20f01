"""Two toy encoders and texts of random token ids, for the losses by which one learns from the other's inside."""

import numpy as np
import torch

from polyfold.data.batches import EncodedDocuments
from polyfold.data.dataset import Documents
from polyfold.losses.spec import wanted_of
from polyfold.model.classifier import Model, new_classifier
from polyfold.text import Encoding
from polyfold.train.imitation import ImitationObjective
from polyfold.train.sides import Sides, aligned
from polyfold.train.teachers import ModelTeacher
from toys_encoders import VOCABULARY, toy_backbone
from toys_torch import TASKS

COUNT = 24


def texts(count=COUNT, seed=0, labelled=True, renumber=None):
    """Documents of 1 to 9 random ids, framed by 0 and 2, with random labels or none."""
    random = np.random.default_rng(seed)
    ids = [np.array([0, *random.integers(4, VOCABULARY, random.integers(1, 10)), 2]) for _ in range(count)]
    if renumber is not None:
        ids = [renumber[one] for one in ids]
    labels = {
        "domain": random.integers(0, 3, count),
        "sentiment": random.integers(0, 2, count),
        "topics": random.integers(0, 2, (count, 4)).astype(np.int8),
    }
    for values in labels.values():
        values[...] = values if labelled else -1
    names = [str(row) for row in range(count)]
    documents = Documents(names, names, ["en"] * count, names, labels)
    return EncodedDocuments(documents, Encoding.of(ids), pad_id=1)


def model_of(family="bert", seed=0, tasks=(), **sizes) -> Model:
    """A toy classifier without dropout; without tasks it is an encoder alone."""
    model = new_classifier(toy_backbone(family, seed=seed, **sizes), tasks, 16, seed)
    for part in model.classifier.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model


def pair(losses, student, teacher, encoded=None):
    """The two sides of an imitation and the teacher that shows what these losses read."""
    encoded = encoded or texts()
    guide = ModelTeacher(teacher, encoded, wanted_of(losses))
    return Sides(student.backbone, teacher.backbone, aligned(encoded, encoded)), guide


def imitation(losses, student, teacher, encoded=None):
    """Task-agnostic distillation between two models on the same ids."""
    return ImitationObjective(losses, *pair(losses, student, teacher, encoded))


def step_loss(objective, model, batches):
    """Each loss of a step as the loop forms it: the batches' sums over the step's counts."""
    counts, sums = {}, {}
    for batch in batches:
        for name, value in objective.counts(batch).items():
            counts[name] = counts.get(name, 0.0) + value
        for name, value in objective(model.classifier, batch).items():
            sums[name] = sums.get(name, 0.0) + value
    assert counts.keys() == sums.keys()
    return {name: value / max(1.0, counts[name]) for name, value in sums.items()}


def gradients(objective, model, batches):
    """The gradient of a step by parameter name."""
    for parameter in model.classifier.parameters():
        parameter.grad = None
    sum(step_loss(objective, model, batches).values()).backward()
    return {name: parameter.grad for name, parameter in model.classifier.named_parameters()}


def with_tasks(**more):
    """A toy classifier with the toy tasks."""
    return model_of(tasks=TASKS, **more)
