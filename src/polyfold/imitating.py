"""Losses that look inside the teacher, held against the shapes of both models before anything is trained."""

from collections.abc import Sequence

import numpy as np

from polyfold.errors import InputError
from polyfold.losses.spec import wanted_of
from polyfold.model.backbone import Backbone
from polyfold.model.internals import POOLED
from polyfold.model.outline import outline, outline_small, with_layers
from polyfold.model.student import BackboneInit, ConvolutionalInit, TransformerInit
from polyfold.pretraining import BackbonePlan
from polyfold.recipe import Recipe
from polyfold.teaching import TeacherPlan, model_lengths
from polyfold.train.distill import StudentSpec
from polyfold.train.sides import check_losses
from polyfold.train.teacher import GivenTeacher, TrainedTeacher

TEXTS = 200
"""Texts on which two tokenizers are compared beforehand; the student stage compares them on all."""


def check_students(recipe: Recipe, teachers: TeacherPlan, backbones: BackbonePlan, texts: Sequence[str]) -> None:
    """InputError for a student whose losses do not suit it or its teacher; `texts` are some of the data."""
    lead = teachers.lead
    for student in recipe.students:
        wanted = wanted_of(student.losses)
        if not wanted or lead is None:
            continue
        teacher = _shape_of_teacher(lead.spec, backbones)
        own = teacher if student.init.kind == "teacher" else _shape(student.init, backbones)
        same = not wanted - {POOLED} or _same_tokenizer(student, lead.spec, backbones, texts[:TEXTS])
        try:
            check_losses(student.losses, own, teacher, same)
        except InputError as error:
            raise InputError(
                f"student '{student.name}': {error.problem}", key=error.key, hint=error.hint
            ) from None


def _shape_of_teacher(spec: TrainedTeacher | GivenTeacher, backbones: BackbonePlan) -> Backbone:
    if isinstance(spec, GivenTeacher):
        return outline(spec.name, backbones.base)
    return _shape(BackboneInit(name=spec.backbone), backbones)


def _shape(init: BackboneInit | TransformerInit | ConvolutionalInit, backbones: BackbonePlan) -> Backbone:
    """The shape of an encoder that is there, is made by this recipe, or is built small."""
    if not isinstance(init, BackboneInit):
        return outline_small(init)
    made = backbones.specs.get(init.name)
    whole = outline(init.name, backbones.base) if made is None else _shape(made.init, backbones)
    return whole if init.layers is None else with_layers(whole, init.layers)


def _same_tokenizer(
    student: StudentSpec, teacher: TrainedTeacher | GivenTeacher, backbones: BackbonePlan, texts: Sequence[str]
) -> bool:
    """Whether both cut some texts into as many pieces; what cannot be known yet is taken for granted."""
    trimmed = isinstance(teacher, TrainedTeacher) and teacher.trim is not None
    if not isinstance(student.init, BackboneInit) or trimmed:
        return True
    started = GivenTeacher(name=backbones.origin(student.init.name))
    own, other = (model_lengths(one, {"": texts}, backbones)[""] for one in (started, teacher))
    return np.array_equal(own, other)
