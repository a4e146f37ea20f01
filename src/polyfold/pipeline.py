"""The story: labelled texts in, a small int8 model and an honest report out. Read this first.

    data -> teacher -> students (and the teacher itself) -> compression steps -> exports -> report

Every stage is a folder named by the hash of all that decides its content, so the plan is known before anything
runs; a stage whose folder is finished is reused, one that was killed resumes.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polyfold.artifact import Artifact, Stage
from polyfold.compress import step as compression
from polyfold.compress.step import StepSpec, compress
from polyfold.console import note
from polyfold.data.dataset import Dataset, Documents
from polyfold.data.prepare import data_stage, load_dataset, prepare, training_key
from polyfold.export import STAGE_VERSION as EXPORT_VERSION
from polyfold.export import ExportSpec, export
from polyfold.measure import measure as measuring
from polyfold.measure.card import CARD, CardFacts, model_card
from polyfold.measure.measure import Candidate, measure
from polyfold.measure.report import Report, load_report, write_report
from polyfold.model.backbone import backbone_files
from polyfold.model.classifier import load_model
from polyfold.recipe import TEACHER, Recipe
from polyfold.train import distill as distilling
from polyfold.train import teacher as teaching
from polyfold.train.distill import distill, open_teacher
from polyfold.train.teacher import train_teacher
from polyfold.train.teachers import Teacher


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
    teachers: tuple[Stage, ...]
    lines: tuple[Line, ...]
    measure: Stage

    def stages(self) -> Iterator[Stage]:
        """All stages in the order they run, each once."""
        yield self.data
        yield from self.teachers
        for line in self.lines:
            yield from (stage for stage in line.stages() if stage not in self.teachers)
        yield self.measure


@dataclass(frozen=True)
class Workshop:
    """What every stage of a run may use. Paths in the recipe start at `base`; all results go under `root`."""

    recipe: Recipe
    base: Path
    root: Path
    data: Dataset

    @property
    def cache(self) -> Path:
        """Where teacher logits are kept."""
        return self.root / "cache"


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
    teachers = [train(stage, shop) for stage in chart.teachers]
    built = []
    for line in chart.lines:
        model = start(line, teachers, shop)
        chain = [model]
        for spec, stage in line.steps:
            model = shrink(stage, spec, model, teachers, shop)
            chain.append(model)
        exports = [convert(stage, spec, model, root) for spec, stage in line.exports]
        built.append(Built(line, tuple(chain), tuple(exports)))
    return conclude(chart.measure, teachers, built, shop)


def plan(recipe: Recipe, base: Path) -> Plan:
    """All stages of the recipe with their keys; reads the files that data and local backbones are made of."""
    data = data_stage(recipe.data, base, recipe.seed)
    seen = training_key(recipe.data, base, recipe.seed)
    tasks = tuple(task.name for task in recipe.data.tasks)
    files = backbone_files(recipe.teacher.backbone, base)
    teachers = tuple(_teacher_stage(recipe, seen, names, files) for names in recipe.teacher.task_sets(tasks))
    keys = tuple(stage.key for stage in teachers)
    starts = [(TEACHER, teachers[0])] if recipe.folds_teacher else []
    for student in recipe.students:
        spec = {**student.model_dump(mode="json"), "seed": recipe.seed}
        files = backbone_files(student.init.name, base) if student.init.kind == "backbone" else {}
        stage = Stage("student", student.name, distilling.STAGE_VERSION, spec, (seen, *keys), files)
        starts.append((student.name, stage))
    lines = tuple(_line(name, start, recipe, (seen, *keys)) for name, start in starts)
    everything = [stage for line in lines for stage in line.stages()]
    spec = {**recipe.measure.model_dump(mode="json"), "name": recipe.name, "hash": recipe.hash}
    parents = tuple(dict.fromkeys((data.key, *keys, *(stage.key for stage in everything))))
    baseline = backbone_files(recipe.measure.baseline, base) if recipe.measure.baseline is not None else {}
    measured = Stage("measure", "report", measuring.STAGE_VERSION, spec, parents, baseline)
    return Plan(data, teachers, lines, measured)


def _teacher_stage(recipe: Recipe, seen: str, names: tuple[str, ...], files: Mapping[str, str]) -> Stage:
    name = TEACHER if recipe.teacher.mode.kind == "multi_task" else f"{TEACHER}-{names[0]}"
    spec = {**recipe.teacher.model_dump(mode="json"), "tasks": list(names), "seed": recipe.seed}
    return Stage("teacher", name, teaching.STAGE_VERSION, spec, (seen,), files)


def _line(name: str, start: Stage, recipe: Recipe, common: tuple[str, ...]) -> Line:
    current, steps = start, []
    for spec in recipe.steps(name):
        settings = {**spec.model_dump(mode="json"), "seed": recipe.seed}
        parents = (current.key, *common)
        current = Stage(spec.kind, f"{current.name}.{spec.kind}", compression.STAGE_VERSION, settings, parents)
        steps.append((spec, current))
    exports = tuple(
        (spec, Stage("export", f"{current.name}.{spec.kind}", EXPORT_VERSION, {"kind": spec.kind}, (current.key,)))
        for spec in recipe.export
    )
    return Line(name, start, tuple(steps), exports)


def train(stage: Stage, shop: Workshop) -> Artifact:
    """A teacher, for all tasks or for one."""
    names = tuple(stage.spec["tasks"])

    def build(folder: Path) -> Mapping[str, Any]:
        recipe = shop.recipe
        result = train_teacher(recipe.teacher, names, shop.data, shop.base, folder, recipe.seed, stage.name)
        return {"dev_macro_f1": result.best_score, "steps": result.steps}

    return perform(stage, shop.root, build)


def start(line: Line, teachers: Sequence[Artifact], shop: Workshop) -> Artifact:
    """A student, distilled; or the teacher itself, as it is."""
    if line.name == TEACHER:
        return teachers[0]
    student = next(one for one in shop.recipe.students if one.name == line.name)

    def build(folder: Path) -> Mapping[str, Any]:
        result = distill(student, teachers, shop.data, shop.base, folder, shop.cache, shop.recipe.seed)
        return {"dev_macro_f1": result.best_score, "steps": result.steps}

    return perform(line.start, shop.root, build)


def shrink(
    stage: Stage, spec: StepSpec, model: Artifact, teachers: Sequence[Artifact], shop: Workshop
) -> Artifact:
    """One compression step, which may ask the teachers again while it recovers."""

    def teach(documents: Documents) -> Teacher:
        return open_teacher("cached", teachers, documents, shop.data.tasks, shop.cache)

    seed = shop.recipe.seed
    return perform(stage, shop.root, lambda folder: compress(spec, model, shop.data, folder, seed, teach))


def convert(stage: Stage, spec: ExportSpec, model: Artifact, root: Path) -> Artifact:
    """A model in another runtime's format."""

    def build(folder: Path) -> Mapping[str, Any]:
        export(spec, load_model(model.path), model.path, folder)
        return {}

    return perform(stage, root, build)


def conclude(stage: Stage, teachers: Sequence[Artifact], built: Sequence[Built], shop: Workshop) -> Report:
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


def candidates(teachers: Sequence[Artifact], built: Sequence[Built]) -> list[Candidate]:
    """The rows of the report, parents before children."""
    rows = [Candidate(TEACHER, "teacher", None, tuple(teachers))]
    for one in built:
        line, parent = one.line, one.line.start.name
        if line.name != TEACHER:
            rows.append(Candidate(parent, "student", TEACHER, one.chain[:1]))
        for (spec, stage), artifact in zip(line.steps, one.chain[1:], strict=True):
            # A fake-quantized torch model is scored, since exports are compared with it, but never timed.
            rows.append(Candidate(stage.name, spec.kind, parent, (artifact,), timed=spec.kind != "int8_qat"))
            parent = stage.name
        for (target, stage), artifact in zip(line.exports, one.exports, strict=True):
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


def perform(stage: Stage, root: Path, build: Callable[[Path], Mapping[str, Any]]) -> Artifact:
    """Run or reuse a stage, and say which; seconds are kept for the next dry run's estimate."""
    done = stage.finished(root)
    if done is not None:
        done.verify()
        note(f"{stage.name}: finished earlier, reused")
        return done
    started = time.monotonic()

    def timed(folder: Path) -> Mapping[str, Any]:
        info = dict(build(folder))
        return {**info, "seconds": round(time.monotonic() - started, 1)}

    return stage.run(root, timed)
