"""Ladders: what batch size, length, token budget and number of threads do to the speed."""

from collections.abc import Mapping, Sequence

import numpy as np

from polyfold.benchmark.candidates import Candidate, open_predictor
from polyfold.benchmark.floors import Floor, against_floor
from polyfold.benchmark.results import Ladder, Peaks, Point
from polyfold.benchmark.spec import BenchmarkSpec
from polyfold.console import progress_bar
from polyfold.errors import InputError
from polyfold.measure.rounds import Timing, Work, take_turns
from polyfold.measure.speed import REAL_TEXT
from polyfold.measure.workloads import PredictorSubject, dense_work, text_work
from polyfold.system import cores
from polyfold.text.shapes import plan_shapes

Floors = Mapping[str, Floor]
"""By candidate; those whose operations are not known are missing."""

LENGTHS = (8, 16, 32, 64, 128, 256, 512)


def dense_floor(floor: Floor | None, shape: tuple[int, int]) -> float | None:
    """The least seconds of one dense batch."""
    return floor.seconds([shape[1]] * shape[0]) if floor is not None else None


def text_floor(floor: Floor | None, lengths: np.ndarray, token_budget: int) -> float | None:
    """The least seconds for all documents, in as many batches as they are planned in."""
    batches = plan_shapes(lengths, token_budget, int(lengths.max(initial=1)))
    return floor.seconds(lengths, len(batches)) if floor is not None else None


def single_floor(floor: Floor | None, lengths: np.ndarray) -> float | None:
    """The least seconds for a single document: the median over these."""
    if floor is None:
        return None
    return float(np.median([floor.seconds([int(length)]) for length in lengths]))


def sweep(
    candidates: Sequence[Candidate], floors: Floors, texts: Sequence[str], spec: BenchmarkSpec
) -> dict[str, list[Point]]:
    """Batch sizes, lengths and token budgets, each ladder's points of all candidates in turns."""
    found: dict[str, list[Point]] = {one.name: [] for one in candidates}
    with progress_bar("sweeps", 3) as bar:
        width = min([spec.sweep.width, *(one.longest for one in candidates)])
        shapes = [(size, width) for size in spec.sweep.batch_sizes]
        _dense_ladder("batch size", shapes, (candidates, floors, texts, spec), found)
        bar.advance(1, "batch sizes")
        shapes = [(max(1, spec.sweep.tokens // length), length) for length in lengths_of(candidates, spec)]
        _dense_ladder("length", shapes, (candidates, floors, texts, spec), found)
        bar.advance(1, "lengths")
        _budget_ladder(candidates, floors, texts, spec, found)
        bar.advance(1, "token budgets")
    return found


def lengths_of(candidates: Sequence[Candidate], spec: BenchmarkSpec) -> list[int]:
    """The lengths asked for, or those of the usual ones that every candidate can read."""
    most = min(one.longest for one in candidates)
    if spec.sweep.lengths is None:
        return [length for length in LENGTHS if length <= most] or [most]
    return list(spec.sweep.lengths)


def thread_counts(spec: BenchmarkSpec) -> list[int]:
    """The counts asked for, or powers of two up to the cores of this process, these at the end."""
    if spec.sweep.threads is not None:
        return list(spec.sweep.threads)
    most = cores()
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})


_Setting = tuple[Sequence[Candidate], Floors, Sequence[str], BenchmarkSpec]


def _dense_ladder(
    ladder: Ladder, shapes: Sequence[tuple[int, int]], setting: _Setting, found: dict[str, list[Point]]
) -> None:
    candidates, floors, texts, spec = setting
    works: dict[tuple[str, tuple[int, int]], Work] = {}
    for one in candidates:
        subject = one.subject(spec)
        encoding = subject.encode(texts)
        for shape in shapes:
            # Few different batches are enough where each is large.
            calls = max(1, min(8, 256 // shape[0]))
            works[one.name, shape] = dense_work(subject, encoding, shape, spec.sweep.turns, calls)
    for (name, shape), timing in take_turns(works).items():
        least = dense_floor(floors.get(name), shape)
        figure = against_floor(timing, least, shape[0], least)
        value = shape[0] if ladder == "batch size" else shape[1]
        found[name].append(Point(ladder=ladder, value=value, key=f"{shape[0]}x{shape[1]}", figure=figure))


def _budget_ladder(
    candidates: Sequence[Candidate],
    floors: Floors,
    texts: Sequence[str],
    spec: BenchmarkSpec,
    found: dict[str, list[Point]],
) -> None:
    works = {
        (one.name, budget): text_work(one.subject(spec, budget), texts, 0, spec.sweep.turns)
        for one in candidates
        for budget in spec.sweep.token_budgets
    }
    lengths = {one.name: one.subject(spec).encode(texts).lengths for one in candidates}
    for (name, budget), timing in take_turns(works).items():
        least = text_floor(floors.get(name), lengths[name], budget)
        figure = against_floor(timing, least, len(texts), None)
        found[name].append(Point(ladder="token budget", value=budget, key=REAL_TEXT, figure=figure))


def sweep_threads(
    candidate: Candidate,
    floor: Floor | None,
    peaks: Mapping[int, Peaks],
    texts: Sequence[str],
    spec: BenchmarkSpec,
) -> list[Point]:
    """The artifact opened once for each number of threads, these in turns; floors at the peaks of as many."""
    width = min(spec.sweep.width, candidate.longest)
    shape = (max(1, spec.sweep.tokens // width), width)
    works: dict[tuple[int, str], Work] = {}
    lengths = candidate.subject(spec).encode(texts).lengths
    for count in thread_counts(spec):
        opened = open_predictor(candidate.folder, candidate.runtime, candidate.bf16, spec, count)
        subject = PredictorSubject.of(opened, spec.speed.token_budget, spec.speed.documents)
        works[count, f"{shape[0]}x{shape[1]}"] = dense_work(
            subject, subject.encode(texts), shape, spec.sweep.turns, 2
        )
        works[count, REAL_TEXT] = text_work(subject, texts, spec.speed.single_texts, spec.sweep.turns)
    points = []
    for (count, key), timing in take_turns(works).items():
        here = None
        if floor is not None and count in peaks:
            here = Floor(floor.operations, peaks[count], floor.precisions)
        points.append(_thread_point(count, key, timing, (here, lengths, shape), spec))
    return points


def _thread_point(
    count: int,
    key: str,
    timing: Timing,
    work: tuple[Floor | None, np.ndarray, tuple[int, int]],
    spec: BenchmarkSpec,
) -> Point:
    floor, lengths, shape = work
    if key == REAL_TEXT:
        least = text_floor(floor, lengths, spec.speed.token_budget)
        figure = against_floor(timing, least, len(lengths), single_floor(floor, lengths))
    else:
        least = dense_floor(floor, shape)
        figure = against_floor(timing, least, shape[0], least)
    return Point(ladder="threads", value=count, key=key, figure=figure)


def check_shapes(candidates: Sequence[Candidate], spec: BenchmarkSpec) -> tuple[tuple[int, int], ...]:
    """The dense shapes to measure; InputError for one that some candidate has no positions for."""
    asked = [(f"--shape {size}x{width}", width) for size, width in spec.shapes or ()]
    asked += [(f"--lengths {length}", length) for length in spec.sweep.lengths or ()]
    for option, tokens in asked:
        for one in candidates:
            if tokens > one.longest:
                raise InputError(
                    f"'{option}': a document of '{one.name}' has at most {one.longest} tokens",
                    file=one.folder,
                    hint="give shorter documents, or leave this artifact out",
                )
    most = min([128, *(one.longest for one in candidates)])
    return spec.shapes or ((1, most), (32, most))
