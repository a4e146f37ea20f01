"""Compression steps held against the models and texts they are for, before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from polyfold.compress.int8_qat import Int8Qat
from polyfold.compress.prune import check_shape, foreseen
from polyfold.compress.prune_spec import Prune
from polyfold.compress.step import StepSpec
from polyfold.data.dataset import Dataset
from polyfold.errors import InputError, within
from polyfold.export_transformers import TransformersExport
from polyfold.losses.spec import LossSpec, check_weights, wanted_of
from polyfold.model.backbone import Backbone, copy_tokenizer
from polyfold.model.corpus import read_corpus
from polyfold.model.internals import POOLED, shape_of
from polyfold.model.padded import check_stated
from polyfold.model.student import BackboneInit, StudentInit, TeacherInit
from polyfold.model.trimming import TrimVocabulary, check_known, check_trim
from polyfold.pretraining import BackbonePlan
from polyfold.recipe import TEACHER, Recipe
from polyfold.teaching import (
    TeacherPlan,
    check_tasks,
    check_torch,
    cut_alike,
    student_outline,
    teacher_outline,
)
from polyfold.train.answers import the_lead
from polyfold.train.counted import counted_texts
from polyfold.train.given import finished_model
from polyfold.train.objectives import check_class_weights
from polyfold.train.sides import check_losses
from polyfold.train.teacher import GivenTeacher, TrainedTeacher, members_of


@dataclass(frozen=True)
class _Run:
    """What the steps of every line are held against."""

    recipe: Recipe
    teachers: TeacherPlan
    backbones: BackbonePlan
    data: Dataset

    @property
    def first(self) -> TrainedTeacher | GivenTeacher:
        """The model that students start from, or inherit their tokenizer of."""
        return (self.teachers.lead or self.teachers.models[0]).spec

    def source(self, init: StudentInit) -> str:
        """What a line's tokenizer comes with: a backbone, or a given model."""
        if isinstance(init, BackboneInit):
            return init.name
        return self.first.backbone if isinstance(self.first, TrainedTeacher) else self.first.name

    def has_whole_table(self, init: StudentInit) -> bool:
        """Whether a line starts with a token table that is published, or given, as it is."""
        trimmed = isinstance(self.first, TrainedTeacher) and self.first.trim is not None
        whole = isinstance(init, BackboneInit) or (isinstance(init, TeacherInit) and not trimmed)
        return whole and self.source(init) not in self.backbones.specs


def check_steps(recipe: Recipe, teachers: TeacherPlan, backbones: BackbonePlan, data: Dataset) -> None:
    """InputError for a line that its steps do not fit: a target, layer, budget, loss or piece it does not have."""
    about = _Run(recipe, teachers, backbones, data)
    inits: dict[str, StudentInit] = {student.name: student.init for student in recipe.students}
    if teachers.folds(recipe):
        inits[TEACHER] = TeacherInit()
    for name, init in inits.items():
        with within(f"'{name}'"):
            _check_line(name, init, about)
    for one in members_of(recipe.teacher):
        if isinstance(one, TrainedTeacher) and one.trim is not None:
            with within("teacher"):
                origin = backbones.origin(one.backbone)
                _check_pieces(one.trim, teacher_outline(one, backbones), origin, backbones.base)


def check_languages(recipe: Recipe, data: Dataset, base: Path) -> None:
    """InputError for a vocabulary to be trimmed on a corpus, or to a language, that has no text."""
    steps = (*recipe.compress, *(step for some in recipe.compress_by_name.values() for step in some))
    trims = [step for step in steps if isinstance(step, TrimVocabulary)]
    trained = (one for one in members_of(recipe.teacher) if isinstance(one, TrainedTeacher))
    for spec in (*trims, *(one.trim for one in trained if one.trim is not None)):
        if spec.corpus is not None:
            next(read_corpus(spec.corpus, base))
        if spec.languages is not None:
            seen = {language for language, _ in counted_texts(spec, data, base)}
            check_known(spec.languages, seen)


@dataclass
class _Left:
    """What the steps so far leave of a line's encoder, as far as that is known.

    `fewest` has one head where importance decides how many stay in which layer. `vocabulary`: whether the token
    table has its true size; `alike`: whether texts are cut as the teacher cuts them; `width`: whether it is known.
    """

    shape: Backbone
    fewest: Backbone
    vocabulary: bool
    alike: bool = True
    width: bool = True

    def pruned(self, step: Prune) -> None:
        """The step is done."""
        self.shape, self.fewest = foreseen(step, self.shape), foreseen(step, self.fewest, fewest_heads=True)
        self.width &= step.budget is None or "width" not in (step.budget.targets or ())

    def trimmed(self, step: TrimVocabulary) -> None:
        """The step is done: only where every piece of the training texts stays are they cut as before."""
        whole = step.coverage == 1.0 and step.size is None and step.languages is None
        self.vocabulary, self.alike = False, self.alike and (whole or step.keep_scripts)


def _check_line(name: str, init: StudentInit, about: _Run) -> None:
    """Each step against the outline of what the steps before it leave."""
    steps = about.recipe.steps(name)
    stock = any(
        isinstance(one, TransformersExport) and (one.only is None or name in one.only)
        for one in about.recipe.export
    )
    shape = student_outline(init, about.teachers, about.backbones)
    left = _Left(shape, shape, about.has_whole_table(init))
    for place, step in enumerate(steps):
        with within(f"step {place + 1}, {step.kind}"):
            match step:
                case TrimVocabulary():
                    if left.vocabulary:
                        _check_pieces(step, shape, about.source(init), about.backbones.base)
                    left.trimmed(step)
                case Prune():
                    _check_cuttable(init, about)
                    check_shape(step, left.shape, vocabulary=left.vocabulary)
                    later = any(isinstance(one, Prune) or _inside(one) for one in steps[place + 1 :])
                    if stock or later or _inside(step):
                        left.pruned(step)
                    if step.importance == "taylor" or step.recover.epochs:
                        _check_learning(step.losses, init, left, about)
                case Int8Qat() if step.fit.epochs:
                    _check_learning(step.losses, init, left, about)
                case _:
                    pass
    if stock and left.width:
        check_stated(left.fewest)


def _inside(step: StepSpec) -> bool:
    """Whether a step learns from the inside of its teacher."""
    return isinstance(step, Prune | Int8Qat) and bool(wanted_of(step.losses))


def _check_learning(losses: Sequence[LossSpec], init: StudentInit, left: _Left, about: _Run) -> None:
    """What a step minimises, on a model of that outline."""
    check_weights(losses)
    check_class_weights(losses, about.data.tasks)
    check_tasks(losses, about.teachers, about.data.tasks, "a step")
    wanted = wanted_of(losses)
    if not wanted:
        return
    lead = the_lead(about.teachers.lead, "a step's losses can look inside the teacher", "compress.losses")
    check_torch(lead, "a loss that looks inside the teacher")
    layerwise = bool(wanted - {POOLED})
    if layerwise and not left.alike:
        raise InputError(
            "a loss compares position by position, but a vocabulary trimmed before cuts some texts otherwise",
            key="compress.losses",
            hint="trim with `coverage: 1.0`, without `size` or `languages`, or after this step; or use a sentence "
            "or logits loss",
        )
    same = not layerwise or cut_alike(init, lead.spec, about.backbones, about.data.train.texts)
    teacher = teacher_outline(lead.spec, about.backbones)
    if not layerwise or shape_of(left.shape) == shape_of(left.fewest):
        check_losses(losses, left.shape, teacher, same)
        return
    with within("importance may leave a single head in a layer"):
        check_losses(losses, left.fewest, teacher, same)


def _check_cuttable(init: StudentInit, about: _Run) -> None:
    given = about.first.name if isinstance(init, TeacherInit) and isinstance(about.first, GivenTeacher) else None
    if given is not None and finished_model(given, about.backbones.base) is None:
        raise InputError(
            "a stock sequence classifier cannot be pruned: its layers above the encoder are its own",
            key="compress",
            hint="start a student from the same folder as a backbone, or give the teacher no pruning",
        )


def _check_pieces(spec: TrimVocabulary, shape: Backbone, name: str, base: Path) -> None:
    """The vocabulary of that name, published or a finished model's, against what trimming must keep of it."""
    found = finished_model(name, base)
    if found is not None:
        check_trim(spec, shape.config, found.folder, found.config.tokenizer)
        return
    with TemporaryDirectory() as scratch:
        tokenizer = copy_tokenizer(name, base, Path(scratch))
        try:
            check_trim(spec, shape.config, Path(scratch), tokenizer)
        except InputError as error:
            raise InputError(error.problem, file=name, key=error.key, hint=error.hint) from None
