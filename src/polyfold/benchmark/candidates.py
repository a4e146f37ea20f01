"""The artifacts to be measured: each on each runtime, plain and with bfloat16, opened and named apart."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from polyfold.artifact import CONFIG, MANIFEST, Artifact, ModelConfig, read_config
from polyfold.benchmark.spec import BenchmarkSpec
from polyfold.errors import InputError
from polyfold.measure.workloads import PredictorSubject
from polyfold.predictor import Predictor
from polyfold.runtimes.opening import RuntimeChoice

EMBEDDED = "use-multilingual"
NO_POSITIONS = 4096
"""A length that is long enough where a model has no table of positions that would bound it."""


@dataclass(frozen=True)
class Candidate:
    """One opened artifact; `longest` is the greatest number of tokens that its weights have positions for."""

    name: str
    folder: Path
    runtime: RuntimeChoice
    precision: str
    bf16: bool
    longest: int
    predictor: Predictor
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> ModelConfig:
        """What its folder says of itself."""
        return self.predictor.config

    def subject(self, spec: BenchmarkSpec, token_budget: int | None = None) -> PredictorSubject:
        """As what is timed: all texts in one sorted window."""
        return PredictorSubject.of(self.predictor, token_budget or spec.speed.token_budget, spec.speed.documents)


def open_candidates(folders: Sequence[Path], spec: BenchmarkSpec) -> list[Candidate]:
    """Every artifact on every runtime asked for; an InputError names the first that cannot be opened."""
    if not folders:
        raise InputError("there is no artifact to measure", hint="give a model folder that Polyfold wrote")
    repeated = [folder for place, folder in enumerate(folders) if folder in folders[:place]]
    if repeated:
        raise InputError("it is given twice", file=repeated[0])
    candidates: list[Candidate] = []
    for folder in folders:
        for choice in spec.runtimes or (None,):
            candidates += [_open(folder, choice, bf16, spec) for bf16 in _forms(folder, choice, spec)]
    return _named_apart(candidates)


def open_predictor(
    folder: Path, choice: RuntimeChoice | None, bf16: bool, spec: BenchmarkSpec, threads: int | None
) -> Predictor:
    """An artifact on a runtime, with the spec's options and so many threads."""
    return Predictor.open(
        folder,
        runtime=choice,
        threads=threads,
        bf16=bf16,
        streams=spec.streams,
        token_budget=spec.speed.token_budget,
        device=spec.device,
    )


def _forms(folder: Path, choice: RuntimeChoice | None, spec: BenchmarkSpec) -> tuple[bool, ...]:
    """With and without bfloat16 where it is an option; "auto" finds out for itself whether it pays."""
    if choice == "auto":
        return (spec.bf16,)
    runtime = choice or read_config(folder)[0].runtime
    possible = runtime in ("openvino", "tensorrt") or spec.device == "cuda"
    return (False, True) if spec.bf16 and possible else (False,)


def _open(folder: Path, choice: RuntimeChoice | None, bf16: bool, spec: BenchmarkSpec) -> Candidate:
    predictor = open_predictor(folder, choice, bf16, spec, spec.threads)
    config = predictor.config
    name = Artifact.open(folder).manifest.name if (folder / MANIFEST).is_file() else folder.resolve().name
    name = name if choice in (None, config.runtime) else f"{name} on {choice}"
    notes: tuple[str, ...] = ()
    if predictor.choice is not None:
        chosen = predictor.choice.chosen
        choice = next(name for name in get_args(RuntimeChoice) if name == chosen.runtime)
        bf16, notes = chosen.bf16, (predictor.choice.note,)
    elif bf16:
        name = f"{name}, bf16"
    precision = f"{config.precision}+bf16".replace("fp32+bf16", "bf16") if bf16 else config.precision
    runtime = choice or config.runtime
    return Candidate(name, folder, runtime, precision, bf16, longest(folder), predictor, notes)


def longest(folder: Path) -> int:
    """The most tokens a document may have: rows of the position table, without those that are never used."""
    config, _ = read_config(folder)
    settings = json.loads((folder / CONFIG).read_bytes())
    positions = settings.get("max_position_embeddings")
    if positions is None:
        return NO_POSITIONS if config.family == EMBEDDED else config.max_length
    # RoBERTa numbers positions from the padding id + 1 on (see model/backbone.py).
    unused = int(settings.get("pad_token_id") or 0) + 1 if "roberta" in config.family else 0
    return int(positions) - unused


def _named_apart(candidates: list[Candidate]) -> list[Candidate]:
    """Two folders of one name are told apart by the folders' own."""
    names = [one.name for one in candidates]
    found = []
    for one in candidates:
        twice = names.count(one.name) > 1
        name = f"{one.name} ({one.folder.resolve().name})" if twice else one.name
        found.append(replace(one, name=name))
    again = [one.name for one in found]
    for one in found:
        if again.count(one.name) > 1:
            raise InputError("two folders have one name", file=one.folder, hint="rename one of them")
    return found
