"""How speed and memory grow: with documents from 1e3 to 1e6, tokens from 1 to 512, tasks from 1 to 32.

    python benchmarks/growth.py MODEL --trunk TORCH_MODEL --out docs/results/speed
    python benchmarks/growth.py MODEL --axes documents --documents 1000 100000 --format jsonl --out runs/growth
    python benchmarks/growth.py MODEL --trunk TORCH_MODEL --quick --out runs/growth

Every point is a process of its own, begun anew each round, so a peak of resident memory is that point's alone.

- documents: `polyfold predict` on a file of so many documents, from the start of the command to its end. They are
  DATA/corpus.parquet in a scattered order (so that every prefix is the same mix), each text once, and then again
  with a numbered suffix: no two are equal. The first thousand are the same at every point, and so must their
  labels be. Memory is judged: from the first point of 40,000 documents or more, when every buffer has been full,
  to the last, ten times as far at least, the peak may grow by 32 bytes a document (its text alone is three times
  that). What it grows by between any two points is told too.
- tokens: dense documents of one length through the session, as many a batch as the token budget holds, and one
  alone. Lengths end where the model's position table does; an encoder without one goes to the last length.
- tasks: the trunk of TORCH_MODEL (a torch model folder, not quantized) with 1 to 32 fresh heads of six, four and
  nine labels in turn, in int8 (static, calibrated on random ids) in OpenVINO; texts through the whole predictor,
  for all tasks and for one of the most. Heads are random: timed, never scored.

Writes OUT/growth.json and OUT/growth.svg. On two idle cores: a million documents take as long as the model needs
(MiniLM-L6 int8: 20 minutes), the rest ten minutes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import growth_documents as corpus
import growth_report as report
from fresh import Fresh, run_fresh, spread
from polyfold.artifact import CONFIG, write_atomically
from polyfold.errors import InputError
from polyfold.predictor import TOKEN_BUDGET
from polyfold.system import hardware, quiet_imports
from polyfold.tasks import Task

CHILD = Path(__file__).parent / "growth_child.py"
AXES = ("documents", "tokens", "tasks")
DOCUMENTS = (1_000, 10_000, 100_000, 1_000_000)
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
HEADS = (1, 2, 4, 8, 16, 32)
QUICK = {"documents": [300, 600], "tokens": [4, 16], "tasks": [1, 3]}
QUICK_TEXTS = 60
SPECIAL_IDS = 4
LABELS = (6, 4, 9)
"""Labels of the heads in turn: the third of each three is multi-label, as in the case study."""


@dataclass(frozen=True)
class Given:
    """What the command line said."""

    model: Path
    trunk: Path | None
    data: Path
    format: str
    rounds: int
    seconds: float
    budget_s: float
    texts: int
    options: Mapping[str, Any]


Tell = Callable[[str], None]
Key = TypeVar("Key", int, tuple[int, int])


def in_rounds(
    points: Sequence[Key], given: Given, run: Callable[[Key], Fresh], tell: Tell
) -> dict[Key, list[Fresh]]:
    """Every point once a round; one whose rounds have taken `budget_s` seconds is left out of the next."""
    found: dict[Key, list[Fresh]] = {point: [] for point in points}
    for number in range(given.rounds):
        for point in points:
            if found[point] and sum(one.wall_s for one in found[point]) > given.budget_s:
                continue
            found[point].append(run(point))
            last = found[point][-1]
            memory = last.answer["peak_memory_mb"]
            tell(f"round {number + 1}, {point}: {last.wall_s:.1f} s, peak {memory:.0f} MB")
    return found


def documents_axis(given: Given, counts: Sequence[int], scratch: Path, tell: Tell) -> report.Documents:
    """The command on files of more and more documents."""
    texts = pq.read_table(given.data / "corpus.parquet", columns=["text"])["text"].combine_chunks()
    kept = corpus.kept_rows(texts)
    tell(f"{len(texts):,} texts in the corpus, {len(kept):,} of them used")
    written: dict[int, int] = {}
    for count in counts:
        written[count] = corpus.write(source_of(scratch, count, given), texts, kept, count)
    changed: dict[int, int] = {}
    first: list[list[dict[str, Any]]] = []

    def run(count: int) -> Fresh:
        out = scratch / f"out-{count}.parquet"
        arguments = ["predict", str(given.model), str(source_of(scratch, count, given)), "--out", str(out)]
        done = run_fresh(CHILD, {"what": "documents", "arguments": arguments + command_options(given.options)})
        rows = pq.ParquetFile(out)
        assert rows.metadata.num_rows == count, f"{rows.metadata.num_rows} predictions of {count} documents"
        answers = next(rows.iter_batches(batch_size=corpus.COMPARED)).to_pylist()
        if not first:
            first.append(answers)
        changed[count] = max(changed.get(count, 0), corpus.differing(first[0], answers))
        out.unlink()
        return done

    found = in_rounds(counts, given, run, tell)
    points = [
        report.DocumentsPoint(
            documents=count,
            documents_per_second=spread([count / one.wall_s for one in runs]),
            peak_memory_mb=spread([one.answer["peak_memory_mb"] for one in runs], 1),
            mean_text_bytes=round(written[count] / count, 1),
            labels_changed=changed[count],
        )
        for count, runs in found.items()
    ]
    walls = {count: float(np.median([one.wall_s for one in runs])) for count, runs in found.items()}
    return report.Documents(
        format=given.format,
        points=points,
        further_documents_per_second=report.marginal(walls),
        further_bytes_per_document=report.slopes(points),
        memory=report.memory_verdict(points),
    )


def source_of(scratch: Path, count: int, given: Given) -> Path:
    """The file of so many documents."""
    return scratch / f"in-{count}.{given.format}"


def command_options(options: Mapping[str, Any]) -> list[str]:
    """What the child's predictor gets as keywords, as the command's options."""
    threads = [] if options["threads"] is None else ["--threads", str(options["threads"])]
    return threads + (["--bf16"] if options["bf16"] else [])


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Tokens that an encoder's position table holds; None where it has none."""
    from polyfold.model.backbone import FAMILIES
    from polyfold.model.layout import base_family

    if "max_position_embeddings" not in config:
        return None
    family = FAMILIES.get(base_family(str(config["polyfold"]["family"])))
    return int(config["max_position_embeddings"]) - (family.position_offset if family else 0)


def tokens_axis(given: Given, lengths: Sequence[int], tell: Tell) -> report.Tokens:
    """The session on dense documents, longer and longer."""
    config = json.loads((given.model / CONFIG).read_bytes())
    limit = position_limit(config)
    possible = [length for length in lengths if limit is None or length <= limit]

    def run(length: int) -> Fresh:
        job = {"what": "tokens", "model": str(given.model), "length": length, "budget": TOKEN_BUDGET}
        return run_fresh(CHILD, {**job, "seconds": given.seconds, **given.options})

    found = in_rounds(possible, given, run, tell)
    points = [
        report.TokensPoint(
            tokens=length,
            documents_a_batch=runs[0].answer["rows"],
            documents_per_second=spread([one.answer["rows"] / one.answer["batch_s"] for one in runs]),
            tokens_per_second=spread([length * one.answer["rows"] / one.answer["batch_s"] for one in runs], 0),
            one_document_ms=spread([1e3 * one.answer["single_s"] for one in runs]),
            peak_memory_mb=spread([one.answer["peak_memory_mb"] for one in runs], 1),
        )
        for length, runs in found.items()
    ]
    reads = config["polyfold"]["max_length"]
    return report.Tokens(token_budget=TOKEN_BUDGET, positions=limit, model_reads=reads, points=points)


def heads(count: int) -> tuple[Task, ...]:
    """So many tasks, every third multi-label."""
    return tuple(
        Task(
            name=f"task{number}",
            kind="multi_label" if number % len(LABELS) == 2 else "single_label",
            labels=tuple(f"label {place}" for place in range(LABELS[number % len(LABELS)])),
        )
        for number in range(count)
    )


def export_heads(trunk: Path, counts: Sequence[int], scratch: Path, tell: Tell) -> dict[int, Path]:
    """The trunk with fresh heads, in int8 in OpenVINO, by how many tasks."""
    quiet_imports()
    import torch

    from polyfold.compress.grids import prepare_grids
    from polyfold.export import OpenVinoExport, export
    from polyfold.model.backbone import token_embedding
    from polyfold.model.classifier import load_model, new_classifier
    from polyfold.model.quantized import is_quantized

    model = load_model(trunk)
    if is_quantized(model.classifier):
        raise InputError(
            "this trunk is quantized", file=trunk, hint="give the folder before that step; int8 is made here"
        )
    rows = token_embedding(model.classifier.encoder).num_embeddings
    ids = torch.randint(SPECIAL_IDS, rows, (8, 32), generator=torch.Generator().manual_seed(0))
    folders = {}
    for count in counts:
        made = new_classifier(model.backbone, heads(count), model.max_length, seed=0)
        grids = prepare_grids(made.classifier, [(ids, torch.ones_like(ids))])
        folders[count] = scratch / f"heads-{count}"
        export(OpenVinoExport(), replace(made, classifier=grids.quantized()), trunk, folders[count])
        tell(f"{count} heads are exported")
    return folders


def tasks_axis(given: Given, counts: Sequence[int], scratch: Path, tell: Tell) -> report.Tasks:
    """The whole predictor with more and more heads, and with one of the most asked for."""
    assert given.trunk is not None
    texts = pq.read_table(given.data / "corpus.parquet", columns=["text"])["text"].combine_chunks()
    chosen = texts.take(pa.array(corpus.kept_rows(texts, given.texts))).to_pylist()
    write_atomically(scratch / "texts.json", json.dumps(chosen).encode())
    folders = export_heads(given.trunk, counts, scratch, tell)
    most = max(counts)
    asked: list[tuple[int, int]] = [(count, count) for count in counts] + [(most, 1)]

    def run(point: tuple[int, int]) -> Fresh:
        names = None if point[0] == point[1] else [heads(1)[0].name]
        job = {"what": "tasks", "model": str(folders[point[0]]), "texts": str(scratch / "texts.json")}
        return run_fresh(CHILD, {**job, "names": names, "seconds": given.seconds, **given.options})

    found = in_rounds(list(dict.fromkeys(asked)), given, run, tell)
    points = [
        report.TasksPoint(
            tasks=point[0],
            asked=point[1],
            documents_per_second=spread([one.answer["documents"] / one.answer["predict_s"] for one in runs]),
            objects_per_second=spread([one.answer["documents"] / one.answer["objects_s"] for one in runs]),
            peak_memory_mb=spread([one.answer["peak_memory_mb"] for one in runs], 1),
        )
        for point, runs in found.items()
    ]
    return report.Tasks(documents=len(chosen), points=points, speed_kept=report.speed_kept(points))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an exported model folder: for documents and tokens")
    parser.add_argument("--trunk", type=Path, help="a torch model folder, not quantized: for tasks")
    parser.add_argument("--out", type=Path, required=True, help="folder for growth.json and growth.svg")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with corpus.parquet")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--documents", type=int, nargs="+", default=list(DOCUMENTS), metavar="N")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), metavar="N")
    parser.add_argument("--heads", type=int, nargs="+", default=list(HEADS), metavar="N")
    parser.add_argument("--format", choices=("parquet", "jsonl"), default="parquet", help="of the input file")
    parser.add_argument("--rounds", type=int, default=3, help="processes a point [default: 3]")
    parser.add_argument("--seconds", type=float, default=2.0, help="timed in each, on tokens and tasks")
    parser.add_argument(
        "--budget", type=float, default=600.0, help="no further round of a point after so many seconds"
    )
    parser.add_argument("--threads", type=int, help="processor threads [default: all]")
    parser.add_argument("--bf16", action="store_true", help="OpenVINO: bfloat16 for what is not int8")
    parser.add_argument("--quick", action="store_true", help="two small points an axis, one round: a smoke test")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace, scratch: Path, tell: Tell) -> dict[str, Any]:
    """Each axis that was asked for."""
    given = Given(
        model=options.model,
        trunk=options.trunk,
        data=options.data,
        format=options.format,
        rounds=1 if options.quick else options.rounds,
        seconds=0.05 if options.quick else options.seconds,
        budget_s=options.budget,
        texts=QUICK_TEXTS if options.quick else 2_000,
        options={"threads": options.threads, "bf16": options.bf16},
    )
    points = QUICK if options.quick else {
        "documents": options.documents, "tokens": options.lengths, "tasks": options.heads
    }  # fmt: skip
    if not (given.data / "corpus.parquet").is_file() and set(options.axes) - {"tokens"}:
        raise InputError("the corpus is not here", file=given.data / "corpus.parquet", hint="give --data")
    if "tasks" in options.axes and given.trunk is None:
        raise InputError("tasks need a trunk", key="--trunk", hint="give a torch model folder, or leave tasks out")
    found: dict[str, Any] = dict.fromkeys(AXES)
    if "tokens" in options.axes:
        found["tokens"] = tokens_axis(given, points["tokens"], tell)
    if "tasks" in options.axes:
        found["tasks"] = tasks_axis(given, points["tasks"], scratch, tell)
    if "documents" in options.axes:
        found["documents"] = documents_axis(given, sorted(points["documents"]), scratch, tell)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, judge, write; 2 where something the user gave is missing."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    started = perf_counter()

    def tell(what: str) -> None:
        print(f"{perf_counter() - started:5.0f} s  {what}", file=sys.stderr, flush=True)

    try:
        with TemporaryDirectory() as scratch:
            found = measure(options, Path(scratch), tell)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    content = report.GrowthFile(
        command=" ".join(["python benchmarks/growth.py", *given]), hardware=hardware(), **found
    )
    write_atomically(options.out / "growth.json", (content.model_dump_json(indent=1) + "\n").encode())
    write_atomically(options.out / "growth.svg", report.draw(content).encode())
    for line in report.lines(content):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
