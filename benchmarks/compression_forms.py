"""The sections on forms of one model: its vocabulary trimmed, its numbers in fewer bits."""

from collections.abc import Mapping

import numpy as np

from compression_inputs import SPEED_NOISE, Inputs, Scored, Trimmed, dominators, quantized, tasks_of, trimmed
from compression_page import (
    DEAR,
    EARNS,
    MOST_DEGRADATION_PERCENT,
    SPEED_KEYS,
    Section,
    loss_in_words,
    lost,
    points,
    run_command,
)
from polyfold.measure.report import Report, Row
from polyfold.measure.tables import ABSENT, figure
from results_page import grid, listed
from summarize import plain

# Of vocabulary.md's rows, those that show how far one can go.
SHOWN_SETTINGS = (
    "the full vocabulary", "coverage 1", "coverage 0.99", "coverage 1, size 40,000", "coverage 1, size 30,000",
)  # fmt: skip
EVERYTHING = "coverage 1"
WHOLE = "(fp32)"
SIZE_COMMAND = (
    "python benchmarks/model_size.py --data ../shared/data --tokenizers ../shared/tokenizers"
    " --out docs/results/compression"
)


def trimming(inputs: Inputs) -> Section:
    """What trimming does to real vocabularies, to trained models, and to the smallest shape on disk."""
    section = Section("Trimming the vocabulary")
    _vocabularies(section, inputs)
    _trimmed_models(section, inputs)
    _sizes(section, inputs)
    return section


def _vocabularies(section: Section, inputs: Inputs) -> None:
    found = inputs.vocabulary
    if found is None:
        section.lines += ["Vocabularies are not measured yet: there is no `vocabulary.json`.", ""]
        return
    rows, told = [], []
    full = {one.tokenizer: one for one in found.results if not one.counted}
    for one in found.results:
        if one.counted not in ("", "all"):
            continue
        _vocabulary_figures(section, one, found.command)
        if one.setting in SHOWN_SETTINGS:
            sizes = [f"{one.table_mb['384_fp32']:.1f}", f"{one.table_mb['384_int8']:.1f}"]
            shares = [f"{100 * one.changed:.2f} %", f"{100 * one.gained_unknown:.3f} %", f"{one.tokens_ratio:.3f}"]
            rows.append([one.tokenizer, one.setting, f"{one.pieces:,}", *sizes, *shares])
        if one.setting == EVERYTHING:
            pieces = f"{full[one.tokenizer].pieces:,} to {one.pieces:,} pieces"
            told.append(f"{one.tokenizer} from {pieces} ({100 * one.changed:.1f} % of texts are cut otherwise)")
    columns = ["tokenizer", "kept", "pieces", "table 384 wide, fp32, MB", "int8, MB", "texts cut otherwise"]
    section.lines += grid([*columns, "with new unknown pieces", "tokens"], rows, (0, 1))
    section.lines += [
        f"Real tokenizers, twelve languages, {found.test_texts:,} test texts that were not counted; every"
        " setting is in [vocabulary.md](vocabulary.md).",
        "",
    ]
    section.short.append(f"**Vocabularies trimmed to what occurs** in twelve languages: {listed(told)}.")


def _vocabulary_figures(section: Section, one: Trimmed, command: str) -> None:
    name = f"vocabulary.{plain(one.tokenizer)}.{plain(one.setting)}"
    section.add(f"{name}.pieces", one.pieces, command)
    section.add(f"{name}.table_384_fp32_mb", one.table_mb["384_fp32"], command)
    section.add(f"{name}.texts_changed_percent", 100 * one.changed, command)
    section.add(f"{name}.texts_with_new_unknown_percent", 100 * one.gained_unknown, command)


def _trimmed_models(section: Section, inputs: Inputs) -> None:
    """Macro-F1 before and after, from every report that has a trimmed row."""
    rows, shares = [], []
    reports = [report for report in (inputs.feedback, inputs.quantization) if report is not None]
    found = [(report, *pair) for report in reports for pair in trimmed(report)]
    if not found:
        section.lines += ["No trained model was scored before and after trimming yet.", ""]
        return
    tasks = tuple(dict.fromkeys(task for _, before, _ in found for task in before.macro_f1 or {}))
    for report, before, after in found:
        old, new = before.macro_f1 or {}, after.macro_f1 or {}
        shares.append(100 * float(np.mean([1 - new[task] / old[task] for task in old])))
        command, name = run_command(report), f"trimming.{plain(report.name)}.{plain(before.name)}"
        for task, value in new.items():
            section.add(f"{name}.macro_f1_x100.{task}", 100 * value, command)
        section.add(f"{name}.degradation_percent", shares[-1], command)
        if after.size_mb is not None:
            section.add(f"{name}.size_mb", after.size_mb, command)
        changes = [f"{points(old[task])} → {points(new[task])}" if task in old else ABSENT for task in tasks]
        sizes = f"{figure(before.size_mb)} → {figure(after.size_mb)}"
        row = [f"{report.name}: {before.name}", *changes, f"{shares[-1]:.2f}", sizes, _flops(after)]
        rows.append([*row, _ratio_of_speeds(before, after)])
    columns = ["run: model", *tasks, "degradation %", "size, MB", "MFLOPs a document", "speed-up, real texts"]
    section.lines += grid(columns, rows)
    section.lines += [
        "Trained models in fp32 before and after, test macro-F1 × 100, one seed; degradation is against the"
        " same model"
        " untrimmed. A lookup costs no FLOPs: a trimmed model is smaller, and a speed-up beside 1 comes from"
        " caches or is noise.",
        "",
    ]
    verdict = "earns its place" if max(shares) <= MOST_DEGRADATION_PERCENT else "loses too much somewhere"
    span = f"{min(shares):.2f} to {max(shares):.2f} % of macro-F1"
    section.short.append(f"**Trimming trained models** {verdict}: {len(shares)} of them lost {span}.")


def _flops(row: Row) -> str:
    return figure(row.mflops_per_document)


def _ratio_of_speeds(before: Row, after: Row) -> str:
    if "real_text" not in before.speed or "real_text" not in after.speed:
        return ABSENT
    return f"{after.speed['real_text'].documents_per_second / before.speed['real_text'].documents_per_second:.2f}"


def _sizes(section: Section, inputs: Inputs) -> None:
    found = inputs.model_size
    if found is None:
        section.lines += ["The smallest shape on disk is not measured yet: there is no `model_size.json`.", ""]
        return
    forms = list(next(iter(found.size_mb.values())))
    rows = []
    for pieces, sizes in found.size_mb.items():
        for form, parts in sizes.items():
            # The goal is about the small file: of the other forms nothing was asked.
            goal = f"<= {found.goal_mb:g}" if form.startswith("int8") else None
            section.add(f"model_size.{pieces}.{plain(form)}.mb", parts["total"], SIZE_COMMAND, goal)
        rows.append([f"{int(pieces):,}", *(f"{sizes[form]['total']:.1f}" for form in forms)])
    section.lines += grid(["pieces", *forms], rows)
    section.lines += [
        "MB on disk, tokenizer included, of MiniLM-L6's shape (6 layers, 384 wide, random weights) over XLM-R's"
        f" pieces, trimmed to so many; the goal is at most {found.goal_mb:g} MB.",
        "",
    ]
    smallest = {pieces: min(parts["total"] for parts in sizes.values()) for pieces, sizes in found.size_mb.items()}
    most = max((int(pieces) for pieces, size in smallest.items() if size <= found.goal_mb), default=None)
    if most is not None:
        section.short.append(
            f"**MiniLM-L6 in int8** with {most:,} pieces is {smallest[str(most)]:.1f} MB on disk: the goal of"
            f" {found.goal_mb:g} MB is met."
        )


def quantization(inputs: Inputs) -> Section:
    """Every way to int8, in both runtimes, beside fp32, fp16 and bf16."""
    section = Section("Quantization")
    report = inputs.quantization
    if report is None:
        section.short = ["**Quantization** is not measured yet."]
        return section.missing("quantization/report.json")
    found, command = quantized(report), run_command(report)
    whole = report.row(report.quality_baseline)
    assert whole is not None and whole.macro_f1
    tasks = tasks_of([row for _, row in found])
    keys = tuple(dict.fromkeys(key for _, row in found for key in row.speedup))
    scores = [points(whole.macro_f1[task]) for task in tasks]
    first = ["teacher", "torch", *scores, points(whole.mean_macro_f1 or 0.0), ABSENT, figure(whole.size_mb)]
    rows = [[*first, *(ABSENT for _ in keys), "whole"]]
    for runtime in dict.fromkeys(runtime for runtime, _ in found):
        own = [row for one, row in found if one == runtime]
        by, verdicts = dominators(own), []
        for row in own:
            verdicts.append(_verdict(row, by))
            _quantized_figures(section, f"quantization.{runtime}.{plain(row.name)}", row, command)
            cells = [row.name, runtime, *(points(row.macro_f1[task]) for task in tasks), points(row.mean)]
            cells += [lost(row), figure(row.size_mb), *(_times(row, key) for key in keys)]
            rows.append([*cells, verdicts[-1]])
        earning = [_earning(row) for row, verdict in zip(own, verdicts, strict=True) if verdict == EARNS]
        dear = [f"`{row.name}`" for row, verdict in zip(own, verdicts, strict=True) if verdict == DEAR]
        section.short.append(
            f"**Quantization, {runtime}: what earns its place** is {listed(earning)}. More than"
            f" {MOST_DEGRADATION_PERCENT} % lost, but not dominated: {listed(dear)}. The rest is dominated."
        )
    speeds = [f"speed-up, {SPEED_KEYS.get(key, key)}" for key in keys]
    columns = ["form", "runtime", *tasks, "mean", "degradation %", "size, MB", *speeds, "verdict"]
    section.lines = [*grid(columns, rows, (0, 1, len(columns) - 1)), *_about(report, whole, found)]
    return section


def _about(report: Report, whole: Row, found: list[tuple[str, Scored]]) -> list[str]:
    flops = sorted({figure(row.mflops) for _, row in found if row.mflops})
    told = f" Every form has {listed(flops)} MFLOPs a document." if flops else ""
    return [
        f"Test macro-F1 × 100 on {whole.test_documents:,} documents, seed {report.seed} alone.{told} A speed-up is"
        " against the fp32 export in the same runtime and run; the report keeps no spread, so"
        f" {100 * SPEED_NOISE:.0f} % either way counts as noise. Quantizers laid out for TensorRT are timed on"
        " a processor here, which they are not made for.",
        "",
    ]


def _verdict(row: Scored, by: Mapping[str, str]) -> str:
    if row.name.endswith(WHOLE):
        return "baseline"
    if row.name in by:
        return f"dominated by {by[row.name]}"
    return EARNS if (row.degradation_percent or 0.0) <= MOST_DEGRADATION_PERCENT else DEAR


def _times(row: Scored, key: str) -> str:
    return f"{row.speedup[key].value:.2f}" if key in row.speedup else ABSENT


def _earning(row: Scored) -> str:
    speeds = [f"{ratio.value:.2f}x as fast" for ratio in list(row.speedup.values())[-1:]]
    return f"`{row.name}` ({listed([loss_in_words(row), f'{figure(row.size_mb)} MB', *speeds])})"


def _quantized_figures(section: Section, name: str, row: Scored, command: str) -> None:
    for task, value in row.macro_f1.items():
        section.add(f"{name}.macro_f1_x100.{task}", 100 * value, command)
    costs = (("degradation_percent", row.degradation_percent), ("size_mb", row.size_mb), ("mflops", row.mflops))
    for what, cost in costs:
        if cost is not None:
            section.add(f"{name}.{what}", cost, command)
    for key, ratio in row.speedup.items():
        section.add(f"{name}.speedup.{key}", ratio.value, command)
