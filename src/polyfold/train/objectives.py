"""What is minimised: the only thing that differs between training, distilling and quantization-aware training."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from polyfold.batch import Batch, Outputs, Taught
from polyfold.data.dataset import Documents
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss, adjusted, multi_label_sum, single_label_sum
from polyfold.losses.logits import LogitLoss, multi_label_divergence_sum, single_label_divergence_sum
from polyfold.losses.spec import LossSpec, check_weights, named, needs_teacher, wanted_of
from polyfold.model.first_token import training_outputs
from polyfold.tasks import Task
from polyfold.train.imitation import Imitation
from polyfold.train.sides import Sides
from polyfold.train.teachers import Teacher


class Objective(Protocol):
    """Sums of losses over a batch, and the counts of the whole step to divide them by.

    Sums and counts are kept apart because a step may be cut into several batches, or spread over processes:
    Eq. 1 divides by the pair count of the whole step. `modules` are learned projections: trained and saved in
    checkpoints with the model, but no part of it. `wanted` is what it reads of the model beside logits.
    """

    @property
    def modules(self) -> nn.ModuleDict: ...

    @property
    def wanted(self) -> frozenset[str]: ...

    def counts(self, batch: Batch) -> Mapping[str, float]: ...

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]: ...


class TaskObjective:
    """A weighted sum of losses: labels and logits over all tasks (Eq. 1 and 2 of the paper), and imitation.

    A teacher's inside is imitated on every document, labelled or not; logits as their loss says.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        losses: Sequence[LossSpec],
        train: Documents,
        teacher: Teacher | None = None,
        sides: Sides | None = None,
    ) -> None:
        """`train` gives the label frequencies that class weights and logit adjustment need.

        `sides` are needed by losses that imitate the teacher's inside; see `wanted_of`.
        """
        if teacher is None and needs_teacher(losses):
            kind = next(loss.kind for loss in losses if loss.kind != "labels")
            raise InputError(f"a '{kind}' loss needs a teacher", key="losses", hint="add a teacher to the recipe")
        check_class_weights(losses, tasks)
        self.tasks = tuple(tasks)
        self.losses = {
            name: loss for name, loss in named(losses).items() if isinstance(loss, LabelLoss | LogitLoss)
        }
        self.teacher = teacher
        self.imitation: Imitation | None = None
        if wanted_of(losses):
            if sides is None:
                raise InputError(
                    "some loss looks inside the teacher, but there is no one model to look into",
                    key="losses",
                    hint="give labels and logits losses alone, or one teacher for all tasks and languages",
                )
            self.imitation = Imitation(losses, sides)
        elif not self.losses:
            check_weights(losses)
        self._priors = {task.name: _prior(task, train.labels[task.name]) for task in self.tasks}
        self._weights = {
            name: {task.name: _class_weights(loss, task, train.labels[task.name]) for task in self.tasks}
            for name, loss in self.losses.items()
            if isinstance(loss, LabelLoss)
        }

    @property
    def modules(self) -> nn.ModuleDict:
        """The learned projections."""
        return nn.ModuleDict() if self.imitation is None else self.imitation.modules

    @property
    def wanted(self) -> frozenset[str]:
        """What some loss reads of the student's inside."""
        return frozenset() if self.imitation is None else self.imitation.wanted

    def counts(self, batch: Batch) -> Mapping[str, float]:
        """(document, task) pairs of each loss in this batch; positions, documents or pairs for imitation."""
        labelled = float(sum(int(batch.label_mask[task.name].sum()) for task in self.tasks))
        every = float(len(batch) * len(self.tasks))
        counts = {
            name: every if isinstance(loss, LogitLoss) and loss.on == "all" else labelled
            for name, loss in self.losses.items()
        }
        return counts if self.imitation is None else counts | self.imitation.counts(batch)

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Each loss summed over this batch, times its weight."""
        outputs = training_outputs(model, batch.input_ids, batch.attention_mask, self.wanted)
        taught = self.teacher(batch) if self.teacher is not None else Taught({}, {})
        sums: dict[str, Tensor] = {}
        for name, loss in self.losses.items():
            terms = [self._term(name, loss, task, outputs, batch, taught) for task in self.tasks]
            sums[name] = loss.weight * torch.stack(terms).sum()
        return sums if self.imitation is None else sums | self.imitation.sums(outputs, taught, batch)

    def _term(
        self, name: str, loss: LabelLoss | LogitLoss, task: Task, outputs: Outputs, batch: Batch, taught: Taught
    ) -> Tensor:
        logits = outputs.logits[task.name].float()
        mask = batch.label_mask[task.name]
        match loss:
            case LabelLoss():
                weights = self._weights[name][task.name]
                weights = None if weights is None else weights.to(logits.device)
                if loss.logit_adjustment:
                    prior = self._priors[task.name].to(logits.device)
                    logits = adjusted(logits, prior, loss.logit_adjustment, task.multi_label)
                labels = batch.labels[task.name]
                if task.multi_label:
                    return multi_label_sum(logits, labels, mask, weights)
                return single_label_sum(logits, labels, mask, weights, loss.label_smoothing)
            case LogitLoss():
                if task.name not in taught.logits:
                    return logits.sum() * 0.0
                target = taught.logits[task.name].to(logits.device)
                covered = taught.covered[task.name].to(logits.device)
                chosen = covered if loss.on == "all" else covered & mask
                divergence = multi_label_divergence_sum if task.multi_label else single_label_divergence_sum
                return divergence(logits, target, chosen, loss.temperature)


def check_class_weights(losses: Sequence[LossSpec], tasks: Sequence[Task]) -> None:
    """InputError for weights of labels that a task does not have."""
    for loss in losses:
        given = loss.class_weights if isinstance(loss, LabelLoss) else None
        if not isinstance(given, dict):
            continue
        for task in tasks:
            unknown = sorted(set(given.get(task.name, {})) - set(task.labels))
            if unknown:
                raise InputError(
                    f"class weight for unknown label '{unknown[0]}' of task '{task.name}'",
                    key="losses.class_weights",
                    hint=f"its labels are {', '.join(task.labels)}",
                )


def _prior(task: Task, labels: np.ndarray) -> Tensor:
    """Each label's share among the labelled training documents: float [labels]."""
    rows = labels[task.labelled(labels)]
    if task.multi_label:
        return torch.from_numpy((rows.sum(axis=0) / max(1, len(rows))).astype(np.float32))
    counts = np.bincount(rows, minlength=len(task.labels))
    return torch.from_numpy((counts / max(1, counts.sum())).astype(np.float32))


def _class_weights(loss: LabelLoss, task: Task, labels: np.ndarray) -> Tensor | None:
    """Weights by label, float [labels]: balanced, given, or none."""
    if loss.class_weights is None:
        return None
    if loss.class_weights == "balanced":
        prior = _prior(task, labels).clamp(min=1e-6)
        # Square-rooted odds for independent labels: full odds of a rare label (100:1) drown the others.
        weights = ((1 - prior) / prior).sqrt() if task.multi_label else 1.0 / (prior * len(task.labels))
        return weights.float()
    given = loss.class_weights.get(task.name)
    return None if given is None else torch.tensor([given.get(label, 1.0) for label in task.labels])
