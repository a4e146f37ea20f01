"""One page and one summary of how fast everything is, from the results that lie in a folder.

    python benchmarks/speed_tables.py docs/results/speed

Reads what FOLDER holds and writes FOLDER/README.md, its plots as SVG, and FOLDER/summary.json: every figure with
its goal, its floor, the share of it that was reached, and the command that made it. What is not there is said to
be missing. No figure and no verdict is typed by hand. Takes seconds. The files, and what leaves them there:

    benchmark.json    polyfold benchmark MINILM_OPENVINO STUDENT_OPENVINO --bf16 --texts SAMPLE --out FOLDER
    student.json      polyfold compare TEACHER STUDENT_OPENVINO --data RECIPE --json FOLDER/student.json
    tokenizing.json   python benchmarks/tokenizing.py MINILM_OPENVINO --out FOLDER
    cold_start.json   python benchmarks/cold_start.py MINILM_OPENVINO --out FOLDER
    growth.json       python benchmarks/growth.py MINILM_OPENVINO --trunk MINILM_TORCH --out FOLDER
    training.json     python benchmarks/training_speed.py (see its --help)
    peers.json        python -m benchmarks.peers --transformers MINILM_TRANSFORMERS --out FOLDER (see its --help)
    gpu.json          python benchmarks/gpu.py FOLDER, on a machine with a GPU

Give the folders of models from the repository's root: commands are published as they were typed.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from polyfold.artifact import write_atomically
from polyfold.benchmark.results import Benchmark
from polyfold.benchmark.views import alerts
from polyfold.errors import InputError
from polyfold.measure.markdown import escape
from polyfold.measure.tables import ABSENT
from results_page import grid, is_met, machine_line
from speed_artifacts import arrivals, compare_command, costs, ladders, parts, quality, shares_in_words, throughput
from speed_inputs import (
    BENCHMARK,
    COLD_START,
    GPU,
    GROWTH,
    PEERS,
    STUDENT,
    TOKENIZING,
    TRAINING,
    Inputs,
    read_inputs,
)
from speed_page import GOALS, Figure, Section, share_cell, told
from speed_parts import cold_start, gpu, growth, peers, tokenizing, training

PAGE, SUMMARY = "README.md", "summary.json"
ABSOLUTE = re.compile(r"(?:^|[\s=])/\w")


def sections(inputs: Inputs) -> list[Section]:
    """All sections in the order of the page."""
    made = (
        throughput, quality, parts, ladders, arrivals, tokenizing, cold_start, growth, training, peers, gpu, costs
    )  # fmt: skip
    return [make(inputs) for make in made]


def figures(parts: Sequence[Section]) -> dict[str, Figure]:
    """Every figure of the page, under names that stand once."""
    found: dict[str, Figure] = {}
    for part in parts:
        assert not found.keys() & part.figures.keys()
        found |= part.figures
    return found


def page(inputs: Inputs, parts: Sequence[Section], command: str) -> str:
    """The whole page in GitHub's Markdown."""
    found = figures(parts)
    lines = ["# Results: speed", "", f"Made by `{command}` from the files beside it.", "", "## In short", ""]
    lines += [f"- {_count_goals(found)}", *(f"- {line}" for part in parts for line in part.short), ""]
    lines += [*_goals(inputs.folder, found), *shares_in_words(inputs)]
    for part in parts:
        lines += [f"## {part.title}", "", *part.lines]
    return "\n".join([*lines, *_unbounded(parts), *_origin(inputs)]).rstrip() + "\n"


def _count_goals(found: Mapping[str, Figure]) -> str:
    measured = {name: goal for name, goal in GOALS.items() if name in found}
    met = sum(is_met(found[name].value, goal.wanted) for name, goal in measured.items())
    return (
        f"**{met} of {len(measured)} goals measured are met**; {len(GOALS) - len(measured)} are not measured yet."
    )


def _goals(folder: Path, found: Mapping[str, Figure]) -> list[str]:
    """Every goal, the ones not measured among them, and the commands below."""
    commands = list(dict.fromkeys(found[name].command for name in GOALS if name in found))
    rows = []
    for name, goal in GOALS.items():
        row = [f"`{name}`", goal.what]
        if name in found:
            one = found[name]
            verdict = "met" if is_met(one.value, goal.wanted) else "**missed**"
            made = f"[{commands.index(one.command) + 1}]"
            row += [told(one.value), goal.wanted, verdict, share_cell(one.share_of_floor), made]
        else:
            where = f"not in `{goal.file}`" if (folder / goal.file).is_file() else f"no `{goal.file}`"
            row += [ABSENT, goal.wanted, f"not measured yet ({where})", ABSENT, ""]
        rows.append(row)
    columns = ["figure", "what", "value", "goal", "", "share of floor", "made by"]
    lines = ["## Goals", "", *grid(columns, rows, (0, 1, 4, 6)), "Made by:", ""]
    lines += [f"{number}. `{command}`" for number, command in enumerate(commands, 1)]
    return [*lines, "", "Every other figure, with its floor and command, is in [summary.json](summary.json).", ""]


def _unbounded(parts: Sequence[Section]) -> list[str]:
    """Which figures have no floor, and why."""
    reasons: dict[str, list[str]] = {}
    for part in parts:
        for name, why in part.unbounded.items():
            reasons.setdefault(why, []).append(name)
    if not reasons:
        return []
    bounded = sum(one.floor is not None for one in figures(parts).values())
    rows = [[why, f"{len(names)}", _examples(names)] for why, names in reasons.items()]
    return [
        "## Figures without a floor",
        "",
        f"{bounded} figures have one, these have none:",
        "",
        *grid(["why", "figures", "such as"], rows, (0, 2)),
    ]


def _examples(names: Sequence[str]) -> str:
    """The figures that carry a goal, and the first that does not."""
    chosen = [name for name in names if name in GOALS]
    chosen += [name for name in names if name not in GOALS][:1]
    return ", ".join(f"`{name}`" for name in chosen)


def _origin(inputs: Inputs) -> list[str]:
    """Commands, machines and their state: without them no figure means anything."""
    files = {
        BENCHMARK: inputs.benchmark, TOKENIZING: inputs.tokenizing, COLD_START: inputs.cold_start,
        GROWTH: inputs.growth, TRAINING: inputs.training, PEERS: inputs.peers, GPU: inputs.gpu,
    }  # fmt: skip
    rows = [
        [f"`{name}`", f"`{one.command}`", escape(machine_line(one.hardware)), one.hardware.system]
        for name, one in files.items()
        if one is not None
    ]
    if inputs.student is not None:
        made = compare_command(inputs.student)
        rows.append([f"`{STUDENT}`", f"`{made}`", "any: these are scores", ABSENT])
    columns = ["file", "command", "machine", "system"]
    lines = ["## How each was measured", "", *grid(columns, rows, range(len(columns)))]
    return [*lines, *([] if inputs.benchmark is None else _state(inputs.benchmark))]


def _state(found: Benchmark) -> list[str]:
    """The benchmark's texts, what state the machine was in, and what a reader must know."""
    texts, machine = found.texts, found.hardware
    stolen = "not told" if found.stolen_percent is None else f"{found.stolen_percent:.2f} %"
    libraries = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    facts = [
        f"`{BENCHMARK}` was begun {found.started} and took {found.seconds:,.0f} s, with Polyfold"
        f" {found.polyfold_version}, {machine.memory_gb:g} GB of memory; {libraries}.",
        f"Texts: {texts.used:,} of {texts.distinct:,} distinct ones, of {texts.given:,} in {escape(texts.source)};"
        f" tokens: mean {texts.mean_tokens:.1f}, median {texts.median_tokens:g}, most {texts.most_tokens}.",
        f"Power and load before: {found.power_before.sentence()}.",
        f"Power and load after: {found.power_after.sentence()}.",
        f"Time the hypervisor gave to others: {stolen}.",
        *(f"**Beware:** {escape(alert)}." for alert in alerts(found)),
        *(f"Note: {escape(note)}." for note in found.notes),
        *(f"Note on {escape(entry.name)}: {escape(note)}." for entry in found.entries for note in entry.notes),
    ]
    return [*(f"- {fact}" for fact in facts), ""]


def write_summary(found: Mapping[str, Figure], target: Path) -> None:
    """Write the figures, sorted by name."""
    content = {name: asdict(one) for name, one in found.items()}
    write_atomically(target, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, its plots and the summary; 2 where that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of results, which the page is written to")
    given = parser.parse_args(arguments)
    command = " ".join(["python benchmarks/speed_tables.py", *(arguments or sys.argv[1:])])
    try:
        inputs = read_inputs(given.folder)
        parts = sections(inputs)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = figures(parts)
    for one in dict.fromkeys(figure.command for figure in found.values()):
        if ABSOLUTE.search(one):
            print(f"warning: a path of this machine would be published: {one}", file=sys.stderr)
    for name, drawing in ((name, drawing) for part in parts for name, drawing in part.plots.items()):
        write_atomically(given.folder / name, drawing.encode())
    write_summary(found, given.folder / SUMMARY)
    write_atomically(given.folder / PAGE, page(inputs, parts, command).encode())
    print(f"{len(found)} figures: {given.folder / SUMMARY}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
