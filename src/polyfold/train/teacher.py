"""What a teacher may be (trained here, given, or a mean of such), and the training of one."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from polyfold.data.batches import encode, sampling_weights
from polyfold.data.dataset import Dataset, Documents
from polyfold.losses.labels import LabelLoss
from polyfold.model.backbone import Backbone
from polyfold.model.classifier import new_classifier, save_model
from polyfold.model.source import open_backbone
from polyfold.model.trimming import TrimVocabulary, trim
from polyfold.text import open_tokenizer
from polyfold.train.counted import counted_texts, dev_texts
from polyfold.train.evaluate import calibrated, dev_scores
from polyfold.train.fit import FitContext, FitResult, FitSpec, fit
from polyfold.train.objectives import TaskObjective

STAGE_VERSION = 3


class MultiTask(BaseModel):
    """One model for all tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["multi_task"] = "multi_task"


class PerTask(BaseModel):
    """One model for each task, trained on the documents labelled for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["per_task"] = "per_task"


class PerLanguage(BaseModel):
    """One model for each language and all tasks, trained on the documents in it; it answers for these alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["per_language"] = "per_language"


class TrainedTeacher(BaseModel):
    """A model (or one a task, or one a language) trained here, on labels alone.

    `tasks` and `languages` narrow what it learns and answers for. `trim` cuts the backbone's vocabulary before
    training: only then is it cheap to train the table as well. `seed` is added to the recipe's, so that a mean
    may be one over seeds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["trained"] = "trained"
    backbone: str
    mode: Annotated[MultiTask | PerTask | PerLanguage, Field(discriminator="kind")] = MultiTask()
    tasks: tuple[str, ...] | None = Field(default=None, min_length=1)
    languages: tuple[str, ...] | None = Field(default=None, min_length=1)
    seed: int = Field(default=0, ge=0)
    trim: TrimVocabulary | None = None
    loss: LabelLoss = LabelLoss()
    fit: FitSpec = FitSpec()


class GivenTeacher(BaseModel):
    """A finished model: an artifact of Polyfold, or a stock classifier of transformers (a folder or a hub id).

    A stock classifier answers for one `task`. Its labels are found by their names, whatever their case;
    `labels` says what a name of its own means in our task. `languages` says for which documents it is asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["given"] = "given"
    name: str
    task: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    languages: tuple[str, ...] | None = Field(default=None, min_length=1)


def _kind(value: Any) -> str:
    """The tag of a teacher's block; one without a `kind` is trained here."""
    kind = value.get("kind", "trained") if isinstance(value, dict) else getattr(value, "kind", "trained")
    return str(kind)


MemberSpec = Annotated[
    Annotated[TrainedTeacher, Tag("trained")] | Annotated[GivenTeacher, Tag("given")],
    Discriminator(
        _kind,
        custom_error_type="member_kind",
        custom_error_message="a member's kind is 'trained' (as without a kind) or 'given'",
    ),
]


class MeanTeacher(BaseModel):
    """The weighted mean of several teachers' logits, each brought to its calibrated scale.

    `weights` are one a member (divided by their sum), `dev`: fitted on dev, task by task, or equal. A member that
    does not know a document's task or language is left out there, and the others' weights count for more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["mean"] = "mean"
    members: tuple[MemberSpec, ...] = Field(min_length=1)
    weights: tuple[Annotated[float, Field(ge=0.0)], ...] | Literal["equal", "dev"] = "equal"

    @model_validator(mode="after")
    def _consistent(self) -> "MeanTeacher":
        if any(member in self.members[:place] for place, member in enumerate(self.members)):
            raise ValueError("a member is there the same twice; for a mean over seeds give one `seed: 1`")
        if isinstance(self.weights, str):
            return self
        if len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} members")
        if sum(self.weights) <= 0.0:
            raise ValueError("the weights are all 0; one at least must be above")
        return self


TeacherSpec = Annotated[
    Annotated[TrainedTeacher, Tag("trained")]
    | Annotated[GivenTeacher, Tag("given")]
    | Annotated[MeanTeacher, Tag("mean")],
    Discriminator(
        _kind,
        custom_error_type="teacher_kind",
        custom_error_message="a teacher's kind is 'trained' (as without a kind), 'given' or 'mean'",
    ),
]


def members_of(spec: TeacherSpec) -> tuple[TrainedTeacher | GivenTeacher, ...]:
    """The members of a mean; any other teacher is its own only member."""
    return spec.members if isinstance(spec, MeanTeacher) else (spec,)


@dataclass(frozen=True)
class Scope:
    """What one model answers for: these tasks, in these languages or (None) in all of them."""

    tasks: tuple[str, ...]
    languages: tuple[str, ...] | None = None

    def documents(self, documents: Documents) -> Documents:
        """Those of the documents that are in its languages."""
        if self.languages is None:
            return documents
        return documents.take(np.flatnonzero([language in self.languages for language in documents.languages]))


def train_teacher(
    spec: TrainedTeacher, scope: Scope, data: Dataset, base: Path, folder: Path, seed: int, label: str
) -> FitResult:
    """Train one teacher on its tasks and languages and leave a finished model in `folder`."""
    tasks = tuple(task for task in data.tasks if task.name in scope.tasks)
    data = replace(data, train=scope.documents(data.train), dev=scope.documents(data.dev))
    backbone = _backbone(spec, data, base, folder)
    model = new_classifier(backbone, tasks, data.max_length, seed)
    tokenizer = open_tokenizer(folder, backbone.tokenizer)
    labelled = np.flatnonzero(np.any([data.train.labelled(task) for task in tasks], axis=0))
    train = encode(data.train.take(labelled), tokenizer, model.max_length)
    dev = encode(data.dev, tokenizer, model.max_length)
    objective = TaskObjective(tasks, (spec.loss,), train.documents)
    weights = sampling_weights(train.documents, tasks, spec.fit.batch)
    context = FitContext(folder, seed, label, dev_scores(tasks, dev, label))
    result = fit(model.classifier, train, objective, spec.fit, weights, context)
    if spec.fit.epochs:
        model = replace(model, backbone=replace(backbone, weights="trained"))
    save_model(calibrated(model, dev, label), folder, folder)
    return result


def _backbone(spec: TrainedTeacher, data: Dataset, base: Path, folder: Path) -> Backbone:
    """The backbone, trimmed if asked for, with its tokenizer in `folder`."""
    if spec.trim is None:
        return open_backbone(spec.backbone, folder, base)
    with TemporaryDirectory() as scratch:
        whole = open_backbone(spec.backbone, Path(scratch), base)
        counted = counted_texts(spec.trim, data, base)
        return trim(spec.trim, whole, Path(scratch), folder, counted, dev_texts(data)).backbone
