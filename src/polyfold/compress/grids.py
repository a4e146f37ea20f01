"""Post-training quantization of a classifier: smoothed, calibrated, biases corrected; all layers or some."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from polyfold.compress.bench import Bench
from polyfold.compress.calibration import Calibration, Samples, find_ranges, watch
from polyfold.compress.smooth_quant import SmoothQuant, smooth
from polyfold.data.batches import EncodedDocuments
from polyfold.model.backbone import prefer_plain_attention
from polyfold.model.classifier import Classifier
from polyfold.model.operations import Trace
from polyfold.model.placement import WEIGHTED, Hook, Layout, Placement, is_kept, layer_path, place
from polyfold.model.quantized import Range, embedding_tables, hooked, insert_quantizers, require_nncf, snap_tables
from polyfold.text import pad_rows

Mode = Literal["static", "dynamic", "weight_only"]

BATCH = 8
"""Documents of a calibration batch, of like length, so that little of what is seen is padding."""


@dataclass(frozen=True)
class Grids:
    """A float classifier with all that is known for quantizing any of its layers."""

    module: nn.Module
    found: Trace
    mode: Mode
    layout: Layout
    apart: frozenset[str]
    ranges: Mapping[tuple[Hook, str], Range]
    means: Mapping[str, Tensor]

    @property
    def layers(self) -> tuple[str, ...]:
        """Everything that can be quantized, by name: embedding tables first."""
        tables = tuple(layer_path(name, self.found) for name in embedding_tables(self.module))
        return tables + self._placement(()).layers

    def quantized(self, keep: Iterable[str] = ()) -> Classifier:
        """A quantized copy, all layers but those of `keep`."""
        kept = tuple(keep)
        module = copy.deepcopy(self.module)
        placement = self._placement(kept)
        before = {one.parameter: module.get_parameter(one.parameter).detach().clone() for one in placement.weights}
        insert_quantizers(module, placement, None if self.mode == "dynamic" else self.ranges)
        _correct_biases(module, placement, before, self.means)
        tables = embedding_tables(module)
        snap_tables(module, [name for name in tables if is_kept(layer_path(name, self.found), kept)])
        assert isinstance(module, Classifier)
        return module

    def _placement(self, keep: Sequence[str]) -> Placement:
        whole = place(self.found, self.layout, keep, self.apart)
        if self.mode == "static":
            return whole
        linear = {one.name for one in self.found.operations if one.kind == "linear"}
        inputs = [one for one in whole.weights if self.mode == "dynamic" and one.hook.operation in linear]
        return whole.at_inputs(inputs)


def prepare_grids(
    classifier: Classifier,
    samples: Samples,
    mode: Mode = "static",
    layout: Layout = "cpu",
    calibration: Calibration | None = None,
    smooth_quant: SmoothQuant | None = None,
) -> Grids:
    """Trace, smooth and calibrate a copy of the classifier."""
    require_nncf()
    from polyfold.model.tracing import trace

    module = copy.deepcopy(classifier).eval()
    prefer_plain_attention(module.encoder)
    found = trace(module, _example(samples))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    carrier = hooked(module).to(device)
    samples = [(input_ids.to(device), mask.to(device)) for input_ids, mask in samples]
    apart = smooth(carrier, found, samples, smooth_quant) if smooth_quant is not None else frozenset[str]()
    whole = place(found, layout, (), apart)
    ranges: Mapping[tuple[Hook, str], Range] = {}
    means: Mapping[str, Tensor] = {}
    if mode == "static":
        ranges = find_ranges(carrier, whole, samples, calibration or Calibration())
    if mode != "weight_only":
        means = _input_means(carrier, found, samples)
    return Grids(carrier.cpu(), found, mode, layout, apart, ranges, means)


def calibration_samples(bench: Bench, train: EncodedDocuments, count: int) -> Samples:
    """Training documents drawn by the bench's seed, in batches of like length."""
    generator = np.random.default_rng(bench.seed)
    chosen = generator.choice(len(train), size=min(len(train), count), replace=False)
    lengths = train.encoding.lengths
    ordered = sorted(chosen.tolist(), key=lambda row: int(lengths[row]))
    samples = []
    for start in range(0, len(ordered), BATCH):
        input_ids, mask = pad_rows(train.encoding, np.asarray(ordered[start : start + BATCH]), train.pad_id)
        samples.append((torch.from_numpy(input_ids), torch.from_numpy(mask)))
    return samples


def _example(samples: Samples) -> tuple[Tensor, Tensor]:
    """Two documents, one shorter: transformers leaves the mask out where nothing is masked."""
    input_ids = samples[0][0].flatten()[:1].repeat(2, 6)
    mask = torch.ones_like(input_ids)
    mask[1, 3:] = 0
    return input_ids, mask


def _input_means(module: nn.Module, found: Trace, samples: Samples) -> dict[str, Tensor]:
    """Mean of each input channel of every layer with a weight and a bias, by the weight's name."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def look_at(name: str, channel: int) -> Any:
        def look(values: Tensor) -> None:
            rows = values.movedim(channel, -1).flatten(0, -2).double()
            sums[name] = sums.get(name, 0.0) + rows.sum(dim=0)
            counts[name] = counts.get(name, 0) + len(rows)

        return look

    layers = [one for one in found.operations if one.kind in WEIGHTED and {1, 2} <= set(one.parameters)]
    looks = {
        Hook("pre", one.name, 0): look_at(one.parameters[1], 1 if one.kind == "conv1d" else -1) for one in layers
    }
    watch(module, looks, samples)
    return {name: (total / counts[name]).float().cpu() for name, total in sums.items()}


def _correct_biases(
    module: nn.Module, placement: Placement, before: Mapping[str, Tensor], means: Mapping[str, Tensor]
) -> None:
    """Give back what rounding the weights takes from each output's mean: bias += (W - W_int8) E[x].

    Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019, section 4.2, with
    the mean measured on the calibration documents.
    """
    from nncf.torch.function_hook.wrapper import get_hook_storage

    storage = get_hook_storage(module)
    with torch.no_grad():
        for weight in placement.weights:
            if weight.parameter not in means:
                continue
            exact = before[weight.parameter]
            rounded = storage.execute_pre_function_hooks(weight.hook.operation, weight.hook.port, exact)
            lost = (exact - rounded).flatten(2).sum(dim=2) if exact.ndim == 3 else exact - rounded
            module.get_parameter(f"{weight.parameter.removesuffix('weight')}bias").add_(
                lost @ means[weight.parameter]
            )
