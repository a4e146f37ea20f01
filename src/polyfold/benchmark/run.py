"""The benchmark from end to end: what is wrong is said first, then everything is measured, then the result stands.

Nothing is written here, and what is written is written whole: an interrupted benchmark leaves no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from polyfold import __version__
from polyfold.artifact import CONFIG
from polyfold.benchmark.agreement import References
from polyfold.benchmark.baseline import baseline_figures, open_baseline
from polyfold.benchmark.candidates import Candidate, open_candidates
from polyfold.benchmark.floors import Floor, precisions_of
from polyfold.benchmark.loaded import measure_candidate
from polyfold.benchmark.operations import count_operations
from polyfold.benchmark.peaks import measure_peaks
from polyfold.benchmark.power import read_power, stolen_seconds
from polyfold.benchmark.results import BaselineFigures, Benchmark, Entry, Peaks, Point, TextsUsed
from polyfold.benchmark.spec import BenchmarkSpec
from polyfold.benchmark.speeds import measure_breakdowns, speed_figures
from polyfold.benchmark.sweeps import check_shapes, sweep, sweep_threads, thread_counts
from polyfold.benchmark.texts import Texts, read_texts
from polyfold.console import progress_bar
from polyfold.errors import InputError
from polyfold.measure.memory import predicting_memory_mb
from polyfold.measure.speed import SpeedSpec, measure_speed
from polyfold.measure.workloads import Subject
from polyfold.system import cores, hardware

if TYPE_CHECKING:
    # It imports torch, which a benchmark without a baseline does without.
    from polyfold.measure.baseline import Baseline


@dataclass
class _Bench:
    """What is being measured, and what has been found so far, by candidate and field of `Entry`."""

    spec: BenchmarkSpec
    candidates: list[Candidate]
    texts: Texts
    peaks: dict[int, Peaks] = field(default_factory=dict)
    floors: dict[str, Floor] = field(default_factory=dict)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def wants(self, part: str) -> bool:
        return part in self.spec.parts

    def add_note(self, candidate: Candidate, note: str) -> None:
        self.found[candidate.name]["notes"] += (note,)


def benchmark(folders: Sequence[Path], spec: BenchmarkSpec, command: str) -> Benchmark:
    """Measure every artifact in one run; `command` is what a reader types to repeat it."""
    started, begun = datetime.now(UTC), perf_counter()
    texts = read_texts(spec.texts, spec.text, spec.speed.documents)
    candidates = open_candidates(folders, spec)
    speed = spec.speed.model_copy(update={"shapes": check_shapes(candidates, spec)})
    bench = _Bench(spec, candidates, texts, found={one.name: {"notes": one.notes} for one in candidates})
    baseline = open_baseline(spec, candidates) if bench.wants("speed") else None
    before, stolen = read_power(), stolen_seconds()
    if bench.wants("agreement"):
        _agree(bench)
    _measure_peaks(bench)
    _count(bench)
    against = _measure_speed(bench, speed, baseline)
    del baseline  # a gigabyte that nothing needs any more
    _climb(bench)
    for one in candidates:
        measure_candidate(one, bench.floors.get(one.name), texts.used, spec, bench.found[one.name])
    if bench.wants("memory"):
        _weigh(bench)
    after = stolen_seconds()
    elapsed = perf_counter() - begun
    return Benchmark(
        polyfold_version=__version__,
        command=command,
        started=started.isoformat(timespec="seconds"),
        seconds=elapsed,
        hardware=hardware(),
        power_before=before,
        power_after=read_power(),
        stolen_percent=None if stolen is None or after is None else 100 * (after - stolen) / elapsed / cores(),
        texts=_texts_used(texts, candidates[0]),
        peaks=tuple(bench.peaks[count] for count in sorted(bench.peaks)),
        baseline=against,
        entries=tuple(_entry(one, bench.found[one.name]) for one in candidates),
        notes=tuple(bench.notes),
    )


def _agree(bench: _Bench) -> None:
    """Agreement first: a reference that cannot be used is said before anything is timed."""
    texts = bench.texts.used[: bench.spec.agreement_documents]
    references = References(bench.spec.reference, texts)
    references.check(bench.candidates)
    with progress_bar("label agreement", len(bench.candidates)) as bar:
        for one in bench.candidates:
            bench.found[one.name]["agreement"] = references.compare(one)
            bar.advance(1, one.name)


def _measure_peaks(bench: _Bench) -> None:
    """Peaks at the number of threads measured with, and at those of the ladder, where anything is timed."""
    if not any(bench.wants(part) for part in ("speed", "sweeps", "threads", "arrivals")):
        return
    if find_spec("openvino") is None:
        bench.notes.append("no floors: the machine's peaks are measured through OpenVINO, which is not installed")
        return
    if bench.spec.device != "cpu":
        bench.notes.append("no floors: the peaks measured here are those of the processor")
        return
    # The baseline has all cores.
    counts = {bench.spec.threads or cores(), cores()}
    counts |= set(thread_counts(bench.spec)) if bench.wants("threads") else set()
    with progress_bar("machine peaks", len(counts)) as bar:
        for count in sorted(counts):
            bench.peaks[count] = measure_peaks(count, bench.spec.peak_seconds)
            bar.advance(1, f"{count} threads")


def _count(bench: _Bench) -> None:
    for one in bench.candidates:
        try:
            operations = count_operations(one.folder)
        except InputError as error:
            bench.add_note(one, f"no floor: {error.problem}")
            continue
        bench.found[one.name]["operations"] = operations
        peaks = bench.peaks.get(bench.spec.threads or cores())
        if peaks is not None:
            precisions = precisions_of(one.config.precision, bf16=one.bf16)
            bench.floors[one.name] = Floor(operations, peaks, precisions)


def _measure_speed(bench: _Bench, spec: SpeedSpec, baseline: "Baseline | None") -> BaselineFigures | None:
    if not bench.wants("speed"):
        return None
    texts = bench.texts.used
    subjects: dict[str, Subject] = {one.name: one.subject(bench.spec) for one in bench.candidates}
    own = baseline.own_tokenizer if baseline is not None else None
    report = measure_speed(subjects, baseline, texts, spec, own)
    parts = measure_breakdowns(bench.candidates, bench.floors, texts, bench.spec)
    for one in bench.candidates:
        figures = speed_figures(one, bench.floors.get(one.name), report, texts, spec)
        bench.found[one.name] |= {"speed": figures, "breakdown": parts[one.name]}
    if baseline is None:
        return None
    encoder = own or subjects[bench.candidates[0].name]
    return baseline_figures(baseline, bench.peaks.get(cores()), report, spec, encoder, texts)


def _climb(bench: _Bench) -> None:
    """The ladders."""
    points: dict[str, list[Point]] = {one.name: [] for one in bench.candidates}
    if bench.wants("sweeps"):
        points = sweep(bench.candidates, bench.floors, bench.texts.used, bench.spec)
    if bench.wants("threads"):
        with progress_bar("threads", len(bench.candidates)) as bar:
            for one in bench.candidates:
                _climb_threads(bench, one, points[one.name])
                bar.advance(1, one.name)
    for name, climbed in points.items():
        bench.found[name]["sweeps"] = tuple(climbed)


def _climb_threads(bench: _Bench, one: Candidate, points: list[Point]) -> None:
    try:
        points += sweep_threads(one, bench.floors.get(one.name), bench.peaks, bench.texts.used, bench.spec)
    except InputError as error:
        bench.add_note(one, f"no thread sweep: {error.problem}")


def _weigh(bench: _Bench) -> None:
    """Memory, each artifact in a process of its own."""
    with progress_bar("memory", len(bench.candidates)) as bar:
        for one in bench.candidates:
            if one.runtime == one.config.runtime:
                texts = bench.texts.used[:256]
                bench.found[one.name]["memory_mb"] = predicting_memory_mb(
                    one.folder, texts, threads=bench.spec.threads, bf16=one.bf16
                )
            bar.advance(1, one.name)


def _texts_used(texts: Texts, first: Candidate) -> TextsUsed:
    lengths = first.predictor.tokenizer.encode(texts.used, first.config.max_length).lengths
    return TextsUsed(
        source=texts.source,
        given=texts.given,
        distinct=texts.distinct,
        used=len(texts.used),
        mean_tokens=float(lengths.mean()),
        median_tokens=float(np.median(lengths)),
        most_tokens=int(lengths.max()),
    )


def _entry(one: Candidate, found: Mapping[str, Any]) -> Entry:
    config = one.config
    size = sum(path.stat().st_size for path in one.folder.rglob("*") if path.is_file() and path.name != CONFIG)
    return Entry(
        name=one.name,
        folder=one.folder.resolve().name,
        runtime=one.runtime,
        precision=one.precision,
        weights=config.weights,
        family=config.family,
        parameters=config.parameters,
        trunk_parameters=config.trunk_parameters,
        size_mb=size / 1e6,
        **found,
    )
