"""Documents a second of all that is not the model: tokenizing, planning and padding, decoding.

    python benchmarks/tokenizing.py MODEL... --tokenizers ../shared/tokenizers --out docs/results/speed
    python benchmarks/tokenizing.py MODEL --rounds 3 --documents 20000 --out runs/tokenizing
    python benchmarks/tokenizing.py MODEL --quick --out runs/tokenizing

A MODEL is an exported folder: its tokenizer is timed, and its whole predictor with a session that answers at once,
so that what is left is what surrounds the model. --tokenizers adds XLM-R's and mBERT's own files, tokenizing only.

Texts are the distinct ones of DATA's short test sample, and as many of its corpus as --documents says. Roads are
taken in turns, one pass over the texts each, on one thread and on all:

- tokenizing: texts to ids as Polyfold does it, special tokens and cutting included;
- `tokenizers`: the same by that library alone, on one thread, all that Polyfold lets it have (JSON files only);
- floor: SentencePiece's own library on the same vocabulary, texts to lists of ids and nothing else; a WordPiece
  file has none, since SentencePiece does not do that;
- planning and padding: ids to padded batches under the token budget;
- all but tokenizing: a predictor whose tokenizer and session answer at once: removal of duplicates, planning,
  padding, decoding into columns (probabilities, and decided labels as numbers);
- together: texts to predictions in columns. The goal of 150,000 documents a second is set on this, on all
  threads, on the short sample;
- with label names: the same with each task's labels as strings, as `polyfold predict` writes them;
- as objects: the same with every document's Prediction built.

Beside them: on how many texts the ids differ from those of `tokenizers` (JSON files) or of SentencePiece with the
special tokens added (its models), and on how many the floor's differ. Writes OUT/tokenizing.json. Five minutes.
"""

import argparse
import gzip
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from fresh import Spread, spread
from growth_documents import kept_rows
from polyfold.artifact import write_atomically
from polyfold.errors import InputError
from polyfold.predictions import Predictions
from polyfold.predictor import TOKEN_BUDGET, Predictor
from polyfold.system import Hardware, cores, hardware
from polyfold.text import (
    Encoding,
    TokenizerSpec,
    pad_rows,
    plan_batches,
)
from short_texts import short_sample
from tokenizing_roads import AtOnce, Known, Source

GOAL = 150_000.0
SHORT, CORPUS = "short test sample", "corpus"
FILES = {"xlm-roberta.json.gz": 1, "bert-base-multilingual-cased.json.gz": 0}
"""The tokenizers of --tokenizers, and their padding tokens."""

OURS, LIBRARY, FLOOR = "tokenizing", "tokenizers", "floor"
PLANNING, AROUND, TOGETHER = "planning and padding", "all but tokenizing", "together"
NAMES, OBJECTS = "with label names", "as objects"

Call = Callable[[], object]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Timed(_Part):
    """Documents a second of each road on so many threads; the share is tokenizing's of the floor's speed."""

    threads: int
    documents_per_second: dict[str, Spread]
    share_of_floor: float | None


class OnTexts(_Part):
    """One tokenizer on one set of texts; differences count documents."""

    documents: int
    mean_tokens: float
    mean_bytes: float
    compared_with: str
    differences: int
    floor_differences: int | None
    timed: list[Timed]


class Subject(_Part):
    """One tokenizer: the class that runs it, its pieces, and how it did by texts."""

    road: str
    pieces: int
    texts: dict[str, OnTexts]


class Goal(_Part):
    """The goal on one model."""

    value: float
    at_least: float
    met: bool


class TokenizingFile(_Part):
    """All of tokenizing.json."""

    command: str
    hardware: Hardware
    subjects: dict[str, Subject]
    goals: dict[str, Goal]


def differences(one: Encoding, other: Encoding) -> int:
    """Documents whose ids differ."""
    assert len(one) == len(other)
    return sum(not np.array_equal(ids, others) for ids, others in zip(one.ids, other.ids, strict=True))


def roads(source: Source, texts: list[str], threads: int) -> dict[str, Call]:
    """What is timed, by name."""
    tokenizer, bare, library = source.tokenizers[threads], source.bare, source.library
    found: dict[str, Call] = {OURS: lambda: tokenizer.encode(texts, source.max_length)}
    if bare is not None:
        found[FLOOR] = lambda: bare.backend.encode(texts, num_threads=threads)
    if library is not None and threads == 1:
        found[LIBRARY] = lambda: library.encode(texts, source.max_length)
    known = Known(tokenizer, texts, source.max_length)
    found[PLANNING] = lambda: padded(known.encoding, source.spec.pad_id)
    if source.predictor is not None:
        session = AtOnce.of(source.predictor.tasks)
        around = replace(source.predictor, tokenizer=known, session=session)
        together = replace(source.predictor, tokenizer=tokenizer, session=session)
        found[AROUND] = lambda: around.predict(texts)
        found[TOGETHER] = lambda: together.predict(texts)
        found[NAMES] = lambda: named(together.predict(texts))
        found[OBJECTS] = lambda: list(together.predict(texts))
    return found


def named(predictions: Predictions) -> list[object]:
    """Every task's labels by name, as `polyfold predict` writes them."""
    return [predictions.names(task.name) for task in predictions.tasks]


def padded(encoding: Encoding, pad_id: int) -> int:
    """All batches planned and padded; how many there are."""
    plan = plan_batches(encoding.lengths, TOKEN_BUDGET)
    for rows in plan:
        pad_rows(encoding, rows, pad_id)
    return len(plan)


def in_turns(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call, once a round after one for nothing; every other round goes backwards."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls) if number % 2 == 0 else list(calls)[::-1]:
            started = perf_counter()
            calls[name]()
            seconds[name].append(perf_counter() - started)
    return seconds


def measure(source: Source, texts: list[str], rounds: int) -> OnTexts:
    """One tokenizer on one set of texts: how fast, and whether right."""
    timed = []
    for count in source.tokenizers:
        seconds = in_turns(roads(source, texts, count), rounds)
        speeds = {name: spread([len(texts) / one for one in found], 0) for name, found in seconds.items()}
        floor = speeds.get(FLOOR)
        share = None if floor is None else round(speeds[OURS].median / floor.median, 4)
        timed.append(Timed(threads=count, documents_per_second=speeds, share_of_floor=share))
    ours = source.tokenizers[max(source.tokenizers)].encode(texts, source.max_length)
    if source.library is not None:
        against, right = "tokenizers", source.library.encode(texts, source.max_length)
    else:
        # Text by text on the fewest threads: nothing that many texts or threads could mix up.
        single = source.tokenizers[min(source.tokenizers)]
        against = "sentencepiece, text by text"
        right = Encoding.joined([single.encode([text], source.max_length) for text in texts])
    bare = source.bare
    return OnTexts(
        documents=len(texts),
        mean_tokens=round(float(ours.lengths.mean()), 2),
        mean_bytes=round(sum(len(text.encode("utf8", "replace")) for text in texts) / len(texts), 1),
        compared_with=against,
        differences=differences(ours, right),
        floor_differences=None if bare is None else bare.differences(texts, right),
        timed=timed,
    )


def texts_of(data: Path, documents: int) -> dict[str, list[str]]:
    """Both sets of texts; the corpus only where it is."""
    found = {SHORT: short_sample(data, documents)}
    path = data / "corpus.parquet"
    if path.is_file():
        column = pq.read_table(path, columns=["text"])["text"].combine_chunks()
        found[CORPUS] = column.take(pa.array(kept_rows(column, documents))).to_pylist()
    return found


def sources_of(options: argparse.Namespace, threads: Sequence[int], scratch: Path) -> Iterator[tuple[str, Source]]:
    """What is timed, by name, one loaded at a time: models, then bare tokenizer files."""
    for folder in options.models:
        predictor = Predictor.open(folder)
        yield folder.name, Source.open(folder, predictor.config.tokenizer, threads, predictor)
    for name, pad_id in FILES.items() if options.tokenizers is not None else ():
        packed = options.tokenizers / name
        if not packed.is_file():
            raise InputError("there is no such tokenizer", file=packed, hint="leave --tokenizers out")
        plain = name.removesuffix(".gz")
        (scratch / plain).write_bytes(gzip.decompress(packed.read_bytes()))
        spec = TokenizerSpec(kind="tokenizers", file=plain, pad_id=pad_id)
        yield plain, Source.open(scratch, spec, threads, None)


def goals_of(subjects: Mapping[str, Subject]) -> dict[str, Goal]:
    """The goal on every model: together, on the short sample, on the most threads that were tried."""
    found = {}
    for name, subject in subjects.items():
        widest = max(subject.texts[SHORT].timed, key=lambda timed: timed.threads)
        if TOGETHER in widest.documents_per_second:
            value = widest.documents_per_second[TOGETHER].median
            found[name] = Goal(value=value, at_least=GOAL, met=value >= GOAL)
    return found


def lines(content: TokenizingFile) -> list[str]:
    """The file for people."""
    found = []
    for name, subject in content.subjects.items():
        found.append(f"{name}: {subject.road}, {subject.pieces:,} pieces")
        for where, texts in subject.texts.items():
            bare = "" if texts.floor_differences is None else f"; the floor's in {texts.floor_differences}"
            found.append(
                f"  {where}, {texts.documents:,} texts of {texts.mean_tokens} tokens: other ids than "
                f"{texts.compared_with} in {texts.differences}{bare}"
            )
            for timed in texts.timed:
                told = [f"{road} {one.median:,.0f}" for road, one in timed.documents_per_second.items()]
                found.append(f"    {timed.threads} threads: {', '.join(told)}/s")
    for name, goal in content.goals.items():
        found.append(f"{name}: {goal.value:,.0f}/s, goal {goal.at_least:,.0f}: {'met' if goal.met else 'missed'}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; 2 where something the user gave is missing."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*", metavar="MODEL", help="exported model folders")
    parser.add_argument("--tokenizers", type=Path, help="folder with XLM-R's and mBERT's tokenizer files")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizing.json")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with both Parquet files")
    parser.add_argument("--documents", type=int, default=50_000, help="most texts of each kind [default: 50000]")
    parser.add_argument("--threads", type=int, nargs="+", help="[default: 1 and all]")
    parser.add_argument("--rounds", type=int, default=7, help="passes over the texts [default: 7]")
    parser.add_argument("--quick", action="store_true", help="400 texts, two rounds: a smoke test")
    options = parser.parse_args(given)
    started = perf_counter()
    subjects = {}
    try:
        if not options.models and options.tokenizers is None:
            raise InputError("nothing to time", hint="name a model folder, or give --tokenizers")
        texts = texts_of(options.data, 400 if options.quick else options.documents)
        threads = options.threads or sorted({1, cores()})
        with TemporaryDirectory() as scratch:
            for name, source in sources_of(options, threads, Path(scratch)):
                rounds = 2 if options.quick else options.rounds
                found = {where: measure(source, some, rounds) for where, some in texts.items()}
                tokenizer = next(iter(source.tokenizers.values()))
                subjects[name] = Subject(
                    road=type(tokenizer).__name__, pieces=tokenizer.vocabulary_size, texts=found
                )
                print(f"{perf_counter() - started:5.0f} s  {name}", file=sys.stderr, flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    content = TokenizingFile(
        command=" ".join(["python benchmarks/tokenizing.py", *given]),
        hardware=hardware(),
        subjects=subjects,
        goals=goals_of(subjects),
    )
    write_atomically(options.out / "tokenizing.json", (content.model_dump_json(indent=1) + "\n").encode())
    print("\n".join(lines(content)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
