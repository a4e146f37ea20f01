"""int8 quantization-aware training: fake quantizers in, then a short distillation to undo what they cost."""

from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from polyfold.compress.bench import Bench
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.model.backbone import prefer_plain_attention
from polyfold.model.classifier import Classifier, Model
from polyfold.model.quantized import quantize
from polyfold.text import pad
from polyfold.train.fit import FitContext, FitSpec, fit
from polyfold.train.objectives import LossSpec, TaskObjective


class Int8Qat(BaseModel):
    """Quantize to int8, calibrate on `calibration_documents`, then train `fit.epochs` with the quantizers in.

    Fake quantization makes a step several times slower and little is left to learn, so a random sample of
    `documents` training documents is enough (None: all). With `epochs: 0` it is post-training quantization.
    `losses` default to Eq. 2 with the recipe's teacher. The embedding table is put on an int8 grid a row first
    and stays as it is, whatever `fit.embedding_learning_rate` says. Layers named in `keep` stay in floating point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["int8_qat"] = "int8_qat"
    calibration_documents: int = Field(default=512, ge=8)
    documents: int | None = Field(default=20_000, ge=1)
    keep: tuple[str, ...] = ()
    losses: tuple[LossSpec, ...] = (LabelLoss(), LogitLoss())
    fit: FitSpec = FitSpec(epochs=1, learning_rate=2e-5)


def int8_qat(spec: Int8Qat, model: Model, bench: Bench) -> tuple[Model, dict[str, float]]:
    """The model with trained fake quantizers; exported, they become the Q/DQ nodes of an int8 graph."""
    prefer_plain_attention(model.classifier.encoder)
    generator = np.random.default_rng(bench.seed)
    documents = bench.data.train
    if spec.documents is not None and spec.documents < len(documents):
        documents = documents.take(generator.permutation(len(documents))[: spec.documents])
    train = bench.encode(model, documents)
    chosen = generator.choice(len(train), size=min(len(train), spec.calibration_documents), replace=False)
    samples = []
    for start in range(0, len(chosen), 8):
        input_ids, mask = pad([train.encoding.ids[i] for i in chosen[start : start + 8]], train.pad_id)
        samples.append((torch.from_numpy(input_ids), torch.from_numpy(mask)))
    quantized = quantize(model.classifier, samples, len(samples), spec.keep)
    assert isinstance(quantized, Classifier)
    fake = Model(quantized, model.tasks, model.backbone, model.max_length)
    losses = tuple(loss for loss in spec.losses if loss.kind != "logits" or bench.teach is not None)
    if spec.fit.epochs == 0:
        return fake, {}
    teacher = bench.teach(documents) if bench.teach is not None else None
    objective = TaskObjective(model.tasks, losses, documents, teacher)
    context = FitContext(bench.folder, bench.seed, bench.label, bench.evaluate(fake))
    frozen = spec.fit.model_copy(update={"embedding_learning_rate": 0.0})
    result = fit(quantized, train, objective, frozen, None, context)
    return fake, {"dev_macro_f1": result.best_score}
