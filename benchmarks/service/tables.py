"""The page, the plots and the summary, from what lies in the folder of results; no figure is typed by hand."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from polyfold.artifact import write_atomically
from polyfold.errors import InputError
from polyfold.measure.markdown import escape
from polyfold.measure.tables import ABSENT, figure

from ..results_page import grid, is_met, machine_line, not_measured, read_content
from .fault_sections import faults, soak
from .load_sections import load_sections
from .results import FAULTS, LOAD, SOAK, FaultsFile, LoadFile, SoakFile
from .section import BYTES_A_REQUEST, Entry, Section, told

PAGE, SUMMARY = "README.md", "summary.json"
ABSOLUTE = re.compile(r"(?:^|[\s=,])/\w")


@dataclass(frozen=True)
class Inputs:
    """Everything that the folder holds; None for what is not there (yet)."""

    load: LoadFile | None
    faults: FaultsFile | None
    soak: SoakFile | None


def read_inputs(folder: Path) -> Inputs:
    """Read what there is; InputError where there is nothing, or where a file is not what it should be."""
    found = Inputs(
        read_content(folder / LOAD, LoadFile),
        read_content(folder / FAULTS, FaultsFile),
        read_content(folder / SOAK, SoakFile),
    )
    if found == Inputs(None, None, None):
        raise InputError("there are no results of a service here", file=folder, hint="measure some first")
    return found


def sections(inputs: Inputs) -> list[Section]:
    """All sections in the order of the page."""
    parts = [Section("Load", lines=not_measured(LOAD))] if inputs.load is None else load_sections(inputs.load)
    parts.append(Section("Faults", lines=not_measured(FAULTS)) if inputs.faults is None else faults(inputs.faults))
    parts.append(Section("Memory", lines=not_measured(SOAK)) if inputs.soak is None else soak(inputs.soak))
    return parts


def entries_of(parts: Sequence[Section]) -> dict[str, Entry]:
    """Every figure of the page, under names that stand once."""
    found: dict[str, Entry] = {}
    for part in parts:
        assert not found.keys() & part.entries.keys()
        found |= part.entries
    return found


def page(inputs: Inputs, parts: Sequence[Section], command: str) -> str:
    """The whole page in GitHub's Markdown."""
    found = entries_of(parts)
    asked = {name: one for name, one in found.items() if one.figure.goal is not None}
    met = sum(is_met(one.figure.value, one.figure.goal or "") for one in asked.values())
    lines = ["# Results: the service", "", f"Made by `{command}` from the files beside it.", "", "## In short", ""]
    lines += [
        f"- **{met} of {len(asked)} goals measured are met.**",
        *(f"- {s}" for part in parts for s in part.short),
    ]
    lines += ["", *_goals(asked)]
    for part in parts:
        lines += [f"## {part.title}", "", *part.lines]
    return "\n".join([*lines, *_origin(inputs)]).rstrip() + "\n"


def _goals(asked: Mapping[str, Entry]) -> list[str]:
    commands = list(dict.fromkeys(one.figure.command for one in asked.values()))
    rows = []
    for name, one in asked.items():
        value, goal = one.figure.value, one.figure.goal or ""
        verdict = "met" if is_met(value, goal) else "**missed**"
        if not is_met(value, goal) and one.most is not None and not is_met(one.most, goal):
            verdict = "**missed**: beyond the ceiling"
        most = ABSENT if one.most is None else figure(one.most)
        made = f"[{commands.index(one.figure.command) + 1}]"
        rows.append([f"`{name}`", escape(one.what), told(value), goal, verdict, most, made])
    columns = ["figure", "what", "value", "goal", "", "ceiling", "made by"]
    return [
        "## Goals",
        "",
        *grid(columns, rows, (0, 1, 4, 6)),
        f"`soak.bytes_a_request`: {BYTES_A_REQUEST} is less than the smallest object a request could leave.",
        "",
        "Made by:",
        "",
        *(f"{number}. `{command}`" for number, command in enumerate(commands, 1)),
        "",
        f"Every other figure, with its command, is in [{SUMMARY}]({SUMMARY}).",
        "",
    ]


def _origin(inputs: Inputs) -> list[str]:
    """Commands, machines and their state: without them no figure means anything."""
    rows = []
    for name, one in ((LOAD, inputs.load), (FAULTS, inputs.faults), (SOAK, inputs.soak)):
        if one is None:
            continue
        ran = one.rows[-1].command if isinstance(one, FaultsFile) and one.rows else getattr(one, "command", ABSENT)
        tools = ", ".join(f"{tool} {version}" for tool, version in one.versions.items())
        rows.append([f"`{name}`", f"`{ran}`", escape(machine_line(one.hardware)), one.hardware.system, tools])
    columns = ["file", "command", "machine", "system", "versions"]
    lines = ["## How each was measured", "", *grid(columns, rows, range(len(columns)))]
    return [*lines, *_code(inputs), *([] if inputs.load is None else _state(inputs.load))]


def _code(inputs: Inputs) -> list[str]:
    """Whether all was measured with the same code."""
    found = {one.code for one in (inputs.load, inputs.soak) if one is not None}
    found |= {row.code for row in (inputs.faults.rows if inputs.faults else ())}
    if len(found) == 1:
        return [f"- All with the same code (digest `{found.pop()}`)."]
    return [f"- **Beware:** measured with {len(found)} states of the code: {', '.join(sorted(found))}."]


def _state(found: LoadFile) -> list[str]:
    """The load's protocol, what state the machine was in, and what a reader must know."""
    protocol = found.protocol
    stolen = "not told" if found.stolen_percent is None else f"{found.stolen_percent:.2f} %"
    still = [load.stood_still_s for model in found.models for turn in model.turns for load in turn.loads]
    late = [load.latency_ms.late_p99 for model in found.models for turn in model.turns for load in turn.loads
            if load.latency_ms is not None and load.kind == "open" and not load.overloaded]  # fmt: skip
    facts = [
        f"`{LOAD}` was begun {found.begun} and took {found.seconds:,.0f} s; {found.resumed} of its turns are "
        "those of an earlier call that was interrupted.",
        f"{protocol.rounds} rounds; {protocol.seconds:g} s each load; servers and load generator share the cores. "
        "Each server is started anew for its turn, and ended after it.",
        *(f"{model.name}: `{model.folder}`, {model.precision}, {model.runtime}; {model.texts:,} distinct texts, "
          f"{model.mean_tokens:.1f} tokens on average." for model in found.models),
        f"Options of `polyfold serve`: {' '.join(protocol.options) or 'none, its defaults'}.",
        f"The load generator itself sent up to {max(late, default=0.0):.1f} ms late (the worst p99 of a load): "
        "that time is in the latencies.",
        f"The machine stood still for at most {max(still, default=0.0):.1f} s in a load (as the generator saw; "
        "more than a second is no server's fault).",
        f"Power and load before: {found.power_before.sentence()}.",
        f"Power and load after: {found.power_after.sentence()}.",
        f"Time the hypervisor gave to others: {stolen}.",
    ]  # fmt: skip
    return [*(f"- {fact}" for fact in facts), ""]


def main(folder: Path, command: str) -> int:
    """Write the page, its plots and the summary."""
    inputs = read_inputs(folder)
    parts = sections(inputs)
    found = entries_of(parts)
    for one in dict.fromkeys(entry.figure.command for entry in found.values()):
        if ABSOLUTE.search(one):
            print(f"warning: a path of this machine would be published: {one}", file=sys.stderr)
    for part in parts:
        for name, drawing in part.plots.items():
            write_atomically(folder / name, drawing.encode())
    content = {name: asdict(one.figure) for name, one in found.items()}
    write_atomically(folder / SUMMARY, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    write_atomically(folder / PAGE, page(inputs, parts, command).encode())
    print(f"{len(found)} figures: {folder / SUMMARY}")
    return 0
