"""What a model was tested on, from the report of the run that made it: what served texts are compared with."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from polyfold.artifact import MANIFEST, Artifact, ModelConfig
from polyfold.errors import InputError

REPORT = "report.json"
Name = Literal["language", "length", "label", "confidence"]

OTHER = "other"
"""A language that the model was not tested on."""

NO_LABEL = "(none)"
"""Of a multi-label task: no label at all. Parentheses, since a label may well be called 'none'."""

OTHER_SHARE = 0.01
"""What the detector finds of other languages where there is none: 0.2 % of the public benchmark's texts in its 12
core languages, 1.0 % of all 22. Without it, a few such texts in a hundred would count as drift."""

_KEY = re.compile(r"-[0-9a-f]{16}$")


class _Part(BaseModel):
    # Only what is needed is read, so that reports of other versions of Polyfold can be.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _TaskProfile(_Part):
    mean_confidence: float
    confidence: tuple[int, ...] = Field(min_length=1)
    labels: dict[str, int]
    without_label: int | None = None


class _Profile(_Part):
    documents: int
    languages: dict[str, int]
    token_bounds: tuple[int, ...] = Field(min_length=1)
    tokens: tuple[int, ...]
    tasks: dict[str, _TaskProfile]

    @model_validator(mode="after")
    def _a_count_for_each_bound_and_one_above(self) -> "_Profile":
        if len(self.tokens) != len(self.token_bounds) + 1:
            raise ValueError(f"{len(self.tokens)} counts of tokens for {len(self.token_bounds)} bounds")
        return self


class _Row(_Part):
    name: str
    runtime: str
    precision: str
    profile: _Profile | None = None


class _Data(_Part):
    documents_by_language: dict[str, dict[str, int]] = Field(default_factory=dict)


class _Report(_Part):
    rows: tuple[_Row, ...]
    data: _Data | None = None


@dataclass(frozen=True)
class Expected:
    """One distribution of the test documents: `counts` of each of `values`, float [values]."""

    name: Name
    task: str | None
    values: tuple[str, ...]
    counts: np.ndarray
    documents: int
    mean: float | None = None


@dataclass(frozen=True)
class Reference:
    """A report's row, as distributions; `missing` says why there are not all of them."""

    row: str
    expected: tuple[Expected, ...]
    token_bounds: tuple[int, ...] = ()
    missing: str | None = None


@dataclass(frozen=True)
class NoReference:
    """Why there is nothing to compare with, and what to do about it."""

    reason: str
    hint: str


def reference_of(folder: Path, config: ModelConfig, report: Path | None = None) -> Reference | NoReference:
    """The row of `report`, or of the report that `polyfold run` left beside the model folder, that measured it."""
    path = report or folder.resolve().parent / REPORT
    path = path / REPORT if path.is_dir() else path
    try:
        content = _Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return NoReference(
            "there is no report of the run that made this model",
            f"start with --report, or serve a folder where `polyfold run` wrote it, beside its {REPORT}",
        )
    except OSError as error:
        return NoReference(f"the report cannot be read: {error.strerror}", "check the file given with --report")
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        return NoReference(f"the report is damaged at '{where}'", "give a report.json of `polyfold run`")
    row = _row_of(content, folder, config)
    if row is None:
        return NoReference(
            f"no row of the report is named '{_artifact_name(folder)}', nor is one alone for {config.runtime} "
            f"in {config.precision}",
            "give the report of the run that made this folder, and keep the folder's name",
        )
    return _reference(content, row)


def base_language(code: str) -> str:
    """A language's code without its script or country."""
    return re.split(r"[-_]", code)[0].lower()


def _row_of(report: _Report, folder: Path, config: ModelConfig) -> _Row | None:
    """By the artifact's name, which is its row's; else the only row of that runtime and precision."""
    name = _artifact_name(folder)
    named = [row for row in report.rows if row.name == name]
    alike = [row for row in report.rows if (row.runtime, row.precision) == (config.runtime, config.precision)]
    return named[0] if named else alike[0] if len(alike) == 1 else None


def _artifact_name(folder: Path) -> str:
    if (folder / MANIFEST).exists():
        try:
            return Artifact.open(folder).manifest.name
        except InputError:
            pass  # whether the manifest is whole is for whoever loads the model to judge
    return _KEY.sub("", folder.resolve().name)


def _reference(report: _Report, row: _Row) -> Reference:
    profile = row.profile
    by_split = report.data.documents_by_language if report.data is not None else {}
    languages = _languages(profile.languages if profile is not None else by_split.get("test", {}))
    found = [languages] if languages is not None else []
    if profile is None or not profile.documents:
        missing = "the report holds no profile of the test documents; measure again with this version of Polyfold"
        return Reference(row.name, tuple(found), missing=missing)
    bounds, documents = profile.token_bounds, profile.documents
    lengths = (*(f"<= {bound}" for bound in bounds), f"> {bounds[-1]}")
    found.append(Expected("length", None, lengths, np.array(profile.tokens, float), documents))
    for task, one in profile.tasks.items():
        found.append(Expected("label", task, *_labels(one), documents))
        bins = len(one.confidence)
        values = tuple(f"{place / bins:.2f}-{(place + 1) / bins:.2f}" for place in range(bins))
        counts = np.array(one.confidence, float)
        found.append(Expected("confidence", task, values, counts, documents, one.mean_confidence))
    return Reference(row.name, tuple(found), bounds)


def _labels(task: _TaskProfile) -> tuple[tuple[str, ...], np.ndarray]:
    """Labels and their counts; a multi-label task's documents without any are one more."""
    counts = dict(task.labels)
    if task.without_label is not None:
        counts[NO_LABEL] = task.without_label
    return tuple(counts), np.array(list(counts.values()), float)


def _languages(counts: dict[str, int]) -> Expected | None:
    """By base language, with the share of others that the detector finds everywhere."""
    merged: dict[str, float] = {}
    for code, count in counts.items():
        merged[base_language(code)] = merged.get(base_language(code), 0.0) + count
    documents = int(sum(merged.values()))
    if not documents:
        return None
    merged[OTHER] = OTHER_SHARE * documents
    return Expected("language", None, tuple(merged), np.array(list(merged.values())), documents)
