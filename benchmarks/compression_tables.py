"""One page and one summary of what compression costs and gains, from the results that lie in a folder.

    python benchmarks/compression_tables.py docs/results/compression

Reads what FOLDER holds: losses/ablation.json and, for the teacher's own score, losses/report.json (`polyfold
ablate` and `polyfold run` on recipes/compression/losses.yaml), pruning-encoder/report.json, pruning-
transformer/dev.json, quantization/report.json, reference/report.json, vocabulary.json, model_size.json and
speed.json; and the trimmed rows of ../feedback/report.json. What is not there is said to be missing. Writes
FOLDER/README.md, its plots as SVG, and FOLDER/summary.json: every figure with its goal and the command that made
it. No figure and no verdict is typed by hand. Takes seconds.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from compression_forms import SIZE_COMMAND, quantization, trimming
from compression_inputs import Inputs, read_inputs
from compression_page import MOST_DEGRADATION_PERCENT, Section, ablation_command, run_command
from compression_pruning import LEAST_SAVING, pruning_encoder, pruning_transformer
from compression_students import losses, reference
from polyfold.artifact import write_atomically
from polyfold.errors import InputError
from polyfold.measure.tables import ABSENT
from results_page import grid, is_met, machine_line
from summarize import Figure, write_summary

PAGE, SUMMARY = "README.md", "summary.json"


def sections(inputs: Inputs) -> list[Section]:
    """All sections in the order of the page."""
    made = (reference, losses, pruning_encoder, pruning_transformer, trimming, quantization)
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
    lines = ["# Results: compression", "", f"Made by `{command}` from the files beside it.", "", "## In short", ""]
    lines += [f"- {line}" for part in parts for line in part.short]
    lines += ["", *_rules(), "", *_goals(figures(parts))]
    for part in parts:
        lines += [f"## {part.title}", "", *part.lines]
    return "\n".join([*lines, *_origin(inputs)]).rstrip() + "\n"


def _rules() -> list[str]:
    return [
        "Degradation is the mean over tasks of the relative loss of macro-F1 against the whole model. A row is",
        "**dominated** where another one is as good (mean macro-F1) with no more FLOPs, bytes and rounds of"
        " training, not",
        "slower beyond the spread of the measurements, and better in one of these. Any other **earns its"
        " place** if it",
        f"loses at most {MOST_DEGRADATION_PERCENT} % and, where something was cut, saves"
        f" {100 * LEAST_SAVING:.0f} % or more of FLOPs, bytes or time. Verdicts compare",
        "point estimates; only the distillation losses have several seeds. What was pruned or quantized in"
        " training had",
        "more steps than the whole model: a gain over it is not the cut's. The name of a cut ends with what"
        " stays, as a",
        "count or in percent (of `flops-` rows: of all FLOPs).",
    ]


def _goals(found: Mapping[str, Figure]) -> list[str]:
    asked = {name: one for name, one in found.items() if one.goal is not None}
    if not asked:
        return []
    rows = [
        [
            f"`{name}`",
            f"{one.value:.2f}",
            str(one.goal),
            "met" if is_met(one.value, str(one.goal)) else "**missed**",
        ]
        for name, one in asked.items()
    ]
    return ["## Goals", "", *grid(["figure", "value", "goal", ""], rows, (0, 3))]


def _origin(inputs: Inputs) -> list[str]:
    """Commands, seeds and machines: without them no figure means anything."""
    rows: list[tuple[str, str, str, str, str]] = []
    if inputs.ablation is not None:
        seeds, made = ", ".join(map(str, inputs.ablation.seeds)), ablation_command(inputs.ablation)
        rows.append(("distillation losses", "test", seeds, made, "not recorded"))
    for report in (inputs.losses, inputs.encoder, inputs.reference, inputs.quantization, inputs.feedback):
        if report is not None:
            rows.append(
                (report.name, "test", str(report.seed), run_command(report), machine_line(report.hardware))
            )
    if inputs.transformer is not None:
        made = f"polyfold run {inputs.transformer.recipe} --out runs/compression"
        rows.append(("pruning-transformer", "dev", "one", made, "not recorded"))
    if inputs.vocabulary is not None:
        rows.append(("vocabularies", "test texts", ABSENT, inputs.vocabulary.command, "any: these are counts"))
    if inputs.model_size is not None:
        rows.append(("MiniLM-L6 on disk", "nothing", ABSENT, SIZE_COMMAND, "any: these are sizes"))
    if inputs.speed is not None:
        made = inputs.speed.command
        rows.append(("speed of structures", "nothing", ABSENT, made, machine_line(inputs.speed.hardware)))
    columns = ("what", "scored on", "seeds", "command", "machine")
    lines = ["## Where this was measured", ""]
    cells = [[what, on, seeds, f"`{made}`", machine] for what, on, seeds, made, machine in rows]
    lines += grid(columns, cells, range(len(columns)))
    if inputs.speed is not None:
        speed = inputs.speed
        lines += [
            f"Pruned structures are timed in OpenVINO in fp32 (weights: {speed.weights}), in turns with the"
            f" whole one: medians over rounds, in brackets the least and the most. Real lengths: {speed.documents}"
            f" documents of {speed.mean_tokens:g} tokens on average ({speed.lengths}).",
            "",
        ]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, its plots and the summary; 2 where that cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of results, which the page is written to")
    given = parser.parse_args(arguments)
    command = " ".join(["python benchmarks/compression_tables.py", *(arguments or sys.argv[1:])])
    try:
        inputs = read_inputs(given.folder)
        parts = sections(inputs)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, drawing in ((name, drawing) for part in parts for name, drawing in part.plots.items()):
        write_atomically(given.folder / name, drawing.encode())
    found = figures(parts)
    write_summary(found, given.folder / SUMMARY)
    write_atomically(given.folder / PAGE, page(inputs, parts, command).encode())
    print(f"{len(found)} figures: {given.folder / SUMMARY}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
