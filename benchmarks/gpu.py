"""Speed on a GPU: XLM-R base in fp32 and bf16, MiniLM's shapes in bf16, fp8 and int8, as shares of measured peak.

    python benchmarks/gpu.py runs/gpu
    python benchmarks/gpu.py runs/gpu --compiled --weights minilm-l6=runs/speed/minilm-l6/torch
    python benchmarks/gpu.py runs/gpu --only "minilm-l6 bf16" "minilm-l6 fp8"
    python benchmarks/gpu.py /tmp/gpu --device cpu --quick          # the harness alone, on toys

The baseline is XLM-R base in fp32: transformers' own forward pass with fused attention, inference mode, no TF32.
All others run without padding in half precision and 8 bits, small batches as CUDA graphs; with --compiled, through
torch.compile as well. Four workloads, all timed with ids on the device, and passes queued one behind the other:

- dense_32x128: 32 documents of 128 tokens.
- dense_best: documents of 128 tokens at each one's own best batch size.
- real_lengths: documents as long as real ones, sorted, at each one's own best token budget; the baseline pads too.
- real_lengths_vs_padded_128: the same, against the baseline padding every document to 128 at its best batch size.

`served` is dense_32x128 from numpy to numpy arrays, copies and waiting included. Turns are interleaved; each
figure is a median over rounds with least and most, each speed-up the median of the ratios within a round. `share`
is what the matrix products would take at the device's own measured peak in that precision, over the time taken.
Writes OUT/gpu.json. Minutes on a large GPU; a way that fails is named in `failures` and the others go on.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import which

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

import gpu_subjects as subjects
from gpu_subjects import Call, Subject, Way
from polyfold.artifact import write_atomically
from polyfold.errors import InputError
from polyfold.system import Hardware, hardware, quiet_imports, seed_numpy, telemetry_off

GOAL = 60.0
DENSE, BEST, REAL, PADDED, SERVED = (
    "dense_32x128",
    "dense_best",
    "real_lengths",
    "real_lengths_vs_padded_128",
    "served",
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Timed(_Part):
    """One workload of one way; `at` is the batch size or token budget, `share` of measured peak is in 0..1."""

    documents_per_second: float
    least: float
    most: float
    speedup: float
    speedup_least: float
    speedup_most: float
    share: float | None
    at: int
    rounds: int


class Row(_Part):
    """One way: what it is, how near it stays to fp32 of the same weights, how fast it is."""

    shape: str
    precision: str
    unpadded: bool
    compiled: bool
    weights: str
    parameters_million: float
    label_agreement_percent: float
    sweep: dict[str, dict[int, float]]
    speed: dict[str, Timed]


class GpuFile(_Part):
    """All of gpu.json."""

    command: str
    hardware: Hardware
    cuda: str | None
    power: str | None
    lengths: str
    documents: int
    mean_tokens: float
    peak_tflops: dict[str, float]
    baseline: str
    rows: dict[str, Row]
    failures: dict[str, str]
    goal_speedup: float
    best_speedup_of_l6: float | None


class Plan(_Part):
    """How much is measured."""

    batch: int = 32
    width: int = 128
    batches: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    budgets: tuple[int, ...] = (4096, 16_384, 65_536, 262_144)
    documents: int = 8192
    rounds: int = 7
    seconds: float = 0.3
    peak_side: int = 8192


QUICK = Plan(
    batch=2, width=16, batches=(1, 2), budgets=(32, 64), documents=12, rounds=2, seconds=0.0, peak_side=64
)


@dataclass(frozen=True)
class Work:
    """One way's share of one workload: passes over documents, with the operations they need."""

    call: Call
    documents: int
    flops: int
    at: int


def works_of(
    subject: Subject, plan: Plan, lengths: np.ndarray
) -> tuple[dict[str, Work], dict[str, dict[int, float]]]:
    """Every workload of a way at its best size, and the sweeps that found it (documents a second by size)."""
    vocab = subjects.SHAPES[subject.way.shape].vocab
    device = subject.device

    def work(batches: Sequence[tuple[np.ndarray, np.ndarray]], at: int) -> Work:
        calls = [subject.call(batch) for batch in batches]
        flops = sum(subject.flops(batch) for batch in batches)
        return Work(in_a_row(calls), sum(len(batch[0]) for batch in batches), flops, at)

    fixed = subjects.dense(plan.batch, plan.width, vocab)
    found = {DENSE: work([fixed], plan.batch)}
    found[SERVED] = replace(found[DENSE], call=lambda: subject.session.run(*fixed))
    makers: dict[str, tuple[Sequence[int], Callable[[int], list[tuple[np.ndarray, np.ndarray]]]]] = {
        BEST: (plan.batches, lambda size: [subjects.dense(size, plan.width, vocab)]),
        REAL: (plan.budgets, lambda budget: subjects.real(lengths, vocab, budget)),
    }
    if not subject.way.options.unpadded:
        makers[PADDED] = (plan.batches, lambda size: subjects.padded(lengths, vocab, size, plan.width))
    sweep: dict[str, dict[int, float]] = {}
    for key, (sizes, make) in makers.items():
        found[key], sweep[key] = best(sizes, lambda size, make=make: work(make(size), size), plan.seconds, device)  # type: ignore[misc]
    found.setdefault(PADDED, found[REAL])
    return found, sweep


def best(
    sizes: Sequence[int], make: Callable[[int], Work], seconds: float, device: str
) -> tuple[Work, dict[int, float]]:
    """The size with the most documents a second, and all of them; one too large for the memory ends the sweep."""
    rates: dict[int, float] = {}
    works: dict[int, Work] = {}
    for size in sizes:
        try:
            work = make(size)
            work.call()
            rates[size] = round(subjects.turn(work.call, seconds, device) * work.documents, 1)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        works[size] = work
    assert works, "not even the smallest size fits the memory"
    return works[max(rates, key=lambda size: rates[size])], rates


def in_a_row(calls: Sequence[Call]) -> Call:
    """All calls, one after the other."""

    def run() -> None:
        for call in calls:
            call()

    return run


def measure(
    works: Mapping[str, Mapping[str, Work]], plan: Plan, device: str, tell: Callable[[str], None]
) -> dict[tuple[str, str], list[float]]:
    """Documents a second by way and workload, round after round; every way has its turn in each."""
    found: dict[tuple[str, str], list[float]] = {}
    for key in (DENSE, SERVED, BEST, REAL, PADDED):
        for number in range(plan.rounds):
            # Every other round backwards, so that nobody always comes after the same one.
            for name in list(works)[:: 1 if number % 2 == 0 else -1]:
                work = works[name][key]
                rate = subjects.turn(work.call, plan.seconds, device) * work.documents
                found.setdefault((name, key), []).append(rate)
        tell(f"{key}: {plan.rounds} rounds")
    return found


def timed(rates: Sequence[float], baseline: Sequence[float], work: Work, peak: float | None) -> Timed:
    """Medians over rounds; a speed-up is the median of the ratios within a round."""
    own, ratios = np.asarray(rates), np.asarray(rates) / np.asarray(baseline)
    median = float(np.median(own))
    share = None if peak is None else work.flops / work.documents * median / (peak * 1e12)
    return Timed(
        documents_per_second=round(median, 1),
        least=round(float(own.min()), 1),
        most=round(float(own.max()), 1),
        speedup=round(float(np.median(ratios)), 3),
        speedup_least=round(float(ratios.min()), 3),
        speedup_most=round(float(ratios.max()), 3),
        share=None if share is None else round(share, 5),
        at=work.at,
        rounds=len(own),
    )


def check_machine(device: str, quick: bool) -> None:
    """InputError where there is nothing to measure on."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "this benchmark needs a GPU, and torch sees none",
            key="--device",
            hint="run it where torch is built for CUDA and a GPU is there; --device cpu --quick tries the harness",
        )
    if device == "cpu" and not quick:
        raise InputError(
            "on a processor this benchmark only tries itself, on toys",
            key="--device",
            hint="give --quick as well; benchmarks of processors are `polyfold benchmark`'s",
        )


def chosen(ways: Sequence[Way], only: Sequence[str] | None) -> list[Way]:
    """The ways that were asked for by name, behind the baseline."""
    names = [way.name for way in ways]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise InputError(f"there is no way '{unknown[0]}'", key="--only", hint=f"there are {', '.join(names)}")
    return [way for way in ways if way == ways[0] or not only or way.name in only]


def folders_of(given: Sequence[str]) -> dict[str, Path]:
    """Folders with trained weights by shape, from SHAPE=FOLDER."""
    found = {}
    for one in given:
        shape, equals, folder = one.partition("=")
        if not equals or shape not in subjects.SHAPES:
            shapes = ", ".join(subjects.SHAPES)
            raise InputError(f"'{one}' is not SHAPE=FOLDER", key="--weights", hint=f"SHAPE is one of {shapes}")
        found[shape] = Path(folder)
    return found


def run(
    ways: Sequence[Way], folders: Mapping[str, Path], plan: Plan, device: str, tell: Callable[[str], None]
) -> tuple[dict[str, Row], dict[str, str], dict[str, float]]:
    """Rows by way, what failed and why, and the measured peaks."""
    lengths = subjects.draw_lengths(plan.documents, plan.width)
    peaks = subjects.peaks(device, plan.peak_side, plan.seconds)
    tell(f"peaks: {', '.join(f'{name} {value:.1f} TFLOP/s' for name, value in peaks.items())}")
    loaded, works, sweeps, agreed = {}, {}, {}, {}
    failures: dict[str, str] = {}
    sample = subjects.real(lengths[:256], 500, plan.budgets[0])
    for way in ways:
        try:
            subject = subjects.load(way, folders.get(way.shape), device)
            agreed[way.name] = subjects.agreement(subject, folders.get(way.shape), sample)
            works[way.name], sweeps[way.name] = works_of(subject, plan, lengths)
        except (RuntimeError, InputError) as error:
            # torch's own failures, a compiler's among them, are RuntimeErrors: the other ways are still worth it.
            if way == ways[0]:
                raise
            failures[way.name] = str(error).splitlines()[0][:300]
            tell(f"{way.name} FAILED: {failures[way.name]}")
            continue
        loaded[way.name] = subject
        tell(f"{way.name} is ready")
    rates = measure(works, plan, device, tell)
    rows = {}
    for name, subject in loaded.items():
        options, peak = subject.way.options, peaks.get(subject.way.options.precision)
        rows[name] = Row(
            shape=subject.way.shape,
            precision=options.precision,
            unpadded=bool(options.unpadded),
            compiled=options.compiled,
            weights=subject.model.backbone.weights,
            parameters_million=round(subject.model.parameters / 1e6, 3),
            label_agreement_percent=agreed[name],
            sweep=sweeps[name],
            speed={
                key: timed(rates[name, key], rates[ways[0].name, key], work, None if key == SERVED else peak)
                for key, work in works[name].items()
            },
        )
    return rows, failures, {name: round(value, 3) for name, value in peaks.items()}


def power_state() -> str | None:
    """What the driver says of the GPU's clocks and power, where it can be asked."""
    tool = which("nvidia-smi")
    if tool is None:
        return None
    fields = "name,driver_version,pstate,clocks.sm,clocks.max.sm,power.draw,power.limit,temperature.gpu"
    asked = subprocess.run(
        [tool, f"--query-gpu={fields}", "--format=csv"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or None


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for gpu.json")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="[default: cuda]")
    parser.add_argument("--quick", action="store_true", help="tiny workloads, to try the harness")
    parser.add_argument("--compiled", action="store_true", help="each unpadded way through torch.compile as well")
    parser.add_argument("--only", nargs="+", metavar="WAY", help="these ways alone, and the baseline")
    parser.add_argument("--weights", nargs="*", default=[], metavar="SHAPE=FOLDER", help="trained torch folders")
    parser.add_argument("--rounds", type=int, help="turns of each way at a workload [default: 7]")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the ways; 2 where there is no GPU, or something the user gave is wrong."""
    given = parsed(arguments)
    started = time.perf_counter()

    def tell(what: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {what}", file=sys.stderr, flush=True)

    telemetry_off()
    quiet_imports()
    seed_numpy(subjects.SEED)
    try:
        check_machine(given.device, given.quick)
        folders = folders_of(given.weights)
        plan = (QUICK if given.quick else Plan()).model_copy(
            update={"rounds": given.rounds} if given.rounds else {}
        )
        ways = chosen(
            subjects.toy_ways() if given.device == "cpu" else subjects.gpu_ways(given.compiled), given.only
        )
        # Without it torch may take TF32 for fp32, which has ten bits of mantissa.
        torch.set_float32_matmul_precision("highest")
        rows, failures, peaks = run(ways, folders, plan, given.device, tell)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lengths = subjects.draw_lengths(plan.documents, plan.width)
    of_l6 = [row.speed[DENSE].speedup for row in rows.values() if row.shape == "minilm-l6"]
    content = GpuFile(
        command=" ".join(["python benchmarks/gpu.py", *(arguments or sys.argv[1:])]),
        hardware=hardware(torch.cuda.get_device_name() if given.device == "cuda" else None),
        cuda=torch.version.cuda,
        power=power_state(),
        lengths="drawn from a log-normal: median 20.5 tokens, 95th percentile 64",
        documents=plan.documents,
        mean_tokens=round(float(lengths.mean()), 2),
        peak_tflops=peaks,
        baseline=ways[0].name,
        rows=rows,
        failures=failures,
        goal_speedup=GOAL,
        best_speedup_of_l6=max(of_l6, default=None),
    )
    target = given.out / "gpu.json"
    write_atomically(target, (content.model_dump_json(indent=1) + "\n").encode())
    for name, row in rows.items():
        figures = ", ".join(
            f"{key} {one.documents_per_second:.0f}/s ({one.speedup}x)" for key, one in row.speed.items()
        )
        print(f"{name}: {figures}; agreement {row.label_agreement_percent} %")
    print(f"{len(rows)} ways on {content.hardware.accelerator or 'the processor'}: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
