"""The backbone stage: task-agnostic distillation, a small encoder taught by a large one on texts without labels.

What comes out is no classifier but a pretrained encoder, to be fine-tuned or distilled further like a published
one. Wang et al., "MiniLM" (2020), section 3 and Sanh et al., "DistilBERT" (2019), section 2 work this way.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from polyfold.data.batches import EncodedDocuments, encode
from polyfold.data.dataset import Dataset, Documents
from polyfold.errors import InputError
from polyfold.losses.sentence import SentenceLoss
from polyfold.losses.spec import LossSpec, wanted_of
from polyfold.model.backbone import Backbone
from polyfold.model.classifier import Model, new_classifier, save_model
from polyfold.model.source import open_backbone
from polyfold.model.student import (
    BackboneInit,
    ConvolutionalInit,
    TransformerInit,
    build_small,
    piece_counts,
    published,
)
from polyfold.text import open_tokenizer
from polyfold.train.fit import FitContext, FitResult, FitSpec, fit
from polyfold.train.imitation import ImitationObjective
from polyfold.train.sides import Sides, aligned
from polyfold.train.teachers import ModelTeacher

STAGE_VERSION = 2


class BackboneSpec(BaseModel):
    """An encoder distilled from another on texts alone, under a name that teachers and students may start from.

    `teacher` is whatever may be a backbone: a published one, a folder, or one distilled further up this list.
    `texts` are the training texts with their labels out of sight, the unlabelled ones, or both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    init: Annotated[BackboneInit | TransformerInit | ConvolutionalInit, Field(discriminator="kind")]
    teacher: str = "use-multilingual"
    losses: tuple[LossSpec, ...] = Field(default=(SentenceLoss(),), min_length=1)
    texts: Literal["all", "train", "unlabelled"] = "all"
    fit: FitSpec = FitSpec(epochs=1)


def distill_backbone(spec: BackboneSpec, data: Dataset, base: Path, folder: Path, seed: int) -> FitResult:
    """Train one encoder and leave it in `folder`, which `AutoModel.from_pretrained` loads where its family can."""
    documents = texts_of(spec, data)
    with TemporaryDirectory() as scratch:
        teacher = _bare(open_backbone(spec.teacher, Path(scratch), base), data.max_length)
        taught = _encoded(teacher, Path(scratch), documents)
        source = (teacher.backbone, Path(scratch))
        student = _bare(
            _student(spec.init, source, documents, data.max_length, base, folder, seed), data.max_length
        )
    train = _encoded(student, folder, documents)
    sides = Sides(student.backbone, teacher.backbone, aligned(train, taught), seed)
    online = ModelTeacher(teacher, taught, wanted_of(spec.losses))
    objective = ImitationObjective(spec.losses, sides, online)
    context = FitContext(folder, seed, spec.name, lambda _: {})
    result = fit(student.classifier, train, objective, spec.fit, None, context)
    if spec.fit.epochs:
        student = replace(student, backbone=replace(student.backbone, weights="trained"))
    save_model(student, folder, folder)
    return result


def texts_of(spec: BackboneSpec, data: Dataset) -> Documents:
    """The texts to learn from, without their labels; InputError where there are none."""
    train = replace(data.train, labels={})
    match spec.texts:
        case "train":
            return train
        case "unlabelled":
            found = replace(data.unlabelled, labels={})
        case "all":
            found = train.followed_by(data.unlabelled, ())
    if not len(found):
        raise InputError(
            "the backbone is to learn from unlabelled texts, but there are none",
            key="data.unlabelled",
            hint="name a file of texts there, or give the backbone `texts: train`",
        )
    return found


def _bare(backbone: Backbone, max_length: int) -> Model:
    """An encoder as a classifier of no tasks."""
    return new_classifier(backbone, (), max_length, 0)


def _encoded(model: Model, folder: Path, documents: Documents) -> EncodedDocuments:
    return encode(documents, open_tokenizer(folder, model.backbone.tokenizer), model.max_length)


def _student(
    init: BackboneInit | TransformerInit | ConvolutionalInit, source: tuple[Backbone, Path], documents: Documents,
    max_length: int, base: Path, folder: Path, seed: int,
) -> Backbone:  # fmt: skip
    """The encoder to be trained, with its tokenizer in `folder`."""
    if isinstance(init, BackboneInit):
        return published(init, folder, base)
    teacher, place = source
    file = teacher.tokenizer.file
    (folder / file).write_bytes((place / file).read_bytes())
    counts = piece_counts(teacher, folder, documents.texts, max_length)
    return build_small(init, teacher, counts, max_length, seed)
