"""The load on one model after another: rounds in which the offline predictor and every server have their turn.

In a round, the predictor comes first; then each contestant's server is started, warmed up, loaded and stopped, in
the other order every second round; then Polyfold with the model that costs nothing, for the ceiling. A turn is
kept in WORK as soon as it is done, and an interrupted command goes on from there.
"""

import argparse
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar

import psutil
from pydantic import BaseModel

from polyfold.artifact import digest_json, write_atomically
from polyfold.benchmark.power import read_power, stolen_seconds
from polyfold.errors import InputError
from polyfold.predictor import Predictor
from polyfold.system import hardware

from ..peers.environments import PeerFailed
from .answers import Expected
from .contestants import TITLES, Name, Subject, command_of
from .free_model import write_free_model
from .jobs import Job
from .offline import PAUSE_SECONDS, shape_difference, single_latencies_ms, throughput
from .processes import Server, free_port, launch
from .results import LOAD, Free, Load, LoadFile, ModelLoad, Offline, Protocol, Turn
from .shared import Progress, code_digest, expect, kind_of, mean_tokens, now, put_load, sample_texts, versions

BULK_TEXTS, BULK_CONNECTIONS = 32, 4
"""What the issue asks for: requests of 32 texts, from four clients that each wait for their answer."""

FULL_CONNECTIONS = 64
HOPELESS = 4.0
"""After two loads in succession whose p99 is so many times the goal, no higher one is tried."""

MOST_REQUESTS = 2_000_000
PLANNED_START_S = 4.0
ROUNDED_TEXTS = 500
"""Of which it is seen how far rounding goes."""

Kept = TypeVar("Kept", bound=BaseModel)


@dataclass(frozen=True)
class Plan:
    """What a turn consists of."""

    rounds: int
    seconds: float
    lone: int
    fractions: tuple[float, ...]
    most_p99_ms: float
    options: tuple[str, ...]

    def turn_s(self) -> float:
        """About how long a contestant's turn is."""
        return PLANNED_START_S + (len(self.fractions) + 4.5) * (self.seconds + 1.0)


@dataclass
class Bench:
    """One model being measured: its answers, its texts, where turns are kept, and what is told."""

    subject: Subject
    predictor: Predictor
    expected: Expected
    texts: list[str]
    file: Path
    work: Path
    plan: Plan
    progress: Progress
    resumed: int = 0

    def once(self, name: str, kind: type[Kept], measure: Callable[[], Kept], planned_s: float) -> Kept:
        """What an earlier call of the same command left, or measured now and kept."""
        kept = self.work / f"{self.subject.name}.{name}.json"
        if kept.is_file():
            self.resumed += 1
            self.progress.did(planned_s)
            return kind.model_validate_json(kept.read_bytes())
        found = measure()
        write_atomically(kept, found.model_dump_json(indent=1).encode())
        self.progress.did(planned_s)
        return found


def offline_turn(bench: Bench, number: int) -> Offline:
    """The predictor alone."""
    begun = now()
    sleep(PAUSE_SECONDS)
    whole = throughput(bench.predictor, bench.texts, bench.plan.seconds)
    start = number * bench.plan.lone
    rows = [(start + place) % len(bench.texts) for place in range(bench.plan.lone)]
    singles = sorted(single_latencies_ms(bench.predictor.predict, [bench.texts[row] for row in rows]))
    sleep(PAUSE_SECONDS)
    p50, p99 = singles[len(singles) // 2], singles[min(len(singles) - 1, int(0.99 * len(singles)))]
    bench.progress.tell(
        f"round {number + 1}, {bench.subject.name}, offline: {whole.texts_per_second:,.0f} texts/s, {p50:.2f} ms"
    )
    return Offline(
        round=number,
        begun=begun,
        texts_per_second=round(whole.texts_per_second, 3),
        cpu_s_a_text=whole.cpu_s_a_text,
        single_ms_p50=round(float(p50), 4),
        single_ms_p99=round(float(p99), 4),
    )


def serving_turn(bench: Bench, contestant: Name, number: int, base: float) -> Turn:
    """One contestant's server: all loads."""
    port = free_port()
    command = command_of(contestant, bench.subject, port, bench.work.parent, bench.plan.options)
    begun = now()
    server = launch(contestant, command, port, bench.work / f"{contestant}.log")
    try:
        ready = server.wait_ready()
        before = server.memory_mb()
        _warm_up(bench, server)
        loads = _loads(bench, server, number, base)
        after = server.memory_mb()
    finally:
        server.stop()
    return Turn(
        contestant=contestant,
        round=number,
        begun=begun,
        ready_s=round(ready, 3),
        memory_before_mb=round(before, 1),
        memory_after_mb=round(after, 1),
        loads=tuple(loads),
    )


def _job(bench: Bench, server: Server, mode: str, seconds: float, **settings: object) -> Job:
    given = {"count": MOST_REQUESTS, **settings}
    if mode == "closed" and "count" not in settings:
        # Bytes are made for every request beforehand: no more of them than could be answered.
        given["count"] = max(50, int(seconds * 20_000 / int(str(given.get("texts_a_request", 1)))))
    return Job.model_validate(
        {"port": server.port, "texts": str(bench.file), "mode": mode, "seconds": seconds, **given}
    )


def _warm_up(bench: Bench, server: Server) -> None:
    """Shapes, caches and connections that a server only has after some use; not in the result."""
    seconds = min(2.0, bench.plan.seconds)
    for settings in (
        {"connections": 16}, {"connections": 1}, {"connections": BULK_CONNECTIONS, "texts_a_request": BULK_TEXTS},
    ):  # fmt: skip
        put_load(
            "warm-up", _job(bench, server, "closed", seconds / 3, **settings), server, bench.expected, bench.work
        )


def _loads(bench: Bench, server: Server, number: int, base: float) -> list[Load]:
    """A lone client, rising loads, as fast as it goes, many texts a request, and two with probabilities."""
    plan, first = bench.plan, (number * 1009) % len(bench.texts)
    found: list[Load] = []

    def put(kind: str, job: Job, level: int | None = None) -> Load:
        one = put_load(kind, job, server, bench.expected, bench.work, level)
        found.append(one)
        ms = "no answer" if one.latency_ms is None else f"p99 {one.latency_ms.p99:.1f} ms"
        bad = f", {one.tally.bad} BAD" if one.tally.bad else ""
        asked = "" if job.rate is None else f" of {job.rate:,.0f}"
        bench.progress.tell(
            f"round {number + 1}, {bench.subject.name}, {server.name}, {kind}: "
            f"{one.texts_per_second:,.0f}{asked} texts/s, {ms}{bad}"
        )
        return one

    def closed(seconds: float, **settings: object) -> Job:
        return _job(bench, server, "closed", seconds, first=first, **settings)

    put("lone", closed(max(plan.seconds, 30.0), connections=1, count=plan.lone))
    missed = 0
    for level, fraction in enumerate(plan.fractions):
        job = _job(
            bench, server, "open", plan.seconds, rate=base * fraction, first=first + 31 * level,
            seed=1000 * number + level, connections=256,
        )  # fmt: skip
        missed = missed + 1 if _hopeless(put("open", job, level), plan.most_p99_ms) else 0
        if missed == 2:
            break
    put("full", closed(plan.seconds, connections=FULL_CONNECTIONS))
    bulk = {"connections": BULK_CONNECTIONS, "texts_a_request": BULK_TEXTS}
    put("bulk", closed(plan.seconds, **bulk))
    put("checked", closed(plan.seconds / 2, connections=FULL_CONNECTIONS, probabilities=True))
    put("checked", closed(plan.seconds / 2, probabilities=True, **bulk))
    return found


def _hopeless(one: Load, most_p99_ms: float) -> bool:
    return one.overloaded or one.latency_ms is None or one.latency_ms.p99 > HOPELESS * most_p99_ms


def free_turn(bench: Bench, number: int) -> Free:
    """Polyfold with the model that costs nothing, at one text and at 32 texts a request."""
    folder = write_free_model(bench.subject.folder, bench.work / f"{bench.subject.name}-free")
    free = Subject("free", folder)
    predictor, expected = expect(free, bench.texts, bench.expected.tolerance)
    alone = throughput(predictor, bench.texts, min(1.0, bench.plan.seconds))
    port = free_port()
    command = command_of("polyfold", free, port, bench.work, bench.plan.options)
    server = launch("polyfold", command, port, bench.work / "free.log")
    loads = []
    try:
        server.wait_ready()
        for settings in (
            {"connections": FULL_CONNECTIONS}, {"connections": BULK_CONNECTIONS, "texts_a_request": BULK_TEXTS},
        ):  # fmt: skip
            for kind, seconds in (("warm-up", bench.plan.seconds / 4), ("free", bench.plan.seconds)):
                one = put_load(
                    kind, _job(bench, server, "closed", seconds, **settings), server, expected, bench.work
                )
            loads.append(one)
            bench.progress.tell(
                f"round {number + 1}, {bench.subject.name}, free model, {one.texts_a_request} texts a request: "
                f"{one.texts_per_second:,.0f} texts/s"
            )
    finally:
        server.stop()
    return Free(round=number, offline_cpu_s_a_text=alone.cpu_s_a_text, loads=tuple(loads))


def check_tolerance(bench: Bench) -> float:
    """How far rounding alone moves a probability; InputError where the tolerance would call that a mistake."""
    found = shape_difference(bench.predictor, bench.texts[:ROUNDED_TEXTS])
    if found > bench.expected.tolerance:
        raise InputError(
            f"probabilities of a text alone and in a batch differ by {found:.3g}", file=bench.subject.folder,
            key="--tolerance", hint="allow more, and see that it still tells texts apart",
        )  # fmt: skip
    return found


def measure_model(bench: Bench, contestants: Sequence[Name]) -> ModelLoad:
    """All rounds of one model."""
    plan = bench.plan
    rounding = check_tolerance(bench)
    offline: list[Offline] = []
    free: list[Free] = []
    turns: list[Turn] = []
    failed: dict[str, str] = {}
    for number in range(plan.rounds):
        offline.append(
            bench.once(f"{number}.offline", Offline, partial(offline_turn, bench, number), plan.seconds)
        )
        base = offline[0].texts_per_second
        for contestant in contestants if number % 2 == 0 else contestants[::-1]:
            if contestant in failed:
                continue
            try:
                turn = bench.once(
                    f"{number}.{contestant}", Turn,
                    partial(serving_turn, bench, contestant, number, base), plan.turn_s(),
                )  # fmt: skip
                turns.append(turn)
            except (PeerFailed, InputError, psutil.Error) as reason:
                if contestant == "polyfold":
                    raise
                failed[contestant] = str(reason)[:2000]
                bench.progress.tell(f"{contestant} failed: {failed[contestant][:200]}")
        free.append(bench.once(f"{number}.free", Free, partial(free_turn, bench, number), 2 * plan.seconds))
    precision, runtime = kind_of(bench.subject.folder)
    return ModelLoad(
        name=bench.subject.name,
        folder=bench.subject.folder.name,
        precision=precision,
        runtime=runtime,
        texts=len(bench.texts),
        mean_tokens=round(mean_tokens(bench.predictor, bench.texts), 2),
        shape_difference=rounding,
        base_texts_per_second=offline[0].texts_per_second,
        fractions=plan.fractions,
        offline=tuple(offline),
        free=tuple(free),
        turns=tuple(turns),
        failed=failed,
    )


def measure(options: argparse.Namespace, command: str) -> LoadFile:
    """All models."""
    subjects: list[Subject] = options.model
    contestants: list[Name] = options.contestants
    plans = {
        one.name: Plan(
            rounds=options.rounds,
            seconds=options.seconds,
            lone=options.lone,
            fractions=tuple(options.fractions.get(one.name, options.fractions[""])),
            most_p99_ms=options.most_p99_ms,
            options=tuple(options.serve_options),
        )
        for one in subjects
    }
    planned = sum(plan.rounds * (len(contestants) * plan.turn_s() + 3 * plan.seconds) for plan in plans.values())
    begun, started, stolen, power = now(), monotonic(), stolen_seconds(), read_power()
    progress = Progress.of(planned)
    found, resumed = [], 0
    for subject in subjects:
        settings = [command, str(subject.folder), list(contestants), str(plans[subject.name]), code_digest()]
        work = options.work / f"load-{digest_json(settings)[:12]}"
        if options.again and work.is_dir():
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        texts, file = sample_texts(options.data, options.texts, work)
        progress.tell(f"{subject.name}: asking the offline predictor {len(texts):,} distinct texts")
        predictor, expected = expect(subject, texts, options.tolerance)
        bench = Bench(subject, predictor, expected, texts, file, work, plans[subject.name], progress)
        found.append(measure_model(bench, contestants))
        resumed += bench.resumed
    seconds, after = monotonic() - started, stolen_seconds()
    share = None if stolen is None or after is None else 100 * (after - stolen) / (seconds * hardware().cores)
    return LoadFile(
        command=command,
        hardware=hardware(),
        versions=versions(),
        code=code_digest(),
        begun=begun,
        seconds=round(seconds, 1),
        resumed=resumed,
        stolen_percent=None if share is None else round(share, 3),
        power_before=power,
        power_after=read_power(),
        protocol=Protocol(
            rounds=options.rounds,
            seconds=options.seconds,
            lone_requests=options.lone,
            tolerance=options.tolerance,
            most_p99_ms=options.most_p99_ms,
            titles={name: TITLES[name] for name in contestants},
            options=tuple(options.serve_options),
        ),
        models=tuple(found),
    )


def main(options: argparse.Namespace, command: str) -> int:
    """Measure and write OUT/load.json."""
    found = measure(options, command)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / LOAD, (found.model_dump_json(indent=1) + "\n").encode())
    print(f"{options.out / LOAD}: {found.seconds:,.0f} s")
    return 0
