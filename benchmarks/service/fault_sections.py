"""The sections that faults.json and soak.json are made into."""

from polyfold.measure.markdown import escape
from polyfold.measure.tables import ABSENT, figure

from ..results_page import grid
from .plot import Line, Panel, Place, draw
from .results import FaultRow, FaultsFile, SoakFile
from .section import ALL, BYTES_A_REQUEST, NONE, SOAK_REQUESTS, Section, facts_cell, told

MEMORY_PLOT = "memory.svg"


def faults(found: FaultsFile) -> Section:
    """One row a fault."""
    section = Section("Faults")
    rows = []
    for row in found.rows:
        rows.append(
            [
                row.fault, row.injected, f"{row.tally.sent:,}", f"{row.tally.acknowledged:,}",
                f"{row.tally.refused:,}", f"{row.excused:,}", f"{row.lost:,}", _recovered(row),
                _ms(row.p99_before_ms), _ms(row.p99_fault_ms), _verdict(row),
            ]
        )  # fmt: skip
        base = f"fault.{row.name}"
        section.add(f"{base}.lost", row.lost, row.command, f"{row.fault}: lost", NONE)
        section.add(f"{base}.survived", float(row.survived), row.command, f"{row.fault}: survived", ALL)
        section.add(f"{base}.sent", row.tally.sent, row.command, f"{row.fault}: requests sent")
        section.add(f"{base}.acknowledged", row.tally.acknowledged, row.command, f"{row.fault}: acknowledged")
        if row.recovered_s is not None:
            section.add(f"{base}.recovered_s", row.recovered_s, row.command, f"{row.fault}: recovered after, s")
        for name, value in row.facts.items():
            if not isinstance(value, str):
                section.add(f"{base}.{name}", value, row.command, f"{row.fault}: {name.replace('_', ' ')}")
    columns = ["fault", "how injected", "sent", "acknowledged", "refused", "excused", "lost", "recovered after, s",
               "p99 before, ms", "p99 in the 2 s after, ms", ""]  # fmt: skip
    survived = sum(row.survived for row in found.rows)
    section.short.append(
        f"**Faults**: {survived} of {len(found.rows)} survived, {sum(r.lost for r in found.rows)} lost."
    )
    section.lines = [
        f"A server of `{found.model}` each, and an open loop of {figure(found.rate)} single texts a second beside "
        "the fault, with probabilities, every answer checked. *Refused* are answers with 4xx or 5xx and a code, "
        "on purpose. *Excused* are requests without an answer that the fault explains: sent to a server that "
        "was told to stop or killed, and not acknowledged. *Lost* is all else that went without its own answer. "
        "*Recovered* is when all later quarter-seconds are as before again: every request answered with 2xx, p99 "
        "within three times that of before, or 50 ms; 0 where none was otherwise.",
        "",
        *grid(columns, rows, (0, 1, 10)),
        "What was seen besides:",
        "",
        *(f"- {row.fault}: {facts_cell(row.facts)}." for row in found.rows if row.facts),
        "",
    ]
    return section


def _ms(value: float | None) -> str:
    return ABSENT if value is None else figure(value)


def _recovered(row: FaultRow) -> str:
    if row.recovered_s is not None:
        return figure(row.recovered_s) if row.recovered_s else "0"
    return f"ended in {figure(float(row.facts['exit_s']))}" if "exit_s" in row.facts else ABSENT


def _verdict(row: FaultRow) -> str:
    return "survived" if row.survived else f"**not survived**: {escape(row.problem or f'{row.lost} lost')}"


def soak(found: SoakFile) -> Section:
    """Memory over very many requests."""
    section = Section(f"Memory over {found.requests:,} requests")
    command, tally = found.command, found.tally
    first, last = found.samples[0], found.samples[-1]
    warm = next(one for one in found.samples if one.requests >= found.warm)
    section.add("soak.requests", found.requests, command, "soak: requests sent", SOAK_REQUESTS)
    section.add(
        "soak.lost_or_mixed_up", tally.bad, command, "soak: answers lost, mixed up, wrong, duplicated", NONE
    )
    section.add(
        "soak.bytes_a_request", found.bytes_a_request_high, command,
        "soak: memory a request, bytes (upper end of the 95 % interval)", BYTES_A_REQUEST,
    )  # fmt: skip
    section.add(
        "soak.bytes_a_request_fitted", found.bytes_a_request, command, "soak: memory a request, bytes (fitted)"
    )
    section.add("soak.requests_per_second", found.requests_per_second, command, "soak: requests/s")
    section.add("soak.memory_mb_first", first.resident_mb, command, "soak: memory when ready, MB")
    section.add("soak.memory_mb_last", last.resident_mb, command, "soak: memory at the end, MB")
    section.add("soak.open_files_last", last.open_files, command, "soak: open files at the end")
    interval = f"{told(found.bytes_a_request_low)} to {told(found.bytes_a_request_high)}"
    section.short.append(
        f"**Memory** over {found.requests:,} requests: {told(found.bytes_a_request)} bytes a request "
        f"({interval}), {tally.bad} answers lost or mixed up."
    )
    section.lines = [
        f"`{found.model}`, {found.connections} connections with {found.depth} requests under way on each, "
        f"{figure(found.requests_per_second)} requests/s. Memory (RSS) is read between parts, while all is idle. "
        f"From {warm.requests:,} requests on it grows by **{told(found.bytes_a_request)} bytes a request** (least "
        f"squares, 95 % interval {interval}; it takes errors for independent): {figure(first.resident_mb)} "
        f"MB when ready, {figure(warm.resident_mb)} MB after the first {warm.requests:,}, "
        f"{figure(last.resident_mb)} MB at the end. Open files: {first.open_files} at first, {last.open_files} at "
        f"the end. Of {tally.sent:,} requests {tally.acknowledged:,} were answered, {tally.refused:,} refused, "
        f"{tally.lost:,} lost, {tally.mixed_up + tally.wrong:,} mixed up or wrong; exit code {found.exit_code}.",
        "",
        f"![Memory against requests]({MEMORY_PLOT})",
        "",
    ]
    points = [
        Place(one.requests / 1000, one.resident_mb, one.resident_mb, one.resident_mb) for one in found.samples
    ]
    panel = Panel(
        found.model, "thousand requests", "resident memory, MB", [Line("polyfold serve", points)], log=False
    )
    section.plots[MEMORY_PLOT] = draw("Memory of the server", [panel])
    return section
