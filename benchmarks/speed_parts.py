"""The sections made from the other files: tokenizing, cold start and memory, growth, training, peers, GPU."""

import growth_report
import tokenizing as roads
from peers import plot as peers_plot
from peers.results import PeerResult, PeersFile
from peers.table import markdown as peers_markdown
from polyfold.measure.markdown import escape
from polyfold.measure.tables import ABSENT, figure
from results_page import grid
from speed_inputs import COLD_START, GPU, GROWTH, PEERS, TOKENIZING, TRAINING, Inputs, TrainingFile
from speed_page import MEMORY, QUALITY, Bound, Section, share_cell, spread_cell, told
from summarize import plain

GROUPED_TRAINER = "Trainer, grouped by length"
"""How the ways end that the Trainer takes with documents of like length in a step."""

GROWTH_PLOT, PEERS_PLOT = "growth.svg", "peers.svg"
IS_FLOOR = "it is itself the floor of tokenizing"
NO_LIBRARY = "only tokenizing has a floor, and only where SentencePiece can run the vocabulary"
START = "imports, files and compiling are no operations or bytes that a peak bounds; no least is worked out"
WHOLE_COMMAND = "whole commands and other texts or heads than the benchmark's: floors stand under throughput"
EPOCHS = "operations of training (backward passes, the optimizer) are not counted"
OTHERS = "operations of others' code are not counted; Polyfold's own models have their floors under throughput"
GPU_WAY = "the served call copies and waits, which is not counted"


def tokenizing(inputs: Inputs) -> Section:
    """All that is not the model, road by road, beside SentencePiece's own library."""
    section, found = Section("Tokenizing and decoding"), inputs.tokenizing
    if found is None:
        return section.missing(TOKENIZING)
    for name, subject in found.subjects.items():
        section.lines += [f"### {escape(name)}: {subject.road}, {subject.pieces:,} pieces", ""]
        columns = ["documents/s"]
        cells: dict[str, dict[str, str]] = {}
        for where, texts in subject.texts.items():
            for timed in texts.timed:
                _road_figures(section, f"tokenizing.{plain(name)}.{plain(where)}", timed, found.command)
                columns.append(f"{where}, {timed.threads} thread{'s' * (timed.threads > 1)}")
                for road, one in timed.documents_per_second.items():
                    cells.setdefault(road, {})[columns[-1]] = spread_cell(one.median, one.least, one.most)
        rows = [[road, *(some.get(column, ABSENT) for column in columns[1:])] for road, some in cells.items()]
        section.lines += grid(columns, rows)
        for where, texts in subject.texts.items():
            section.add(
                f"tokenizing.{plain(name)}.{plain(where)}.other_ids", texts.differences, found.command, QUALITY
            )
            bare = "" if texts.floor_differences is None else f"; the floor's differ in {texts.floor_differences}"
            section.lines += [
                f"- {where}: {texts.documents:,} distinct texts of {texts.mean_tokens:g} tokens; other ids than"
                f" {texts.compared_with} in {texts.differences} of them{bare}."
            ]
        section.lines.append("")
    _tokenizing_goal(section, found)
    section.lines += [
        "*tokenizing*: texts to ids. *floor*: SentencePiece's own library on the same vocabulary, to lists of ids"
        " and nothing else. *together*: texts to predictions in columns with a model that answers at once, which"
        " the goal is set on. *with label names*, *as objects*: the same in the forms that users ask for.",
        "",
    ]
    return section


def _road_figures(section: Section, name: str, timed: roads.Timed, command: str) -> None:
    speeds = timed.documents_per_second
    floor = speeds.get(roads.FLOOR)
    for road, one in speeds.items():
        bound: Bound | str = IS_FLOOR if road == roads.FLOOR else NO_LIBRARY
        if floor is not None and road in (roads.OURS, roads.TOGETHER):
            bound = Bound(floor.median, one.median / floor.median)
        figure_name = f"{name}.{timed.threads}_threads.{plain(road)}.documents_per_second"
        section.add(figure_name, one.median, command, bound)


def _tokenizing_goal(section: Section, found: roads.TokenizingFile) -> None:
    """The goal, on the slowest of the models measured: what holds there holds everywhere."""
    if not found.goals:
        return
    slowest = min(found.goals, key=lambda name: found.goals[name].value)
    value = found.goals[slowest].value
    widest = max(found.subjects[slowest].texts[roads.SHORT].timed, key=lambda timed: timed.threads)
    floor = widest.documents_per_second.get(roads.FLOOR)
    bound = NO_LIBRARY if floor is None else Bound(floor.median, value / floor.median)
    section.add("tokenizing_and_decoding.documents_per_second", value, found.command, bound)
    of_floor = f", {share_cell(bound.share)} of SentencePiece alone" if isinstance(bound, Bound) else ""
    section.short = [f"**Tokenizing and decoding** do {told(value)} documents/s (`{slowest}`){of_floor}."]
    others = f", the slowest of the {len(found.goals)} models measured," if len(found.goals) > 1 else ""
    section.lines += [
        f"The goal is read at `{slowest}`{others} on the {roads.SHORT} and {widest.threads} threads.",
        "",
    ]


def cold_start(inputs: Inputs) -> Section:
    """From a new process to the first prediction, and what serving takes in memory."""
    section, found = Section("Cold start and memory"), inputs.cold_start
    if found is None:
        return section.missing(COLD_START)
    section.add("cold_start_s", found.cold_start.value, found.command, START)
    section.add("resident_mb", found.resident.value, found.command, MEMORY)
    rows: dict[str, dict[str, str]] = {}
    for way, start in found.starts.items():
        totals = {"in all": start.total_s, "of it, processor seconds": start.processor_s}
        section.add(f"cold_start.{plain(way)}.total_s", start.total_s.median, found.command, START)
        section.add(f"cold_start.{plain(way)}.processor_s", start.processor_s.median, found.command, START)
        alone = {f"in small steps: {name}": one for name, one in start.steps_s.items()}
        for name, one in (totals | start.parts_s | alone).items():
            cell = f"{1e3 * one.median:,.0f} ({1e3 * one.least:,.0f}–{1e3 * one.most:,.0f})"
            rows.setdefault(name, {})[way] = cell
    ways = list(found.starts)
    cells = [[escape(name), *(some.get(way, ABSENT) for way in ways)] for name, some in rows.items()]
    section.lines = grid(["ms to the first prediction", *ways], cells)
    kinds = list(
        dict.fromkeys(kind for one in found.memory.values() for some in one.stages.values() for kind in some)
    )
    memory = []
    for way, held in found.memory.items():
        for stage, values in held.stages.items():
            memory.append([way, stage, *(_number(values.get(kind)) for kind in kinds)])
            for kind, value in values.items():
                section.add(f"memory.{plain(way)}.{plain(stage)}.{plain(kind)}", value, found.command, MEMORY)
    titles = [f"{kind.removesuffix('_mb')}, MB" for kind in kinds]
    section.lines += grid(["way", "after", *titles], memory, (0, 1))
    section.lines += [
        f"`{found.model}` ({found.runtime}, {found.precision}, {found.vocabulary:,} pieces, {found.size_mb:g} MB"
        f" on disk); {found.texts:,} texts. A cold start is a new Python process: imports, opening, one text,"
        " files in the system's file cache. The small steps are a process of their own and do not add up to the"
        " whole. The goal of memory is read after the texts one by one.",
        "",
    ]
    section.short = [
        f"**Cold start** takes {told(found.cold_start.value)} s, and serving {told(found.resident.value)} MB of"
        f" resident memory (`{found.model}`)."
    ]
    return section


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.0f}"


def growth(inputs: Inputs) -> Section:
    """Speed and memory as documents, tokens and tasks grow."""
    section, found = Section("Growth"), inputs.growth
    if found is None:
        return section.missing(GROWTH)
    if found.documents is not None:
        _documents(section, found.documents, found.command)
    if found.tokens is not None:
        _tokens(section, found.tokens, found.command)
    if found.tasks is not None:
        _tasks(section, found.tasks, found.command)
    section.plots = {GROWTH_PLOT: growth_report.draw(found)}
    axes = {"documents": found.documents, "tokens": found.tokens, "tasks": found.tasks}
    absent = [name for name, axis in axes.items() if axis is None]
    section.lines += [f"Not measured yet: growth with {', '.join(absent)}.", ""] if absent else []
    section.lines += [f"![Speed and memory as work grows]({GROWTH_PLOT})", ""]
    return section


def _documents(section: Section, found: growth_report.Documents, command: str) -> None:
    rows = []
    for one in found.points:
        name, speed, peak = f"growth.documents.{one.documents}", one.documents_per_second, one.peak_memory_mb
        section.add(f"{name}.documents_per_second", speed.median, command, WHOLE_COMMAND)
        section.add(f"{name}.peak_memory_mb", peak.median, command, MEMORY)
        section.add(f"{name}.labels_changed", one.labels_changed, command, QUALITY)
        cells = [spread_cell(each.median, each.least, each.most) for each in (speed, peak)]
        further = figure(found.further_documents_per_second.get(one.documents))
        more = found.further_bytes_per_document.get(one.documents)
        rows.append(
            [f"{one.documents:,}", *cells, further, ABSENT if more is None else f"{more:,.1f}",
             f"{one.labels_changed}"]
        )  # fmt: skip
    columns = [
        "documents",
        "documents/s",
        "peak memory, MB",
        "further documents/s",
        "bytes each",
        "labels changed",
    ]
    memory = found.memory
    if memory.flat is not None:
        # Points that lie too close together say nothing about the goal.
        section.add("growth.memory.bytes_per_document", memory.bytes_per_document, command, MEMORY)
    verdict = {True: "flat", False: "it grows", None: "too few documents to tell"}[memory.flat]
    section.lines += [
        *grid(columns, rows, ()),
        f"`polyfold predict` on {found.format} files, start to end, each point in a process of its own; *further*"
        " and *bytes each* are between a point and the one before. Labels changed: of the first thousand"
        f" documents, against the first point. Memory from {memory.from_documents:,} to"
        f" {memory.to_documents:,} documents: {memory.bytes_per_document:,.1f} bytes a document, where"
        f" {memory.allowed_bytes_per_document:g} are allowed: **{verdict}**.",
        "",
    ]
    section.short = [
        f"**Memory** from {memory.from_documents:,} to {memory.to_documents:,} documents: {verdict}"
        f" ({memory.bytes_per_document:,.1f} bytes a document)."
    ]


def _tokens(section: Section, found: growth_report.Tokens, command: str) -> None:
    rows = []
    for one in found.points:
        name, speed, single = f"growth.tokens.{one.tokens}", one.documents_per_second, one.one_document_ms
        section.add(f"{name}.documents_per_second", speed.median, command, WHOLE_COMMAND)
        section.add(f"{name}.one_document_ms", single.median, command, WHOLE_COMMAND)
        section.add(f"{name}.peak_memory_mb", one.peak_memory_mb.median, command, MEMORY)
        rows.append(
            [f"{one.tokens}", f"{one.documents_a_batch:,}", spread_cell(speed.median, speed.least, speed.most),
             _number(one.tokens_per_second.median), spread_cell(single.median, single.least, single.most),
             _number(one.peak_memory_mb.median)]
        )  # fmt: skip
    columns = ["tokens", "documents a batch", "documents/s", "tokens/s", "one document, ms", "peak memory, MB"]
    end = "" if found.positions is None else f"; the table of positions ends at {found.positions}"
    section.lines += [
        *grid(columns, rows, ()),
        f"Dense documents through the model alone, {found.token_budget:,} tokens a batch. Real texts are cut at"
        f" {found.model_reads} tokens{end}.",
        "",
    ]


def _tasks(section: Section, found: growth_report.Tasks, command: str) -> None:
    rows = []
    for one in found.points:
        name, speed = f"growth.tasks.{one.tasks}.asked_{one.asked}", one.documents_per_second
        section.add(f"{name}.documents_per_second", speed.median, command, WHOLE_COMMAND)
        section.add(f"{name}.peak_memory_mb", one.peak_memory_mb.median, command, MEMORY)
        built = one.objects_per_second
        rows.append(
            [f"{one.tasks}", f"{one.asked}", spread_cell(speed.median, speed.least, speed.most),
             spread_cell(built.median, built.least, built.most), _number(one.peak_memory_mb.median)]
        )  # fmt: skip
    section.add("growth.tasks.speed_kept", found.speed_kept, command, WHOLE_COMMAND)
    columns = ["tasks", "asked", "documents/s", "as objects, documents/s", "peak memory, MB"]
    section.lines += [
        *grid(columns, rows, ()),
        f"One trunk under fresh heads (random: timed, never scored), {found.documents:,} texts through the whole"
        f" predictor. With the most tasks it keeps {100 * found.speed_kept:.0f} % of the speed with the fewest.",
        "",
    ]


def training(inputs: Inputs) -> Section:
    """Training: with cached logits, without, and beside the Hugging Face Trainer."""
    section, found = Section("Training"), inputs.training
    if found is None:
        return section.missing(TRAINING)
    rows = []
    for way, one in found.documents_per_second.items():
        section.add(f"training.{plain(way)}.documents_per_second", one.median, found.command, EPOCHS)
        rows.append([escape(way), spread_cell(one.median, one.least, one.most), f"{one.rounds}"])
    cached, over = found.cached_over_plain, found.over_trainer
    section.add("training.cached_over_plain", cached.median, found.command, EPOCHS)
    section.add("training.over_trainer", over.median, found.command, EPOCHS)
    section.lines = [
        *grid(["way", "documents/s", "rounds"], rows),
        f"{found.documents:,} documents, in turns in one run. An epoch of distillation with cached logits takes"
        f" {told(cached.median)} times a plain one ({told(cached.least)} to {told(cached.most)}); Polyfold trains"
        f" {told(over.median)} times as fast ({told(over.least)} to {told(over.most)}) as the Hugging Face Trainer"
        f" with its defaults on the same data and model{_against_grouped(found)}.",
        "",
    ]
    section.short = [
        f"**Training** goes {told(over.median)} times as fast as with the Hugging Face Trainer and its"
        f" defaults{_against_grouped(found)}; cached logits make an epoch {told(cached.median)} times a plain one."
    ]
    return section


def _against_grouped(found: TrainingFile) -> str:
    """Where the Trainer's documents are grouped by length: least and most of the setups measured."""
    rates = found.documents_per_second
    grouped = [name for name in rates if name.endswith(GROUPED_TRAINER)]
    ratios = [rates[name.removesuffix(GROUPED_TRAINER) + "labels"].median / rates[name].median for name in grouped]
    if not ratios:
        return ""
    return f" ({told(min(ratios))} to {told(max(ratios))} times where that groups documents by length)"


def peers(inputs: Inputs) -> Section:
    """Polyfold beside what one would otherwise deploy."""
    section, found = Section("Peers"), inputs.peers
    if found is None:
        return section.missing(PEERS)
    for one in found.peers:
        _peer_figures(section, one, found.command)
    drawn = peers_plot.draw(found)
    section.plots = {PEERS_PLOT: drawn} if drawn is not None else {}
    # The peers' own page without its title, its headings a step smaller.
    own = peers_markdown(found).splitlines()
    section.lines = [*(f"#{line}" if line.startswith("## ") else line for line in own[2:]), ""]
    fastest = _fastest(found, "polyfold"), _fastest(found, "peer")
    if all(fastest):
        section.short = [f"**Peers**, in one run: {'; '.join(fastest)}."]
    return section


def _peer_figures(section: Section, one: PeerResult, command: str) -> None:
    name = f"peers.{plain(one.name)}"
    if one.speed is not None:
        section.add(f"{name}.documents_per_second", one.speed.documents_per_second, command, OTHERS)
    if one.speedup is not None:
        section.add(f"{name}.speedup", one.speedup, command, OTHERS)
    if one.latency is not None:
        section.add(f"{name}.latency_ms_p50", one.latency.p50_ms, command, OTHERS)
        section.add(f"{name}.latency_ms_p99", one.latency.p99_ms, command, OTHERS)
    if one.footprint is not None and one.footprint.resident_mb is not None:
        section.add(f"{name}.resident_mb", one.footprint.resident_mb, command, MEMORY)
    if one.quality is not None:
        scores = one.quality.macro_f1 | {"mean": one.quality.mean_macro_f1}
        for task, value in scores.items():
            section.add(f"{name}.macro_f1_x100.{task}", 100 * value, command, QUALITY)
        for task, value in (one.quality.label_agreement_percent or {}).items():
            section.add(f"{name}.label_agreement_percent.{task}", value, command, QUALITY)


def _fastest(found: PeersFile, group: str) -> str:
    """The fastest of Polyfold's rows, or of the others, in words; nothing where none was timed."""
    timed = [(one, one.speed) for one in found.peers if one.group == group and one.speed is not None]
    if not timed:
        return ""
    best, speed = max(timed, key=lambda pair: pair[1].documents_per_second)
    scored = f", mean macro-F1 {100 * best.quality.mean_macro_f1:.1f}" if best.quality is not None else ""
    whose = "the fastest of Polyfold's" if group == "polyfold" else "the fastest other one"
    return f"{whose} is `{best.name}` ({figure(speed.documents_per_second)} documents/s{scored})"


def gpu(inputs: Inputs) -> Section:
    """What was measured on a GPU, if anything ever was."""
    section, found = Section("GPU"), inputs.gpu
    if found is None:
        section.short = ["**On a GPU** nothing was ever run."]
        return section.missing(
            GPU, ". The code for GPUs has never been run on one ([what that means](../../GPU.md))"
        )
    rows = []
    for name, row in found.rows.items():
        agreement = f"{row.label_agreement_percent:.2f}"
        alike = f"gpu.{plain(name)}.label_agreement_percent"
        section.add(alike, row.label_agreement_percent, found.command, QUALITY)
        for key, one in row.speed.items():
            rate = one.documents_per_second
            bound = GPU_WAY if one.share is None else Bound(rate / one.share, one.share)
            section.add(f"gpu.{plain(name)}.documents_per_second.{key}", rate, found.command, bound)
            over = GPU_WAY if one.share is None else Bound(one.speedup / one.share, one.share)
            section.add(f"gpu.{plain(name)}.speedup.{key}", one.speedup, found.command, over)
            if key == "dense_32x128" and one.speedup == found.best_speedup_of_l6 and row.shape == "minilm-l6":
                section.add("gpu.minilm_l6.best_speedup", one.speedup, found.command, over)
            speed = spread_cell(rate, one.least, one.most)
            rows.append([name, key, speed, f"{one.speedup:.2f}", share_cell(one.share), f"{one.at:,}", agreement])
    columns = ["way", "work", "documents/s", "speed-up", "share", "batch or budget", "agreement %"]
    peaks = ", ".join(f"{name} {value:,.0f}" for name, value in found.peak_tflops.items())
    section.lines = [
        *grid(columns, rows, (0, 1)),
        f"Against {found.baseline} on the same GPU; {found.documents:,} documents of {found.mean_tokens:g} tokens"
        f" on average ({found.lengths}). Measured peaks, TFLOP/s: {peaks}. Power: {found.power or 'not told'}.",
        "",
    ]
    failed = [f"- failed: {name}: {escape(why)}" for name, why in found.failures.items()]
    section.lines += [*failed, ""] if failed else []
    return section
