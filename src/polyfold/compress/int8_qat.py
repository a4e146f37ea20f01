"""int8 quantization-aware training: fake quantizers in, then a short distillation to undo what they cost."""

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from polyfold.compress.bench import Bench
from polyfold.compress.calibration import Calibration
from polyfold.compress.grids import calibration_samples, prepare_grids
from polyfold.compress.int8_ptq import choose_layers
from polyfold.compress.sensitivity import Sensitivity
from polyfold.compress.smooth_quant import SmoothQuant
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.losses.spec import LossSpec, needs_teacher, wanted_of
from polyfold.model.classifier import Model
from polyfold.model.placement import Layout
from polyfold.train.fit import FitContext, FitSpec, fit
from polyfold.train.objectives import TaskObjective
from polyfold.train.teachers import sides_of


class Int8Qat(BaseModel):
    """Quantize to int8 as `int8_ptq` does with `mode: static`, then train `fit.epochs` with the quantizers in.

    Fake quantization makes a step several times slower and little is left to learn, so a random sample of
    `documents` training documents is enough (None: all). With `epochs: 0` nothing is trained. `losses` default to
    Eq. 2 with the recipe's teacher. The embedding table is put on an int8 grid a row first and stays as it is,
    whatever `fit.embedding_learning_rate` says. A budget of `sensitivity` counts before training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["int8_qat"] = "int8_qat"
    layout: Layout = "cpu"
    calibration: Calibration = Calibration()
    smooth_quant: SmoothQuant | None = None
    keep: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None
    documents: int | None = Field(default=20_000, ge=1)
    losses: tuple[LossSpec, ...] = (LabelLoss(), LogitLoss())
    fit: FitSpec = FitSpec(epochs=1, learning_rate=2e-5)


def int8_qat(spec: Int8Qat, model: Model, bench: Bench) -> tuple[Model, dict[str, Any]]:
    """The model with trained fake quantizers; exported, they become the Q/DQ nodes of an int8 graph."""
    documents = bench.data.train
    if spec.documents is not None and spec.documents < len(documents):
        documents = documents.take(np.random.default_rng(bench.seed).permutation(len(documents))[: spec.documents])
    train = bench.encode(model, documents)
    samples = calibration_samples(bench, train, spec.calibration.documents)
    grids = prepare_grids(model.classifier, samples, "static", spec.layout, spec.calibration, spec.smooth_quant)
    keep, told = choose_layers(grids, model, bench, spec.keep, spec.sensitivity)
    quantized = grids.quantized(keep)
    fake = Model(quantized, model.tasks, model.backbone, model.max_length)
    losses = tuple(loss for loss in spec.losses if bench.teach is not None or not needs_teacher((loss,)))
    if spec.fit.epochs == 0:
        return fake, told
    teacher = bench.teach(documents, wanted_of(losses)) if bench.teach is not None else None
    sides = sides_of(model.backbone, train, teacher, bench.seed)
    objective = TaskObjective(model.tasks, losses, documents, teacher, sides)
    context = FitContext(bench.folder, bench.seed, bench.label, bench.evaluate(fake))
    frozen = spec.fit.model_copy(update={"embedding_learning_rate": 0.0})
    result = fit(quantized, train, objective, frozen, None, context)
    return fake, {**told, "dev_macro_f1": result.best_score}
