"""What trimming to twelve languages does to XLM-R's and mBERT's true vocabularies: size, and texts cut otherwise.

    python benchmarks/vocabulary.py --data ../shared/data --tokenizers ../shared/tokenizers \\
        --out docs/results/compression

Pieces are counted on the train texts of DATA/feedback.parquet and on DATA/corpus.parquet, in the languages ar de
en es fr ja ko nl pt ru tr zh; the test texts of the former, which are counted nowhere, tell how many texts a
trimmed tokenizer cuts into other pieces, and how many have more unknown pieces than before. Sizes are of the
embedding table alone, 384 and 768 wide, in fp32 and in int8 (a byte a value and one fp32 scale a row), and of the
tokenizer's file. Writes OUT/vocabulary.json and OUT/vocabulary.md: figures only, never a text. Takes three minutes
of one core; `--corpus-limit` and `--test-limit` shorten it, and are written down with the results.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from polyfold.artifact import write_atomically
from polyfold.errors import InputError
from polyfold.model.pieces import Pieces
from polyfold.model.scripts import scripts_of
from polyfold.model.tokenizer_files import read_pieces
from polyfold.model.vocabulary import Text, changes, choose_pieces, count_by_language, trim_tokenizer
from polyfold.text import Encoding, Tokenizer, TokenizerSpec, open_tokenizer

LANGUAGES = ("ar", "de", "en", "es", "fr", "ja", "ko", "nl", "pt", "ru", "tr", "zh")
WIDTHS = (384, 768)
SCALE_BYTES = 4
WHOLE = sys.maxsize
TOKENIZERS: Mapping[str, tuple[str, TokenizerSpec]] = {
    "XLM-R": ("xlm-roberta", TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=1)),
    "mBERT": ("bert-base-multilingual-cased", TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=0)),
}


@dataclass(frozen=True)
class Setting:
    """One way to choose pieces, with the keys of the trim_vocabulary step; `counted` says on which texts."""

    counted: str = "all"
    coverage: float = 1.0
    size: int | None = None
    per_language: bool = False
    keep_characters: bool = True
    keep_scripts: bool = False

    @property
    def title(self) -> str:
        """As a row of the table has it."""
        parts = [f"coverage {self.coverage:g}"]
        parts += [f"size {self.size:,}"] if self.size is not None else []
        parts += ["per language"] if self.per_language else []
        parts += [] if self.keep_characters else ["characters that occur only"]
        parts += ["all pieces of the scripts"] if self.keep_scripts else []
        return ", ".join(parts)


# Which parts of the texts are counted: train texts, and the corpus in four parts of one document in four each.
COUNTED: Mapping[str, tuple[int, ...]] = {
    "train": (0,),
    "train, corpus / 4": (0, 1),
    "train, corpus / 2": (0, 1, 2),
    "all": (0, 1, 2, 3, 4),
}
SETTINGS = (
    *(Setting(counted=counted) for counted in COUNTED),
    Setting(coverage=0.99999),
    Setting(coverage=0.9999),
    Setting(coverage=0.9999, per_language=True),
    Setting(coverage=0.999),
    Setting(coverage=0.999, per_language=True),
    Setting(coverage=0.99),
    Setting(coverage=0.99, per_language=True),
    Setting(size=60_000),
    Setting(size=40_000),
    Setting(size=40_000, per_language=True),
    Setting(size=40_000, keep_characters=False),
    Setting(size=30_000),
    Setting(size=30_000, keep_characters=False),
    Setting(keep_scripts=True),
)


@dataclass(frozen=True)
class Result:
    """A trimmed tokenizer's size, and what it did to the test texts; shares 0..1, megabytes of 1e6 bytes."""

    tokenizer: str
    counted: str
    setting: str
    pieces: int
    table_mb: dict[str, float]
    tokenizer_mb: float
    changed: float
    gained_unknown: float
    tokens_ratio: float
    changed_by_language: dict[str, float]
    gained_unknown_by_language: dict[str, float]


@dataclass(frozen=True)
class Texts:
    """Train, corpus and test texts, each with its language."""

    train: Sequence[Text]
    corpus: Sequence[Text]
    test: Sequence[Text]


def read_texts(data: Path, corpus_limit: int | None, test_limit: int | None) -> Texts:
    """The texts in our languages; with a limit, that many drawn evenly over the file."""
    feedback, corpus = (_read(data / name) for name in ("feedback.parquet", "corpus.parquet"))
    train = [one[:2] for one in feedback if one[2] == "train"]
    test = [one[:2] for one in feedback if one[2] == "test"]
    return Texts(train, _spread([one[:2] for one in corpus], corpus_limit), _spread(test, test_limit))


def _read(path: Path) -> list[tuple[str, str, str]]:
    if not path.is_file():
        raise InputError("there is no such file", file=path, hint="say where the benchmark's data lies: --data")
    names = [name for name in ("lang", "text", "split") if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=names)
    table = table.filter(pc.is_in(table["lang"], value_set=pa.array(LANGUAGES)))
    splits = table["split"].to_pylist() if "split" in names else [""] * len(table)
    return list(zip(table["lang"].to_pylist(), table["text"].to_pylist(), splits, strict=True))


def trial(
    name: str, folder: Path, spec: TokenizerSpec, texts: Texts, settings: Sequence[Setting]
) -> Iterator[Result]:
    """The full tokenizer, then every setting."""
    full, pieces = open_tokenizer(folder, spec), read_pieces(folder, spec)
    old = _encode(full, texts.test)
    yield _result(
        name, ("", "the full vocabulary"), folder / spec.file, np.arange(len(pieces)), (old, old), full, texts
    )
    parts = [texts.train, *(texts.corpus[first::4] for first in range(4))]
    counts = [_stacked(count_by_language(full, part), len(pieces)) for part in parts]
    for setting in settings:
        counted = sum(counts[part] for part in COUNTED[setting.counted])
        keep = choose(pieces, np.asarray(counted), setting)
        with TemporaryDirectory() as scratch:
            trimmed, rows = trim_tokenizer(folder, spec, keep, Path(scratch))
            new = _encode(open_tokenizer(Path(scratch), trimmed), texts.test)
            file = Path(scratch) / trimmed.file
            yield _result(name, (setting.counted, setting.title), file, rows, (old, new), full, texts)


def choose(pieces: Pieces, counts: np.ndarray, setting: Setting) -> np.ndarray:
    """The ids that a setting keeps."""
    groups = counts if setting.per_language else counts.sum(axis=0)
    scripts, characters = scripts_of(LANGUAGES), setting.keep_characters
    return choose_pieces(pieces, groups, setting.coverage, setting.size, characters, scripts, setting.keep_scripts)


def _stacked(counts: Mapping[str, np.ndarray], size: int) -> np.ndarray:
    empty = np.zeros(size, dtype=np.int64)
    return np.stack([counts.get(language, empty) for language in LANGUAGES])


def _encode(tokenizer: Tokenizer, texts: Sequence[Text]) -> Encoding:
    return tokenizer.encode([text for _, text in texts], WHOLE)


def _spread(texts: Sequence[Text], limit: int | None) -> list[Text]:
    """So many texts, evenly over the file: its sources and languages lie one behind the other."""
    if limit is None or limit >= len(texts):
        return list(texts)
    return [texts[place] for place in np.linspace(0, len(texts) - 1, limit).astype(int)]


def _result(
    name: str,
    title: tuple[str, str],
    file: Path,
    rows: np.ndarray,
    encodings: tuple[Encoding, Encoding],
    full: Tokenizer,
    texts: Texts,
) -> Result:
    old, new = encodings
    found = changes(old.ids, new.ids, rows, full.unknown_id)
    languages = np.asarray([language for language, _ in texts.test])
    places = {language: languages == language for language in LANGUAGES}
    return Result(
        tokenizer=name,
        counted=title[0],
        setting=title[1],
        pieces=len(rows),
        table_mb={kind: round(size, 2) for kind, size in table_mb(len(rows)).items()},
        tokenizer_mb=round(file.stat().st_size / 1e6, 2),
        changed=_share(found.changed),
        gained_unknown=_share(found.gained_unknown),
        tokens_ratio=round(float(new.lengths.sum() / old.lengths.sum()), 5),
        changed_by_language={key: _share(found.changed[place]) for key, place in places.items()},
        gained_unknown_by_language={key: _share(found.gained_unknown[place]) for key, place in places.items()},
    )


def _share(flags: np.ndarray) -> float:
    return round(float(flags.mean()), 6) if len(flags) else 0.0


def table_mb(rows: int) -> dict[str, float]:
    """Megabytes of an embedding table by width and precision."""
    sizes = {}
    for width in WIDTHS:
        sizes[f"{width}_fp32"] = rows * width * 4 / 1e6
        sizes[f"{width}_int8"] = rows * (width + SCALE_BYTES) / 1e6
    return sizes


def markdown(results: Sequence[Result], facts: Mapping[str, object]) -> str:
    """One table of all results, with what it was measured on."""
    lines = [
        "# Trimmed vocabularies",
        "",
        f"Made by `{facts['command']}`.",
        "",
        f"Counted on {facts['train_texts']:,} train texts and {facts['corpus_texts']:,} texts of the corpus, in",
        f"{len(LANGUAGES)} languages ({' '.join(LANGUAGES)}).",
        "All single characters of their scripts stay, except where it says otherwise.",
        f"Changed: the share of {facts['test_texts']:,} test texts that are cut into other pieces than by the",
        "full vocabulary. New unknown: the share with more unknown pieces. In brackets the language with most.",
        "Tokens: in all test texts, against the full vocabulary's. Table: the embeddings, 384 and 768 wide.",
        "",
        "| tokenizer | counted on | kept by | pieces | table 384, fp32 / int8, MB | table 768, fp32 / int8, MB | "
        "file, MB | changed | new unknown | tokens |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        sizes = [f"{one.table_mb[f'{width}_fp32']:.1f} / {one.table_mb[f'{width}_int8']:.1f}" for width in WIDTHS]
        shares = [
            _percent(one.changed, one.changed_by_language),
            _percent(one.gained_unknown, one.gained_unknown_by_language),
        ]
        cells = [one.tokenizer, one.counted, one.setting, f"{one.pieces:,}", *sizes, f"{one.tokenizer_mb:.1f}"]
        lines.append(f"| {' | '.join([*cells, *shares, f'{one.tokens_ratio:.3f}'])} |")
    return "\n".join(lines) + "\n"


def _percent(share: float, by_language: Mapping[str, float]) -> str:
    worst = max(by_language, key=lambda language: by_language[language])
    named = f" ({worst} {by_language[worst]:.2%})" if by_language[worst] else ""
    return f"{share:.2%}{named}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every setting on every tokenizer; 2 where something the user gave is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with feedback.parquet and corpus.parquet")
    parser.add_argument("--tokenizers", type=Path, required=True, help="folder with the tokenizers (NAME.json.gz)")
    parser.add_argument("--out", type=Path, required=True, help="folder for vocabulary.json and vocabulary.md")
    parser.add_argument("--only", choices=list(TOKENIZERS), help="one tokenizer alone")
    parser.add_argument("--corpus-limit", type=int, help="so many texts of the corpus, evenly over the file")
    parser.add_argument("--test-limit", type=int, help="so many test texts, evenly over the file")
    given = parser.parse_args(arguments)
    try:
        texts = read_texts(given.data, given.corpus_limit, given.test_limit)
        results = []
        for name, (file, spec) in TOKENIZERS.items():
            if given.only in (None, name):
                for result in _on_file(name, given.tokenizers / f"{file}.json.gz", spec, texts):
                    told = f"{name}, {result.setting}: {result.pieces:,} pieces, {result.changed:.2%} changed"
                    print(told, file=sys.stderr, flush=True)
                    results.append(result)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    facts = {
        "command": " ".join(["python benchmarks/vocabulary.py", *(arguments or sys.argv[1:])]),
        "train_texts": len(texts.train),
        "corpus_texts": len(texts.corpus),
        "test_texts": len(texts.test),
        "languages": LANGUAGES,
    }
    content = {**facts, "results": [asdict(result) for result in results]}
    write_atomically(given.out / "vocabulary.json", (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(given.out / "vocabulary.md", markdown(results, facts).encode())
    return 0


def _on_file(name: str, packed: Path, spec: TokenizerSpec, texts: Texts) -> Iterator[Result]:
    if not packed.is_file():
        raise InputError("there is no such tokenizer", file=packed, hint="say where they lie: --tokenizers")
    with TemporaryDirectory() as folder:
        (Path(folder) / spec.file).write_bytes(gzip.decompress(packed.read_bytes()))
        yield from trial(name, Path(folder), spec, texts, SETTINGS)


if __name__ == "__main__":
    sys.exit(main())
