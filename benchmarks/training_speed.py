"""How fast Polyfold trains, with and without a teacher, beside the Hugging Face Trainer on one model and data.

    python benchmarks/training_speed.py --out docs/results/speed
    python benchmarks/training_speed.py --shapes 3x256 --precisions bf16 --steps 40 --out runs/training
    python benchmarks/training_speed.py --quick --out runs/training

Five ways in turns, round after round, odd rounds backwards: `fit` on labels; distilling with cached logits; with
an online teacher of twice as many layers; the Trainer with its defaults (a random batch, padded to its longest by
DataCollatorWithPadding); and the Trainer with documents grouped by length. Each turn trains a fresh copy of one
model for an epoch of the same distinct texts (DATA/feedback.parquet, else the demo's), with as many documents a
step, in the same precision; the first turn of each is not counted. Weights, labels and cached logits are random:
timed, never scored.

Grouping by length needs many batches to group: its own are taken, evenly by length, from those that it makes of
200 steps' documents, and its time is that for as many tokens as the other ways have. Its steps hold documents of
one length; all others draw a step's documents at random. A padding share tells how much of what is computed is
padding. The share of the peak holds the least operations (no padding, no attention, in the last layer only what
heads read) against torch's own best matrix product in that precision, measured in the same rounds.

The first shape in the first precision gives `cached_over_plain` (seconds over seconds) and `over_trainer`
(documents a second over those of the Trainer's defaults). Writes OUT/training.json. About fifteen minutes on two
idle cores.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import BaseModel, ConfigDict

import training_ways as ways
from fresh import Spread, spread
from polyfold.artifact import write_atomically
from polyfold.errors import InputError
from polyfold.system import Hardware, cores, hardware, quiet_imports, telemetry_off
from training_ways import CACHED, GROUPED, LABELS, SHAPES, TRAINER, TRAINERS, WAYS, Setting

TRAINING = "training.json"
DEMO = Path(__file__).parents[1] / "demo" / "feedback.csv"
PRECISIONS = ("fp32", "bf16")
PRODUCTS = ((2048, 384), (2048, 768), (1024, 1536))
"""Rows and width of the square products whose best rate is the peak."""

QUICK = {"shapes": ["2x64"], "precisions": ["fp32"], "steps": 2, "documents_per_step": 8, "rounds": 1}

Tell = Callable[[str], None]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Way(_Part):
    """One way of training; `over_trainer` is its documents a second over the Trainer's, round by round."""

    documents_per_second: Spread
    tokens_per_second: float
    over_trainer: Spread
    padding_share: float
    peak_share: float | None


class Setup(_Part):
    """All ways with one model in one precision; `cached_over_plain` compares seconds."""

    shape: str
    precision: str
    peak_gigaoperations_per_second: float
    cached_over_plain: Spread
    ways: dict[str, Way]


class TrainingSpeed(_Part):
    """All of training.json; `documents_per_second` is by setup and way."""

    command: str
    hardware: Hardware
    threads: int
    texts: str
    documents: int
    mean_tokens: float
    documents_per_step: int
    weights: str
    documents_per_second: dict[str, Spread]
    cached_over_plain: Spread
    over_trainer: Spread
    setups: dict[str, Setup]


def measured(setting: Setting, rounds: int, cache: Path, tell: Tell) -> Setup:
    """Every way in turns, and the peak among them."""
    paddings = warmed(setting, cache)
    tell(f"{setting.name}: warm")
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    peaks = []
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            seconds[way].append(ways.run(way, setting, cache))
        peaks.append(peak_rate(setting.precision))
        tell(f"{setting.name}: round {number + 1} of {rounds}")
    return setup_of(setting, seconds, paddings, max(peaks))


def warmed(setting: Setting, cache: Path) -> dict[str, float]:
    """One turn of every way that is not counted; by way the share of padding among the tokens computed."""
    own = ways.own_padding(setting)
    found = {}
    for way in WAYS:
        if way in TRAINERS:
            watched: list[ways.Wrapped] = []
            ways.trainer_epoch(setting, grouped=way == GROUPED, watch=watched.append)
            found[way] = 1 - watched[0].real / watched[0].padded
        else:
            ways.run(way, setting, cache)
            found[way] = own
    return found


def setup_of(
    setting: Setting, seconds: Mapping[str, Sequence[float]], paddings: Mapping[str, float], peak: float
) -> Setup:
    """The figures of one setup; ratios are those of turns of the same round."""
    lengths = setting.data.encoding.lengths
    documents, tokens = len(lengths), int(lengths.sum())
    least = ways.least_operations(setting.shape, lengths)
    found = {}
    for way in WAYS:
        rate = spread([documents / one for one in seconds[way]], 2)
        share = least * rate.median / documents / peak
        found[way] = Way(
            documents_per_second=rate,
            tokens_per_second=round(rate.median * tokens / documents, 1),
            over_trainer=ratio(seconds[TRAINER], seconds[way]),
            padding_share=round(paddings[way], 4),
            # An online teacher's own operations are not counted, so its share would mean nothing.
            peak_share=None if way == ways.ONLINE else round(share, 4),
        )
    return Setup(
        shape=setting.shape.name,
        precision=setting.precision,
        peak_gigaoperations_per_second=round(peak / 1e9, 1),
        cached_over_plain=ratio(seconds[CACHED], seconds[LABELS]),
        ways=found,
    )


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """The ratio within each round."""
    return spread([one / other for one, other in zip(over, under, strict=True)], 4)


def peak_rate(precision: str, seconds: float = 0.3) -> float:
    """Operations a second of torch's best square matrix product on all threads; a multiply-add is two."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for rows, width in PRODUCTS:
        left, right = torch.rand(rows, width, dtype=kind), torch.rand(width, width, dtype=kind)
        torch.mm(left, right)
        started, passes = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            torch.mm(left, right)
            passes += 1
        best = max(best, 2.0 * rows * width * width * passes / (time.perf_counter() - started))
    return best


def content_of(setups: Mapping[str, Setup], setting: Setting, texts: str, command: str) -> TrainingSpeed:
    """The file: the first setup carries the two ratios."""
    first = next(iter(setups.values()))
    lengths = setting.data.encoding.lengths
    return TrainingSpeed(
        command=command,
        hardware=hardware(),
        threads=torch.get_num_threads(),
        texts=f"distinct training texts of {texts}, spread evenly over it",
        documents=len(lengths),
        mean_tokens=round(float(lengths.mean()), 2),
        documents_per_step=setting.documents_per_step,
        weights="random, with random labels and cached logits: timed, never scored",
        documents_per_second={
            f"{name}, {way}": one.documents_per_second
            for name, setup in setups.items()
            for way, one in setup.ways.items()
        },
        cached_over_plain=first.cached_over_plain,
        over_trainer=first.ways[LABELS].over_trainer,
        setups=dict(setups),
    )


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line; `--quick` is a toy of two steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for training.json")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with feedback.parquet")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["6x384", "3x256"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--steps", type=int, default=10, help="steps of a turn [default: 10]")
    parser.add_argument("--documents-per-step", type=int, default=64, help="[default: 64]")
    parser.add_argument("--rounds", type=int, default=3, help="counted turns of each way [default: 3]")
    parser.add_argument("--threads", type=int, default=cores(), help="[default: every core]")
    parser.add_argument("--quick", action="store_true", help="a toy, two steps of eight documents: does it work?")
    found = parser.parse_args(given)
    if found.quick:
        found.shapes, found.precisions, found.steps, found.documents_per_step, found.rounds = (
            ["2x64"],
            ["fp32"],
            2,
            8,
            1,
        )
    for name in ("steps", "documents_per_step", "rounds", "threads"):
        if vars(found)[name] < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the ways; 2 where something the user gave is missing."""
    given = arguments_of(arguments)
    started = time.perf_counter()

    def tell(what: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {what}", file=sys.stderr, flush=True)

    telemetry_off()
    quiet_imports()
    # transformers asks the hub for nothing here, and should not try.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(given.threads)
    setups: dict[str, Setup] = {}
    try:
        each = given.documents_per_step
        wanted = given.steps * each
        texts, source = ways.read_texts(given.data, DEMO, wanted, max(wanted, ways.GROUPED_BATCHES * each))
        whole = ways.encoded(texts)
        with TemporaryDirectory() as cache:
            for shape in given.shapes:
                for precision in given.precisions:
                    setting = ways.setting_of(SHAPES[shape], precision, whole, each, given.steps)
                    setups[setting.name] = measured(setting, given.rounds, Path(cache), tell)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    command = " ".join(["python benchmarks/training_speed.py", *(arguments or sys.argv[1:])])
    content = content_of(setups, setting, source, command)
    target = given.out / TRAINING
    write_atomically(target, (content.model_dump_json(indent=1) + "\n").encode())
    print(f"{len(setups)} setups: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
