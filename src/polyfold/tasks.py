"""Tasks and their labels: what a model is asked about each document."""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["single_label", "multi_label"]

NOT_LABELLED = -1
"""In label arrays: this document carries no label for this task (its null)."""


class Task(BaseModel):
    """One question asked of every document: `single_label` picks one of `labels`, `multi_label` any number.

    `temperature` divides the logits before the softmax or sigmoid; `thresholds` (one a label) decide a
    multi-label task. Both are fitted on dev and travel with the weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    kind: Kind = "single_label"
    labels: tuple[str, ...] = Field(min_length=1)
    languages: tuple[str, ...] | None = None
    thresholds: tuple[float, ...] | None = None
    temperature: float = Field(default=1.0, gt=0.0)

    @model_validator(mode="after")
    def _consistent(self) -> "Task":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"task '{self.name}' names a label twice: {self.labels}")
        if self.kind == "single_label" and len(self.labels) < 2:
            raise ValueError(f"task '{self.name}' has one class only: {self.labels}; nothing can be learned")
        if self.thresholds is not None and len(self.thresholds) != len(self.labels):
            raise ValueError(
                f"task '{self.name}': {len(self.thresholds)} thresholds for {len(self.labels)} labels"
            )
        return self

    @property
    def multi_label(self) -> bool:
        """Whether a document may carry any number of this task's labels."""
        return self.kind == "multi_label"

    def labelled(self, labels: np.ndarray) -> np.ndarray:
        """Which documents of a label array ([n] single-label, [n, labels] multi-label) are labelled: bool [n]."""
        return (labels != NOT_LABELLED) if labels.ndim == 1 else (labels[:, 0] != NOT_LABELLED)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities [n, labels]: softmax or, for multi-label, a sigmoid per label.

        In the logits' own precision: every runtime gives single precision, and double would be four times slower.
        """
        scaled = logits / self.temperature
        if self.multi_label:
            # Beyond this the exponential leaves single precision; the probability is 0 to 35 places.
            return np.asarray(1.0 / (1.0 + np.exp(-np.maximum(scaled, -80.0))))
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))

    def decide(self, probabilities: np.ndarray, thresholds: tuple[float, ...] | None = None) -> np.ndarray:
        """Labels as an array in the data's own form: int64 [n], or int8 [n, labels] for multi-label.

        Without thresholds, given or tuned, a multi-label task decides at 0.5.
        """
        if not self.multi_label:
            return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
        limits = thresholds or self.thresholds or (0.5,) * len(self.labels)
        return np.asarray(probabilities >= np.asarray(limits), dtype=np.int8)
