"""From peers on a list to peers measured: install, prepare, load, time in turns, score."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from polyfold.artifact import write_atomically

from .catalogue import WORKERS, PeerSpec
from .client import Client
from .documents import Inputs
from .environments import ENVIRONMENTS, PeerFailed, python_of, size_mb
from .results import Footprint, Latency, PeerResult, Scored, Speed, latency_of, speed_of

PAUSE_SECONDS = 0.3
"""Between turns: worker threads spin for up to 200 ms after their last batch, waiting for a next one."""

Tell = Callable[[str], None]


@dataclass
class Running:
    """A loaded peer, and what has been measured of it so far."""

    spec: PeerSpec
    client: Client
    prepare_seconds: float | None
    environment_mb: float
    loaded: Mapping[str, Any]
    tuned: Mapping[str, Any]
    rates: list[float] = field(default_factory=list)
    latency_ms: list[float] = field(default_factory=list)
    memory: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Pace:
    """Rounds, a turn's least seconds, and single texts a round."""

    rounds: int
    seconds: float
    singles: int


def start(spec: PeerSpec, work: Path, inputs: Path, interpreter: Path | None = None) -> Running:
    """The peer installed, prepared, loaded and warm; PeerFailed where one of these does not work.

    `interpreter` stands in for all environments.
    """
    environment = ENVIRONMENTS[spec.environment]
    python = interpreter or python_of(environment, work)
    job, log = work / "jobs" / f"{spec.name}.json", work / "logs" / f"{spec.name}.log"
    order = {"folder": str((work / "prepared" / spec.name).resolve()), "inputs": str(inputs.resolve())}
    write_atomically(job, json.dumps({**order, "settings": dict(spec.settings)}).encode())
    prepared = None
    if spec.prepares:
        place = python
        if spec.prepared_in is not None:
            place = interpreter or python_of(ENVIRONMENTS[spec.prepared_in], work)
        preparing = Client(place, WORKERS / (spec.prepare_with or spec.script), job, log)
        try:
            prepared = float(preparing.ask("prepare")["seconds"])
        finally:
            preparing.close()
    client = Client(python, WORKERS / spec.script, job, log)
    try:
        loaded = client.ask("load", versions=list(environment.versions))
        tuned = client.ask("tune")
    except PeerFailed:
        client.close()
        raise
    return Running(spec, client, prepared, size_mb(python), loaded, tuned)


def measure(running: dict[str, Running], slices: int, pace: Pace, tell: Tell) -> dict[str, str]:
    """Round after round, every peer in its turn while the others wait; returns who failed on the way, and of what.

    Odd rounds go the other way round, and every round begins at another slice: the same for all peers.
    """
    failed: dict[str, str] = {}
    for number in range(pace.rounds):
        order = list(running) if number % 2 == 0 else list(reversed(running))
        for name in order:
            one = running[name]
            time.sleep(PAUSE_SECONDS)
            try:
                done = one.client.ask("turn", slice=number % slices, seconds=pace.seconds)
                first = number * pace.singles
                singles = one.client.ask("singles", first=first, last=first + pace.singles)
            except PeerFailed as reason:
                failed[name] = str(reason)
                running.pop(name).client.close()
                continue
            one.rates.append(done["documents"] / done["seconds"])
            one.latency_ms += singles["latency_ms"]
            one.memory = {key: value for key, value in done.items() if key.endswith("_mb")}
        rates = ", ".join(f"{name} {one.rates[-1]:,.0f}" for name, one in running.items())
        tell(f"round {number + 1} of {pace.rounds}, documents a second: {rates}")
    return failed


def score(one: Running, work: Path) -> Scored:
    """The peer's probabilities of the dev and the test sample."""
    found = []
    for sample in ("dev", "test"):
        file = work / "scores" / f"{one.spec.name}.{sample}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        one.client.ask("score", sample=sample, file=str(file.resolve()))
        with np.load(file) as stored:
            found.append({name: stored[name] for name in stored.files})
    return Scored(*found)


def result_of(one: Running) -> PeerResult:
    """What was measured, but for quality and speed-up."""
    speed: Speed | None = None
    latency: Latency | None = None
    if one.rates:
        speed = speed_of(one.rates, one.tuned["batch_size"], one.tuned["documents_per_second"])
        latency = latency_of(one.latency_ms)
    return PeerResult(
        name=one.spec.name,
        title=one.spec.title,
        group=one.spec.group,
        weights=one.spec.weights,
        versions=one.loaded["versions"],
        speed=speed,
        latency=latency,
        footprint=Footprint(
            load_seconds=round(one.loaded["seconds"], 3),
            prepare_seconds=None if one.prepare_seconds is None else round(one.prepare_seconds, 1),
            resident_mb=_rounded(one.memory.get("resident_mb")),
            peak_mb=_rounded(one.memory.get("peak_mb")),
            disk_mb=round(one.loaded["disk_mb"], 2),
            environment_mb=round(one.environment_mb, 1),
        ),
    )


def failure(spec: PeerSpec, reason: str) -> PeerResult:
    """A peer of which nothing can be said but why."""
    return PeerResult(
        name=spec.name, title=spec.title, group=spec.group, weights=spec.weights, failed=reason[:2000]
    )


def start_all(
    specs: Sequence[PeerSpec], work: Path, inputs: Inputs, tell: Tell, interpreter: Path | None
) -> tuple[dict[str, Running], dict[str, str]]:
    """Who runs, and who does not and why."""
    running: dict[str, Running] = {}
    failed: dict[str, str] = {}
    for spec in specs:
        try:
            running[spec.name] = start(spec, work, inputs.folder, interpreter)
            tell(f"{spec.name} is ready")
        except PeerFailed as reason:
            failed[spec.name] = str(reason)
            tell(f"{spec.name} failed: {str(reason)[:300]}")
    return running, failed


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
