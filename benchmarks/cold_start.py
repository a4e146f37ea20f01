"""How long a model folder takes from a new process to its first prediction, and what memory serving it takes.

    python benchmarks/cold_start.py MODEL --out docs/results/speed
    python benchmarks/cold_start.py MODEL --runtime onnxruntime --rounds 3 --out runs/cold
    python benchmarks/cold_start.py MODEL --quick --out runs/cold

A cold start is a new Python process: imports, opening, one text. It is counted from the parent's asking for the
process to the answer, in turns without OpenVINO's compiled-model cache and with that cache filled. Files are in
the system's file cache, as after a restart of a service. A second kind of process takes the same way in smaller
steps: each library imported alone, the tokenizer, reading and compiling the model. Processor seconds stand beside
the clock's: they are much the same on a busy machine.

Memory is what a process of its own holds after serving the texts one by one and then in batches of 32: resident
(what the goal is set on), proportional, and anonymous (its own; the rest is pages of files). Texts are distinct
ones of the short test sample of DATA, languages in turns, else made of numbered words.

Goals: 1.5 s with the cache, 300 MB after the texts one by one. Writes OUT/cold_start.json. Three minutes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from pydantic import BaseModel, ConfigDict

from fresh import Spread, run_fresh, spread
from polyfold.artifact import CONFIG, read_config, write_atomically
from polyfold.errors import InputError
from polyfold.system import Hardware, hardware
from short_texts import short_sample

CHILD = Path(__file__).parent / "cold_start_child.py"
COLD_START_S, RESIDENT_MB = 1.5, 300.0
TEXT = "Where is my parcel?"
CACHED, PLAIN = "with cache", "without cache"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Start(_Part):
    """Seconds to the first prediction, by the clock and of the processor; the clock's larger and smaller parts."""

    total_s: Spread
    processor_s: Spread
    parts_s: dict[str, Spread]
    steps_s: dict[str, Spread]


class Memory(_Part):
    """MB (1e6 bytes) of one serving process by stage; `largest` is what it was made of when the goal was read."""

    stages: dict[str, dict[str, float]]
    largest_mb: dict[str, float]
    peak_memory_mb: float


class Goal(_Part):
    """A figure beside what it should be."""

    value: float
    at_most: float
    met: bool


class ColdStartFile(_Part):
    """All of cold_start.json."""

    command: str
    model: str
    runtime: str
    precision: str
    vocabulary: int
    size_mb: float
    hardware: Hardware
    texts: int
    starts: dict[str, Start]
    memory: dict[str, Memory]
    cold_start: Goal
    resident: Goal


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Every step over the rounds that had it, in the order of the first."""
    names = dict.fromkeys(name for one in rounds for name in one)
    return {name: spread([one[name] for one in rounds if name in one], 4) for name in names}


def ways(runtime: str, cache: Path) -> dict[str, Path | None]:
    """How the model is opened; only OpenVINO keeps a compiled model."""
    return {PLAIN: None, CACHED: cache} if runtime == "openvino" else {PLAIN: None}


def judged(value: float, at_most: float) -> Goal:
    """Whether a figure is within its goal."""
    return Goal(value=value, at_most=at_most, met=value <= at_most)


def measure_starts(
    job: Mapping[str, Any], opened: Mapping[str, Path | None], rounds: int, tell: Callable[[str], None]
) -> dict[str, Start]:
    """Cold starts in turns: every way, plain and in steps, once a round."""
    whole: dict[str, list[dict[str, Any]]] = {way: [] for way in opened}
    steps: dict[str, list[dict[str, float]]] = {way: [] for way in opened}
    for way, cache in opened.items():
        # Fills the cache, and the system's file cache.
        asked(job, "start", cache)
        tell(f"{way}: ready")
    for number in range(rounds):
        for way, cache in opened.items():
            whole[way].append(asked(job, "start", cache))
            steps[way].append(asked(job, "steps", cache)["steps_s"])
            tell(f"round {number + 1}, {way}: {whole[way][-1]['total_s']:.2f} s")
    answers = {json.dumps(one["labels"], sort_keys=True) for runs in whole.values() for one in runs}
    assert len(answers) == 1, f"one text, several answers: {answers}"
    return {
        way: Start(
            total_s=spread([one["total_s"] for one in whole[way]], 4),
            processor_s=spread([one["processor_s"] for one in whole[way]], 4),
            parts_s=medians([one["steps_s"] for one in whole[way]]),
            steps_s=medians(steps[way]),
        )
        for way in opened
    }


def asked(job: Mapping[str, Any], what: str, cache: Path | None) -> dict[str, Any]:
    """One process's answer."""
    whole = {**job, "what": what, "cache_dir": None if cache is None else str(cache)}
    return run_fresh(CHILD, {**whole, "spawned": perf_counter()}).answer


def measure_memory(
    job: Mapping[str, Any], opened: Mapping[str, Path | None], tell: Callable[[str], None]
) -> dict[str, Memory]:
    """A serving process each way."""
    found = {}
    for way, cache in opened.items():
        one = asked(job, "serve", cache)
        found[way] = Memory(
            stages=one["stages"], largest_mb=one["largest"], peak_memory_mb=round(one["peak_memory_mb"], 1)
        )
        tell(f"{way}: {goal_stage(found[way])['resident_mb']:.0f} MB resident")
    return found


def goal_stage(memory: Memory) -> dict[str, float]:
    """The stage that the goal is set on: after the texts one by one."""
    return next(one for name, one in memory.stages.items() if name.endswith("one by one"))


def lines(content: ColdStartFile) -> list[str]:
    """The file for people."""
    found = []
    for way, start in content.starts.items():
        total = start.total_s
        found.append(
            f"{way}: {total.median:.3f} s ({total.least:.3f} to {total.most:.3f}), "
            f"of the processor {start.processor_s.median:.3f} s"
        )
        for parts in (start.parts_s, start.steps_s):
            found += [f"    {name:28} {1e3 * one.median:7.1f} ms" for name, one in parts.items()]
            found.append("")
    for way, memory in content.memory.items():
        for name, stage in memory.stages.items():
            told = ", ".join(f"{kind.removesuffix('_mb')} {value:.0f}" for kind, value in stage.items())
            found.append(f"{way}, {name}: {told} MB")
        found.append("    " + ", ".join(f"{name} {value:g}" for name, value in memory.largest_mb.items()))
    for name, goal in (("cold start, s", content.cold_start), ("resident, MB", content.resident)):
        found.append(f"{name}: {goal.value:g}, at most {goal.at_most:g}: {'met' if goal.met else 'missed'}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; 2 where something the user gave is missing."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an exported model folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for cold_start.json")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with feedback.parquet")
    parser.add_argument("--runtime", help="open it on this runtime [default: the folder's own]")
    parser.add_argument("--threads", type=int, help="processor threads [default: all]")
    parser.add_argument("--bf16", action="store_true", help="OpenVINO: bfloat16 for what is not int8")
    parser.add_argument("--texts", type=int, default=600, help="texts served [default: 600]")
    parser.add_argument("--rounds", type=int, default=9, help="cold starts each way [default: 9]")
    parser.add_argument("--quick", action="store_true", help="one round, 20 texts: a smoke test")
    options = parser.parse_args(given)
    started = perf_counter()

    def tell(what: str) -> None:
        print(f"{perf_counter() - started:5.0f} s  {what}", file=sys.stderr, flush=True)

    try:
        config, _ = read_config(options.model)
        settings = json.loads((options.model / CONFIG).read_bytes())
        texts = short_sample(options.data, 20 if options.quick else options.texts)
        runtime = options.runtime or config.runtime
        with TemporaryDirectory() as scratch:
            write_atomically(Path(scratch) / "texts.json", json.dumps(texts).encode())
            job = {
                "model": str(options.model), "text": TEXT, "texts": str(Path(scratch) / "texts.json"),
                "runtime": options.runtime, "threads": options.threads, "bf16": options.bf16,
            }  # fmt: skip
            opened = ways(runtime, Path(scratch) / "cache")
            starts = measure_starts(job, opened, 1 if options.quick else options.rounds, tell)
            memory = measure_memory(job, opened, tell)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    best = CACHED if CACHED in starts else PLAIN
    content = ColdStartFile(
        command=" ".join(["python benchmarks/cold_start.py", *given]),
        model=options.model.name,
        runtime=runtime,
        precision=config.precision,
        vocabulary=int(settings.get("vocab_size", 0)),
        size_mb=round(sum(one.stat().st_size for one in options.model.rglob("*") if one.is_file()) / 1e6, 2),
        hardware=hardware(),
        texts=len(texts),
        starts=starts,
        memory=memory,
        cold_start=judged(starts[best].total_s.median, COLD_START_S),
        resident=judged(goal_stage(memory[best])["resident_mb"], RESIDENT_MB),
    )
    write_atomically(options.out / "cold_start.json", (content.model_dump_json(indent=1) + "\n").encode())
    print("\n".join(lines(content)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
