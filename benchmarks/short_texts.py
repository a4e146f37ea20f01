"""The short test sample: the first thousand test documents of each core language by id, each text once.

    python benchmarks/short_texts.py ../shared/data runs/short-texts.parquet

writes it as a file with one column, `text`, for commands that read texts from files.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from polyfold.errors import InputError

LANGUAGES = ("ar", "de", "en", "es", "fr", "ja", "ko", "nl", "pt", "ru", "tr", "zh")
EACH = 1_000


def sample(rows: Iterable[Mapping[str, str]], each: int = EACH) -> list[str]:
    """Of rows with id, lang and text: the first `each` of every core language by id, in turns, each text once."""
    by_language: dict[str, list[tuple[str, str]]] = {language: [] for language in LANGUAGES}
    for row in rows:
        if row["lang"] in by_language:
            by_language[row["lang"]].append((row["id"], row["text"]))
    columns = [sorted(found)[:each] for found in by_language.values()]
    longest = max(map(len, columns), default=0)
    taken = (column[place][1] for place in range(longest) for column in columns if place < len(column))
    return list(dict.fromkeys(taken))


def short_sample(data: Path, most: int | None = None) -> list[str]:
    """Its distinct texts, languages in turns; numbered words where the benchmark's data are not here."""
    path = data / "feedback.parquet"
    if not path.is_file():
        return [" ".join(["word"] * (number % 30) + [str(number)]) for number in range(most or EACH)]
    table = pq.read_table(path, columns=["id", "lang", "text"], filters=[("split", "=", "test")])
    return sample(table.to_pylist())[:most]


def main(arguments: Sequence[str]) -> None:
    """Write the sample to a Parquet file."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        raise SystemExit(2)
    data, target = map(Path, arguments)
    if not (data / "feedback.parquet").is_file():
        raise InputError("the benchmark's data are not here", file=data / "feedback.parquet")
    texts = short_sample(data)
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts}), target)
    print(f"{target}: {len(texts):,} distinct texts")


if __name__ == "__main__":
    main(sys.argv[1:])
