"""The baseline's side: XLM-R base, or another encoder, in fp32 PyTorch, with a floor of its own.

Its share of the machine's fp32 peak is told as well: a speed-up over a baseline that dawdles would be no news.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from polyfold.benchmark.candidates import Candidate
from polyfold.benchmark.floors import Floor, against_floor
from polyfold.benchmark.operations import encoder_operations
from polyfold.benchmark.results import BaselineFigures, Figure, Peaks
from polyfold.benchmark.spec import BenchmarkSpec
from polyfold.benchmark.sweeps import dense_floor, single_floor, text_floor
from polyfold.errors import InputError
from polyfold.measure.rounds import Timing
from polyfold.measure.speed import PADDED, REAL_TEXT, SpeedReport, SpeedSpec
from polyfold.measure.workloads import PADDED_WIDTH, Encoder, distinct_texts

if TYPE_CHECKING:
    # It imports torch, which a benchmark without a baseline does without.
    from polyfold.measure.baseline import Baseline


def open_baseline(spec: BenchmarkSpec, candidates: Sequence[Candidate]) -> "Baseline | None":
    """The baseline that the spec names, None where it names none."""
    if spec.baseline is None:
        return None
    if find_spec("torch") is None:
        raise InputError(
            "the baseline runs in PyTorch, which is not installed",
            hint="install it with: pip install 'polyfold[train]', or leave the baseline out with --no-baseline",
        )
    from polyfold.measure.baseline import load_baseline

    length = candidates[0].config.max_length
    return load_baseline(spec.baseline, spec.baseline_tokenizer, Path(), length)


def _floor(baseline: "Baseline", peaks: Peaks | None) -> Floor | None:
    """Of its encoder at the fp32 peak; None without peaks, or for a family whose matrices are not known."""
    from polyfold.model.backbone import Transformer

    if peaks is None:
        return None
    try:
        operations = encoder_operations(Transformer(baseline.encoder), baseline.trunk_parameters)
    except InputError:
        return None
    return Floor(operations, peaks, ("fp32",))


def baseline_figures(
    baseline: "Baseline",
    peaks: Peaks | None,
    report: SpeedReport,
    spec: SpeedSpec,
    encoder: Encoder,
    texts: Sequence[str],
) -> BaselineFigures:
    """Its timings beside its floors."""
    floor = _floor(baseline, peaks)
    lengths = encoder.encode(texts).lengths
    singles = encoder.encode(distinct_texts(texts, spec.single_texts)).lengths

    def figure(key: str, timing: Timing) -> Figure:
        if key == REAL_TEXT:
            least = text_floor(floor, lengths, spec.token_budget)
            return against_floor(timing, least, len(lengths), single_floor(floor, singles))
        if key == PADDED:
            size = report.baseline_batch_size or 1
            return against_floor(
                timing, dense_floor(floor, (size, PADDED_WIDTH)), size, dense_floor(floor, (1, PADDED_WIDTH))
            )
        rows, width = (int(side) for side in key.split("x"))
        least = dense_floor(floor, (rows, width))
        return against_floor(timing, least, rows, least)

    return BaselineFigures(
        name=baseline.name,
        weights=baseline.weights,
        own_tokenizer=baseline.own_tokenizer is not None,
        padded_batch_size=report.baseline_batch_size,
        speed={key: figure(key, timing) for key, timing in report.baseline.items()},
    )
