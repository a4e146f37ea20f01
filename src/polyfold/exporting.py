"""What a line is exported to: its stages planned, checked before anything is trained, and run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyfold.artifact import Artifact, Stage
from polyfold.compress.step import StepSpec, quantizes
from polyfold.errors import InputError
from polyfold.export import STAGE_VERSION as EXPORT_VERSION
from polyfold.export import ExportSpec, check_precision, export, export_label, stored_settings
from polyfold.export_transformers import STAGE_VERSION as TRANSFORMERS_VERSION
from polyfold.export_transformers import TransformersExport, check_family, export_transformers
from polyfold.model import stock, use_multilingual
from polyfold.model.classifier import load_model
from polyfold.model.student import BackboneInit, ConvolutionalInit, StudentInit, TeacherInit, TransformerInit
from polyfold.pretraining import BackbonePlan
from polyfold.recipe import TEACHER, Recipe
from polyfold.teaching import TeacherPlan
from polyfold.train.given import finished_model
from polyfold.train.teacher import TrainedTeacher
from polyfold.workshop import Workshop, perform

Steps = Sequence[tuple[StepSpec, Stage]]


def plan_exports(name: str, start: Stage, steps: Steps, recipe: Recipe) -> Iterator[tuple[ExportSpec, Stage]]:
    """A stage for each export of a line: of its last model, for transformers of the last before quantization."""
    last = steps[-1][1] if steps else start
    plain = next((stage for spec, stage in reversed(steps) if not quantizes(spec)), start)
    for spec in recipe.export:
        if spec.only is not None and name not in spec.only:
            continue
        if isinstance(spec, TransformersExport):
            yield spec, _stage(spec, plain, TRANSFORMERS_VERSION)
        else:
            yield spec, _stage(spec, last, EXPORT_VERSION)


def _stage(spec: ExportSpec, source: Stage, version: int) -> Stage:
    return Stage("export", f"{source.name}.{export_label(spec)}", version, stored_settings(spec), (source.key,))


def check_exports(recipe: Recipe, teachers: TeacherPlan, backbones: BackbonePlan) -> None:
    """InputError, before anything is trained, for a line that cannot be written as an export asks.

    Transformers has no class for some; what int8 has quantized is not written in another precision.
    """
    inits = {student.name: student.init for student in recipe.students}
    lines = [*([TEACHER] if teachers.folds(recipe) else []), *inits]
    for spec in recipe.export:
        for name in spec.only or ():
            if name not in lines:
                raise InputError(
                    f"there is no '{name}' to export", key="export.only", hint=f"there are: {', '.join(lines)}"
                )
        for name in spec.only or lines:
            if not isinstance(spec, TransformersExport):
                check_precision(spec, any(quantizes(step) for step in recipe.steps(name)), f"'{name}'")
                continue
            own = inits.get(name, TeacherInit())
            family = _family(own, teachers, backbones)
            check_family(family, f"'{name}'")


def _family(init: StudentInit, teachers: TeacherPlan, backbones: BackbonePlan) -> str:
    match init:
        case BackboneInit():
            return backbones.family(init.name)
        case TeacherInit():
            return _teachers_family(teachers, backbones)
        case TransformerInit():
            return "bert"
        case ConvolutionalInit():
            return use_multilingual.FAMILY


def _teachers_family(teachers: TeacherPlan, backbones: BackbonePlan) -> str:
    """The family of the model that students start from, and that is compressed itself."""
    spec = (teachers.lead or teachers.models[0]).spec
    if isinstance(spec, TrainedTeacher):
        return backbones.family(spec.backbone)
    return stock.FAMILY if finished_model(spec.name, backbones.base) is None else backbones.family(spec.name)


def convert(stage: Stage, spec: ExportSpec, chain: Sequence[Artifact], shop: Workshop) -> Artifact:
    """A model of a line's chain in another runtime's format, or in transformers' own."""
    model = next(one for one in chain if one.manifest.key == stage.parents[0])

    def build(folder: Path) -> Mapping[str, Any]:
        if isinstance(spec, TransformersExport):
            return export_transformers(load_model(model.path), model.path, folder, shop.data.dev.texts)
        export(spec, load_model(model.path), model.path, folder)
        return {}

    return perform(stage, shop.root, build)
