"""What the growth curve's file says, how it is judged, and its plot."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from fresh import Spread
from growth_plot import Chart, draw_charts
from polyfold.system import Hardware

SETTLED = 40_000
"""Documents after which every buffer has been filled: two chunks of 8,192 and a window of 16,384 are in flight."""

ALLOWED = 32.0
"""Bytes of peak memory a further document may cost: a third of its text alone; 29 MB from 100,000 to a million."""

Measured = tuple[float, float, float]
"""Where a point lies, its documents a second and its peak memory in MB."""

FAR = 10
"""How many times more documents the last point must have, for a slope to say anything."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DocumentsPoint(_Part):
    """`polyfold predict` on so many documents; `labels_changed` of the first thousand, against the first point."""

    documents: int
    documents_per_second: Spread
    peak_memory_mb: Spread
    mean_text_bytes: float
    labels_changed: int


class MemoryVerdict(_Part):
    """Whether memory is flat: None where the points lie too close together to tell."""

    from_documents: int
    to_documents: int
    from_mb: float
    to_mb: float
    bytes_per_document: float
    allowed_bytes_per_document: float
    flat: bool | None


class Documents(_Part):
    """`further_...`: by a point's documents, between it and the one before, so without the command's start."""

    format: str
    points: list[DocumentsPoint]
    further_documents_per_second: dict[int, float]
    further_bytes_per_document: dict[int, float]
    memory: MemoryVerdict


class TokensPoint(_Part):
    """Dense documents of one length."""

    tokens: int
    documents_a_batch: int
    documents_per_second: Spread
    tokens_per_second: Spread
    one_document_ms: Spread
    peak_memory_mb: Spread


class Tokens(_Part):
    """`positions` is the length of the model's position table, `model_reads` where it cuts real texts."""

    token_budget: int
    positions: int | None
    model_reads: int
    points: list[TokensPoint]


class TasksPoint(_Part):
    """A model of so many tasks, `asked` of them asked for; `objects_per_second` builds every Prediction."""

    tasks: int
    asked: int
    documents_per_second: Spread
    objects_per_second: Spread
    peak_memory_mb: Spread


class Tasks(_Part):
    """`speed_kept`: documents a second with the most tasks as a share of those with the fewest."""

    documents: int
    points: list[TasksPoint]
    speed_kept: float


class GrowthFile(_Part):
    """All of growth.json; an axis that was not measured is null."""

    command: str
    hardware: Hardware
    documents: Documents | None
    tokens: Tokens | None
    tasks: Tasks | None


def memory_verdict(points: Sequence[DocumentsPoint]) -> MemoryVerdict:
    """The slope from the first settled point (else the first) to the last, against what is allowed."""
    ordered = in_order(points)
    settled = [point for point in ordered if point.documents >= SETTLED] or ordered
    start, end = settled[0], ordered[-1]
    slope = bytes_per_document(start, end)
    telling = start.documents >= SETTLED and end.documents >= FAR * start.documents
    return MemoryVerdict(
        from_documents=start.documents,
        to_documents=end.documents,
        from_mb=start.peak_memory_mb.median,
        to_mb=end.peak_memory_mb.median,
        bytes_per_document=round(slope, 2),
        allowed_bytes_per_document=ALLOWED,
        flat=slope <= ALLOWED if telling else None,
    )


def in_order(points: Sequence[DocumentsPoint]) -> list[DocumentsPoint]:
    """Fewer documents first."""
    return sorted(points, key=lambda point: point.documents)


def bytes_per_document(start: DocumentsPoint, end: DocumentsPoint) -> float:
    """Peak memory that each document between two points has cost; 0 where there are none."""
    apart = end.documents - start.documents
    return (end.peak_memory_mb.median - start.peak_memory_mb.median) * 1e6 / apart if apart else 0.0


def slopes(points: Sequence[DocumentsPoint]) -> dict[int, float]:
    """Bytes a document from each point to the next."""
    return {end.documents: round(bytes_per_document(start, end), 2) for start, end in pairwise(in_order(points))}


def marginal(walls: Mapping[int, float]) -> dict[int, float]:
    """Documents a second of the documents that a point has more than the one before it; seconds by documents."""
    counts = sorted(walls)
    return {
        more: round((more - fewer) / (walls[more] - walls[fewer]), 2)
        for fewer, more in pairwise(counts)
        if walls[more] > walls[fewer]
    }


def speed_kept(points: Sequence[TasksPoint]) -> float:
    """Speed of the most tasks as a share of that of the fewest, all of them asked."""
    whole = sorted((point for point in points if point.asked == point.tasks), key=lambda point: point.tasks)
    return round(whole[-1].documents_per_second.median / whole[0].documents_per_second.median, 4)


def lines(content: GrowthFile) -> Iterator[str]:
    """The file for people."""
    if content.documents is not None:
        for one in content.documents.points:
            yield (
                f"{one.documents:>9,} documents: {one.documents_per_second.median:8,.0f}/s, "
                f"peak {one.peak_memory_mb.median:.0f} MB, {one.labels_changed} labels changed"
            )
        memory = content.documents.memory
        said = {True: "flat", False: "grows", None: "too few documents to tell"}[memory.flat]
        yield (
            f"memory from {memory.from_documents:,} to {memory.to_documents:,} documents: "
            f"{memory.bytes_per_document:g} bytes a document ({ALLOWED:g} allowed): {said}"
        )
    if content.tokens is not None:
        for length in content.tokens.points:
            yield (
                f"{length.tokens:>9,} tokens: {length.documents_per_second.median:8,.0f}/s, "
                f"one in {length.one_document_ms.median:.2f} ms, peak {length.peak_memory_mb.median:.0f} MB"
            )
    if content.tasks is not None:
        for heads in content.tasks.points:
            yield (
                f"{heads.asked:>3} of {heads.tasks:>2} tasks: {heads.documents_per_second.median:8,.0f}/s, "
                f"as objects {heads.objects_per_second.median:,.0f}/s, peak {heads.peak_memory_mb.median:.0f} MB"
            )


def draw(content: GrowthFile) -> str:
    """Speed above, memory below, an axis a column."""
    columns: list[tuple[str, list[Measured]]] = []
    if content.documents is not None:
        columns.append(("documents in the file", [_at(one.documents, one) for one in content.documents.points]))
    if content.tokens is not None:
        dense = [_at(one.tokens, one) for one in content.tokens.points]
        columns.append(("tokens a document (dense, without tokenizing)", dense))
    if content.tasks is not None:
        whole = [_at(one.tasks, one) for one in content.tasks.points if one.asked == one.tasks]
        columns.append(("tasks", whole))
    speed = [Chart([(x, y) for x, y, _ in found], title, "documents/s") for title, found in columns]
    memory = [Chart([(x, y) for x, _, y in found], title, "peak memory, MB", True) for title, found in columns]
    return draw_charts("Speed and memory as work grows", [speed, memory])


def _at(place: int, point: DocumentsPoint | TokensPoint | TasksPoint) -> Measured:
    return place, point.documents_per_second.median, point.peak_memory_mb.median
