"""Losses that look inside the teacher, held against the shapes of both models before anything is trained."""

from polyfold.data.dataset import Dataset
from polyfold.errors import InputError, within
from polyfold.losses.spec import check_weights, wanted_of
from polyfold.model.classifier import check_length
from polyfold.model.internals import POOLED
from polyfold.pretraining import BackbonePlan
from polyfold.recipe import Recipe
from polyfold.teaching import TeacherPlan, cut_alike, student_outline, teacher_outline
from polyfold.train.backbones import texts_of
from polyfold.train.distill import training_documents
from polyfold.train.objectives import check_class_weights
from polyfold.train.sides import check_losses, check_taskless
from polyfold.train.teacher import TrainedTeacher, members_of


def check_backbones(recipe: Recipe, backbones: BackbonePlan, data: Dataset) -> None:
    """InputError for a backbone that is to have layers, texts or losses that it cannot."""
    for spec in recipe.backbones:
        with within(f"backbone '{spec.name}'"):
            check_taskless(spec.losses)
            teacher = TrainedTeacher(backbone=spec.teacher)
            texts = texts_of(spec, data).texts
            own, other = backbones.outline(spec.init), teacher_outline(teacher, backbones)
            for one in (own, other):
                check_length(one, data.max_length)
            same = not wanted_of(spec.losses) - {POOLED} or cut_alike(spec.init, teacher, backbones, texts)
            check_losses(spec.losses, own, other, same)


def check_students(recipe: Recipe, teachers: TeacherPlan, backbones: BackbonePlan, data: Dataset) -> None:
    """InputError for a teacher or a student whose start does not suit the data, or whose losses do not suit it."""
    for member in members_of(recipe.teacher):
        if isinstance(member, TrainedTeacher):
            with within("teacher"):
                check_length(teacher_outline(member, backbones), data.max_length)
    for student in recipe.students:
        with within(f"student '{student.name}'"):
            own = student_outline(student.init, teachers, backbones)
            if student.init.kind == "backbone":
                check_length(own, data.max_length)
            check_weights(student.losses)
            check_class_weights(student.losses, data.tasks)
            if student.unlabelled and not len(data.unlabelled):
                raise InputError(
                    "there are no unlabelled texts to learn from",
                    key="unlabelled",
                    hint="name a file of texts under data.unlabelled, or leave it out",
                )
            training_documents(student.losses, data, data.tasks, student.unlabelled)
            wanted = wanted_of(student.losses)
            if wanted and teachers.lead is not None:
                lead = teachers.lead.spec
                same = not wanted - {POOLED} or cut_alike(student.init, lead, backbones, data.train.texts)
                check_losses(student.losses, own, teacher_outline(lead, backbones), same)
