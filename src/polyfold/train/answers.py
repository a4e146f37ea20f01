"""What teachers answer, and how several answer as one: each where it knows, and the mean where several do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from polyfold import metrics
from polyfold.artifact import Artifact, digest_json
from polyfold.data.dataset import Documents
from polyfold.errors import InputError
from polyfold.tasks import Task

LANGUAGES = "languages"
"""The key of a teacher stage's spec that names the languages it answers for; null or absent means all."""

Lead = TypeVar("Lead")

GREATEST_LOG_WEIGHT = 12.0
"""Weights are fitted between e^-12 and e^12 of the first one's: beyond, a member counts for nothing anyway."""


@dataclass(frozen=True)
class Answer:
    """One task's answer for some documents.

    `logits` are zero where `covered` is False; `temperature` is that of the model that answered: logits over
    temperature are calibrated.
    """

    logits: Float[Tensor, "batch labels"]
    covered: Bool[Tensor, "batch"]
    temperature: Float[Tensor, "batch"]


Answers = Mapping[str, Answer]
"""By task; a task that nobody knows is not there."""


@dataclass(frozen=True)
class TeacherSet:
    """Finished teachers that answer as one.

    A member is one model, or several that share the tasks or languages among them. `weights` holds by task one
    weight a member; a task that is not named weighs all alike.
    """

    members: tuple[tuple[Artifact, ...], ...]
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Every model once."""
        return tuple({artifact.path: artifact for member in self.members for artifact in member}.values())

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits over all that decides an answer."""
        models = [[[one.manifest.key, _languages(one)] for one in member] for member in self.members]
        return digest_json([models, {name: list(some) for name, some in self.weights.items()}])[:16]

    @property
    def lead(self) -> Artifact | None:
        """The one model that stands for all where a single one is needed: the first member that is one model.

        Students start from it, and layerwise losses look inside it.
        """
        return next((m[0] for m in self.members if len(m) == 1 and _languages(m[0]) is None), None)


def the_lead(lead: Lead | None, what: str, key: str) -> Lead:
    """The lead of a set, planned or made; InputError where there is none: `what` cannot be then."""
    if lead is None:
        raise InputError(
            f"{what} only where that is one model for all tasks and languages",
            key=key,
            hint="use teacher.mode: {kind: multi_task}, or a mean with such a member",
        )
    return lead


def answers_in(artifact: Artifact, language: str) -> bool:
    """Whether a teacher answers for documents in this language."""
    languages = _languages(artifact)
    return languages is None or language in languages


def coverage(artifact: Artifact, tasks: Sequence[Task], documents: Documents) -> dict[str, np.ndarray]:
    """For which documents a model has an answer: bool [n] by task, of those tasks that it knows.

    InputError where a task of the same name has other labels, or the same in another order.
    """
    known = artifact.config()[1]
    require_tasks(known, tasks)
    rows = np.asarray([answers_in(artifact, language) for language in documents.languages], dtype=bool)
    return {task.name: rows for task in known if any(task.name == one.name for one in tasks)}


def require_tasks(teacher_tasks: Sequence[Task], tasks: Sequence[Task]) -> None:
    """A teacher's labels must be the student's, by name and order; InputError names the first that differs."""
    own = {task.name: task for task in tasks}
    for task in teacher_tasks:
        mine = own.get(task.name)
        if mine is not None and (mine.labels != task.labels or mine.kind != task.kind):
            raise InputError(
                f"the teacher's task '{task.name}' has labels {task.labels}, the data has {mine.labels}",
                hint="train the teacher on this data's labels",
            )


def one_answer(task: Task, logits: Tensor, covered: np.ndarray, device: torch.device) -> Answer:
    """A model's logits [covered, labels] of the covered documents, spread over all of them."""
    mask = torch.from_numpy(covered).to(device)
    spread = torch.zeros((len(covered), len(task.labels)), device=device)
    spread[mask] = logits.to(device).float()
    return Answer(spread, mask, torch.full((len(covered),), task.temperature, device=device))


def combine(members: Sequence[Sequence[Answers]], weights: Mapping[str, Sequence[float]]) -> dict[str, Answer]:
    """The answer of a set: within a member whoever knows answers, between members the weighted mean."""
    names = dict.fromkeys(name for member in members for answers in member for name in answers)
    found = {}
    for name in names:
        shares = weights.get(name, (1.0,) * len(members))
        known = [
            (joined([answers[name] for answers in member if name in answers]), share)
            for member, share in zip(members, shares, strict=True)
            if any(name in answers for answers in member)
        ]
        found[name] = mean([answer for answer, _ in known], [share for _, share in known])
    return found


def joined(parts: Sequence[Answer]) -> Answer:
    """One answer of several models that share the documents among them; the first that knows one answers."""
    whole = parts[0]
    for part in parts[1:]:
        taken = whole.covered
        whole = Answer(
            torch.where(taken.unsqueeze(1), whole.logits, part.logits),
            taken | part.covered,
            torch.where(taken, whole.temperature, part.temperature),
        )
    return whole


def mean(answers: Sequence[Answer], weights: Sequence[float]) -> Answer:
    """The weighted mean of calibrated logits, scaled back by the mean temperature.

    Logits of models differ in scale, so each is divided by its temperature first; the mean temperature brings
    the result back, and the mean of one is that one. The softmax of it is the normalised weighted geometric mean
    of their probabilities (Hinton et al. 2015, section 1, name both means). Who does not cover a document is left
    out there, and the other weights grow to a sum of one.
    """
    if len(answers) == 1:
        return answers[0]
    first = answers[0].logits
    given = torch.tensor(weights, device=first.device, dtype=first.dtype).unsqueeze(1)
    shares = given * torch.stack([answer.covered for answer in answers])
    total = shares.sum(dim=0)
    shares = shares / total.clamp(min=torch.finfo(first.dtype).tiny)
    calibrated = torch.stack([answer.logits / answer.temperature.unsqueeze(1) for answer in answers])
    temperature = (shares * torch.stack([answer.temperature for answer in answers])).sum(dim=0)
    covered = total > 0
    logits = (shares.unsqueeze(2) * calibrated).sum(dim=0) * temperature.unsqueeze(1)
    return Answer(logits, covered, torch.where(covered, temperature, torch.ones_like(temperature)))


def fit_weights(task: Task, truth: np.ndarray, answers: Sequence[Answer]) -> tuple[float, ...]:
    """The weights (summing to 1) of the mean with the least negative log-likelihood on labelled documents.

    The mean is linear in the weights and the likelihood convex in the logits, so there is one valley; a softmax
    keeps the weights on the simplex. Equal weights where nothing does better.
    """
    from scipy.optimize import minimize

    covered = np.stack([answer.covered.numpy() for answer in answers]).astype(np.float64)
    scaled = np.stack([(one.logits / one.temperature.unsqueeze(1)).double().numpy() for one in answers])
    rows = covered.any(axis=0)
    equal = np.zeros(len(answers))
    if len(answers) == 1 or not rows.any():
        return tuple((np.ones(len(answers)) / len(answers)).tolist())

    def loss(logs: np.ndarray) -> float:
        shares = _softmax(logs)[:, None] * covered[:, rows]
        shares /= shares.sum(axis=0)
        mixed = np.einsum("mn,mnl->nl", shares, scaled[:, rows])
        return metrics.negative_log_likelihood(task, mixed, truth[rows])

    bounds = [(-GREATEST_LOG_WEIGHT, GREATEST_LOG_WEIGHT)] * len(answers)
    found = minimize(loss, equal, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-10})
    best = found.x if found.fun < loss(equal) else equal
    return tuple(_softmax(best).tolist())


def _softmax(logs: np.ndarray) -> np.ndarray:
    powers = np.exp(logs - logs.max())
    return np.asarray(powers / powers.sum())


def _languages(artifact: Artifact) -> tuple[str, ...] | None:
    found = artifact.manifest.spec.get(LANGUAGES)
    return None if found is None else tuple(found)
