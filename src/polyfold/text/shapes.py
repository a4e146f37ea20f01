"""Batches of few different shapes, since a runtime prepares for every new one and keeps what it prepared.

OpenVINO takes 50 to 130 ms and up to 3 MB for each pair of documents and tokens that it meets. With batches cut to
the longest document, 150,000 texts were 174 shapes and 703 MB, and more texts would have been more; on this ladder
they were about fifty, and no slower: 3 % more tokens, fewer preparations.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTHS = (*range(2, 33, 2), *range(36, 65, 4), *range(72, 129, 8), *range(144, 257, 16), *range(288, 513, 32))
"""Tokens a document is padded to, at most 3 % of the tokens of real texts on average."""

FEW_WIDTHS = (8, 16, 20, 24, 32, 48, 64, 80, 96, 128, 192, 256, 384, 512)
"""The same for small batches, whose numbers of documents differ as well. Mostly multiples of 16: OpenVINO's
attention takes what is left over of 16 one by one, so that a text of 31 tokens is dearer than one of 32."""

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Documents of a batch that is no full part. Powers of two alone left up to half of a batch empty."""

PART_TOKENS = 1024
"""What a stream is given at a time. More is no faster (MiniLM-L6, 128 tokens a document: 215 documents/s and core
with 8 at once, 205 with 32) and wants memory for what layers hand each other: 90 MB with 2,048."""


def padded_width(width: int, longest: int, widths: Sequence[int] = WIDTHS) -> int:
    """The next width on the ladder, but no more than the model reads; beyond the ladder the width itself."""
    place = bisect_left(widths, width)
    return max(width, min(widths[place], longest)) if place < len(widths) else width


def padded_rows(count: int, most: int) -> int:
    """The next number on the ladder, but no more than `most`, which is as many as there may be."""
    place = bisect_left(ROWS, count)
    return min(ROWS[place], most) if place < len(ROWS) else most


def full_rows(width: int) -> int:
    """Documents of a part of this width."""
    return max(1, PART_TOKENS // width)


@dataclass(frozen=True)
class Batch:
    """Documents (their places, int64 [batch]) and the width that all of them are padded to."""

    rows: np.ndarray
    width: int


def plan_shapes(lengths: np.ndarray, token_budget: int, longest: int) -> list[Batch]:
    """Group documents of like length in batches within `token_budget`, of as many as a width's parts hold.

    Every document is in exactly one batch, shortest first. What is left over of a width goes with the next, so
    only the last batch has an odd number. `longest` is what the model reads.
    """
    order = np.argsort(lengths, kind="stable")
    widest = int(lengths.max(initial=1))
    widths = sorted({padded_width(width, longest) for width in WIDTHS if width <= widest} | {widest})
    # Where the documents of each width end.
    bounds = np.searchsorted(lengths[order], widths, side="right")
    batches: list[Batch] = []
    start = 0
    for width, end in zip(widths, bounds.tolist(), strict=True):
        rows = _rows(width, token_budget)
        while end - start >= rows:
            batches.append(Batch(order[start : start + rows], width))
            start += rows
    rows = _rows(widest, token_budget)
    return batches + [Batch(order[place : place + rows], widest) for place in range(start, len(order), rows)]


def _rows(width: int, token_budget: int) -> int:
    """As many whole parts as the budget holds, or of one part what it holds."""
    parts = token_budget // PART_TOKENS
    return parts * full_rows(width) if parts else max(1, token_budget // width)
