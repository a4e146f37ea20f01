"""The `data` block of a recipe: where the texts lie, which column is what, which tasks to read."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from polyfold.data.dataset import SPLITS
from polyfold.tasks import Kind

SPLIT_NAMES = {
    "train": "train",
    "dev": "dev",
    "validation": "dev",
    "valid": "dev",
    "val": "dev",
    "test": "test",
}
"""Every name a split may have in the user's files, and ours for it."""

DEFAULT_DELIMITER = "|"
FRACTIONS = {"train": 0.8, "dev": 0.1, "test": 0.1}


class TaskSpec(BaseModel):
    """One task and its column; `labels` are inferred from the data (sorted) where none are given.

    `delimiter` separates the labels of a multi-label CSV cell ('|' unless told). Other formats hold lists; give
    a delimiter to read delimited text there too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    kind: Kind = "single_label"
    column: str | None = None
    labels: tuple[str, ...] | None = None
    languages: tuple[str, ...] | None = None
    delimiter: str | None = Field(default=None, min_length=1)

    @property
    def source(self) -> str:
        """The column's name: the task's own unless another is given."""
        return self.column or self.name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.labels is None:
            return self
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"task '{self.name}' names a label twice")
        if len(self.labels) < (2 if self.kind == "single_label" else 1):
            raise ValueError(f"task '{self.name}' needs more labels than {list(self.labels)}")
        return self


class UnlabelledSpec(BaseModel):
    """Texts without labels, for distillation; `limit` keeps a seeded random subset of that many."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    text: str = "text"
    language: str | None = None
    languages: tuple[str, ...] | None = None
    limit: int | None = Field(default=None, ge=1)


class DataSpec(BaseModel):
    """Labelled texts: a CSV, JSONL or Parquet file, one file a split, a folder, or a `datasets` hub id.

    Without `split` (and without one file a split) the splits are made by `group` in these `fractions`; a split
    the source lacks is made from its train rows. `limits` keeps a seeded random subset of a split,
    `test_sample_per_language` the first test documents of each language by id. `max_length` is in tokens, for
    training; `max_characters` guards against a file read wrongly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | dict[str, str]
    text: str = "text"
    language: str | None = "language"
    id: str | None = None
    group: str | None = None
    split: str | None = None
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    languages: tuple[str, ...] | None = None
    max_length: int = Field(default=128, ge=4)
    limits: dict[str, int] = Field(default_factory=dict)
    test_sample_per_language: int | None = Field(default=None, ge=1)
    fractions: dict[str, float] = Field(default_factory=lambda: dict(FRACTIONS))
    max_characters: int = Field(default=10_000, ge=1)
    duplicates: Literal["report", "drop"] = "report"
    unlabelled: UnlabelledSpec | None = None

    @field_validator("path")
    @classmethod
    def _known_splits(cls, path: str | dict[str, str]) -> str | dict[str, str]:
        if isinstance(path, str):
            return path
        unknown = [name for name in path if name not in SPLIT_NAMES]
        if unknown:
            raise ValueError(f"unknown split '{unknown[0]}'; allowed: {', '.join(SPLIT_NAMES)}")
        named = {SPLIT_NAMES[name]: file for name, file in path.items()}
        if len(named) != len(path):
            raise ValueError("two of these names mean the same split; dev, validation, valid and val are one")
        if "train" not in named:
            raise ValueError("name a file for 'train'")
        return named

    @field_validator("limits")
    @classmethod
    def _known_limits(cls, limits: dict[str, int]) -> dict[str, int]:
        for name, limit in limits.items():
            if name not in SPLITS:
                raise ValueError(f"unknown split '{name}'; allowed: {', '.join(SPLITS)}")
            if limit < 1:
                raise ValueError(f"the limit of '{name}' must be at least 1, not {limit}")
        return limits

    @field_validator("fractions")
    @classmethod
    def _whole(cls, fractions: dict[str, float]) -> dict[str, float]:
        if set(fractions) != set(SPLITS) or min(fractions.values()) <= 0:
            raise ValueError(f"give a fraction above 0 for each of {', '.join(SPLITS)}")
        if abs(sum(fractions.values()) - 1.0) > 1e-6:
            raise ValueError(f"the fractions add up to {sum(fractions.values()):g}, not to 1")
        return fractions

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [task.name for task in self.tasks]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two tasks are named '{twice[0]}'")
        if self.split is not None and not isinstance(self.path, str):
            raise ValueError("with one file a split there can be no `split` column; leave one of the two out")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column this spec names."""
        own = (self.text, self.language, self.id, self.group, self.split)
        named = [name for name in own if name is not None] + [task.source for task in self.tasks]
        return tuple(dict.fromkeys(named))
