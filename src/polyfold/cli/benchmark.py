"""`polyfold benchmark`: how fast artifacts are here, and how near to what this machine can do."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer

from polyfold.cli.app import MaybePath, MaybeText, app
from polyfold.console import note
from polyfold.errors import InputError


@app.command(
    epilog="Examples: polyfold benchmark runs/demo/teacher.trim_vocabulary.int8_qat.openvino-* --no-baseline "
    "--quick;  polyfold benchmark MODEL OTHER --texts texts.csv --text comment --bf16 --out speed"
)
def benchmark(
    artifacts: Annotated[list[Path], typer.Argument(help="Model folders.", metavar="ARTIFACT...")],
    texts: Annotated[
        MaybePath,
        typer.Option(help="A CSV, JSONL, Parquet or text file [default: 600 demo texts].", metavar="FILE"),
    ] = None,
    text: Annotated[str, typer.Option(help="The column with the texts.")] = "text",
    documents: Annotated[int, typer.Option(help="Distinct texts to measure on.", min=1)] = 512,
    reference: Annotated[
        MaybePath,
        typer.Option(
            help="The fp32 model of the same weights [default: looked for beside the artifact].", metavar="DIR"
        ),
    ] = None,
    runtimes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--runtime", help="auto or a runtime's name (repeatable) [default: the artifact's own]."),
    ] = None,
    threads: Annotated[Optional[int], typer.Option(help="Processor threads.", min=1)] = None,  # noqa: UP045
    streams: Annotated[Optional[int], typer.Option(help="Batches computed at once.", min=1)] = None,  # noqa: UP045
    bf16: Annotated[
        bool, typer.Option("--bf16", help="OpenVINO: also with bfloat16 for what is not int8.")
    ] = False,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where torch and ONNX Runtime compute.")] = "cpu",
    token_budget: Annotated[int, typer.Option(help="Tokens a batch, padding included.", min=1)] = 4096,
    baseline: Annotated[
        str, typer.Option(help="What speed-ups are over, in fp32 PyTorch: a hub id or folder.")
    ] = "FacebookAI/xlm-roberta-base",
    baseline_tokenizer: Annotated[
        MaybeText, typer.Option(help="The baseline's tokenizer JSON, where it has none beside it.", metavar="FILE")
    ] = None,
    no_baseline: Annotated[bool, typer.Option("--no-baseline", help="Without baseline and speed-ups.")] = False,
    shapes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--shape", help="Dense documents x tokens (repeatable).", metavar="BxN"),
    ] = None,
    batch_sizes: Annotated[MaybeText, typer.Option(help="Documents a batch to try.", metavar="N,N,...")] = None,
    lengths: Annotated[MaybeText, typer.Option(help="Tokens a document to try.", metavar="N,N,...")] = None,
    token_budgets: Annotated[MaybeText, typer.Option(help="Tokens a batch to try.", metavar="N,N,...")] = None,
    thread_counts: Annotated[MaybeText, typer.Option(help="Numbers of threads to try.", metavar="N,N,...")] = None,
    loads: Annotated[
        MaybeText, typer.Option(help="Arrivals over what is answered one at a time.", metavar="N,N,...")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each measurement.", min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="Least seconds of a turn.", min=0.0)] = 1.0,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--only", help="speed, sweeps, threads, arrivals, energy, memory or agreement (repeatable)."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the arrivals.", min=0)] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="In seconds, to see that it works.")] = False,
    out: Annotated[Path, typer.Option("--out", help="For benchmark.json, .md and .html.", metavar="DIR")] = Path(
        "benchmark"
    ),
) -> None:
    """Measure speed against the machine's limits: throughput, ladders, latency under load, energy, agreement."""
    from polyfold.benchmark.run import benchmark as measure
    from polyfold.benchmark.spec import PARTS
    from polyfold.benchmark.spec import quick as quickly
    from polyfold.benchmark.views import print_benchmark, write_benchmark

    sweep = {
        "batch_sizes": _numbers("--batch-sizes", batch_sizes),
        "lengths": _numbers("--lengths", lengths),
        "token_budgets": _numbers("--token-budgets", token_budgets),
        "threads": _numbers("--thread-counts", thread_counts),
    }
    speed = {"documents": documents, "token_budget": token_budget, "rounds": rounds, "round_seconds": seconds}
    arrivals = {"loads": _loads(loads)}
    settings: dict[str, Any] = {
        "texts": texts,
        "text": text,
        "parts": tuple(only or PARTS),
        "runtimes": tuple(dict.fromkeys(runtimes or ())),
        "threads": threads,
        "streams": streams,
        "bf16": bf16,
        "device": device,
        "reference": reference,
        "baseline": None if no_baseline else baseline,
        "baseline_tokenizer": baseline_tokenizer,
        "shapes": tuple(_shape(one) for one in shapes) if shapes else None,
        "speed": speed,
        "sweep": {name: value for name, value in sweep.items() if value is not None},
        "arrivals": {name: value for name, value in arrivals.items() if value is not None},
        "seed": seed,
    }
    spec = _spec(settings)
    if out.exists() and not out.is_dir():
        raise InputError("it is a file", file=out, hint="give a folder, which is made where it does not exist")
    found = measure(artifacts, quickly(spec) if quick else spec, shlex.join(["polyfold", *sys.argv[1:]]))
    write_benchmark(found, out)
    print_benchmark(found)
    note(f"benchmark: {out / 'benchmark.html'} (also benchmark.md and benchmark.json)")


def _spec(settings: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from polyfold.benchmark.spec import BenchmarkSpec

    try:
        return BenchmarkSpec.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
        raise InputError(f"{first['input']!r} cannot be used: {first['msg']}", key=where) from None


def _numbers(option: str, given: str | None) -> tuple[int, ...] | None:
    """`1,8,32` in ascending order; a number below 1 is refused."""
    if given is None:
        return None
    try:
        values = sorted({int(part) for part in given.split(",")})
    except ValueError:
        values = [0]
    if values[0] < 1:
        raise InputError(f"'{option} {given}' is no list of whole numbers above 0", hint="write 1,8,32")
    return tuple(values)


def _loads(given: str | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        values = sorted({float(part) for part in given.split(",")})
    except ValueError:
        values = [0.0]
    if not 0.0 < values[0] <= values[-1] < float("inf"):
        raise InputError(f"'--loads {given}' is no list of numbers above 0", hint="write 0.2,0.5,0.8")
    return tuple(values)


def _shape(given: str) -> tuple[int, int]:
    sides = given.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise InputError(f"'--shape {given}' is not of the form 32x128", hint="documents x tokens, both above 0")
    return int(sides[0]), int(sides[1])
