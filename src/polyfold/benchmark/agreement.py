"""Whether the fast model still answers as the fp32 model of its weights: beside every speed figure."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from polyfold.artifact import MANIFEST, Artifact, read_config
from polyfold.benchmark.candidates import Candidate
from polyfold.benchmark.results import Agreement, Relation
from polyfold.errors import InputError
from polyfold.measure.accuracy import label_agreement
from polyfold.predictor import Predictor
from polyfold.tasks import Task

Logits = dict[str, np.ndarray]


class References:
    """The models that others are compared with, each asked once."""

    def __init__(self, given: Path | None, texts: Sequence[str]) -> None:
        self._given = given
        self._texts = list(texts)
        self._answers: dict[Path, Logits] = {}

    def check(self, candidates: Sequence[Candidate]) -> None:
        """InputError where a reference that was given answers other tasks than some candidate."""
        if self._given is None:
            return
        _, tasks = read_config(self._given)
        for candidate in candidates:
            if _asked(tasks) != _asked(candidate.predictor.tasks):
                raise InputError(
                    f"it has not the tasks and labels of '{candidate.name}'",
                    file=self._given,
                    key="reference",
                    hint="give the fp32 model of the same weights",
                )

    def compare(self, candidate: Candidate) -> tuple[Agreement, ...]:
        """With each reference of this candidate, on all texts; none where there is none to be found."""
        found = references_of(candidate.folder, self._given)
        if not found:
            return ()
        own = candidate.predictor.logits(self._texts)
        agreements = []
        for folder, relation in found:
            if folder not in self._answers:
                self._answers[folder] = Predictor.open(folder).logits(self._texts)
            config, _ = read_config(folder)
            agreed = label_agreement(candidate.predictor.tasks, self._answers[folder], own)
            agreements.append(
                Agreement(
                    reference=folder.resolve().name,
                    relation=relation,
                    runtime=config.runtime,
                    precision=config.precision,
                    documents=len(self._texts),
                    **agreed.model_dump(),
                )
            )
        return tuple(agreements)


def references_of(folder: Path, given: Path | None = None) -> list[tuple[Path, Relation]]:
    """The reference given, or the torch models of a run's folder that this artifact was made from.

    Of one that is quantized both are of interest: with its fake quantizers (what the export must repeat), and the
    one before quantization, the fp32 model itself.
    """
    if given is not None:
        return [(given, "given")]
    if not (folder / MANIFEST).is_file():
        return []
    config, _ = read_config(folder)
    found: list[tuple[Path, Relation]] = []
    source = folder
    if config.runtime != "torch":
        exported = _parent(folder, same_precision=True)
        if exported is None:
            return []
        found.append((exported, "exported from"))
        source = exported
    if read_config(source)[0].precision != "fp32":
        before = _parent(source, same_precision=False)
        found += [(before, "before quantization")] if before is not None else []
    return found


def _parent(folder: Path, *, same_precision: bool) -> Path | None:
    """The torch model beside `folder` that it was made from; a model before quantization is one in fp32.

    Teachers are parents too: they have other shapes, or the same weights were not trained from them.
    """
    manifest = Artifact.open(folder).manifest
    config, tasks = read_config(folder)
    for key in manifest.parents:
        for path in sorted(folder.resolve().parent.glob(f"*-{key}")):
            if not (path / MANIFEST).is_file() or not (path / "config.json").is_file():
                continue
            other, answered = read_config(path)
            alike = (other.runtime, other.family) == ("torch", config.family) and _asked(answered) == _asked(tasks)
            if alike and (same_precision or other.precision == "fp32"):
                return path
    return None


def _asked(tasks: Sequence[Task]) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {task.name: (task.kind, task.labels) for task in tasks}
