"""The sections on students: with each distillation loss, and the reference student that was to be passed."""

from collections.abc import Mapping, Sequence

import numpy as np

from compression_inputs import FP32_BYTES, Inputs, students, tasks_of
from compression_page import (
    SPEED_KEYS,
    Section,
    ablation_command,
    lost,
    points,
    run_command,
)
from polyfold.measure.report import Report
from polyfold.measure.tables import ABSENT, figure
from polyfold.metrics import degradation_percent
from polyfold.study.ablate import FULL, LABELS, Contrast, VariantScore
from results_page import grid, listed
from summarize import plain

# What the reference student was seen to reach, macro-F1 x 100: the best student must be above it.
REFERENCE_GOALS: Mapping[str, float] = {"domain": 83.0, "sentiment": 56.8, "topics": 58.2}

ALL = "all losses"


def losses(inputs: Inputs) -> Section:
    """The student without a teacher and with each distillation loss."""
    section = Section("Distillation losses")
    found = inputs.ablation
    if found is None:
        return section.missing("losses/ablation.json")
    (student,) = {one.student for one in found.variants}
    tasks = tuple(found.variants[0].macro_f1)
    whole = _teacher(section, inputs.losses)
    rows: list[list[str]] = []
    earning: list[str] = []
    idle: list[str] = []
    if whole:
        scores = [whole[task] for task in tasks]
        rows.append(
            ["teacher", *map(points, scores), points(float(np.mean(scores))), *["" for _ in tasks], "", ""]
        )
    for one in sorted(found.variants, key=lambda one: one.variant != LABELS):
        pairs = [each for each in found.contrasts if each.language is None and each.variant_with == one.variant]
        lost = _variant_figures(section, one, pairs, whole, ablation_command(found))
        told, verdict = [_told(pair) for pair in pairs] or ["" for _ in tasks], "baseline"
        if pairs:
            earns = any(_clear(pair) > 0 for pair in pairs) and not any(_clear(pair) < 0 for pair in pairs)
            verdict = "yes" if earns else "no"
            (earning if earns else idle).append(f"`{_title(one)}` ({_gains(pairs)})")
        scores = [float(np.mean(one.macro_f1[task])) for task in tasks]
        rows.append([_title(one), *map(points, scores), points(_mean(one)), *told, lost, verdict])
    columns = ["trained on", *tasks, "mean", *(f"{task}, difference" for task in tasks), "degradation %"]
    section.lines = [
        *grid([*columns, "earns its place"], rows, (0, len(columns))),
        f"Test macro-F1 × 100 on {sum(found.documents.values()):,} documents, means over {len(found.seeds)} seeds."
        " A difference is against labels alone: helped or hurt where its paired bootstrap 95 % interval lies on"
        " one side of 0. Each loss has the recipe's weight. It earns its place where it helped on a task, and hurt"
        " on none, with every seed.",
        "",
        *_student_costs(inputs, student, whole is not None, section),
    ]
    means = {_title(one): _mean(one) for one in found.variants}
    best = max(means, key=lambda name: means[name])
    compared = ", ".join(f"{name} {points(value)}" for name, value in means.items() if name in (ALL, LABELS))
    section.short = [
        f"**Distillation losses that earn their place:** {listed(earning)}. Not so {listed(idle)}. The best"
        f" mean has `{best}` ({points(means[best])}; {compared})."
    ]
    return section


def _teacher(section: Section, report: Report | None) -> Mapping[str, float] | None:
    """The teacher's test macro-F1, where a report has it."""
    row = report.row(report.quality_baseline) if report is not None else None
    if report is None or row is None or not row.macro_f1:
        return None
    for task, value in row.macro_f1.items():
        section.add(f"losses.teacher.macro_f1_x100.{task}", 100 * value, run_command(report))
    return row.macro_f1


def _title(one: VariantScore) -> str:
    """A variant by what it is trained on."""
    return {FULL: ALL, LABELS: LABELS}.get(one.variant, " + ".join(one.losses))


def _mean(one: VariantScore) -> float:
    """Macro-F1 averaged over tasks and seeds."""
    return float(np.mean(list(one.macro_f1.values())))


def _variant_figures(
    section: Section, one: VariantScore, pairs: Sequence[Contrast], whole: Mapping[str, float] | None, command: str
) -> str:
    """Adds a variant's figures; its degradation as a cell."""
    name = f"losses.{one.student}.{plain(one.variant)}"
    scores = {task: float(np.mean(values)) for task, values in one.macro_f1.items()}
    for task, score in scores.items():
        section.add(f"{name}.macro_f1_x100.{task}", 100 * score, command)
    for pair in pairs:
        section.add(f"{name}.difference_x100.{pair.task}", 100 * pair.difference, command)
    if not whole:
        return ABSENT
    lost = degradation_percent({task: whole[task] for task in scores}, scores)
    section.add(f"{name}.degradation_percent", lost, command)
    return f"{lost:.2f}"


def _clear(pair: Contrast) -> int:
    """1 or -1 where a loss helped or hurt whatever the seed, else 0."""
    sign = {"helped": 1, "hurt": -1, "same": 0}[pair.verdict]
    return sign if all(sign * one > 0 for one in pair.by_seed) else 0


def _told(pair: Contrast) -> str:
    doubt = ", seeds differ" if pair.verdict != "same" and not _clear(pair) else ""
    return f"{100 * pair.difference:+.2f} {pair.verdict}{doubt}"


def _gains(pairs: Sequence[Contrast]) -> str:
    clear = [f"{one.task} {100 * one.difference:+.1f}" for one in pairs if _clear(one)]
    return listed(clear, "no clear difference")


def _size(inputs: Inputs, name: str) -> str:
    """A transformer's size in words."""
    config = inputs.structures[f"transformer/{name}"]
    return f"{config['num_hidden_layers']} layers, {config['hidden_size']} wide"


def _student_costs(inputs: Inputs, student: str, scored_teacher: bool, section: Section) -> list[str]:
    known = all(f"transformer/{name}" in inputs.structures for name in (student, "large"))
    student_size, teacher_size = (_size(inputs, name) for name in (student, "large")) if known else ("", "")
    lines = [f"The student has {student_size}; its teacher has {teacher_size}.", ""] if known else []
    found = inputs.speed.structures.get(f"transformer/{student}") if inputs.speed is not None else None
    if inputs.speed is None or found is None:
        lines += ["The student's size, FLOPs and speed are not measured yet (`speed.json`).", ""]
    else:
        size = found.parameters * FP32_BYTES / 1e6
        timed = found.speed
        for name, value in (("mflops", found.mflops_per_document), ("size_mb", size)):
            section.add(f"losses.{student}.{name}", value, inputs.speed.command)
        for key, one in timed.items():
            section.add(f"losses.{student}.speedup.{key}", one.speedup, inputs.speed.command)
        whole = inputs.speed.structures.get(found.whole)
        share = (
            f" ({100 * found.mflops_per_document / whole.mflops_per_document:.0f} % of the teacher's)"
            if whole
            else ""
        )
        speeds = ", ".join(f"{one.speedup:.2f}x ({SPEED_KEYS[key]})" for key, one in timed.items())
        lines += [
            f"Every variant is the same model: {size:,.0f} MB of fp32 weights, {found.mflops_per_document:,.0f}"
            f" MFLOPs a document of 128 tokens{share}, and against the teacher's structure {speeds} as fast.",
            "",
        ]
    if not scored_teacher:
        lines += [
            "The teacher's test score is not among the inputs (`losses/report.json`): degradation is left out.",
            "",
        ]
    return lines


def reference(inputs: Inputs) -> Section:
    """The reference student of the benchmark's README, repeated and passed (or not)."""
    section = Section("The reference student")
    report = inputs.reference
    if report is None:
        section.short = ["**The reference student** is not measured yet."]
        return section.missing("reference/report.json")
    rows, command = students(report), run_command(report)
    tasks, best = tasks_of(rows), max(rows[1:], key=lambda row: row.mean)
    table = []
    for row in rows:
        name = f"reference.{plain(row.name)}"
        for task, value in row.macro_f1.items():
            section.add(f"{name}.macro_f1_x100.{task}", 100 * value, command)
        for what, cost in (
            ("degradation_percent", row.degradation_percent),
            ("mflops", row.mflops),
            ("size_mb", row.size_mb),
        ):
            if cost is not None:
                section.add(f"{name}.{what}", cost, command)
        scores = [points(row.macro_f1[task]) for task in tasks]
        table.append([row.name, *scores, points(row.mean), lost(row), figure(row.size_mb), figure(row.mflops)])
    for task, value in best.macro_f1.items():
        goal = f"> {REFERENCE_GOALS[task]}" if task in REFERENCE_GOALS else None
        section.add(f"reference.best.macro_f1_x100.{task}", 100 * value, command, goal)
    quantized = _int8(inputs, section)
    if quantized:
        scores = [points(quantized[task]) for task in tasks]
        table.append([f"{best.name}, int8", *scores, points(sum(quantized.values()) / len(quantized)), *[""] * 3])
    wanted = [f"{REFERENCE_GOALS[task]}" if task in REFERENCE_GOALS else ABSENT for task in tasks]
    table.append(["to be passed", *wanted, *[""] * 4])
    columns = ["row", *tasks, "mean", "degradation %", "size, MB", "MFLOPs a document"]
    documents = sorted({f"{row.test_documents:,}" for row in report.rows if row.test_documents})
    trained = f" on {report.data.documents['train']:,} documents" if report.data is not None else ""
    section.lines = [
        *grid(columns, table),
        f"Test macro-F1 × 100 on {listed(documents)} documents, seed {report.seed} alone. The students are small"
        f" transformers, distilled without labels and then fine-tuned{trained}; the teacher is the embedded"
        " encoder,"
        " fine-tuned on the same. To be passed: what such a student was seen to reach before, by the best one.",
        "",
    ]
    met = [task for task in tasks if 100 * best.macro_f1[task] > REFERENCE_GOALS.get(task, 0.0)]
    missed = [task for task in tasks if task not in met]
    end = f"; not passed on {listed(missed)}" if missed else ""
    passed = [task for task in quantized if 100 * quantized[task] > REFERENCE_GOALS.get(task, 0.0)]
    after = f"; after quantization-aware training, in int8, on {listed(passed, 'no task')}" if quantized else ""
    first = f"**The reference student** is passed on {listed(met, 'no task')} by `{best.name}`"
    section.short = [f"{first}{end}{after}."]
    return section


def _int8(inputs: Inputs, section: Section) -> dict[str, float]:
    """Macro-F1 by task of the reference student in int8, on the same test documents; empty where not measured."""
    found = inputs.reference_int8
    if found is None:
        return {}
    command = (
        f"polyfold compare {found.first.folder} {found.second.folder} "
        "--data recipes/compression/reference.yaml --json docs/results/compression/reference/int8.json"
    )
    scores = {one.task: one.quality.second for one in found.tasks if one.quality is not None}
    for task, value in scores.items():
        goal = f"> {REFERENCE_GOALS[task]}" if task in REFERENCE_GOALS else None
        section.add(f"reference.int8.macro_f1_x100.{task}", 100 * value, command, goal)
    return scores
