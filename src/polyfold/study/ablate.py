"""`polyfold ablate`: does distillation help, and which loss, against the same student without it?

The paper's 12-layer student got worse on two of three tasks. A report of one run cannot show that: it needs the
same student trained on labels alone, over several seeds, on the same data and teachers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from polyfold import __version__, metrics
from polyfold.artifact import Artifact
from polyfold.console import note
from polyfold.data.dataset import Documents
from polyfold.data.prepare import load_dataset, prepare, training_key
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.spec import LossSpec, every_document
from polyfold.measure.measure import MeasureSpec
from polyfold.pipeline import Plan, check, plan, start
from polyfold.predictor import Predictor
from polyfold.pretraining import build_backbones
from polyfold.recipe import Recipe
from polyfold.tasks import Task
from polyfold.teaching import build_teachers, plan_teachers
from polyfold.train.distill import StudentSpec
from polyfold.workshop import Workshop

Each = Literal["without", "alone"]
FULL, LABELS = "as in the recipe", "labels only"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VariantScore(_Part):
    """One way to train a student: its losses, and its test macro-F1 (0..1) by task, one value a seed."""

    student: str
    variant: str
    losses: tuple[str, ...]
    macro_f1: dict[str, tuple[float, ...]]


class Contrast(_Part):
    """Two variants that differ in one thing (`subject`): test macro-F1 with it and without it, means over seeds.

    `ci95` comes from documents resampled for all seeds at once, and so is that of the difference of means over
    these very seeds; `by_seed` shows how much seeds alone move it. `language` null means all of them.
    """

    student: str
    subject: str
    variant_with: str
    variant_without: str
    task: str
    language: str | None = None
    documents: int
    macro_f1_with: float
    macro_f1_without: float
    difference: float
    ci95: tuple[float, float]
    by_seed: tuple[float, ...]
    verdict: Literal["helped", "hurt", "same"]


class Ablation(_Part):
    """Everything that `polyfold ablate` found; it holds counts and scores only."""

    polyfold_version: str
    name: str
    recipe_hash: str
    seeds: tuple[int, ...]
    each: Each
    teacher_per_seed: bool
    documents: dict[str, int]
    variants: tuple[VariantScore, ...]
    contrasts: tuple[Contrast, ...]


@dataclass(frozen=True)
class AblationSpec:
    """How to look: over which seeds, each loss left out or each alone, one teacher or one a seed."""

    seeds: tuple[int, ...]
    each: Each = "without"
    reseed_teacher: bool = False


@dataclass(frozen=True)
class Variant:
    """One way to train a student, by a name of its own beside the student's."""

    student: str
    name: str
    spec: StudentSpec


@dataclass(frozen=True)
class _Pair:
    student: str
    subject: str
    variant_with: str
    variant_without: str


def ablate(recipe: Recipe, base: Path, root: Path, spec: AblationSpec) -> Ablation:
    """Train every variant over every seed under `root`, reusing what is finished, and compare them on test."""
    if not spec.seeds or len(set(spec.seeds)) != len(spec.seeds) or min(spec.seeds) < 0:
        raise InputError(f"the seeds are {list(spec.seeds)}", hint="give different integers from 0: --seeds 0,1,2")
    variants = [one for student in recipe.students for one in variants_of(student, spec.each)]
    if not variants:
        raise InputError(
            "no student of the recipe learns from a teacher",
            key="students",
            hint="give a student a loss beside `labels`, such as {kind: logits}",
        )
    bare = _bare(recipe, variants)
    chart = plan(bare, base)
    data = load_dataset(prepare(bare.data, base, root, bare.seed))
    empty = Workshop(bare, base, root, data)
    check(chart, empty)
    shop = replace(empty, backbones=build_backbones(chart.backbones, empty))
    decided: dict[str, list[dict[str, np.ndarray]]] = {one.spec.name: [] for one in variants}
    for seed in spec.seeds:
        for name, artifact in _trained(chart, shop, seed, spec.reseed_teacher):
            decided[name].append(_decisions(artifact, data.test.texts))
    tasks = tuple(task for task in data.tasks if data.test.labelled(task).any())
    scores = [_score(one, tasks, data.test, decided[one.spec.name]) for one in variants]
    found = {(one.student, one.name): decided[one.spec.name] for one in variants}
    pairs = [pair for student in recipe.students for pair in pairs_of(student, spec.each)]
    contrasts = [one for pair in pairs for one in contrast(pair, tasks, data.test, found, recipe.seed)]
    languages, counts = np.unique(np.asarray(data.test.languages, dtype=np.str_), return_counts=True)
    return Ablation(
        polyfold_version=__version__,
        name=recipe.name,
        recipe_hash=recipe.hash,
        seeds=spec.seeds,
        each=spec.each,
        teacher_per_seed=spec.reseed_teacher,
        documents=dict(zip(languages.tolist(), counts.tolist(), strict=True)),
        variants=tuple(scores),
        contrasts=tuple(contrasts),
    )


def variants_of(student: StudentSpec, each: Each) -> tuple[Variant, ...]:
    """The student as it is, on labels alone, and with each distillation loss left out (or alone beside labels).

    None where it learns from labels alone anyway. With one such loss, two variants are all there are.
    """
    taught = _taught(student.losses)
    if not taught:
        return ()
    labels = _labels(student.losses)
    found = [Variant(student.name, FULL, student), _variant(student, LABELS, "labels-only", labels)]
    # Where one loss is all there is, leaving it out is "labels only"; beside labels it may be the student itself.
    for index, name in taught.items():
        losses = _losses(student, index, each)
        if losses not in [one.spec.losses for one in found]:
            label = f"{each} {name}" if each == "without" else f"{name} alone"
            found.append(_variant(student, label, f"{each}-{name}", losses))
    return tuple(found)


def pairs_of(student: StudentSpec, each: Each) -> tuple[_Pair, ...]:
    """What is held against what: distillation as a whole, then each loss."""
    variants = variants_of(student, each)
    if not variants:
        return ()
    pairs = [_Pair(student.name, "distillation", FULL, LABELS)]
    by_losses = {one.spec.losses: one.name for one in variants}
    for index, name in _taught(student.losses).items():
        other = by_losses[_losses(student, index, each)]
        pair = (FULL, other) if each == "without" else (other, LABELS)
        if pair != (FULL, LABELS):
            pairs.append(_Pair(student.name, name, *pair))
    return tuple(pairs)


def contrast(
    pair: _Pair,
    tasks: Sequence[Task],
    test: Documents,
    decided: Mapping[tuple[str, str], Sequence[Mapping[str, np.ndarray]]],
    seed: int,
) -> Iterator[Contrast]:
    """One pair of variants by task, over all languages and in each; `decided` holds label arrays, one a seed."""
    languages = np.asarray(test.languages, dtype=np.str_)
    sides = [decided[pair.student, name] for name in (pair.variant_without, pair.variant_with)]
    for task in tasks:
        labelled = test.labelled(task)
        for language in (None, *np.unique(languages[labelled]).tolist()):
            rows = labelled if language is None else labelled & (languages == language)
            truth = test.labels[task.name][rows]
            without, with_it = ([one[task.name][rows] for one in side] for side in sides)
            inside = language is not None
            gain = metrics.paired_bootstrap_difference(task, truth, without, with_it, seed, only_supported=inside)
            before, after = (
                [metrics.macro_f1(task, truth, one, only_supported=inside) for one in side]
                for side in (without, with_it)
            )
            yield Contrast(
                **{
                    field: getattr(pair, field)
                    for field in ("student", "subject", "variant_with", "variant_without")
                },
                task=task.name,
                language=language,
                documents=int(rows.sum()),
                macro_f1_with=float(np.mean(after)),
                macro_f1_without=float(np.mean(before)),
                difference=gain.value,
                ci95=(gain.low, gain.high),
                by_seed=tuple(high - low for low, high in zip(before, after, strict=True)),
                verdict={"better": "helped", "worse": "hurt", "same": "same"}[gain.verdict],
            )


def _taught(losses: Sequence[LossSpec]) -> dict[int, str]:
    """Places of the losses that imitate a teacher, and a name for each that tells it from the others."""
    kinds = [loss.kind for loss in losses]
    names = {}
    for index, kind in enumerate(kinds):
        if kind != "labels":
            again = kinds[:index].count(kind)
            names[index] = kind if kinds.count(kind) == 1 else f"{kind}-{again + 1}"
    return names


def _labels(losses: Sequence[LossSpec]) -> tuple[LossSpec, ...]:
    """The label losses alone; a student without one is held against the plain one."""
    return tuple(loss for loss in losses if loss.kind == "labels") or (LabelLoss(),)


def _losses(student: StudentSpec, index: int, each: Each) -> tuple[LossSpec, ...]:
    """The student's losses without the one at `index`, or its label losses and that one alone."""
    if each == "alone":
        own = (loss for loss in student.losses if loss.kind == "labels")
        return (*own, student.losses[index])
    kept = tuple(loss for place, loss in enumerate(student.losses) if place != index)
    return kept or _labels(())


def _variant(student: StudentSpec, name: str, suffix: str, losses: tuple[LossSpec, ...]) -> Variant:
    # Texts without labels stay only where something is left that learns from them.
    unlabelled = student.unlabelled and every_document(losses)
    changes = {"name": f"{student.name}-{suffix}", "losses": losses, "unlabelled": unlabelled}
    return Variant(student.name, name, student.model_copy(update=changes))


def _bare(recipe: Recipe, variants: Sequence[Variant]) -> Recipe:
    """The recipe with the variants for students, and nothing after them: no compression, export or measuring."""
    return recipe.model_copy(
        update={
            "students": tuple(one.spec for one in variants),
            "compress": (),
            "compress_by_name": {},
            "compress_teacher": False,
            "export": (),
            "measure": MeasureSpec(baseline=None),
        }
    )


def _trained(chart: Plan, shop: Workshop, seed: int, reseed_teacher: bool) -> Iterator[tuple[str, Artifact]]:
    """Every variant trained with this seed, by its name; data, backbones and (unless told) teachers are shared.

    A stage's key covers its seed, so with the recipe's own seed these are the stages of `polyfold run`.
    """
    seeded = replace(shop, recipe=shop.recipe.model_copy(update={"seed": seed}))
    planned = chart.teachers
    if reseed_teacher:
        seen = training_key(shop.recipe.data, shop.base, shop.recipe.seed)
        planned = plan_teachers(seeded.recipe, shop.base, seen, chart.backbones)
    keys = dict(zip(chart.teachers.keys, planned.keys, strict=True))
    teachers = build_teachers(planned, shop)
    for line in chart.lines:
        parents = tuple(keys.get(key, key) for key in line.start.parents)
        own = replace(line.start, spec={**line.start.spec, "seed": seed}, parents=parents)
        note(f"{line.name}, seed {seed}")
        yield line.name, start(replace(line, start=own), teachers, seeded)


def _decisions(artifact: Artifact, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Label arrays by task, by the temperatures and thresholds that were fitted on dev."""
    predictor = Predictor.open(artifact.path)
    logits = predictor.logits(texts)
    return {task.name: task.decide(task.probabilities(logits[task.name])) for task in predictor.tasks}


def _score(
    variant: Variant, tasks: Sequence[Task], test: Documents, decided: Sequence[Mapping[str, np.ndarray]]
) -> VariantScore:
    scores = {}
    for task in tasks:
        rows = test.labelled(task)
        truth = test.labels[task.name][rows]
        scores[task.name] = tuple(metrics.macro_f1(task, truth, one[task.name][rows]) for one in decided)
    return VariantScore(
        student=variant.student,
        variant=variant.name,
        losses=tuple(loss.kind for loss in variant.spec.losses),
        macro_f1=scores,
    )
