"""A million requests on one server: its memory, and whether any answer is lost or mixed up.

Requests come in parts, closed loop and pipelined, as fast as they are answered. After each part, the server's
memory is read while it is idle, and the answers are checked; so the checks take no time from what is measured.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polyfold.artifact import write_atomically
from polyfold.system import hardware

from .answers import Counts, Expected
from .contestants import Subject, polyfold_command
from .jobs import Job, run
from .processes import Server, free_port, launch
from .results import SOAK, Sample, SoakFile, Tally
from .shared import Progress, code_digest, expect, now, sample_texts, versions

WARM_SHARE = 0.1
"""Of all requests: until then pools, caches and the allocator's arenas reach their size."""

LIMIT_SECONDS = 600.0
"""Of one part; a server that takes longer is stuck."""

USUAL_RATE = 2000.0
"""Requests a second, for the first guess of how long it will take."""


@dataclass(frozen=True)
class Slope:
    """Bytes a request, and the ends of its 95 % confidence interval."""

    bytes_a_request: float
    low: float
    high: float


def slope(samples: Sequence[Sample], warm: int) -> Slope:
    """Ordinary least squares over the samples after the first `warm` requests; needs three of them.

    The interval is Student's for independent errors. A memory's errors are not: it stays where it was, so the true
    interval is wider, and the largest step between two samples is told beside it.
    """
    from scipy import stats

    later = [one for one in samples if one.requests >= warm]
    assert len(later) >= 3, "too few samples for a slope"
    requests = np.array([one.requests for one in later], np.float64)
    memory = np.array([1e6 * one.resident_mb for one in later])
    fit = stats.linregress(requests, memory)
    half = float(stats.t.ppf(0.975, len(later) - 2) * fit.stderr)
    return Slope(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half)


@dataclass(frozen=True)
class Run:
    """What became of all parts."""

    counts: Counts
    samples: list[Sample]
    seconds: float
    exit_code: int


def run_parts(options: argparse.Namespace, expected: Expected, texts: Path, work: Path) -> Run:
    """One server, part after part."""
    port = free_port()
    # A million lines of log are written, as in service, and kept by nobody.
    model = f"soak={Path(options.model).resolve()}"
    serving = polyfold_command([model], port, ["--log-file", "/dev/null", *options.serve_options])
    server = launch("polyfold", serving, port, work / "server.log")
    progress = Progress.of(options.requests / USUAL_RATE)
    counts, samples, spent = Counts(), [], 0.0
    try:
        server.wait_ready()
        samples.append(_sample(server, 0))
        while counts.sent < options.requests:
            part = min(options.part, options.requests - counts.sent)
            job = Job(
                port=port, texts=str(texts), mode="closed", count=part, seconds=LIMIT_SECONDS,
                first=counts.sent % len(expected), connections=options.connections, depth=options.depth,
            )  # fmt: skip
            outcome = run(job, work / "job")
            spent += outcome.facts["wall_s"]
            found = expected.check(outcome)
            assert found.sent, "nothing was sent: the server does not answer"
            counts.add(found)
            samples.append(_sample(server, counts.sent))
            progress.did(part / USUAL_RATE)
            if len(samples) % options.tell_every == 1 or counts.sent >= options.requests:
                rate = found.sent / outcome.facts["wall_s"]
                memory = samples[-1].resident_mb
                progress.tell(f"{counts.sent:,} requests, {rate:,.0f}/s, {memory:.1f} MB, {counts.lost} lost")
        return Run(counts, samples, spent, server.stop())
    finally:
        server.kill()


def _sample(server: Server, requests: int) -> Sample:
    return Sample(requests=requests, resident_mb=server.resident_mb(), open_files=server.open_files())


def measure(options: argparse.Namespace, command: str) -> SoakFile:
    """All parts, and the slope."""
    work = options.work / "soak"
    work.mkdir(parents=True, exist_ok=True)
    folder, begun = Path(options.model), now()
    texts, file = sample_texts(options.data, options.texts, work)
    _, expected = expect(Subject("soak", folder), texts, options.tolerance)
    done = run_parts(options, expected, file, work)
    warm = int(WARM_SHARE * options.requests)
    fitted = slope(done.samples, warm)
    return SoakFile(
        command=command,
        hardware=hardware(),
        versions=versions(),
        code=code_digest(),
        begun=begun,
        model=folder.name,
        requests=done.counts.sent,
        seconds=round(done.seconds, 1),
        connections=options.connections,
        depth=options.depth,
        requests_per_second=round(done.counts.acknowledged / done.seconds, 1),
        warm=warm,
        samples=tuple(done.samples),
        bytes_a_request=round(fitted.bytes_a_request, 3),
        bytes_a_request_low=round(fitted.low, 3),
        bytes_a_request_high=round(fitted.high, 3),
        tally=Tally.of(done.counts),
        exit_code=done.exit_code,
    )


def main(options: argparse.Namespace, command: str) -> int:
    """Measure and write OUT/soak.json."""
    found = measure(options, command)
    write_atomically(options.out / SOAK, (found.model_dump_json(indent=1) + "\n").encode())
    print(
        f"{options.out / SOAK}: {found.requests:,} requests, {found.bytes_a_request:.1f} bytes a request "
        f"({found.bytes_a_request_low:.1f} to {found.bytes_a_request_high:.1f})"
    )
    return 0
