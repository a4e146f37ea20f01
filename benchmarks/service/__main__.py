"""`polyfold serve` under load and under faults, and beside it what else a team would put in front of the model.

    python -m benchmarks.service load --model minilm=FOLDER --model student=FOLDER
    python -m benchmarks.service faults FOLDER[,FALLBACK]
    python -m benchmarks.service soak FOLDER
    python -m benchmarks.service tables docs/results/service

From the repository's root; give the folders as they lie there, since commands are published as they were typed.

load    In one run on one machine: the offline predictor, `polyfold serve`, a plain FastAPI route and LitServe (in
        an environment of its own, made by pip in WORK), in turns, round after round. Single texts in an open loop
        of Poisson arrivals at rising fractions of the offline throughput, latencies counted from when a request
        was due; 32 texts a request from 4 clients; a lone client; as fast as it goes. The load generator is a
        process of its own and shares the cores with the server. Every answer is compared with the offline one.
        Up to 7 minutes a model and round. An interrupted command goes on where it was; --again starts over.
faults  Each fault against real server processes under load. Five minutes. --only NAME repeats some. Moving the
        clock needs Debian's libfaketime, installed or unpacked: dpkg -x libfaketime_*.deb WORK/faketime.
soak    A million requests as fast as they are answered, and the server's memory meanwhile. Five minutes.
tables  README.md, the plots and summary.json, from these files alone.

Texts are the short test sample of DATA (numbered words where it is not here). --quick makes each a smoke test.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from polyfold.errors import InputError
from polyfold.system import telemetry_off

from . import faults, load, soak, tables
from .answers import TOLERANCE
from .contestants import NAMES, Subject

OUT, WORK, DATA = Path("docs/results/service"), Path("runs/service"), Path("../shared/data")
FRACTIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)
QUICK = {
    "load": {"rounds": 1, "seconds": 0.4, "lone": 20, "texts": 60},
    "faults": {"texts": 200, "after": 1.5, "connections": 500},
    "soak": {"texts": 60, "requests": 2_000, "part": 200},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; 2 where something the user gave is missing."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    command = shlex.join(["python", "-m", "benchmarks.service", *given])
    telemetry_off()
    if getattr(options, "quick", False):
        vars(options).update(QUICK[options.what])
    try:
        match options.what:
            case "load":
                options.fractions = fractions_of(options.fractions, options.quick)
                return load.main(options, command)
            case "faults":
                return faults.main(options, command)
            case "soak":
                return soak.main(options, command)
            case _:
                return tables.main(options.folder, command)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def fractions_of(given: Sequence[str], quick: bool) -> dict[str, list[float]]:
    """By model: `NAME=0.1,0.2`; those without a name are everybody's."""
    found: dict[str, list[float]] = {"": [0.05, 0.1] if quick else list(FRACTIONS)}
    for one in given:
        name, equals, numbers = one.rpartition("=")
        try:
            found[name if equals else ""] = sorted(float(number) for number in numbers.split(","))
        except ValueError:
            raise InputError(f"'{one}' is no list of fractions", key="--fractions", hint="0.2,0.45,0.7") from None
    return found


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.service",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = found.add_subparsers(dest="what", required=True)
    _load(parts.add_parser("load", help="throughput and latency, beside FastAPI and LitServe"))
    _faults(parts.add_parser("faults", help="faults under load"))
    _soak(parts.add_parser("soak", help="memory over a million requests"))
    drawn = parts.add_parser("tables", help="the page, the plots and the summary")
    drawn.add_argument("folder", type=Path, nargs="?", default=OUT)
    return found


def _load(found: argparse.ArgumentParser) -> None:
    _common(found)
    found.add_argument("--model", action="append", type=Subject.parse, required=True, metavar="NAME=FOLDER")
    found.add_argument("--contestants", nargs="+", choices=NAMES, default=list(NAMES))
    found.add_argument("--rounds", type=int, default=3, help="[default: 3]")
    found.add_argument("--seconds", type=float, default=8.0, help="of each load [default: 8]")
    found.add_argument("--lone", type=int, default=500, help="requests of the lone client [default: 500]")
    found.add_argument(
        "--fractions", action="append", default=[], metavar="[NAME=]F,F,...", help="of the offline throughput"
    )
    found.add_argument("--most-p99-ms", type=float, default=50.0, help="what a load must hold [default: 50]")


def _faults(found: argparse.ArgumentParser) -> None:
    _common(found)
    found.add_argument(
        "model", metavar="FOLDER[,FALLBACK]", help="the fallback is the same model for ONNX Runtime"
    )
    found.add_argument("--only", nargs="+", choices=list(faults.ALL), metavar="NAME")
    found.add_argument("--rate", type=float, default=200.0, help="requests a second beside it [default: 200]")
    found.add_argument("--before", type=float, default=2.0, help="seconds of load before a fault [default: 2]")
    found.add_argument("--after", type=float, default=6.0, help="seconds of load after a fault [default: 6]")
    found.add_argument("--connections", type=int, default=10_000, help="that stay open [default: 10,000]")
    found.add_argument("--faketime", type=Path, help="libfaketimeMT.so.1 [default: looked for]")


def _soak(found: argparse.ArgumentParser) -> None:
    _common(found)
    found.add_argument("model", metavar="FOLDER")
    found.add_argument("--requests", type=int, default=1_000_000, help="[default: 1,000,000]")
    found.add_argument("--part", type=int, default=10_000, help="requests between two samples [default: 10,000]")
    found.add_argument("--connections", type=int, default=16)
    found.add_argument("--depth", type=int, default=4, help="requests under way on a connection [default: 4]")
    found.add_argument("--tell-every", type=int, default=5, help="parts [default: 5]")


def _common(found: argparse.ArgumentParser) -> None:
    found.add_argument("--out", type=Path, default=OUT, help=f"results [default: {OUT}]")
    found.add_argument("--work", type=Path, default=WORK, help=f"logs, turns, environments [default: {WORK}]")
    found.add_argument("--data", type=Path, default=DATA, help=f"folder with feedback.parquet [default: {DATA}]")
    found.add_argument("--texts", type=int, help="at most so many of the sample [default: all]")
    found.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"of probabilities [default: {TOLERANCE}]"
    )
    found.add_argument(
        "--serve-options", type=shlex.split, default=[], metavar='="OPTIONS"', help="for `polyfold serve`"
    )
    found.add_argument("--again", action="store_true", help="measure anew what is there already")
    found.add_argument("--quick", action="store_true", help="a smoke test, whose figures mean nothing")


if __name__ == "__main__":
    sys.exit(main())
