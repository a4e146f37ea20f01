"""Polyfold and its peers in one run, each in an environment of its own that is made here.

    python -m benchmarks.peers --transformers RUN/minilm-transformers --out docs/results/speed \\
        --export minilm-int8=RUN/minilm-int8-openvino --student narrow-int8=RUN/narrow-openvino,bf16
    python -m benchmarks.peers --transformers RUN/minilm-transformers --only onnxruntime-int8 --quick

From the repository's root. Needs a folder that Polyfold's export `{kind: transformers}` wrote: its stock
classifiers, a folder a task, are what the peers run, so that most of them answer with the same weights:

    transformers-per-task       transformers pipelines in fp32, one model a task, as before consolidation
    transformers-one            one pipeline over one model that has the labels of all tasks
    onnxruntime-fp32            torch.onnx.export of that model, ONNX Runtime's defaults, padded batches
    onnxruntime-int8            the same after onnxruntime.quantization.quantize_dynamic
    sentence-transformers-int8  its encoder through export_static_quantized_openvino_model, heads by numpy
    static-embeddings           its token table in model2vec, logistic regression on the training texts
    hashed-ngrams               hashed character n-grams, logistic regression on the training texts

and after them what --export (the same weights) and --student (others) name, through polyfold.Predictor. Each peer
has a virtual environment below WORK, made by pip from stated ranges and used again while these stay the same;
pip's own index settings apply. A peer that cannot be installed, loaded or asked is in the result with its reason.

Peers stay loaded and take turns, in the other order every second round; all meet the same distinct texts, from
text to labels, with every core. Batch sizes are the best of a few, tried beforehand, where the peer leaves the
choice. Quality is macro-F1 on test documents drawn at random. Writes OUT/peers.json, peers.md and peers.svg. With
its environments in place half an hour on two cores; --quick takes seconds a peer, and its figures mean nothing.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from polyfold.artifact import read_config, write_atomically
from polyfold.errors import InputError
from polyfold.system import hardware, telemetry_off
from polyfold.tasks import Task

from .catalogue import REFERENCE, Given, PeerSpec, Recipe, catalogue
from .documents import LANGUAGES, Inputs, Sizes, gather
from .driver import Pace, Running, Tell, failure, measure, result_of, score, start_all
from .environments import PeerFailed
from .merging import Stock, merge, read_stock
from .plot import draw
from .results import PeerResult, PeersFile, Protocol, Quality, Scored, quality_of, speedups
from .table import markdown

QUICK = Sizes(slice=48, singles=10, train=400, dev=60, test=60)
QUICK_RECIPE = Recipe(static_width=32, buckets=2**14, calibration=16)


def main(arguments: Sequence[str] | None = None, interpreter: Path | None = None) -> int:
    """Measure the peers; 2 where something the user gave is missing. `interpreter` replaces all environments."""
    options = parser().parse_args(arguments)
    started = time.perf_counter()

    def tell(what: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {what}", file=sys.stderr, flush=True)

    telemetry_off()
    command = shlex.join(["python", "-m", "benchmarks.peers", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        content = run(options, command, tell, interpreter)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out: Path = options.out
    write_atomically(out / "peers.json", (content.model_dump_json(indent=1) + "\n").encode())
    write_atomically(out / "peers.md", markdown(content).encode())
    plot = draw(content)
    if plot is not None:
        write_atomically(out / "peers.svg", plot.encode())
    failed = sum(one.failed is not None for one in content.peers)
    print(f"{len(content.peers) - failed} peers measured, {failed} failed: {out / 'peers.md'}")
    return 0


def run(options: argparse.Namespace, command: str, tell: Tell, interpreter: Path | None = None) -> PeersFile:
    """All of it, from folders to figures."""
    stock = read_stock(options.transformers)
    given = [
        *(parsed(one, shared=True) for one in options.export),
        *(parsed(one, shared=False) for one in options.student),
    ]
    for one in given:
        check_tasks(one, stock.tasks)
    work: Path = options.work
    specs = chosen(stock, work / "merged", given, QUICK_RECIPE if options.quick else Recipe(), options.only)
    sizes = QUICK if options.quick else sizes_of(options)
    inputs = gather(options.data, options.languages, stock.tasks, sizes, work / "inputs")
    merge(stock, work / "merged")
    tell(f"{len(inputs.slices)} slices of {len(inputs.slices[0]):,} distinct texts; {len(specs)} peers")
    running, failed = start_all(specs, work, inputs, tell, interpreter)
    rounds = 2 if options.quick else options.rounds
    pace = Pace(rounds, 0.05 if options.quick else options.seconds, max(1, len(inputs.singles) // rounds))
    try:
        failed |= measure(running, len(inputs.slices), pace, tell)
        scores, lost = score_all(running, work, options.random_weights, tell)
    finally:
        for peer in running.values():
            peer.client.close()
    failed |= lost
    protocol = Protocol(
        documents_a_slice=len(inputs.slices[0]),
        slices=len(inputs.slices),
        rounds=pace.rounds,
        seconds=pace.seconds,
        train_documents=inputs.train_documents,
        dev_documents=len(inputs.dev.texts),
        test_documents=len(inputs.test.texts),
        languages=tuple(options.languages),
        scored=not options.random_weights,
    )
    peers = concluded(specs, running, failed, qualities(stock.tasks, inputs, specs, scores))
    return PeersFile(
        command=command, hardware=hardware(), protocol=protocol, reference=REFERENCE, peers=tuple(peers)
    )


def chosen(
    stock: Stock, merged: Path, given: Sequence[Given], recipe: Recipe, only: Sequence[str] | None
) -> list[PeerSpec]:
    """The peers to measure; InputError for a name that none has, or two have."""
    specs = catalogue(stock, merged.resolve(), given, recipe)
    names = [spec.name for spec in specs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"two peers are named '{twice[0]}'", hint="name them apart with --export and --student")
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise InputError(f"no peer is named '{unknown[0]}'", key="--only", hint=f"there are {', '.join(names)}")
    return [spec for spec in specs if not only or spec.name in only]


def score_all(
    running: dict[str, Running], work: Path, random_weights: bool, tell: Tell
) -> tuple[dict[str, Scored], dict[str, str]]:
    """Probabilities of every peer whose weights were trained, and who failed at it."""
    scores: dict[str, Scored] = {}
    failed: dict[str, str] = {}
    for name, one in list(running.items()):
        if untrained(one.spec, random_weights):
            continue
        try:
            scores[name] = score(one, work)
            tell(f"{name} is scored")
        except PeerFailed as reason:
            failed[name] = str(reason)
    return scores, failed


def untrained(spec: PeerSpec, random_weights: bool) -> bool:
    """Whether a quality would say nothing: weights that are random, or vectors that are."""
    if spec.group == "polyfold" and read_config(Path(spec.settings["folder"]))[0].weights == "random":
        return True
    return random_weights and (spec.weights == "shared" or spec.name == "static-embeddings")


def qualities(
    tasks: Sequence[Task], inputs: Inputs, specs: Sequence[PeerSpec], scores: Mapping[str, Scored]
) -> dict[str, Quality]:
    """By peer; those with the reference's weights are compared with it."""
    shared = {spec.name for spec in specs if spec.weights == "shared"}
    reference = scores.get(REFERENCE)
    return {
        name: quality_of(tasks, inputs.dev, inputs.test, one, reference if name in shared else None)
        for name, one in scores.items()
    }


def concluded(
    specs: Sequence[PeerSpec],
    running: Mapping[str, Running],
    failed: Mapping[str, str],
    quality: Mapping[str, Quality],
) -> list[PeerResult]:
    """Every peer's result in the order of the list, the failed ones among them."""
    ratios = speedups({name: one.rates for name, one in running.items()}, REFERENCE)
    found = []
    for spec in specs:
        if spec.name not in running:
            found.append(failure(spec, failed[spec.name]))
            continue
        figures = {"speedup": ratios.get(spec.name), "quality": quality.get(spec.name)}
        found.append(result_of(running[spec.name]).model_copy(update={**figures, "failed": failed.get(spec.name)}))
    return found


def parsed(value: str, shared: bool) -> Given:
    """NAME=FOLDER or NAME=FOLDER,bf16."""
    name, _, rest = value.partition("=")
    folder, comma, how = rest.rpartition(",") if rest.endswith(",bf16") else (rest, "", "")
    if not name or not folder or "/" in name:
        raise InputError(f"'{value}' names no folder", hint="write NAME=FOLDER, or NAME=FOLDER,bf16")
    return Given(name, Path(folder), bool(comma) and how == "bf16", shared)


def check_tasks(given: Given, tasks: Sequence[Task]) -> None:
    """A model with other tasks or labels cannot be compared on these."""
    found = {task.name: (task.kind, task.labels) for task in read_config(given.folder)[1]}
    for task in tasks:
        if found.get(task.name) != (task.kind, task.labels):
            raise InputError(
                f"its task '{task.name}' is not that of the stock folders",
                file=given.folder,
                hint="all models must have the same tasks with the same labels in the same order",
            )


def sizes_of(options: argparse.Namespace) -> Sizes:
    """Documents as asked for."""
    return Sizes(options.documents, options.singles, options.train, options.dev, options.test)


def positive(value: str) -> int:
    """A count from the command line."""
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole = Sizes()
    found.add_argument("--transformers", type=Path, required=True, help="folder of the `transformers` export")
    found.add_argument("--export", action="append", default=[], metavar="NAME=FOLDER[,bf16]", help="same weights")
    found.add_argument(
        "--student", action="append", default=[], metavar="NAME=FOLDER[,bf16]", help="other weights"
    )
    found.add_argument("--data", type=Path, default=Path("../shared/data"), help="feedback.parquet or its folder")
    found.add_argument("--languages", nargs="+", default=list(LANGUAGES), help="[default: the twelve of the core]")
    found.add_argument("--out", type=Path, default=Path("runs/peers"), help="results [default: runs/peers]")
    found.add_argument("--work", type=Path, default=Path("runs/peers"), help="environments [default: runs/peers]")
    found.add_argument("--only", nargs="+", metavar="NAME", help="these peers alone")
    found.add_argument("--rounds", type=positive, default=5, help="turns of each peer [default: 5]")
    found.add_argument("--seconds", type=float, default=2.0, help="a turn's least length [default: 2]")
    found.add_argument("--documents", type=positive, default=whole.slice, help="a turn's texts [default: 1200]")
    found.add_argument(
        "--singles", type=positive, default=whole.singles, help="single texts in all [default: 500]"
    )
    found.add_argument("--train", type=positive, default=whole.train, help="for fitted heads [default: 60000]")
    found.add_argument("--dev", type=positive, default=whole.dev, help="for thresholds [default: 3000]")
    found.add_argument("--test", type=positive, default=whole.test, help="for quality [default: 6000]")
    found.add_argument("--random-weights", action="store_true", help="the stock folders are untrained: not scored")
    found.add_argument("--quick", action="store_true", help="a smoke test")
    return found


if __name__ == "__main__":
    sys.exit(main())
