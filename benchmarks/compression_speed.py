"""How fast each pruned structure is against the whole one it was cut from, on this machine.

    python benchmarks/compression_speed.py docs/results/compression
    python benchmarks/compression_speed.py docs/results/compression --only transformer/layers-3 --out runs/speed

Reads FOLDER/structures.json, the configurations of encoders as pruning left them, rebuilds each with random
weights, exports it to OpenVINO in fp32 and times it against its own whole encoder in turns: one of this, one of
that, and the other way round in the next round, so that what else the machine does hits both alike. The whole
encoders are timed against themselves too: what comes out beside 1 is the noise. Random weights decide no speed,
and nothing is scored. The token table is cut to 2,000 rows, which makes the files small: a lookup costs the same
in a table of any length, all but for the processor's cache.

Two workloads: dense batches of 32 x 128 tokens, and documents as long as real ones, sorted by length and batched
by a token budget: lengths of test texts where DATA has them, else drawn from a log-normal with their median and
95th percentile. A speed-up is the median over rounds of the ratio of two neighbouring turns; least and most are
its extremes. Writes OUT/speed.json. About five minutes on two idle cores.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel, ConfigDict

from polyfold.artifact import read_config, write_atomically
from polyfold.errors import InputError
from polyfold.export import OpenVinoExport, export
from polyfold.model.backbone import Backbone, rebuild, token_embedding, token_lengths
from polyfold.model.classifier import Model, new_classifier
from polyfold.model.flops import model_cost
from polyfold.model.use_multilingual import FAMILY as EMBEDDED
from polyfold.predictor import TOKEN_BUDGET
from polyfold.runtimes.openvino import open_openvino
from polyfold.runtimes.session import Session, SessionSpec
from polyfold.system import Hardware, cores, hardware, seed_numpy
from polyfold.tasks import Task
from polyfold.text import TokenizerSpec, pad, plan_batches

STRUCTURES, SPEED = "structures.json", "speed.json"
DENSE, REAL = "dense_32x128", "real_lengths"
LANGUAGES = ("ar", "de", "en", "es", "fr", "ja", "ko", "nl", "pt", "ru", "tr", "zh")
WHOLE: Mapping[str, str] = {"transformer": "transformer/large", "encoder": "encoder/teacher"}
"""What each group's structures were cut from, and are timed against."""

TASKS = (
    Task(name="domain", labels=tuple(f"domain {number}" for number in range(6))),
    Task(name="sentiment", labels=("mixed", "negative", "neutral", "positive")),
    Task(name="topics", kind="multi_label", labels=tuple(f"topic {number}" for number in range(9))),
)
TABLE_ROWS = 2_000
BATCH, WIDTH = 32, 128
# Of the benchmark's texts in XLM-R's tokens: median 20.5, 95th percentile 64, 1.645 deviations above it.
MEDIAN_TOKENS, DEVIATION = 20.5, float(np.log(64 / 20.5) / 1.645)
SEED = 0

Call = Callable[[], object]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Timed(_Part):
    """One workload of one structure; documents a second of both sides are medians over rounds."""

    documents_per_second: float
    whole_documents_per_second: float
    speedup: float
    speedup_least: float
    speedup_most: float
    rounds: int


class Structure(_Part):
    """What a structure costs: `parameters` with its whole token table, FLOPs of one document of 128 tokens."""

    whole: str
    parameters: int
    mflops_per_document: float
    speed: dict[str, Timed]


class SpeedFile(_Part):
    """All of speed.json. `weights` says that no quality can be read from it."""

    command: str
    weights: str
    lengths: str
    documents: int
    mean_tokens: float
    hardware: Hardware
    structures: dict[str, Structure]


@dataclass(frozen=True)
class Subject:
    """A structure that runs: what it costs on paper, and by workload one pass and the documents in it."""

    parameters: int
    mflops: float
    passes: Mapping[str, Call]
    documents: Mapping[str, int]


def read_structures(folder: Path, only: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """The structures asked for, and those that they are timed against."""
    path = folder / STRUCTURES
    if not path.is_file():
        raise InputError("there is no such file", file=path, hint="give the folder that holds structures.json")
    found: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
    wanted = list(found) if not only else list(only)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(f"no structure is named '{missing[0]}'", file=path, hint=f"there are {', '.join(found)}")
    needed = dict.fromkeys([WHOLE[name.partition("/")[0]] for name in wanted] + wanted)
    return {name: found[name] for name in needed}


def rebuilt(config: Mapping[str, Any], table_rows: int = TABLE_ROWS) -> Model:
    """The classifier of a configuration with random weights, three heads and a short token table."""
    family = str(config["model_type"])
    settings = {**config, "vocab_size": table_rows}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        encoder = rebuild(family, settings).eval()
    width = int(config["sentence_width"] if family == EMBEDDED else config["hidden_size"])
    backbone = Backbone(
        family=family,
        module=encoder,
        width=width,
        config=settings,
        tokenizer=TokenizerSpec(kind="sentencepiece", file="tokenizer.none", pad_id=0),
        max_length=WIDTH,
        weights="random",
    )
    return new_classifier(backbone, TASKS, WIDTH, SEED)


def whole_parameters(model: Model, config: Mapping[str, Any]) -> int:
    """Parameters with the token table as long as it was."""
    table = token_embedding(model.classifier.encoder)
    return model.parameters + (int(config["vocab_size"]) - table.num_embeddings) * table.embedding_dim


def open_session(model: Model, scratch: Path) -> Session:
    """The model in OpenVINO, through a folder as Polyfold exports it; token ids come as they are."""
    (scratch / model.backbone.tokenizer.file).write_bytes(b"")
    folder = scratch / "export"
    export(OpenVinoExport(), model, scratch, folder)
    config, tasks = read_config(folder)
    return open_openvino(folder, config, tasks, SessionSpec())


def lengths_of(data: Path, documents: int) -> tuple[np.ndarray, str]:
    """Token counts of so many documents, at most WIDTH each, and where they come from."""
    path = data / "feedback.parquet"
    if not path.is_file():
        drawn = np.random.default_rng(SEED).lognormal(np.log(MEDIAN_TOKENS), DEVIATION, documents)
        return np.clip(drawn.round(), 3, WIDTH).astype(np.int64), "drawn from a log-normal: no texts lie here"
    wanted = [("split", "=", "test"), ("lang", "in", LANGUAGES)]
    texts = pq.read_table(path, columns=["text"], filters=wanted)["text"]
    places = np.linspace(0, len(texts) - 1, min(documents, len(texts))).astype(int)
    lengths = token_lengths(EMBEDDED, {"test": texts.take(places).to_pylist()}, data)["test"]
    return np.minimum(lengths, WIDTH), "token counts of test texts, drawn evenly over the file"


def subject_of(config: Mapping[str, Any], lengths: np.ndarray, scratch: Path) -> Subject:
    """A structure built, exported and given its work; all structures get the same token ids."""
    model = rebuilt(config)
    mflops = model_cost(model, 1, WIDTH).flops / 1e6
    session = open_session(model, scratch)
    rng = np.random.default_rng(SEED)
    dense = rng.integers(1, TABLE_ROWS, (BATCH, WIDTH))
    ids = [rng.integers(1, TABLE_ROWS, length) for length in lengths]
    batches = [pad([ids[row] for row in rows], 0) for rows in plan_batches(lengths, TOKEN_BUDGET)]
    passes: dict[str, Call] = {
        DENSE: lambda: session.run(dense, np.ones_like(dense)),
        REAL: lambda: [session.run(*batch) for batch in batches],
    }
    return Subject(whole_parameters(model, config), mflops, passes, {DENSE: BATCH, REAL: len(lengths)})


def turn(run: Call, seconds: float) -> float:
    """Passes a second: one pass at least, and more until so many seconds have gone by."""
    started = time.perf_counter()
    passes = 0
    while True:
        run()
        passes += 1
        spent = time.perf_counter() - started
        if spent >= seconds:
            return passes / spent


def in_turns(one: Subject, whole: Subject, key: str, number: int, seconds: float) -> tuple[float, float]:
    """Documents a second of a structure and of the whole one beside it; odd rounds begin with the whole one."""
    pair = (one, whole) if number % 2 == 0 else (whole, one)
    first, second = (turn(side.passes[key], seconds) * side.documents[key] for side in pair)
    return (first, second) if number % 2 == 0 else (second, first)


def measure(
    subjects: Mapping[str, Subject], rounds: int, seconds: float, tell: Callable[[str], None]
) -> dict[str, Structure]:
    """Every structure against its whole one, under every workload, round after round."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for key in (DENSE, REAL):
        for subject in subjects.values():
            subject.passes[key]()
        for number in range(rounds):
            for name in subjects:
                pair = in_turns(subjects[name], subjects[whole_of(name)], key, number, seconds)
                found.setdefault((name, key), []).append(pair)
            tell(f"{key}, round {number + 1} of {rounds}")
    return {
        name: Structure(
            whole=whole_of(name),
            parameters=subjects[name].parameters,
            mflops_per_document=round(subjects[name].mflops, 3),
            speed={key: timed(found[name, key]) for key in (DENSE, REAL)},
        )
        for name in subjects
    }


def timed(pairs: Sequence[tuple[float, float]]) -> Timed:
    """Medians over rounds; the speed-up is that of the ratios, each of two turns side by side."""
    own, whole = np.asarray(pairs).T
    ratios = own / whole
    return Timed(
        documents_per_second=round(float(np.median(own)), 2),
        whole_documents_per_second=round(float(np.median(whole)), 2),
        speedup=round(float(np.median(ratios)), 4),
        speedup_least=round(float(ratios.min()), 4),
        speedup_most=round(float(ratios.max()), 4),
        rounds=len(pairs),
    )


def whole_of(name: str) -> str:
    """The structure that this one was cut from."""
    return WHOLE[name.partition("/")[0]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the structures; 2 where something the user gave is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with structures.json")
    parser.add_argument("--out", type=Path, help="folder for speed.json [default: the same]")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these structures alone")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with feedback.parquet")
    parser.add_argument("--documents", type=int, default=128, help="documents of real lengths [default: 128]")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each structure at a workload [default: 5]")
    parser.add_argument("--seconds", type=float, default=0.2, help="a turn's least length [default: 0.2]")
    given = parser.parse_args(arguments)

    def tell(what: str) -> None:
        print(f"{time.perf_counter() - started:5.0f} s  {what}", file=sys.stderr, flush=True)

    started = time.perf_counter()
    seed_numpy(SEED)
    torch.set_num_threads(cores())
    try:
        wanted = read_structures(given.folder, given.only)
        lengths, told = lengths_of(given.data, given.documents)
        subjects = {}
        for name, config in wanted.items():
            with TemporaryDirectory() as scratch:
                subjects[name] = subject_of(config, lengths, Path(scratch))
            tell(f"{name} is built")
        structures = measure(subjects, given.rounds, given.seconds, tell)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    content = SpeedFile(
        command=" ".join(["python benchmarks/compression_speed.py", *(arguments or sys.argv[1:])]),
        weights=f"random, with a token table of {TABLE_ROWS:,} rows: timed, never scored",
        lengths=told,
        documents=len(lengths),
        mean_tokens=round(float(lengths.mean()), 2),
        hardware=hardware(),
        structures=structures,
    )
    target = (given.out or given.folder) / SPEED
    write_atomically(target, (content.model_dump_json(indent=1) + "\n").encode())
    print(f"{len(structures)} structures: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
