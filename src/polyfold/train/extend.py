"""A task or a language is added to a finished model, whose other answers stay as they are.

The model goes on from its own weights and heads, with fresh heads for new tasks. It learns the new labels, and on
every document imitates what it answered before (Li and Hoiem, "Learning without Forgetting", 2016, section 3):
the old logits are the teacher's. Temperatures and thresholds of old tasks are kept as they were.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

from polyfold import metrics
from polyfold.artifact import Artifact, digest_json
from polyfold.data.batches import EncodedDocuments, encode, sampling_weights
from polyfold.data.dataset import Dataset, Documents
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.model.classifier import Model, load_model, new_classifier, save_model
from polyfold.tasks import NOT_LABELLED, Task
from polyfold.text import open_tokenizer
from polyfold.train.answers import Answer, one_answer
from polyfold.train.cache import CachedTeacher, open_cache
from polyfold.train.evaluate import calibrate, macro_f1, predict_logits
from polyfold.train.fit import FitContext, FitResult, FitSpec, fit
from polyfold.train.objectives import TaskObjective

STAGE_VERSION = 2


class ExtendSpec(BaseModel):
    """How a finished model learns new tasks and languages, and how little may change of what it knew.

    `labels` teaches what is new; `keep` holds the old answers. In `new_languages` the model knew nothing worth
    keeping: there it learns the old tasks' labels, too. `freeze` trains new heads alone, and changes nothing else
    by a single bit. `tolerance` is the greatest share of dev documents, in percent, that an old task may decide
    otherwise than before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: LabelLoss = LabelLoss()
    keep: LogitLoss = LogitLoss(on="all")
    new_languages: tuple[str, ...] = ()
    freeze: bool = False
    unlabelled: bool = False
    tolerance: float = Field(default=1.0, ge=0.0, le=100.0)
    fit: FitSpec = FitSpec()

    @field_validator("keep")
    @classmethod
    def _everywhere(cls, keep: LogitLoss) -> LogitLoss:
        if keep.on != "all":
            raise ValueError("old answers are kept on every document: give `on: all`")
        return keep


@dataclass(frozen=True)
class Extension:
    """What came of it: the training, and by old task the dev documents looked at and those decided otherwise."""

    result: FitResult
    new_tasks: tuple[str, ...]
    kept: Mapping[str, tuple[int, int]]


def check_extension(spec: ExtendSpec, model: Artifact, data: Dataset) -> tuple[Task, ...]:
    """All tasks of the extended model, the old ones first; InputError, before training, where that cannot be."""
    old = _extendable(model)
    by_name = {task.name: task for task in old}
    for task in data.tasks:
        if task.name in by_name:
            _check_known(task, by_name[task.name])
    new = tuple(task for task in data.tasks if task.name not in by_name)
    missing = [name for name in spec.new_languages if name not in data.train.languages]
    if missing:
        raise InputError(
            f"no training document is in '{missing[0]}'",
            key="extend.new_languages",
            hint=f"languages of the data: {', '.join(sorted(set(data.train.languages)))}",
        )
    if spec.freeze and spec.new_languages:
        raise InputError(
            "a frozen model cannot learn a language: only new heads would be trained",
            key="extend.freeze",
            hint="leave out `freeze` or `new_languages`",
        )
    relabelled = _new_labels(data.train, (*old, *new), data.tasks, spec.new_languages)
    if not any(relabelled.labelled(task).any() for task in (*old, *new)):
        raise InputError(
            "there is nothing new to learn: the model has all tasks of the data",
            key="extend",
            hint="add a task under data.tasks, or name languages with labels under extend.new_languages",
        )
    if not spec.freeze and not _in_old_languages(data.dev, spec.new_languages).any():
        raise InputError(
            "no dev document is in a language that the model knows: nothing would show what changed there",
            key="data",
            hint="add documents in the old languages; they need no labels",
        )
    return (*old, *new)


def extend(
    spec: ExtendSpec, model: Artifact, data: Dataset, folder: Path, cache: Path, seed: int
) -> Extension:  # fmt: skip
    """Train the extended model and leave it in `folder`; the old model's logits are kept in `cache`."""
    tasks = check_extension(spec, model, data)
    old = load_model(model.path)
    new_tasks = tasks[len(old.tasks) :]
    grown = _grown(model.path, tasks, seed, freeze=spec.freeze)
    file = old.backbone.tokenizer.file
    (folder / file).write_bytes((model.path / file).read_bytes())
    tokenizer = open_tokenizer(folder, old.backbone.tokenizer)
    documents = _training_documents(spec, data, tasks, new_tasks)
    train = encode(documents, tokenizer, old.max_length)
    dev = encode(_new_labels(data.dev, tasks, data.tasks, spec.new_languages), tokenizer, old.max_length)
    objective = TaskObjective(new_tasks, (spec.labels,), documents)
    if not spec.freeze:
        answers = _old_answers(spec, model, old, train, cache)
        objective = TaskObjective(tasks, (spec.labels, spec.keep), documents, answers)
    known = _in_old_languages(dev.documents, spec.new_languages)
    before = predict_logits(old.classifier, old.tasks, dev, "answers before")
    evaluate = _scores(tasks, new_tasks, dev, (before, known))
    context = FitContext(folder, seed, "extending", evaluate)
    weights = sampling_weights(documents, tasks, spec.fit.batch)
    result = fit(grown.classifier, train, objective, spec.fit, weights, context)
    # Compared on one device: another's rounding must not count as a change.
    old.classifier.to(next(grown.classifier.parameters()).device)
    before = predict_logits(old.classifier, old.tasks, dev, "answers before")
    after = predict_logits(grown.classifier, tasks, dev, "answers after")
    fitted = calibrate(new_tasks, dev.documents, after)
    save_model(grown.with_tasks((*old.tasks, *fitted)), folder, folder)
    return Extension(result, tuple(task.name for task in new_tasks), _kept(old.tasks, before, after, known))


def _extendable(model: Artifact) -> tuple[Task, ...]:
    """The tasks of a finished torch model in floating point; InputError for any other artifact."""
    config, tasks = model.config()
    if config.runtime != "torch":
        raise InputError(
            f"a model exported to '{config.runtime}' cannot be trained on",
            file=model.path,
            hint="extend the torch model it was made from, then export that",
        )
    if config.precision != "fp32":
        raise InputError(
            f"a quantized model ({config.precision}) cannot be extended: its ranges fit the old weights",
            file=model.path,
            hint="extend the float model it was made from, then quantize that again",
        )
    if config.weights == "random":
        raise InputError("this model has random weights: there is nothing to keep", file=model.path)
    return tasks


def _check_known(task: Task, old: Task) -> None:
    """A task that the model has may bring fewer labels (a language may lack some), but none of its own."""
    if task.kind != old.kind:
        raise InputError(
            f"task '{task.name}' is {old.kind} in the model and {task.kind} in the data",
            key="data.tasks",
            hint="give the new task a name of its own",
        )
    added = [label for label in task.labels if label not in old.labels]
    if added:
        raise InputError(
            f"task '{task.name}' has labels that the model does not know: {', '.join(added)}",
            key="data.tasks",
            hint=f"an old task keeps its labels ({', '.join(old.labels)}); "
            "name the task otherwise to learn it anew beside the old one",
        )


def _grown(path: Path, tasks: Sequence[Task], seed: int, *, freeze: bool) -> Model:
    """The model with fresh heads beside its own; frozen, all but the fresh ones."""
    old = load_model(path)
    model = new_classifier(old.backbone, tasks, old.max_length, seed)
    for task in old.tasks:
        model.classifier.heads[task.name].load_state_dict(old.classifier.heads[task.name].state_dict())
        model.classifier.heads[task.name].requires_grad_(not freeze)
    model.classifier.encoder.requires_grad_(not freeze)
    return model


def _training_documents(
    spec: ExtendSpec, data: Dataset, tasks: Sequence[Task], new_tasks: Sequence[Task]
) -> Documents:
    """All documents with the labels that are new; for new heads alone those with a label for them."""
    documents = _new_labels(data.train, tasks, data.tasks, spec.new_languages)
    if spec.freeze:
        labelled = np.any([documents.labelled(task) for task in new_tasks], axis=0)
        return documents.take(np.flatnonzero(labelled))
    return documents.followed_by(data.unlabelled, tasks) if spec.unlabelled else documents


def _old_answers(
    spec: ExtendSpec, model: Artifact, old: Model, train: EncodedDocuments, cache: Path
) -> CachedTeacher:
    """What the model answered before, by document; in a language that is new to it, nothing."""
    known = _in_old_languages(train.documents, spec.new_languages)
    read = [list(train.documents.texts), known.tolist()]

    def answers() -> dict[str, Answer]:
        logits = predict_logits(old.classifier, old.tasks, train, "old answers")
        cpu = torch.device("cpu")
        return {
            task.name: one_answer(task, torch.from_numpy(logits[task.name][known]), known, cpu)
            for task in old.tasks
        }

    return open_cache(cache, digest_json([dict(model.manifest.files), read])[:16], answers)


def _new_labels(
    documents: Documents, tasks: Sequence[Task], own: Sequence[Task], new_languages: Sequence[str]
) -> Documents:
    """The documents with what is to be learned from them, in the labels of `tasks` (`own` are the data's).

    Of an old task that is the labels in new languages only: elsewhere the old answers stay, right or wrong.
    """
    encoded = {task.name: task for task in own}
    fresh = ~_in_old_languages(documents, new_languages)
    labels = {}
    for task in tasks:
        shape = (len(documents), len(task.labels)) if task.multi_label else (len(documents),)
        values = np.full(shape, NOT_LABELLED, dtype=np.int8 if task.multi_label else np.int64)
        source = encoded.get(task.name)
        if source is not None:
            rows = documents.labelled(source)
            # A new task is the data's own; an old one is the model's, whose labels may stand in another order.
            chosen = np.flatnonzero(rows if source is task else rows & fresh)
            places = np.asarray([task.labels.index(label) for label in source.labels], dtype=np.int64)
            given = documents.labels[task.name][chosen]
            if task.multi_label:
                values[chosen] = 0
                values[np.ix_(chosen, places)] = given
            else:
                values[chosen] = places[given]
        labels[task.name] = values
    return replace(documents, labels=labels)


def _in_old_languages(documents: Documents, new_languages: Sequence[str]) -> np.ndarray:
    return ~np.isin(np.asarray(documents.languages, dtype=np.str_), list(new_languages))


def _scores(
    tasks: Sequence[Task],
    new_tasks: Sequence[Task],
    dev: EncodedDocuments,
    answered: tuple[Mapping[str, np.ndarray], np.ndarray],
) -> Callable[[nn.Module], Mapping[str, float]]:
    """A function that scores a classifier on dev: what it has learned, and what it has kept.

    `answered` are the old model's logits and which documents they count for. What is kept of an old task is
    macro-F1 with the old answers for the truth, so that both weigh alike in the choice of the best epoch.
    """
    before, known = answered
    old_tasks = tasks[: len(tasks) - len(new_tasks)]

    def score(module: nn.Module) -> Mapping[str, float]:
        logits = predict_logits(module, tasks, dev, "extending, dev")
        fitted = (*old_tasks, *calibrate(new_tasks, dev.documents, logits))
        scores = dict(macro_f1(fitted, dev.documents, logits))
        for task in old_tasks if known.any() else ():
            first, second = _decided(task, before, known), _decided(task, logits, known)
            scores[f"{task.name}/kept"] = metrics.macro_f1(task, first, second, only_supported=True)
        return scores

    return score


def _decided(task: Task, logits: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    return task.decide(task.probabilities(logits[task.name][rows]))


def _kept(
    tasks: Sequence[Task], before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], known: np.ndarray
) -> dict[str, tuple[int, int]]:
    """By old task: dev documents in old languages, and how many of them are decided otherwise."""
    counted = {}
    for task in tasks:
        changed = metrics.flipped(_decided(task, before, known), _decided(task, after, known))
        counted[task.name] = (len(changed), int(changed.sum()))
    return counted
