"""Compression steps held against the models and texts they are for, before anything is trained."""

from pathlib import Path

from polyfold.compress.prune import check_shape, check_targets
from polyfold.compress.prune_spec import Prune
from polyfold.data.dataset import Dataset
from polyfold.errors import InputError
from polyfold.model.backbone import Backbone
from polyfold.model.outline import outline, outline_small
from polyfold.model.student import BackboneInit, ConvolutionalInit, StudentInit, TeacherInit, TransformerInit
from polyfold.model.trimming import TrimVocabulary, check_known
from polyfold.pretraining import BackbonePlan
from polyfold.recipe import TEACHER, Recipe
from polyfold.teaching import TeacherPlan
from polyfold.train.counted import counted_texts
from polyfold.train.given import finished_model
from polyfold.train.teacher import TrainedTeacher, members_of


def check_steps(recipe: Recipe, teachers: TeacherPlan, backbones: BackbonePlan) -> None:
    """InputError for a line that its pruning does not fit: a target, a layer or a budget that it does not have."""
    inits: dict[str, StudentInit] = {student.name: student.init for student in recipe.students}
    if teachers.folds(recipe):
        inits[TEACHER] = TeacherInit()
    for name, init in inits.items():
        prunings = [step for step in recipe.steps(name) if isinstance(step, Prune)]
        if not prunings:
            continue
        try:
            shape = _outline(init, teachers, backbones)
            if shape is not None:
                check_shape(prunings[0], shape)
                for spec in prunings[1:]:  # what they find is known only after the first
                    check_targets(spec, shape)
        except InputError as error:
            raise InputError(f"'{name}': {error.problem}", key=error.key, hint=error.hint) from None


def check_languages(recipe: Recipe, data: Dataset, base: Path) -> None:
    """InputError for a vocabulary to be trimmed to a language that no text to count on is in."""
    steps = (*recipe.compress, *(step for some in recipe.compress_by_name.values() for step in some))
    trims = [step for step in steps if isinstance(step, TrimVocabulary)]
    trained = (one for one in members_of(recipe.teacher) if isinstance(one, TrainedTeacher))
    for spec in (*trims, *(one.trim for one in trained if one.trim is not None)):
        if spec.languages is not None:
            seen = {language for language, _ in counted_texts(spec, data, base)}
            check_known(spec.languages, seen)


def _outline(init: StudentInit, teachers: TeacherPlan, backbones: BackbonePlan) -> Backbone | None:
    match init:
        case BackboneInit():
            return _named(init, backbones)
        case TeacherInit():
            lead = (teachers.lead or teachers.models[0]).spec
            if isinstance(lead, TrainedTeacher):
                return _named(BackboneInit(name=lead.backbone), backbones)
            if finished_model(lead.name, backbones.base) is None:
                raise InputError(
                    "a stock sequence classifier cannot be pruned: its layers above the encoder are its own",
                    key="compress",
                    hint="start a student from the same folder as a backbone, or give the teacher no pruning",
                )
            return outline(lead.name, backbones.base)
        case TransformerInit() | ConvolutionalInit():
            return outline_small(init)


def _named(init: BackboneInit, backbones: BackbonePlan) -> Backbone | None:
    """The shape of a backbone by name; None where only some of its layers are taken."""
    if init.layers is not None:
        return None
    made = backbones.specs.get(init.name)
    if made is None:
        return outline(init.name, backbones.base)
    return _named(made.init, backbones) if isinstance(made.init, BackboneInit) else outline_small(made.init)
