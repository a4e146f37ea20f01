"""Structured pruning: whole layers, heads, neurons, channels or directions go; a short training makes up for it.

What is left is an ordinary dense model, smaller and faster on any hardware; no masks stay behind.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfold.artifact import CHECKPOINTS, CONFIG, write_atomically
from polyfold.compress.bench import Bench
from polyfold.compress.budget import Budget, Cut, Importance, by_budget, by_share, check_reachable, stacks
from polyfold.compress.importance import at_random, sample, taylor
from polyfold.compress.prune_spec import BUDGET_TARGETS, WHOLE, Prune
from polyfold.console import note
from polyfold.data.batches import EncodedDocuments, sampling_weights
from polyfold.errors import InputError
from polyfold.losses.spec import needs_teacher, wanted_of
from polyfold.model.backbone import Backbone, token_embedding
from polyfold.model.classifier import Classifier, Model, load_model, save_model
from polyfold.model.magnitudes import magnitudes
from polyfold.model.quantized import HOOKS
from polyfold.model.structure import cost, cut, groups
from polyfold.model.units import Group, Keep, Key
from polyfold.train.fit import FitContext, fit
from polyfold.train.objectives import TaskObjective
from polyfold.train.teachers import GuidedTeacher, sides_of


def prune(spec: Prune, model: Model, bench: Bench) -> tuple[Model, dict[str, Any]]:
    """The smaller model, and what it cost and kept; the work of a killed run is taken up where it stopped."""
    check_prunable(spec, model)
    work = _Work(spec, model, bench)
    result = work.with_layers(model)
    aims = _aims(spec, result.backbone, _measured(spec, model.backbone))
    rounds = spec.schedule.rounds if aims else 1
    for number in range(1, rounds + 1):
        result = work.pruned(result, number, [aim.at(number / rounds) for aim in aims])
        if spec.recover.epochs:
            result = work.recovered(result, number)
    before, after = cost(model.backbone, spec.seq, {}), cost(result.backbone, spec.seq, {})
    note(
        f"{bench.label}: {after.flops / before.flops:.1%} of the FLOPs left, "
        f"{after.parameters / before.parameters:.1%} of the parameters"
    )
    return result, {
        "flops_before": before.flops, "flops_after": after.flops, "parameters_before": before.parameters,
        "parameters_after": after.parameters, "units_before": _units(model.backbone),
        "units_after": _units(result.backbone), "dev_macro_f1": work.scores,
    }  # fmt: skip


def check_prunable(spec: Prune, model: Model) -> None:
    """InputError, before anything is trained, where this model cannot be pruned so."""
    if any(HOOKS in name for name in model.classifier.state_dict()):
        raise InputError(
            "a quantized model cannot be pruned", key="compress", hint="put `prune` before the quantization"
        )
    check_targets(spec, model.backbone)
    if spec.layers is not None:
        spec.layers.numbers(_layers(groups(model.backbone, spec.seq)).units)
    else:
        _check_budget(spec, model.backbone, _measured(spec, model.backbone))


def check_targets(spec: Prune, backbone: Backbone) -> None:
    """InputError where an encoder of this family lacks a target."""
    known = dict.fromkeys(group.target for group in groups(backbone, spec.seq))
    for name in spec.named:
        if name not in known:
            raise InputError(
                f"an encoder of family '{backbone.family}' has no '{name}' to prune",
                key="compress.prune",
                hint=f"its targets are {', '.join(known)}",
            )


def check_shape(spec: Prune, backbone: Backbone, *, vocabulary: bool) -> None:
    """InputError where an encoder of this outline lacks a target or a layer, or cannot meet its budget.

    A budget of parameters counts the token table, so it is passed over where the `vocabulary` may be another yet.
    """
    check_targets(spec, backbone)
    left = _with_some_layers(spec, backbone)
    if spec.budget is not None and (vocabulary or spec.budget.kind == "flops"):
        _check_budget(spec, left, _measured(spec, backbone))


def foreseen(spec: Prune, backbone: Backbone, *, fewest_heads: bool = False) -> Backbone:
    """The outline of what a pruning leaves of an outline: units are chosen blindly, so their numbers alone count.

    How many heads each layer keeps depends on their importance, unless `even` says it; `fewest_heads` leaves one
    where that is so.
    """
    left = _with_some_layers(spec, backbone)
    found = groups(left, spec.seq)
    aims = _aims(spec, left, _measured(spec, backbone))
    members = [group for group in found if any(group.target in aim.targets for aim in aims)]
    keep = _chosen(spec, left, members, aims, {group.key: np.zeros(group.units) for group in members})
    if fewest_heads and not spec.even:
        keep |= {group.key: np.arange(1) for group in members if group.target == "heads"}
    return _cut_outline(left, keep)


def _with_some_layers(spec: Prune, backbone: Backbone) -> Backbone:
    """An outline with as many layers as are to stay; those of one encoder are alike but for earlier pruning."""
    if spec.layers is None:
        return backbone
    group = _layers(groups(backbone, spec.seq))
    kept = spec.layers.numbers(group.units)
    return _cut_outline(backbone, {group.key: np.arange(spec.layers.count or 0) if kept is None else kept})


def _cut_outline(backbone: Backbone, keep: Keep) -> Backbone:
    with torch.device("meta"):
        outline = Model(Classifier(backbone.module, backbone.width, ()), (), backbone, backbone.max_length)
        return cut(outline, keep).backbone if keep else backbone


@dataclass(frozen=True)
class _Aim:
    """How far some targets are to shrink: to a share of their units, or of what the whole encoder costs."""

    targets: tuple[str, ...]
    share: float
    units: int = 0
    budget: str | None = None
    whole: float = 0.0

    def at(self, way: float) -> "_Aim":
        """The aim of a round: on the whole way in equal ratios, so that no round takes more than another."""
        return replace(self, share=self.share**way)

    def limit(self, spec: Prune, backbone: Backbone) -> Budget:
        """The budget, for an encoder as it stands."""
        assert self.budget is not None
        return Budget(self.budget, self.share * self.whole, lambda keep: cost(backbone, spec.seq, keep))


def _aims(spec: Prune, backbone: Backbone, whole: float) -> list[_Aim]:
    found = groups(backbone, spec.seq)
    if spec.budget is not None:
        targets = spec.budget.targets or BUDGET_TARGETS
        return [_Aim(targets, spec.budget.share, budget=spec.budget.kind, whole=whole)]
    return [
        _Aim((name,), share, units=sum(group.units for group in found if group.target == name))
        for name, share in spec.target.items()
    ]


def _measured(spec: Prune, backbone: Backbone) -> float:
    """What a budget is a share of."""
    before = cost(backbone, spec.seq, {})
    in_parameters = spec.budget is not None and spec.budget.kind == "parameters"
    return float(before.parameters if in_parameters else before.flops)


def _chosen(
    spec: Prune, backbone: Backbone, members: Sequence[Group], aims: Sequence[_Aim], importance: Importance
) -> dict[Key, np.ndarray]:
    """The units that stay of the groups that lose some."""
    gone = Cut(members)
    for aim in aims:
        inside = [group for group in members if group.target in aim.targets]
        blocks = stacks(inside, importance, spec.multiple_of, spec.even)
        if aim.budget is not None:
            removed = by_budget(inside, blocks, aim.limit(spec, backbone))
        else:
            removed = by_share(blocks, sum(group.units for group in inside) - round(aim.share * aim.units))
        for block in removed:
            gone.remove(block)
    return gone.keep()


def _check_budget(spec: Prune, backbone: Backbone, whole: float) -> None:
    if spec.budget is None:
        return
    (aim,) = _aims(spec, backbone, whole)
    members = [group for group in groups(backbone, spec.seq) if group.target in aim.targets]
    flat = {group.key: np.zeros(group.units) for group in members}
    found = stacks(members, flat, spec.multiple_of, spec.even)
    check_reachable(members, found, aim.limit(spec, backbone), whole)


def _layers(found: Sequence[Group]) -> Group:
    """The group of layers, or of branches."""
    return next(group for group in found if group.target in WHOLE)


def _units(backbone: Backbone) -> dict[str, list[int]]:
    """Units by target, layer by layer."""
    units: dict[str, list[int]] = {}
    for group in groups(backbone, 1):
        units.setdefault(group.target, []).append(group.units)
    return units


class _Work:
    """One run of the step: its documents, its teacher (opened once), and what a killed run left behind."""

    def __init__(self, spec: Prune, model: Model, bench: Bench) -> None:
        self.spec = spec
        self.bench = bench
        taught = bench.teach is not None
        self.losses = tuple(loss for loss in spec.losses if taught or not needs_teacher((loss,)))
        self.places = bench.folder / CHECKPOINTS
        self.scores: list[float] = []
        self._given = model

    @cached_property
    def train(self) -> EncodedDocuments:
        """The training documents; pruning leaves the tokenizer alone."""
        return self.bench.encode(self._given, self.bench.data.train)

    @cached_property
    def teacher(self) -> GuidedTeacher | None:
        """The teacher of the training documents, if some loss imitates one."""
        if self.bench.teach is None or not needs_teacher(self.losses):
            return None
        return self.bench.teach(self.bench.data.train, wanted_of(self.losses))

    @cached_property
    def piece_weights(self) -> Float[Tensor, "vocab"]:
        """How often each piece occurs in the training documents."""
        vocabulary = token_embedding(self._given.classifier.encoder).num_embeddings
        counts = np.bincount(self.train.encoding.flat, minlength=vocabulary)
        return torch.from_numpy(counts)

    def with_layers(self, model: Model) -> Model:
        """The model with its chosen layers only."""
        layers = self.spec.layers
        if layers is None:
            return model
        group = _layers(groups(model.backbone, self.spec.seq))

        def choose() -> Keep:
            kept = layers.numbers(group.units)
            if kept is None:
                importance = self._importance(model, [group], 0)[group.key]
                kept = np.sort(np.argsort(importance, kind="stable")[group.units - (layers.count or 0) :])
            return {group.key: kept}

        result = self._cut(model, "layers", choose)
        _check_budget(self.spec, result.backbone, _measured(self.spec, model.backbone))
        return result

    def pruned(self, model: Model, number: int, aims: Sequence[_Aim]) -> Model:
        """The model cut as far as a round's aims say."""
        found = groups(model.backbone, self.spec.seq)
        members = [group for group in found if any(group.target in aim.targets for aim in aims)]

        def choose() -> Keep:
            return _chosen(self.spec, model.backbone, members, aims, self._importance(model, members, number))

        return self._cut(model, f"round-{number}", choose) if members else model

    def _cut(self, model: Model, name: str, choose: Callable[[], Keep]) -> Model:
        """Cut by what was chosen once: on a GPU the same sums need not give the same choice again."""
        path = self.places / f"{name}.json"
        if not path.exists():
            chosen = [[*key, indices.tolist()] for key, indices in choose().items()]
            write_atomically(path, json.dumps(chosen).encode())
        keep = {
            (target, layer): np.array(indices, dtype=np.int64)
            for target, layer, indices in json.loads(path.read_bytes())
        }
        return cut(model, keep, self._weights(target for target, _ in keep)) if keep else model

    def recovered(self, model: Model, number: int) -> Model:
        """The model after a round's training; where that was finished before, what it left."""
        spec, bench, place = self.spec, self.bench, self.places / f"recovered-{number}"
        score = place / "score.json"
        if (place / CONFIG).exists():
            self.scores.append(json.loads(score.read_bytes()))
            return load_model(place)
        context = FitContext(
            bench.folder / f"round-{number}", bench.seed, f"{bench.label}, round {number}", bench.evaluate(model)
        )
        context.folder.mkdir(exist_ok=True)
        weights = sampling_weights(self.train.documents, model.tasks, spec.recover.batch)
        objective = self._objective(model)
        result = fit(model.classifier, self.train, objective, spec.recover, weights, context)
        self.scores.append(result.best_score)
        write_atomically(score, json.dumps(result.best_score).encode())
        save_model(model, place, bench.source)
        shutil.rmtree(context.folder / CHECKPOINTS, ignore_errors=True)
        return model

    def _importance(self, model: Model, members: Sequence[Group], number: int) -> Importance:
        generator = np.random.default_rng([self.bench.seed, number])
        weights = self._weights(group.target for group in members)
        match self.spec.importance:
            case "random":
                return at_random(members, generator)
            case "magnitude":
                return magnitudes(model.classifier.encoder, members, weights)
            case "taylor":
                model.classifier.to("cuda" if torch.cuda.is_available() else "cpu")
                batches = sample(self.train, self.spec.documents, generator)
                return taylor(model.classifier, members, batches, self._objective(model, outside=True), weights)

    def _weights(self, targets: Iterable[str]) -> Tensor | None:
        return self.piece_weights if "embedding_rank" in targets else None

    def _objective(self, model: Model, *, outside: bool = False) -> TaskObjective:
        """What the recovery minimises, and what the units matter to.

        `outside` leaves out losses inside the model where there are others: nothing has learned their projections.
        """
        plain = tuple(loss for loss in self.losses if not wanted_of((loss,)))
        losses = plain if outside and plain else self.losses
        sides = sides_of(model.backbone, self.train, self.teacher) if wanted_of(losses) else None
        return TaskObjective(model.tasks, losses, self.train.documents, self.teacher, sides)
