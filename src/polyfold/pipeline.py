"""The story: labelled texts in, a small int8 model and an honest report out. Read this first.

    data -> backbones -> teacher -> students (and the teacher itself) -> compression steps -> exports -> report

Every stage is a folder named by the hash of all that decides its content, so the plan is known before anything
runs; a stage whose folder is finished is reused, one that was killed resumes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polyfold.artifact import Artifact, Stage
from polyfold.compress import step as compression
from polyfold.compress.step import StepSpec, compress, quantizes, step_files
from polyfold.data.dataset import Dataset
from polyfold.data.prepare import data_stage, load_dataset, prepare, training_key
from polyfold.export import ExportSpec
from polyfold.export_transformers import TransformersExport
from polyfold.exporting import check_exports, convert, plan_exports
from polyfold.imitating import check_backbones, check_students
from polyfold.measure import measure as measuring
from polyfold.measure.card import CARD, CardFacts, model_card
from polyfold.measure.measure import Candidate, measure
from polyfold.measure.report import Report, load_report, write_report
from polyfold.model.backbone import backbone_files
from polyfold.model.student import BackboneInit
from polyfold.pretraining import BackbonePlan, build_backbones, plan_backbones
from polyfold.recipe import TEACHER, Recipe
from polyfold.shrinking import check_languages, check_steps
from polyfold.teaching import TeacherPlan, build_teachers, check_teachers, plan_teachers, teach_from
from polyfold.train import distill as distilling
from polyfold.train.answers import TeacherSet
from polyfold.train.distill import distill
from polyfold.workshop import Workshop, perform


@dataclass(frozen=True)
class Line:
    """One model's way through compression: the stage it starts with, its steps in order, its exports."""

    name: str
    start: Stage
    steps: tuple[tuple[StepSpec, Stage], ...]
    exports: tuple[tuple[ExportSpec, Stage], ...]

    def stages(self) -> Iterator[Stage]:
        """The start, the steps and the exports, in order."""
        yield self.start
        yield from (stage for _, stage in self.steps)
        yield from (stage for _, stage in self.exports)


@dataclass(frozen=True)
class Plan:
    """Every stage of a run, its folder's name known before anything has run."""

    data: Stage
    backbones: BackbonePlan
    teachers: TeacherPlan
    lines: tuple[Line, ...]
    measure: Stage

    def stages(self) -> Iterator[Stage]:
        """All stages in the order they run, each once."""
        yield self.data
        yield from self.backbones.stages.values()
        yield from self.teachers.stages
        for line in self.lines:
            yield from (stage for stage in line.stages() if stage not in self.teachers.stages)
        yield self.measure


@dataclass(frozen=True)
class Built:
    """A line's finished artifacts: its start and each step's result, in order, and its exports."""

    line: Line
    chain: tuple[Artifact, ...]
    exports: tuple[Artifact, ...]


def run(recipe: Recipe, base: Path, root: Path) -> Report:
    """Do all of it under `root`, reusing what is finished."""
    chart = plan(recipe, base)
    shop = Workshop(recipe, base, root, load_dataset(prepare(recipe.data, base, root, recipe.seed)))
    check(chart, shop)
    shop = replace(shop, backbones=build_backbones(chart.backbones, shop))
    teachers = build_teachers(chart.teachers, shop)
    built = []
    for line in chart.lines:
        model = start(line, teachers, shop)
        chain = [model]
        for spec, stage in line.steps:
            model = shrink(stage, spec, model, teachers, shop)
            chain.append(model)
        exports = [convert(stage, spec, chain, shop) for spec, stage in line.exports]
        built.append(Built(line, tuple(chain), tuple(exports)))
    return conclude(chart.measure, teachers, built, shop)


def check(chart: Plan, shop: Workshop) -> None:
    """InputError for what cannot work, before anything is trained."""
    recipe, teachers, backbones, data = shop.recipe, chart.teachers, chart.backbones, shop.data
    check_backbones(recipe, backbones, data)
    check_teachers(teachers, recipe, data, shop.base)
    check_students(recipe, teachers, backbones, data)
    check_exports(recipe, teachers, backbones)
    check_steps(recipe, teachers, backbones, data)
    check_languages(recipe, data, shop.base)


def plan(recipe: Recipe, base: Path) -> Plan:
    """All stages of the recipe with their keys; reads the files that data and local backbones are made of."""
    data = data_stage(recipe.data, base, recipe.seed)
    seen = training_key(recipe.data, base, recipe.seed)
    backbones = plan_backbones(recipe, base, seen)
    teachers = plan_teachers(recipe, base, seen, backbones)
    keys = teachers.keys
    starts = [(TEACHER, teachers.stages[0])] if teachers.folds(recipe) else []
    for student in recipe.students:
        spec = {**student.model_dump(mode="json"), "seed": recipe.seed}
        named = student.init.name if student.init.kind == "backbone" else None
        files = backbones.files(named) if named is not None else {}
        parents = (seen, *keys, *(backbones.parents(named) if named is not None else ()))
        stage = Stage("student", student.name, distilling.STAGE_VERSION, spec, parents, files)
        starts.append((student.name, stage))
    lines = tuple(_line(name, start, recipe, base, (seen, *keys)) for name, start in starts)
    everything = [stage for line in lines for stage in line.stages()]
    spec = {**recipe.measure.model_dump(mode="json"), "name": recipe.name, "hash": recipe.hash}
    built = tuple(dict.fromkeys((data.key, *keys, *(stage.key for stage in everything))))
    baseline = backbone_files(recipe.measure.baseline, base) if recipe.measure.baseline is not None else {}
    measured = Stage("measure", "report", measuring.STAGE_VERSION, spec, built, baseline)
    return Plan(data, backbones, teachers, lines, measured)


def _line(name: str, start: Stage, recipe: Recipe, base: Path, common: tuple[str, ...]) -> Line:
    current, steps = start, []
    for spec in recipe.steps(name):
        settings = {**spec.model_dump(mode="json"), "seed": recipe.seed}
        parents, files = (current.key, *common), step_files(spec, base)
        title = f"{current.name}.{spec.kind}"
        current = Stage(spec.kind, title, compression.STAGE_VERSION, settings, parents, files)
        steps.append((spec, current))
    return Line(name, start, tuple(steps), tuple(plan_exports(name, start, steps, recipe)))


def start(line: Line, teachers: TeacherSet, shop: Workshop) -> Artifact:
    """A student, distilled; or the teacher itself, as it is."""
    if line.name == TEACHER:
        return teachers.artifacts[0]
    student = next(one for one in shop.recipe.students if one.name == line.name)
    if isinstance(student.init, BackboneInit):
        init = student.init.model_copy(update={"name": shop.source(student.init.name)})
        student = student.model_copy(update={"init": init})

    def build(folder: Path) -> Mapping[str, Any]:
        teach = teach_from(teachers, shop, student)
        result = distill(student, teachers, teach, shop.data, shop.base, folder, shop.recipe.seed)
        return {"dev_macro_f1": result.best_score, "steps": result.steps}

    return perform(line.start, shop.root, build)


def shrink(stage: Stage, spec: StepSpec, model: Artifact, teachers: TeacherSet, shop: Workshop) -> Artifact:
    """One compression step, which may ask the teachers again while it recovers."""
    teach, seed, base = teach_from(teachers, shop), shop.recipe.seed, shop.base
    return perform(stage, shop.root, lambda folder: compress(spec, model, shop.data, folder, seed, teach, base))


def conclude(stage: Stage, teachers: TeacherSet, built: Sequence[Built], shop: Workshop) -> Report:
    """Measure every row, write the report into its stage's folder and into `root`, and a card to each artifact."""
    recipe = shop.recipe

    def build(folder: Path) -> Mapping[str, Any]:
        identity = {"name": recipe.name, "recipe_hash": recipe.hash}
        rows = candidates(teachers, built)
        report = measure(recipe.measure, rows, shop.data, shop.base, recipe.seed, identity)
        write_report(report, folder)
        write_cards(report, rows, shop.data)
        return {"rows": len(report.rows)}

    report = load_report(perform(stage, shop.root, build).path)
    write_report(report, shop.root)
    return report


def candidates(teachers: TeacherSet, built: Sequence[Built]) -> list[Candidate]:
    """The rows of the report, parents before children."""
    rows = [Candidate(TEACHER, "teacher", None, teachers.artifacts, teachers=teachers)]
    for one in built:
        line, parent = one.line, one.line.start.name
        if line.name != TEACHER:
            rows.append(Candidate(parent, "student", TEACHER, one.chain[:1]))
        for (spec, stage), artifact in zip(line.steps, one.chain[1:], strict=True):
            # A fake-quantized torch model is scored, since exports are compared with it, but never timed.
            rows.append(Candidate(stage.name, spec.kind, parent, (artifact,), timed=not quantizes(spec)))
            parent = stage.name
        for (target, stage), artifact in zip(line.exports, one.exports, strict=True):
            if isinstance(target, TransformersExport):
                continue  # no runtime of ours; its manifest says how far its scores lie from ours
            row = Candidate(stage.name, "export", parent, (artifact,), reference=parent)
            rows.append(row)
            if target.kind == "openvino" and target.bf16:
                rows.append(replace(row, name=f"{stage.name}.bf16", bf16=True))
    return rows


def write_cards(report: Report, rows: Sequence[Candidate], data: Dataset) -> None:
    """A model card in every artifact's folder that a row measured."""
    languages = tuple(sorted(set(data.train.languages)))
    for candidate in rows:
        row = report.row(candidate.name)
        if row is None or candidate.bf16:
            continue
        for artifact in candidate.artifacts:
            facts = CardFacts(artifact_name=artifact.manifest.name, languages=languages)
            card = model_card(facts, report, row, artifact.config()[1])
            (artifact.path / CARD).write_text(card, encoding="utf8")
