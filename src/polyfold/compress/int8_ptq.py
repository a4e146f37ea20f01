"""int8 after training: nothing is trained, ranges come from a sample of texts or are found at run time."""

from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from polyfold.compress.bench import Bench
from polyfold.compress.calibration import Calibration
from polyfold.compress.grids import Grids, Mode, calibration_samples, prepare_grids
from polyfold.compress.sensitivity import Sensitivity, measure_sensitivity
from polyfold.compress.smooth_quant import SmoothQuant
from polyfold.console import warn
from polyfold.data.batches import EncodedDocuments
from polyfold.model.classifier import Model
from polyfold.model.placement import Layout, is_kept


class Int8Ptq(BaseModel):
    """Quantize a trained model.

    `static`: weights and activations in int8, ranges set by `calibration`. `dynamic`: weights in int8, activations
    of linear layers quantized at run time by their own extremes. `weight_only`: weights and embeddings in int8,
    all computed in floating point: a small file. `layout` places the quantizers for the processor or for TensorRT.
    Layers named in `keep` stay in floating point, and those that `sensitivity` finds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["int8_ptq"] = "int8_ptq"
    mode: Mode = "static"
    layout: Layout = "cpu"
    calibration: Calibration = Calibration()
    smooth_quant: SmoothQuant | None = None
    keep: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mode != "static" and self.layout == "tensorrt":
            raise ValueError(f"layout tensorrt is for static ranges, which mode {self.mode} has not")
        if self.mode == "weight_only" and self.smooth_quant is not None:
            raise ValueError("smooth_quant helps to quantize activations, which weight_only leaves as they are")
        return self


def int8_ptq(spec: Int8Ptq, model: Model, bench: Bench) -> tuple[Model, dict[str, Any]]:
    """The model with fake quantizers; exported, they become the int8 nodes of a graph."""
    samples = calibration_samples(bench, bench.encode(model, bench.data.train), spec.calibration.documents)
    grids = prepare_grids(model.classifier, samples, spec.mode, spec.layout, spec.calibration, spec.smooth_quant)
    keep, told = choose_layers(grids, model, bench, spec.keep, spec.sensitivity)
    return Model(grids.quantized(keep), model.tasks, model.backbone, model.max_length), told


def choose_layers(
    grids: Grids, model: Model, bench: Bench, keep: tuple[str, ...], spec: Sensitivity | None
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """What stays in floating point, and what the step tells of it; the table goes to the step's folder."""
    for name in keep:
        # No error: the same steps serve students of several architectures.
        if not any(is_kept(layer, [name]) for layer in grids.layers):
            warn(f"{bench.label}: no layer is named '{name}', so `keep` leaves nothing out by it")
    if spec is None:
        return keep, {}
    dev = _sample(bench, model, spec.documents)
    findings = measure_sensitivity(grids, model, dev, spec, keep, bench.label)
    findings.write(bench.folder)
    return findings.keep, {"sensitivity": findings.figures()}


def _sample(bench: Bench, model: Model, count: int) -> EncodedDocuments:
    dev = bench.data.dev
    chosen = np.random.default_rng(bench.seed).permutation(len(dev))[:count]
    return bench.encode(model, dev.take(np.sort(chosen)))
