"""The teachers of a run: their stages planned, checked against the students, built, and handed on as one set.

Each model is a stage of its own (`teacher`: trained here, `import`: given), so that what several recipes share is
made once. A mean adds a small stage that holds its weights.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyfold.artifact import Artifact, Stage, write_atomically
from polyfold.console import note
from polyfold.data.dataset import Dataset
from polyfold.errors import InputError
from polyfold.losses.spec import LossSpec, needs_teacher, wanted_of
from polyfold.model.backbone import NO_LIMIT, Backbone
from polyfold.model.backbone import token_lengths as backbone_lengths
from polyfold.model.outline import outline
from polyfold.model.student import BackboneInit, StudentInit, TeacherInit
from polyfold.pretraining import BackbonePlan, plan_backbones
from polyfold.recipe import TEACHER, Recipe
from polyfold.tasks import Task
from polyfold.text import open_tokenizer
from polyfold.train import given as giving
from polyfold.train import teacher as training
from polyfold.train.answers import LANGUAGES, TeacherSet, the_lead
from polyfold.train.asking import TeachFrom, dev_weights
from polyfold.train.distill import StudentSpec
from polyfold.train.given import check_given, finished_model, given_files, given_scope, import_teacher
from polyfold.train.objectives import check_class_weights
from polyfold.train.teacher import (
    GivenTeacher,
    MeanTeacher,
    Scope,
    TrainedTeacher,
    members_of,
    train_teacher,
)
from polyfold.workshop import Workshop, perform

MEAN_VERSION = 1
WEIGHTS = "weights.json"

COMPARED = 200
"""Texts on which two tokenizers are compared beforehand; the student stage compares them on all."""


@dataclass(frozen=True)
class ModelPlan:
    """One model of the set: what it answers for, and the stage that makes it.

    `torch` tells an exported model from one that students may start from, look inside of or ask online; `float32`
    one that may be compressed.
    """

    spec: TrainedTeacher | GivenTeacher
    scope: Scope
    stage: Stage
    torch: bool = True
    float32: bool = True


@dataclass(frozen=True)
class TeacherPlan:
    """The models of a set by member, and the stage of a mean's weights."""

    members: tuple[tuple[ModelPlan, ...], ...]
    mean: Stage | None

    @property
    def models(self) -> tuple[ModelPlan, ...]:
        """All models, given ones first: what does not fit must be found before anything is trained."""
        found = [model for member in self.members for model in member]
        return tuple(sorted(found, key=lambda model: isinstance(model.spec, TrainedTeacher)))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In the order they run."""
        models = tuple(model.stage for model in self.models)
        return models if self.mean is None else (*models, self.mean)

    @property
    def keys(self) -> tuple[str, ...]:
        """The stages' keys."""
        return tuple(stage.key for stage in self.stages)

    @property
    def lead(self) -> ModelPlan | None:
        """The plan of `TeacherSet.lead`."""
        return next((one[0] for one in self.members if len(one) == 1 and one[0].scope.languages is None), None)

    def folds(self, recipe: Recipe) -> bool:
        """Whether the teacher itself is compressed as well: asked for, and one model of all tasks."""
        (first, *rest) = self.models
        whole = set(first.scope.tasks) == {task.name for task in recipe.data.tasks}
        return recipe.folds_teacher and not rest and whole and first.torch and first.float32


def plan_teachers(recipe: Recipe, base: Path, seen: str, backbones: BackbonePlan) -> TeacherPlan:
    """All teacher stages with their keys; reads the files of local backbones and given models."""
    spec = recipe.teacher
    members = tuple(
        tuple(_models(one, number, recipe, seen, backbones))
        for number, one in enumerate(members_of(spec), start=1)
    )
    mean = None
    if isinstance(spec, MeanTeacher):
        keys = [[model.stage.key for model in member] for member in members]
        parents = (seen, *(key for member in keys for key in member))
        weights = spec.weights if isinstance(spec.weights, str) else list(spec.weights)
        settings = {"weights": weights, "members": keys}
        mean = Stage("mean", f"{TEACHER}-mean", MEAN_VERSION, settings, parents)
    return TeacherPlan(members, mean)


def check_teachers(plan: TeacherPlan, recipe: Recipe, data: Dataset, base: Path) -> None:
    """InputError for what cannot work, before anything is trained."""
    for model in plan.models:
        if isinstance(model.spec, TrainedTeacher):
            _check_documents(model, data)
            check_class_weights((model.spec.loss,), data.tasks)
        else:
            check_given(model.spec, model.scope, data, base)
    for student in recipe.students:
        missing = check_tasks(student.losses, plan, data.tasks, f"student '{student.name}'")
        if missing:
            note(f"{student.name}: no teacher knows {', '.join(missing)}; learned from labels alone")
        _check_lead(student, plan)


def build_teachers(plan: TeacherPlan, shop: Workshop) -> TeacherSet:
    """Bring in what is given, train what is not, fit the weights of a mean."""
    made = {model.stage.name: _build(model, shop) for model in plan.models}
    members = tuple(tuple(made[model.stage.name] for model in member) for member in plan.members)
    if plan.mean is None:
        return TeacherSet(members)
    weights = perform(plan.mean, shop.root, _mean(members, shop)).path / WEIGHTS
    return TeacherSet(members, {name: tuple(some) for name, some in json.loads(weights.read_bytes()).items()})


def teach_from(teachers: TeacherSet, shop: Workshop, student: StudentSpec | None = None) -> TeachFrom:
    """Opens the teachers on documents, as a student asks for it; a compression step reads the cache."""
    mode = student.teacher if student is not None else "cached"
    return TeachFrom(teachers, shop.data.tasks, shop.cache, mode)


def token_lengths(recipe: Recipe, texts: Mapping[str, Sequence[str]], base: Path) -> dict[str, np.ndarray]:
    """Tokens of every text by split (int64 [n]), as the (first) teacher's tokenizer cuts them."""
    return model_lengths(members_of(recipe.teacher)[0], texts, plan_backbones(recipe, base, ""))


def model_lengths(
    spec: TrainedTeacher | GivenTeacher, texts: Mapping[str, Sequence[str]], backbones: BackbonePlan
) -> dict[str, np.ndarray]:
    """Tokens of every text by split (int64 [n]), as this model's tokenizer cuts them, before any trimming."""
    name = backbones.origin(spec.backbone) if isinstance(spec, TrainedTeacher) else spec.name
    found = finished_model(name, backbones.base)
    if found is None:
        return backbone_lengths(name, texts, backbones.base)
    tokenizer = open_tokenizer(found.folder, found.config.tokenizer)
    return {split: tokenizer.encode(list(some), NO_LIMIT).lengths for split, some in texts.items()}


def teacher_outline(spec: TrainedTeacher | GivenTeacher, backbones: BackbonePlan) -> Backbone:
    """The shape of a teacher's model, before it is made."""
    if isinstance(spec, GivenTeacher):
        return outline(spec.name, backbones.base)
    return backbones.outline(BackboneInit(name=spec.backbone))


def student_outline(init: StudentInit, teachers: TeacherPlan, backbones: BackbonePlan) -> Backbone:
    """The shape of what a student starts from, before it is made."""
    if isinstance(init, TeacherInit):
        return teacher_outline((teachers.lead or teachers.models[0]).spec, backbones)
    return backbones.outline(init)


def cut_alike(
    init: StudentInit, teacher: TrainedTeacher | GivenTeacher, backbones: BackbonePlan, texts: Sequence[str]
) -> bool:
    """Whether both cut some texts into as many pieces; what cannot be known yet is taken for granted."""
    trimmed = isinstance(teacher, TrainedTeacher) and teacher.trim is not None
    if not isinstance(init, BackboneInit) or trimmed:
        return True
    started = GivenTeacher(name=backbones.origin(init.name))
    own, other = (model_lengths(one, {"": texts[:COMPARED]}, backbones)[""] for one in (started, teacher))
    return np.array_equal(own, other)


def _models(
    spec: TrainedTeacher | GivenTeacher, number: int, recipe: Recipe, seen: str, backbones: BackbonePlan
) -> Iterator[ModelPlan]:
    """The models of one member, each with its stage."""
    name = TEACHER if not isinstance(recipe.teacher, MeanTeacher) else f"{TEACHER}-{number}"
    tasks = tuple(task.name for task in recipe.data.tasks)
    if isinstance(spec, GivenTeacher):
        base = backbones.base
        scope = given_scope(spec, base, tasks)
        settings = _settings(spec, scope)
        stage = Stage("import", name, giving.STAGE_VERSION, settings, (seen,), given_files(spec, base))
        found = finished_model(spec.name, base)
        yield ModelPlan(
            spec, scope, stage, found is None or found.config.runtime == "torch", found is None or found.trainable
        )
        return
    files = {
        **backbones.files(spec.backbone),
        **(spec.trim.files(backbones.base) if spec.trim is not None else {}),
    }
    parents = (seen, *backbones.parents(spec.backbone))
    for ending, scope in _scopes(spec, tasks, recipe.data.languages):
        settings = {**_settings(spec, scope), "seed": recipe.seed + spec.seed}
        title = f"{name}-{ending}" if ending else name
        yield ModelPlan(spec, scope, Stage("teacher", title, training.STAGE_VERSION, settings, parents, files))


def _settings(spec: TrainedTeacher | GivenTeacher, scope: Scope) -> dict[str, Any]:
    languages = None if scope.languages is None else list(scope.languages)
    return {**spec.model_dump(mode="json"), "tasks": list(scope.tasks), LANGUAGES: languages}


def _scopes(
    spec: TrainedTeacher, tasks: tuple[str, ...], languages: tuple[str, ...] | None
) -> list[tuple[str, Scope]]:
    """What each model to be trained answers for, and what tells its name from the others'."""
    own = spec.tasks or tasks
    match spec.mode.kind:
        case "multi_task":
            return [("", Scope(own, spec.languages))]
        case "per_task":
            return [(name, Scope((name,), spec.languages)) for name in own]
        case "per_language":
            named = spec.languages or languages
            assert named, "the recipe was checked for it"
            return [(name, Scope(own, (name,))) for name in named]


def _build(model: ModelPlan, shop: Workshop) -> Artifact:
    spec = model.spec

    def build(folder: Path) -> Mapping[str, Any]:
        if isinstance(spec, GivenTeacher):
            return import_teacher(spec, model.scope, shop.data, shop.base, folder)
        seed = int(model.stage.spec["seed"])
        grounded = spec.model_copy(update={"backbone": shop.source(spec.backbone)})
        result = train_teacher(grounded, model.scope, shop.data, shop.base, folder, seed, model.stage.name)
        return {"dev_macro_f1": result.best_score, "steps": result.steps}

    return perform(model.stage, shop.root, build)


def _mean(members: Sequence[tuple[Artifact, ...]], shop: Workshop) -> Callable[[Path], Mapping[str, Any]]:
    """Fills the folder of a mean: by task one weight a member."""
    spec = shop.recipe.teacher
    assert isinstance(spec, MeanTeacher)

    def build(folder: Path) -> Mapping[str, Any]:
        if spec.weights == "dev":
            weights = dev_weights(members, shop.data.dev, shop.data.tasks)
            for name, some in weights.items():
                note(f"teacher: weights for '{name}' {', '.join(f'{one:.3f}' for one in some)}")
        else:
            given = [1.0] * len(members) if isinstance(spec.weights, str) else list(spec.weights)
            weights = dict.fromkeys((task.name for task in shop.data.tasks), tuple(np.divide(given, sum(given))))
        write_atomically(folder / WEIGHTS, json.dumps(weights, indent=2, ensure_ascii=False).encode())
        return {}

    return build


def _check_documents(model: ModelPlan, data: Dataset) -> None:
    """A teacher needs labelled documents of its tasks and languages, to learn from and to be scored on."""
    tasks = [task for task in data.tasks if task.name in model.scope.tasks]
    for split in ("train", "dev"):
        documents = model.scope.documents(data.split(split))
        if not any(documents.labelled(task).any() for task in tasks):
            where = f" in {', '.join(model.scope.languages)}" if model.scope.languages else ""
            raise InputError(
                f"{model.stage.name}: no {split} document{where} is labelled for {', '.join(model.scope.tasks)}",
                key="teacher",
                hint="name other tasks or languages, or leave this teacher out",
            )


def check_tasks(losses: Sequence[LossSpec], plan: TeacherPlan, tasks: Sequence[Task], who: str) -> list[str]:
    """The tasks that no teacher knows, if one is asked: they are learned from labels alone.

    InputError where there is no loss on labels either.
    """
    known = [task.name for task in tasks if any(task.name in model.scope.tasks for model in plan.models)]
    missing = [task.name for task in tasks if task.name not in known] if needs_teacher(losses) else []
    if not missing or any(loss.kind == "labels" and loss.weight for loss in losses):
        return missing
    raise InputError(
        f"{who} would never learn {', '.join(missing)}: no teacher knows it, and there is no loss on labels",
        key="losses",
        hint=f"the teacher knows {', '.join(known)}; add {{kind: labels}}, or a teacher of the others",
    )


def _check_lead(student: StudentSpec, plan: TeacherPlan) -> None:
    """Starting from a teacher, looking inside one and asking online need a torch model, the former two a lead."""
    who, starts = f"student '{student.name}'", student.init.kind == "teacher"
    wanted = wanted_of(student.losses)
    for asked, reason in ((starts, "start from its teacher"), (wanted, "look inside its teacher")):
        if asked:
            the_lead(plan.lead, f"{who} can {reason}", "students")
    if starts and plan.lead is not None and plan.lead.torch and not plan.lead.float32:
        raise InputError(
            f"{who} cannot start from a quantized model",
            key="teacher.name",
            hint="give the torch model in floating point that it was made from",
        )
    online = student.teacher == "online" and student.needs_teacher
    # A small student inherits the tokenizer and the embeddings of the lead, or of the first model there is.
    inherits = student.init.kind in ("transformer", "convolutional")
    source = plan.lead or plan.members[0][0]
    for model in plan.models if online else (source,) if starts or wanted or inherits else ():
        check_torch(model, who)


def check_torch(model: ModelPlan, who: str) -> None:
    """InputError where a model that must run in torch is an export."""
    if not model.torch:
        raise InputError(
            f"{who} needs a torch model, and {model.stage.name} is an export",
            key="teacher.name",
            hint="give the torch model it was made from, or use `teacher: cached` with logit losses alone",
        )
