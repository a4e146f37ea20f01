"""A given teacher: a finished model of Polyfold's, or a stock classifier, brought in with our tasks' labels."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polyfold.artifact import CONFIG, MANIFEST, Artifact, ModelConfig, digest_file, read_config, write_config
from polyfold.data.dataset import Dataset
from polyfold.errors import InputError
from polyfold.model import stock
from polyfold.model.backbone import (
    FAMILIES,
    TOKENIZER_JSON,
    Backbone,
    Transformer,
    auto_config,
    copy_tokenizer_json,
    source_of,
)
from polyfold.model.classifier import Classifier, Model, load_model, save_model
from polyfold.model.hub import hub_options, quietly
from polyfold.predictor import Predictor
from polyfold.tasks import Task
from polyfold.text import TokenizerSpec
from polyfold.train.answers import LANGUAGES
from polyfold.train.evaluate import calibrate
from polyfold.train.teacher import GivenTeacher, Scope

STAGE_VERSION = 1

# What lies beside a model and is none of it: a card written after it was finished, the log of its training.
NOT_THE_MODEL = ("README.md", "metrics.jsonl", MANIFEST)

MULTI_LABEL = "multi_label_classification"


@dataclass(frozen=True)
class Finished:
    """A folder that holds a model of Polyfold's."""

    folder: Path
    config: ModelConfig
    tasks: tuple[Task, ...]

    @property
    def trainable(self) -> bool:
        """Whether it is a torch model in floating point, which can be compressed and changed."""
        return self.config.runtime == "torch" and self.config.precision == "fp32"


def finished_model(name: str, base: Path) -> Finished | None:
    """The Polyfold model of that name seen from `base`; None where there is none (then it is a stock one's)."""
    folder = Path(source_of(name, base))
    try:
        ours = "polyfold" in json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return None
    return Finished(folder, *read_config(folder)) if ours else None


def given_files(spec: GivenTeacher, base: Path) -> dict[str, str]:
    """SHA-256 of the files of a given local model, by path there; nothing for a name of the hub's."""
    folder = Path(source_of(spec.name, base))
    return {name: digest_file(folder / name) for name in _files(folder)} if folder.is_dir() else {}


def given_scope(spec: GivenTeacher, base: Path, tasks: Sequence[str]) -> Scope:
    """What a given model answers for, read from its configuration; InputError where that is nothing we ask."""
    found = finished_model(spec.name, base)
    if found is None:
        if spec.name.startswith((".", "/")) and not Path(source_of(spec.name, base)).is_dir():
            raise InputError(
                "there is no such folder",
                file=base / spec.name,
                key="teacher.name",
                hint="give a finished model's folder, or a hub id; relative paths start at the recipe's folder",
            )
        if spec.task is None:
            raise InputError(
                f"'{spec.name}' is no model of Polyfold's, so it must be said which task it answers",
                key="teacher.task",
                hint=f"give task: one of {', '.join(tasks)}",
            )
        return Scope((spec.task,), spec.languages)
    if spec.task is not None:
        _own_task(spec, found)
        return Scope((spec.task,), spec.languages or _languages(found.folder))
    own = [task.name for task in found.tasks]
    known = tuple(name for name in tasks if name in own)
    if not known:
        raise InputError(
            f"the given teacher knows {', '.join(own)}, and none of these is a task of the data",
            file=found.folder,
            key="teacher.name",
            hint=f"the data's tasks are {', '.join(tasks)}; a model of one task is given another name by `task`",
        )
    return Scope(known, spec.languages or _languages(found.folder))


def import_teacher(spec: GivenTeacher, scope: Scope, data: Dataset, base: Path, folder: Path) -> dict[str, Any]:
    """Bring a given model into `folder` under our tasks and labels, and calibrate it on dev; says what it was."""
    tasks = [task for task in data.tasks if task.name in scope.tasks]
    found = finished_model(spec.name, base)
    if found is None:
        (task,) = tasks
        load_stock(spec, task, data.max_length, base, folder)
        origin = "stock classifier"
    else:
        _import_finished(spec, found, tasks, folder)
        origin = "Polyfold artifact"
    _calibrate(folder, scope, data)
    return {"origin": origin, "name": spec.name}


def check_given(spec: GivenTeacher, scope: Scope, data: Dataset, base: Path) -> None:
    """InputError, before anything is made, for a given model whose kind of task or labels are not the data's."""
    tasks = [task for task in data.tasks if task.name in scope.tasks]
    found = finished_model(spec.name, base)
    if found is None:
        _stock_order(spec, tasks[0], base)
    else:
        _orders(spec, found, tasks)


def match_labels(given: Sequence[str], task: Task, meanings: Mapping[str, str], where: str | Path) -> list[int]:
    """For each label of the task its place among the given ones: the same name, else but for its case.

    `meanings` says what a given name means in the task. InputError lists both sets where they do not fit.
    """
    unknown = sorted(set(meanings) - set(given))
    if unknown:
        raise InputError(
            f"there is no label '{unknown[0]}' in the given model",
            file=where,
            key="teacher.labels",
            hint=f"its labels are {', '.join(given)}",
        )
    names = [meanings.get(name, name) for name in given]
    if len(set(names)) == len(names) and set(names) == set(task.labels):
        return [names.index(label) for label in task.labels]
    folded = [name.casefold() for name in names]
    wanted = [label.casefold() for label in task.labels]
    if len(set(wanted)) == len(wanted) and sorted(folded) == sorted(wanted):
        return [folded.index(label) for label in wanted]
    raise InputError(
        f"the labels do not fit task '{task.name}': the given model has {', '.join(names)}; "
        f"the task has {', '.join(task.labels)}",
        file=where,
        key="teacher.labels",
        hint="say what each of its labels means: labels: {LABEL_0: " + task.labels[0] + ", ...}",
    )


def load_stock(spec: GivenTeacher, task: Task, max_length: int, base: Path, folder: Path) -> Model:
    """A stock sequence classifier as a model of one task, saved in `folder` with its tokenizer."""
    from transformers import AutoModelForSequenceClassification

    source = source_of(spec.name, base)
    config, order = _stock_order(spec, task, base)
    try:
        with quietly():
            whole, told = AutoModelForSequenceClassification.from_pretrained(
                source, config=config, output_loading_info=True, **hub_options(source)
            )
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"the stock classifier cannot be loaded: {first}", file=spec.name) from None
    if told["missing_keys"]:
        raise InputError(
            f"this is no trained classifier: it has no weights for {', '.join(sorted(told['missing_keys'])[:3])}",
            file=spec.name,
            key="teacher.name",
            hint="give a ...ForSequenceClassification model; a bare encoder is trained as teacher.backbone",
        )
    trunk, head = stock.strip(whole.float(), config.num_labels)
    copy_tokenizer_json(source, folder, config)
    backbone = Backbone(
        family=stock.FAMILY,
        module=Transformer(trunk),
        width=head.in_features,
        config={
            **config.to_dict(),
            "dtype": "float32",
            stock.MODEL_TYPE: config.model_type,
            stock.WIDTH: head.in_features,
        },
        tokenizer=TokenizerSpec(kind="tokenizers", file=TOKENIZER_JSON, pad_id=config.pad_token_id or 0),
        max_length=_positions(config),
    )
    classifier = Classifier(backbone.module, head.in_features, (task,))
    _set_head(classifier, task.name, head, order)
    model = Model(classifier.eval(), (task,), backbone, min(max_length, backbone.max_length))
    save_model(model, folder, folder)
    return model


def _stock_order(spec: GivenTeacher, task: Task, base: Path) -> tuple[Any, list[int]]:
    """A stock classifier's configuration, and where it has each of our labels."""
    config = auto_config(source_of(spec.name, base), spec.name)
    _check_kind(config, task, spec.name)
    given = [str(config.id2label[index]) for index in range(config.num_labels)]
    return config, match_labels(given, task, spec.labels, spec.name)


def _check_kind(config: Any, task: Task, name: str) -> None:
    """A stock model says by `problem_type` how its logits are read; without it they are one choice."""
    kind = config.problem_type or "single_label_classification"
    if (kind == MULTI_LABEL) != task.multi_label or kind == "regression":
        raise InputError(
            f"the given model's problem_type is '{kind}', but task '{task.name}' is {task.kind}",
            file=name,
            key="teacher.task",
            hint=f"a multi_label task needs a model whose config.json says problem_type: {MULTI_LABEL}, a "
            "single_label one single_label_classification",
        )


def _positions(config: Any) -> int:
    """Tokens the model can read; a family that is not in our table may waste two, as RoBERTa does."""
    family = FAMILIES.get(config.model_type)
    most = int(getattr(config, "max_position_embeddings", 0) or 0)
    return most - (family.position_offset if family is not None else 2) if most > 2 else 512


def _import_finished(spec: GivenTeacher, found: Finished, tasks: Sequence[Task], folder: Path) -> None:
    """Copy a model of ours; where its labels stand in another order, or it has more heads, with new heads."""
    if (found.folder / MANIFEST).exists():
        Artifact.open(found.folder).verify()
    pairs, orders = _orders(spec, found, tasks)
    if found.trainable:
        _save_chosen(load_model(found.folder), pairs, orders, found.folder, folder)
        return
    for name in _files(found.folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found.folder / name, folder / name)


def _orders(
    spec: GivenTeacher, found: Finished, tasks: Sequence[Task]
) -> tuple[list[tuple[Task, Task]], list[list[int]]]:
    """Our tasks with its own, and where it has each of our labels; InputError where the two do not fit."""
    known = {task.name: task for task in found.tasks}
    pairs = [(task, known[task.name] if spec.task is None else _own_task(spec, found)) for task in tasks]
    for task, own in pairs:
        if task.kind != own.kind:
            raise InputError(
                f"task '{own.name}' of the given teacher is {own.kind}, '{task.name}' of the data {task.kind}",
                file=found.folder,
                key="teacher.name",
            )
    orders = [match_labels(own.labels, task, spec.labels, found.folder) for task, own in pairs]
    renamed = any(task.labels != own.labels or task.name != own.name for task, own in pairs)
    if renamed and not found.trainable:
        raise InputError(
            f"an exported or quantized model ({found.config.runtime}, {found.config.precision}) cannot be given "
            "other names or another order of labels",
            file=found.folder,
            key="teacher.name",
            hint="give the torch model in floating point that it was made from",
        )
    return pairs, orders


def _save_chosen(
    model: Model, pairs: Sequence[tuple[Task, Task]], orders: Sequence[list[int]], source: Path, folder: Path
) -> None:
    """Save the model with the heads of `pairs` (our task, its task) alone, in our names and orders."""
    tasks = tuple(_renamed(task, own, order) for (task, own), order in zip(pairs, orders, strict=True))
    classifier = Classifier(model.classifier.encoder, model.backbone.width, tasks)
    for (task, own), order in zip(pairs, orders, strict=True):
        head = model.classifier.heads[own.name]
        assert isinstance(head, nn.Linear)
        _set_head(classifier, task.name, head, order)
    save_model(replace(model, classifier=classifier.eval(), tasks=tasks), folder, source)


def _renamed(task: Task, own: Task, order: Sequence[int]) -> Task:
    """Our task with what was fitted for its one, in our order."""
    thresholds = None if own.thresholds is None else tuple(own.thresholds[place] for place in order)
    return task.model_copy(update={"temperature": own.temperature, "thresholds": thresholds})


def _set_head(classifier: Classifier, name: str, head: nn.Linear, order: Sequence[int]) -> None:
    """Give the classifier a head's rows, in the order of the task's labels."""
    mine = classifier.heads[name]
    assert isinstance(mine, nn.Linear)
    with torch.no_grad():
        mine.weight.copy_(head.weight[list(order)])
        # A head without a bias is one with a bias of zero.
        mine.bias.copy_(head.bias[list(order)] if head.bias is not None else torch.zeros(len(order)))


def _calibrate(folder: Path, scope: Scope, data: Dataset) -> None:
    """Fit temperatures and thresholds on dev's documents in its languages: it learned from other data."""
    config, tasks = read_config(folder)
    dev = scope.documents(data.dev)
    if config.weights == "random" or not len(dev):
        return
    asked = tuple(task for task in tasks if task.name in scope.tasks)
    fitted = {task.name: task for task in calibrate(asked, dev, Predictor.open(folder).logits(dev.texts))}
    content = json.loads((folder / CONFIG).read_bytes())
    write_config(folder, config, [fitted.get(task.name, task) for task in tasks], content)


def _own_task(spec: GivenTeacher, found: Finished) -> Task:
    """The task of a Polyfold model that answers for `spec.task`: its namesake, or the only one there is."""
    for task in found.tasks:
        if task.name == spec.task or len(found.tasks) == 1:
            return task
    raise InputError(
        f"the given teacher has no task '{spec.task}'",
        file=found.folder,
        key="teacher.task",
        hint=f"its tasks are {', '.join(task.name for task in found.tasks)}",
    )


def _languages(folder: Path) -> tuple[str, ...] | None:
    """The languages that a model of Polyfold's was made to answer for; None where it does not say."""
    if not (folder / MANIFEST).exists():
        return None
    named = Artifact.open(folder).manifest.spec.get(LANGUAGES)
    return None if named is None else tuple(named)


def _files(folder: Path) -> list[str]:
    """What makes up a model's folder, by path there."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(path) for path in files if path.name not in NOT_THE_MODEL and not path.name.startswith(".")]
