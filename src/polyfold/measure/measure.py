"""The measuring stage: every row of the report, its quality and its speed, in one run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from polyfold import __version__
from polyfold.artifact import Artifact, digest_file
from polyfold.console import note, progress_bar
from polyfold.data.dataset import Dataset
from polyfold.measure.accuracy import label_agreement, score
from polyfold.measure.baseline import load_baseline
from polyfold.measure.cost import CostSpec, cost_of
from polyfold.measure.gates import GateSpec, check_gates, sentence
from polyfold.measure.memory import predicting_memory_mb
from polyfold.measure.operations import encoder_mflops, mflops_of
from polyfold.measure.profile import profile
from polyfold.measure.report import Cost, Gate, Report, Row
from polyfold.measure.speed import SpeedReport, SpeedSpec, measure_speed
from polyfold.measure.summary import summarize
from polyfold.measure.verdicts import best_teacher, judge
from polyfold.measure.workloads import PredictorSubject, Subject, distinct_texts
from polyfold.model.backbone import Transformer
from polyfold.predictor import Predictor
from polyfold.system import hardware
from polyfold.text import Encoding
from polyfold.train.answers import TeacherSet, answers_in
from polyfold.train.asking import answerable, ask, set_tasks

STAGE_VERSION = 3
XLMR = "FacebookAI/xlm-roberta-base"

Logits = Mapping[str, np.ndarray]


class MeasureSpec(BaseModel):
    """What is measured, against which baseline, and which losses break the run (`gates`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    baseline: str | None = XLMR
    baseline_tokenizer: str | None = None
    speed: SpeedSpec = SpeedSpec()
    memory: bool = True
    cost: CostSpec = CostSpec(instance="c7i.large")
    gates: GateSpec | None = None


@dataclass(frozen=True)
class Candidate:
    """One row to be measured. A set of per-task teachers is one candidate with several artifacts.

    `reference` names the torch row of the same weights; `timed` is False for fake-quantized torch models, whose
    speed means nothing. `teachers` says how the models of a set answer as one.
    """

    name: str
    stage: str
    parent: str | None
    artifacts: tuple[Artifact, ...]
    reference: str | None = None
    bf16: bool = False
    timed: bool = True
    teachers: TeacherSet | None = None


@dataclass(frozen=True)
class Ensemble:
    """Predictors that answer for different tasks, timed one after the other: models before consolidation."""

    members: tuple[PredictorSubject, ...]

    @property
    def pad_id(self) -> int:
        """The first member's padding id; members share a tokenizer."""
        return self.members[0].pad_id

    def encode(self, texts: Sequence[str]) -> Encoding:
        """The first member's token ids."""
        return self.members[0].encode(texts)

    def run_ids(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> object:
        """Every member on the same batch."""
        return [member.run_ids(input_ids, attention_mask) for member in self.members]

    def run_texts(self, texts: Sequence[str]) -> object:
        """Every member on the same texts."""
        return [member.run_texts(texts) for member in self.members]


def measure(
    spec: MeasureSpec,
    candidates: Sequence[Candidate],
    data: Dataset,
    base: Path,
    seed: int,
    identity: Mapping[str, Any],
) -> Report:
    """Score and time every candidate; `identity` holds the report's `name` and `recipe_hash`."""
    rows: list[Row] = []
    logits: dict[str, Logits] = {}
    with progress_bar("measuring quality", len(candidates)) as bar:
        for candidate in candidates:
            predictors = _open(candidate)
            row, found = _quality(candidate, predictors, data, seed, logits)
            if candidate.timed and spec.memory and len(candidate.artifacts) == 1:
                row = row.model_copy(update={"peak_memory_mb": _memory(candidate, data)})
            rows.append(row)
            logits[candidate.name] = found
            bar.advance(detail=candidate.name)
    baseline_row, speeds = _speed(spec, candidates, data, base)
    cost = spec.cost.resolve()
    timed = [_with_speed(row, speeds, cost) for row in rows]
    if baseline_row is not None:
        timed = [_baseline_speed(baseline_row, speeds, cost), *timed]
    quality_baseline = best_teacher(timed)
    judged = judge(timed, quality_baseline)
    gates: tuple[Gate, ...] = ()
    reference = next((row for row in judged if row.name == quality_baseline), None)
    if spec.gates is not None and reference is not None:
        gates = check_gates(spec.gates, reference, judged)
    for gate in gates:
        if not gate.passed:
            note(sentence(gate))
    return Report(
        name=str(identity["name"]),
        polyfold_version=__version__,
        recipe_hash=str(identity["recipe_hash"]),
        seed=seed,
        hardware=hardware(_accelerator()),
        quality_baseline=quality_baseline,
        speed_baseline=baseline_row.name if baseline_row is not None else None,
        rows=judged,
        data=summarize(data),
        cost=cost,
        gates=gates,
        warnings=_warnings(judged),
    )


def _open(candidate: Candidate) -> tuple[Predictor, ...]:
    return tuple(Predictor.open(artifact.path, bf16=candidate.bf16) for artifact in candidate.artifacts)


def _quality(
    candidate: Candidate, predictors: Sequence[Predictor], data: Dataset, seed: int, logits: Mapping[str, Logits]
) -> tuple[Row, Logits]:
    """The row without its speed, and the test logits that later rows are compared with."""
    config = predictors[0].config
    precision = config.precision if not candidate.bf16 else f"{config.precision}+bf16"
    row = Row(
        name=candidate.name,
        stage=candidate.stage,
        parent=candidate.parent,
        runtime=config.runtime,
        precision=precision.replace("fp32+bf16", "bf16"),
        weights="random" if any(one.config.weights == "random" for one in predictors) else "trained",
        parameters_million=sum(one.config.parameters for one in predictors) / 1e6,
        trunk_parameters_million=sum(one.config.trunk_parameters for one in predictors) / 1e6,
        mflops_per_document=mflops_of(_members(candidate, data)),
        size_mb=sum(artifact.size_mb for artifact in candidate.artifacts),
    )
    if row.weights == "random":
        return row, {}
    if candidate.teachers is not None:
        return _set_quality(row, candidate.teachers, data, seed)
    (predictor,) = predictors
    tasks, found = predictor.tasks, predictor.logits(data.test.texts)
    fields: dict[str, Any] = score(tasks, data.test, found, seed).row_fields()
    if candidate.reference is not None and logits.get(candidate.reference):
        fields |= label_agreement(tasks, logits[candidate.reference], found).model_dump()
    lengths = predictor.tokenizer.encode(data.test.texts, config.max_length).lengths
    fields["profile"] = profile(tasks, data.test, lengths, found)
    return Row(**{**row.model_dump(), **fields}), found


def _set_quality(row: Row, teachers: TeacherSet, data: Dataset, seed: int) -> tuple[Row, Logits]:
    """The row of a set of teachers: each task is scored where some model answers it."""
    answers = ask(teachers, data.test, data.tasks)
    tasks = set_tasks(teachers, data.tasks, data.dev)
    test, found = answerable(data.test, answers), {name: one.logits.numpy() for name, one in answers.items()}
    left_out = {task.name: int((data.test.labelled(task) & ~test.labelled(task)).sum()) for task in tasks}
    notes = tuple(f"does not answer {count} documents of '{name}'" for name, count in left_out.items() if count)
    missing = [task.name for task in data.tasks if task.name not in found]
    notes += (f"does not know {', '.join(missing)}",) if missing else ()
    fields = {**score(tasks, test, found, seed).row_fields(), "notes": (*row.notes, *notes)}
    return Row(**{**row.model_dump(), **fields}), found


def _memory(candidate: Candidate, data: Dataset) -> float:
    texts = distinct_texts(data.test.texts, 256)
    return predicting_memory_mb(candidate.artifacts[0].path, texts, bf16=candidate.bf16)


def _speed(
    spec: MeasureSpec, candidates: Sequence[Candidate], data: Dataset, base: Path
) -> tuple[Row | None, SpeedReport | None]:
    """Time all candidates against the baseline, interleaved, on test texts that every language has a share of."""
    if spec.baseline is None:
        return None, None
    baseline = load_baseline(spec.baseline, spec.baseline_tokenizer, base, data.max_length)
    subjects: dict[str, Subject] = {}
    for candidate in candidates:
        if candidate.timed:
            budget, documents = spec.speed.token_budget, spec.speed.documents
            members = tuple(PredictorSubject.of(one, budget, documents) for one in _asked(candidate, data))
            if len(members) == 1:
                subjects[candidate.name] = members[0]
            elif members:
                subjects[candidate.name] = Ensemble(members)
    if not subjects:
        note("there is nothing to time")
        return None, None
    report = measure_speed(subjects, baseline, data.test.texts, spec.speed, baseline.own_tokenizer)
    notes = [f"best batch size against the padded baseline: {report.baseline_batch_size}"]
    if baseline.weights == "random":
        notes.append("random weights: the hub was out of reach; timed, never scored")
    if baseline.own_tokenizer is None:
        notes.append("no tokenizer of its own: it was given the student's token ids")
    row = Row(
        name=baseline.name,
        stage="baseline",
        runtime="torch",
        precision="fp32",
        weights="random" if baseline.weights == "random" else "trained",
        parameters_million=baseline.parameters / 1e6,
        trunk_parameters_million=baseline.trunk_parameters / 1e6,
        mflops_per_document=encoder_mflops(Transformer(baseline.encoder)),
        size_mb=baseline.parameters * 4 / 1e6,
        notes=tuple(notes),
    )
    return row, report


def _members(candidate: Candidate, data: Dataset) -> tuple[Artifact, ...]:
    """The artifacts that one document asks.

    A set of teachers a language asks one of them only: those for the commonest language of the test set stand for
    all.
    """
    if candidate.teachers is None or len(candidate.artifacts) == 1:
        return candidate.artifacts
    common = Counter(data.test.languages).most_common(1)[0][0]
    return tuple(artifact for artifact in candidate.artifacts if answers_in(artifact, common))


def _asked(candidate: Candidate, data: Dataset) -> tuple[Predictor, ...]:
    """The models that one document asks; none where they cannot be timed together.

    Models are fed the same token ids, so they must share a tokenizer.
    """
    artifacts = _members(candidate, data)
    opened = tuple(Predictor.open(artifact.path, bf16=candidate.bf16) for artifact in artifacts)
    tokenizers = {digest_file(one.folder / one.config.tokenizer.file) for one in opened}
    if len(tokenizers) > 1:
        note(f"{candidate.name}: its models have different tokenizers; not timed")
        return ()
    return opened


def _with_speed(row: Row, report: SpeedReport | None, cost: Cost) -> Row:
    if report is None or row.name not in report.subjects:
        return row
    speeds = {key: timing.speed for key, timing in report.subjects[row.name].items()}
    with_speed = row.model_copy(update={"speed": speeds, "speedup": report.speedup[row.name]})
    return _priced(with_speed, cost)


def _baseline_speed(row: Row, report: SpeedReport | None, cost: Cost) -> Row:
    assert report is not None
    speeds = {key: timing.speed for key, timing in report.baseline.items()}
    return _priced(row.model_copy(update={"speed": speeds, "speedup": dict.fromkeys(speeds, 1.0)}), cost)


def _priced(row: Row, cost: Cost) -> Row:
    return row.model_copy(update={"cost_usd_per_million_documents": cost_of(row.speed, cost)})


def _warnings(rows: Sequence[Row]) -> tuple[str, ...]:
    """What a reader must not overlook: students that the folded teacher beats, exports that disagree."""
    found = []
    for row in rows:
        if row.dominated_by:
            found.append(
                f"'{row.name}' is no success: the compressed teacher '{row.dominated_by}' is as fast and as good"
            )
        limit = 99.0 if "bf16" in row.precision else 99.5
        for task, percent in (row.label_agreement_percent or {}).items():
            if percent < limit:
                found.append(
                    f"'{row.name}' agrees with its torch model on {percent:.2f} % of '{task}', not {limit} %"
                )
    return tuple(found)


def _accelerator() -> str | None:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
