"""Documents for the growth curve: a corpus without end, no two texts of it equal, every prefix the same mix."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SLICE = 10_000
"""Texts held as Python strings at a time."""

COMPARED = 1_000
"""The first documents, whose labels are compared between points."""

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])
_NUMBERED = re.compile(r" #\d+$")


def scattered(count: int) -> Iterator[int]:
    """All of 0..count-1 in an order in which neighbours of the file lie far apart: steps of the golden ratio."""
    step = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, count) > 1:
        step += 1
    return (place * step % count for place in range(count))


def kept_rows(texts: pa.Array, most: int | None = None) -> np.ndarray:
    """Rows of distinct texts in scattered order, without those that look like ours with a number: int64 [n]."""
    seen: set[bytes] = set()
    rows: list[int] = []
    for row in scattered(len(texts)):
        text = texts[row].as_py()
        digest = blake2b(text.encode("utf8", "surrogatepass"), digest_size=16).digest()
        if digest in seen or _NUMBERED.search(text):
            continue
        seen.add(digest)
        rows.append(row)
        if len(rows) == most:
            break
    return np.asarray(rows, dtype=np.int64)


def slices(texts: pa.Array, kept: np.ndarray, documents: int) -> Iterator[list[str]]:
    """So many texts, a slice at a time: the corpus as it is, and from the second lap on with the lap's number.

    A kept text does not end in " #number" itself, so text and lap can be read off a document: no two are equal.
    """
    for start in range(0, documents, SLICE):
        places = np.arange(start, min(start + SLICE, documents))
        found = texts.take(pa.array(kept[places % len(kept)])).to_pylist()
        laps = (places // len(kept)).tolist()
        yield [text if lap == 0 else f"{text} #{lap}" for text, lap in zip(found, laps, strict=True)]


def write(path: Path, texts: pa.Array, kept: np.ndarray, documents: int) -> int:
    """Write them to a Parquet or JSONL file without ever holding them all; returns the texts' bytes in UTF-8."""
    size, number = 0, 0
    if path.suffix == ".parquet":
        with pq.ParquetWriter(path, SCHEMA) as writer:
            for part in slices(texts, kept, documents):
                ids = np.arange(number, number + len(part))
                writer.write_table(pa.table({"id": ids, "text": pa.array(part, pa.string())}, schema=SCHEMA))
                number, size = number + len(part), size + sum(len(text.encode()) for text in part)
        return size
    with path.open("w", encoding="utf8") as file:
        for part in slices(texts, kept, documents):
            file.writelines(
                json.dumps({"id": number + place, "text": text}, ensure_ascii=False) + "\n"
                for place, text in enumerate(part)
            )
            number, size = number + len(part), size + sum(len(text.encode()) for text in part)
    return size


def differing(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> int:
    """How many of the documents that both begin with got another answer."""
    return sum(one != other for one, other in zip(first, second, strict=False))
