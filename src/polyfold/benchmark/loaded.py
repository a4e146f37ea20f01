"""One artifact under arrivals, and its energy: what is measured of each alone, one after the other."""

from collections.abc import Sequence
from typing import Any

from polyfold.benchmark.arrivals import measure_arrivals, service_rate
from polyfold.benchmark.candidates import Candidate
from polyfold.benchmark.energy import counters, measure_energy
from polyfold.benchmark.floors import Floor
from polyfold.benchmark.results import Arrivals
from polyfold.benchmark.spec import BenchmarkSpec
from polyfold.benchmark.sweeps import single_floor
from polyfold.console import progress_bar
from polyfold.measure.workloads import distinct_texts


def measure_candidate(
    candidate: Candidate, floor: Floor | None, texts: Sequence[str], spec: BenchmarkSpec, found: dict[str, Any]
) -> None:
    """Adds `arrivals` and `energy` to what was found, where the spec asks for them."""
    if "arrivals" in spec.parts:
        found["arrivals"] = arrivals_of(candidate, floor, texts, spec)
    if "energy" in spec.parts:
        whole = candidate.subject(spec)
        with progress_bar("energy", 1) as bar:
            found["energy"] = measure_energy(
                counters(), lambda: whole.run_texts(texts), len(texts), spec.energy_seconds
            )
            bar.advance(1, candidate.name)


def arrivals_of(
    candidate: Candidate, floor: Floor | None, texts: Sequence[str], spec: BenchmarkSpec
) -> tuple[Arrivals, ...]:
    """Every load, for each number of texts that are taken together.

    A worker that takes one at a time cannot keep up with loads of 1 and more: its queue would grow for as long as
    one measures, so these are left out.
    """
    chosen = distinct_texts(texts, spec.speed.single_texts)
    answer = candidate.predictor.predict
    rate = service_rate(chosen, answer)
    lengths = candidate.predictor.tokenizer.encode(chosen, candidate.config.max_length).lengths
    least = single_floor(floor, lengths)
    settings = [
        (load, together)
        for together in spec.arrivals.together
        for load in spec.arrivals.loads
        if together > 1 or load < 1.0
    ]
    found = []
    with progress_bar("arrivals", len(settings)) as bar:
        for place, (load, together) in enumerate(settings):
            limits = (spec.arrivals.requests, spec.arrivals.seconds)
            one = measure_arrivals(
                chosen, answer, load, load * rate, together, limits=limits, seed=spec.seed + place
            )
            if least is not None:
                floor_ms = least * 1000
                one = one.model_copy(
                    update={"floor_latency_ms": floor_ms, "latency_share": floor_ms / one.latency_ms_p50}
                )
            found.append(one)
            bar.advance(1, f"{load:g} of {rate:,.0f} a second")
    return tuple(found)
