"""A benchmark as tables of text: the console, Markdown and HTML only draw them."""

from collections.abc import Iterator

from polyfold.benchmark.results import Benchmark, Entry, Figure, Ladder
from polyfold.measure.speed import REAL_TEXT
from polyfold.measure.tables import ABSENT, Table, figure, speed_title

LADDERS: tuple[tuple[Ladder, str, str], ...] = (
    ("batch size", "Batch size", "Documents a batch, all positions real tokens; the model alone."),
    ("length", "Length", "Tokens a document, in batches of about as many tokens; the model alone."),
    ("token budget", "Token budget", "Tokens a batch on real texts, padding included; the whole predictor."),
    ("threads", "Threads", "Each number in a predictor of its own; floors at the peaks of as many threads."),
)

SPEED_NOTE = (
    "Medians over interleaved rounds, with the least and the most. Floor: operations over the measured peak or "
    "bytes of weights over the measured bandwidth, whichever takes longer, without padding; tokenizing, lookups, "
    "norms and activations count as free. Share: the floor's time over the measured time. Real texts go through "
    "the whole predictor, tokenizing included; latency is that of a batch for dense shapes and of one text for "
    "real ones. Agreement: label agreement with the reference given, else with the torch model of the same "
    "weights (fake quantizers and all), the least of all tasks; the next table has that before quantization too."
)


def tables(found: Benchmark) -> list[Table]:
    """Every table that has something to say, the most important first."""
    drawn = [
        speed(found), agreement(found), parts(found), *(ladder(found, *one) for one in LADDERS), arrivals(found),
        footprint(found), peaks(found),
    ]  # fmt: skip
    return [table for table in drawn if table.rows]


def speed(found: Benchmark) -> Table:
    """Each artifact under each key, the baseline first."""
    rows = []
    if found.baseline is not None:
        # Its padded side stands under the key that names it.
        for key, one in found.baseline.speed.items():
            rows.append((found.baseline.name, speed_title(key), *_figure_cells(one, "1", ABSENT)))
    for entry in found.entries:
        for key, one in entry.speed.items():
            rows.append((entry.name, speed_title(key), *_figure_cells(one, figure(one.speedup), agreed(entry))))
    columns = (
        "artifact", "work", "documents/s", "least–most", "speed-up", "floor, documents/s", "share %", "p50 ms",
        "p99 ms", "floor, ms", "share of p50 %", "agreement %",
    )  # fmt: skip
    return Table("Speed", columns, tuple(rows), SPEED_NOTE)


def _figure_cells(one: Figure, speedup: str, agreement_percent: str) -> tuple[str, ...]:
    timing = one.timing
    return (
        figure(timing.documents_per_second),
        f"{figure(timing.documents_per_second_least)}–{figure(timing.documents_per_second_most)}",
        speedup,
        figure(one.floor_documents_per_second),
        percent(one.share),
        figure(timing.latency_ms_p50),
        figure(timing.latency_ms_p99),
        figure(one.floor_latency_ms),
        percent(one.latency_share),
        agreement_percent,
    )


def agreement(found: Benchmark) -> Table:
    """By task, with each reference; the share of positives keeps a head that never fires from looking good."""
    rows = []
    for entry in found.entries:
        for one in entry.agreement:
            for task, value in one.label_agreement_percent.items():
                reference = f"{one.relation}: {one.reference} ({one.runtime}, {one.precision})"
                positives = one.positives_percent.get(task)
                cells = (f"{value:.2f}", figure(positives), f"{one.documents:,}")
                rows.append((entry.name, reference, task, *cells))
    columns = ("artifact", "reference", "task", "agreement %", "positives %", "texts")
    return Table("Label agreement", columns, tuple(rows), text_columns=3)


def parts(found: Benchmark) -> Table:
    """Where the whole predictor's time goes."""
    rows = tuple(
        (
            entry.name,
            figure(one.tokenizing.documents_per_second),
            figure(one.model.documents_per_second),
            percent(one.model_share),
            figure(one.whole_documents_per_second),
            f"{one.tokenizing_percent:.1f}",
            f"{one.model_percent:.1f}",
            f"{one.rest_percent:.1f}",
        )
        for entry in found.entries
        if (one := entry.breakdown) is not None
    )
    columns = (
        "artifact", "tokenizing, documents/s", "model, documents/s", "model's share of floor %",
        "whole, documents/s", "tokenizing % of the time", "model %", "rest %",
    )  # fmt: skip
    note = (
        "Real texts, each part alone. The rest is planning, padding and deciding; it falls below nought where "
        "parts overlap in the whole."
    )
    return Table("Parts of the predictor", columns, rows, note, text_columns=1)


def ladder(found: Benchmark, name: Ladder, title: str, note: str) -> Table:
    """One ladder's rungs by artifact."""
    rows = tuple(
        (
            entry.name,
            speed_title(point.key),
            f"{point.value:,}",
            figure(point.figure.timing.documents_per_second),
            f"{figure(point.figure.timing.documents_per_second_least)}–"
            f"{figure(point.figure.timing.documents_per_second_most)}",
            percent(point.figure.share),
            # A call of a token budget is a whole pass, whose latency means nothing.
            *(("", "") if name == "token budget" else _latency_cells(point.figure)),
            agreed(entry),
        )
        for entry in found.entries
        for point in entry.sweeps
        if point.ladder == name
    )
    columns = ("artifact", "work", name, "documents/s", "least–most", "share %", "p50 ms", "p99 ms", "agreement %")
    return Table(title, columns, rows, note)


def _latency_cells(one: Figure) -> tuple[str, str]:
    return figure(one.timing.latency_ms_p50), figure(one.timing.latency_ms_p99)


def arrivals(found: Benchmark) -> Table:
    """Latency under load."""
    rows = tuple(
        (
            entry.name,
            f"{one.load:g}",
            f"{one.together}",
            figure(one.arrivals_per_second),
            figure(one.answers_per_second),
            figure(one.latency_ms_p50),
            figure(one.latency_ms_p99),
            figure(one.latency_ms_p999),
            figure(one.latency_ms_most),
            percent(one.latency_share),
            f"{one.requests:,}",
            agreed(entry),
        )
        for entry in found.entries
        for one in entry.arrivals
    )
    columns = (
        "artifact", "load", "taken together", "arrivals/s", "answers/s", "p50 ms", "p99 ms", "p99.9 ms", "most ms",
        "share of p50 %", "requests", "agreement %",
    )  # fmt: skip
    note = (
        "Single texts arrive at random (Poisson) whether or not the one worker is free, at a multiple of what it "
        "answers one at a time; latency counts from the moment a text was due, waiting included."
    )
    return Table("Latency under load", columns, rows, note, text_columns=1)


def footprint(found: Benchmark) -> Table:
    """Size, memory, operations and energy."""
    rows = []
    for entry in found.entries:
        operations, energy = entry.operations, entry.energy
        rows.append(
            (
                entry.name,
                entry.runtime,
                entry.precision,
                entry.weights,
                f"{entry.parameters / 1e6:,.2f}",
                f"{entry.size_mb:,.1f}",
                figure(entry.memory_mb),
                figure(operations.of(128) / 1e6 if operations else None),
                figure(operations.weight_bytes / 1e6 if operations else None),
                figure(energy.joules_per_1000_documents if energy else None),
                figure(energy.watts if energy else None),
                figure(energy.idle_watts if energy else None),
            )
        )
    columns = (
        "artifact", "runtime", "precision", "weights", "parameters, M", "size, MB", "peak memory, MB",
        "MFLOP for 128 tokens", "weights a batch, MB", "joules for 1,000 texts", "watts", "watts at rest",
    )  # fmt: skip
    note = f"Energy counters: {found.power_before.energy_counters}."
    return Table("Size, memory, energy", columns, tuple(rows), note, text_columns=4)


def peaks(found: Benchmark) -> Table:
    """The machine's measured peaks."""
    rows = tuple(
        (
            f"{one.threads}",
            *(figure(one.gigaoperations_per_second[name]) for name in ("fp32", "bf16", "int8")),
            "; ".join(f"{each.megabytes:g} MB: {each.gigabytes_per_second:.0f}" for each in one.bandwidths),
        )
        for one in found.peaks
    )
    columns = ("threads", "fp32 GOP/s", "bf16 GOP/s", "int8 GOP/s", "reading GB/s by working set")
    note = "Large matrix products in OpenVINO and repeated reads, medians; a multiply-add is two operations."
    return Table("The machine's peaks", columns, rows, note, text_columns=1)


def agreed(entry: Entry) -> str:
    """The least agreement of all tasks with the closest reference; torch in fp32 is a reference itself."""
    if entry.agreement:
        return f"{entry.agreement[0].least:.2f}"
    return "itself" if (entry.runtime, entry.precision) == ("torch", "fp32") else ABSENT


def percent(share: float | None) -> str:
    """A share as percent, to two digits."""
    if share is None:
        return ABSENT
    if share < 0.0001:
        return "< 0.01"
    return f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.2g}"


def headline(found: Benchmark) -> Iterator[tuple[str, str]]:
    """The fastest artifact on real texts, and what stands behind the figures."""
    timed = [entry for entry in found.entries if REAL_TEXT in entry.speed]
    if timed:
        best = max(timed, key=lambda entry: entry.speed[REAL_TEXT].timing.documents_per_second)
        one = best.speed[REAL_TEXT]
        yield "fastest on real texts", best.name
        yield "documents a second", figure(one.timing.documents_per_second)
        yield "share of its floor", f"{percent(one.share)} %" if one.share is not None else ABSENT
        yield "one text, p50", f"{figure(one.timing.latency_ms_p50)} ms"
        if one.speedup is not None and found.baseline is not None:
            yield f"against {found.baseline.name}", f"{figure(one.speedup)} times"
    yield "distinct texts", f"{found.texts.used:,}"
