"""What load, faults and soak share: texts, versions, progress, and one load turned into its figures."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from time import monotonic

import numpy as np

from polyfold.artifact import digest_file, digest_json, read_config, write_atomically
from polyfold.predictor import Predictor

from ..short_texts import short_sample
from .answers import Expected
from .contestants import Subject
from .jobs import ROOT, Job, Outcome, run
from .processes import Server
from .results import Latency, Load, Tally

Tell = Callable[[str], None]
TOOLS = ("polyfold", "fastapi", "starlette", "uvicorn", "uvloop", "httptools", "orjson", "pydantic")


@dataclass
class Progress:
    """Tells what is being done, how long it has taken, and about how long it will."""

    planned_s: float
    started: float
    spent_s: float = 0.0

    @staticmethod
    def of(planned_s: float) -> "Progress":
        """From now on."""
        return Progress(planned_s, monotonic())

    def tell(self, what: str) -> None:
        """A line on standard error."""
        elapsed = monotonic() - self.started
        # What was planned is only a guess until a good part of it is done.
        share = min(1.0, self.spent_s / self.planned_s) if self.planned_s else 1.0
        left = elapsed / share - elapsed if share > 0.05 else self.planned_s - self.spent_s
        print(f"{elapsed:6.0f} s  {what}; about {max(0.0, left):.0f} s left", file=sys.stderr, flush=True)

    def did(self, seconds: float) -> None:
        """A part of the plan is done."""
        self.spent_s += seconds


def now() -> str:
    """The time of day, for the record alone."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def code_digest() -> str:
    """Of the code that is measured and of what measures it: no turn is kept after either has changed."""
    files = sorted([*(ROOT / "src" / "polyfold").rglob("*.py"), *Path(__file__).parent.rglob("*.py")])
    assert files, "there is no code here"
    return digest_json([[file.name, digest_file(file)] for file in files])[:12]


def versions() -> dict[str, str]:
    """Of what serves and is not among the hardware's libraries."""
    return {name: metadata.version(name) for name in TOOLS}


def sample_texts(data: Path, most: int | None, work: Path) -> tuple[list[str], Path]:
    """The short test sample, and the file that the load generator reads it from."""
    texts = short_sample(data, most)
    file = work / "texts.json"
    write_atomically(file, json.dumps(texts).encode())
    return texts, file.resolve()


def expect(subject: Subject, texts: Sequence[str], tolerance: float) -> tuple[Predictor, Expected]:
    """The offline predictor, and all its answers."""
    predictor = Predictor.open(subject.folder)
    return predictor, Expected.of(predictor, texts, tolerance)


def mean_tokens(predictor: Predictor, texts: Sequence[str]) -> float:
    """Tokens of a text, special ones included."""
    return float(predictor.tokenizer.encode(texts, predictor.config.max_length).lengths.mean())


def kind_of(folder: Path) -> tuple[str, str]:
    """A model's precision and runtime."""
    config, _ = read_config(folder)
    return config.precision, config.runtime


def latency_of(outcome: Outcome, chosen: np.ndarray | None = None) -> Latency | None:
    """Of all answered requests, or those chosen; None where there are none."""
    answered = outcome.successes() if chosen is None else outcome.successes() & chosen
    if not answered.any():
        return None
    found = 1e3 * outcome.latencies[answered]
    late = 1e3 * (outcome.sent - outcome.due)[answered]
    p50, p90, p99 = (round(float(one), 4) for one in np.percentile(found, [50, 90, 99]))
    late_p50, late_p99 = (round(float(one), 4) for one in np.percentile(late, [50, 99]))
    return Latency(
        p50=p50, p90=p90, p99=p99, most=round(float(found.max()), 4), late_p50=late_p50, late_p99=late_p99
    )


def put_load(
    kind: str, job: Job, server: Server, expected: Expected, work: Path, level: int | None = None
) -> Load:
    """Run a load, check every answer, and sum up."""
    before = server.cpu_s()
    outcome = run(job, work / "job")
    cpu = server.cpu_s() - before
    return Load(
        kind=kind,
        level=level,
        rate=job.rate,
        texts_a_request=job.texts_a_request,
        connections=job.connections,
        depth=job.depth,
        probabilities=job.probabilities,
        seconds=round(outcome.facts["wall_s"], 4),
        tally=Tally.of(expected.check(outcome)),
        latency_ms=latency_of(outcome),
        server_cpu_s=round(cpu, 3),
        generator_cpu_s=round(outcome.facts["cpu_s"], 4),
        waited_for_connection=int(outcome.facts["waited_for_connection"]),
        opened_while_running=int(outcome.facts["opened_while_running"]),
        overloaded=bool(outcome.facts["overloaded"]),
        stood_still_s=round(outcome.facts["stood_still_s"], 3),
    )
