"""What a pruning step may be told: targets, a budget, layers, importance, rounds, recovery."""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from polyfold.compress.importance import Kind
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.losses.spec import LossSpec
from polyfold.train.fit import FitSpec

Target = Literal[
    "layers", "heads", "feed_forward", "width", "embedding_rank", "branches", "branch_width", "dense_width",
    "sentence_width", "embedding_width",
]  # fmt: skip

WHOLE = {"layers": ("heads", "feed_forward"), "branches": ("branch_width",)}
"""Targets whose units hold units of other targets."""

BUDGET_TARGETS = ("heads", "feed_forward", "branch_width", "embedding_width")
"""What a budget may cut unless it says so itself: what costs time, in every layer or branch by itself."""


class KeepLayers(BaseModel):
    """The layers that stay (of the embedded encoder, its branches): by number, or so many of them.

    `evenly` takes the first, the last, and those at equal distances between them; `importance` those that matter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: tuple[int, ...] | None = Field(default=None, min_length=1)
    count: int | None = Field(default=None, ge=1)
    choose: Literal["importance", "evenly"] = "importance"

    @model_validator(mode="after")
    def _one_of_two(self) -> "KeepLayers":
        if (self.keep is None) == (self.count is None):
            raise ValueError("layers: give either `keep` (numbers from 0) or `count`")
        if self.keep is not None and len(set(self.keep)) != len(self.keep):
            raise ValueError("layers: `keep` names a layer twice")
        return self

    def numbers(self, units: int) -> np.ndarray | None:
        """The layers that stay of so many, where no importance is needed to say so; InputError where they lack."""
        if self.keep is not None:
            beyond = [layer for layer in self.keep if not 0 <= layer < units]
            if beyond:
                raise InputError(
                    f"there is no layer {beyond[0]} to keep",
                    key="layers.keep",
                    hint=f"layers are 0 to {units - 1}",
                )
            return np.array(sorted(self.keep), dtype=np.int64)
        assert self.count is not None
        if self.count > units:
            raise InputError(
                f"{self.count} layers cannot be kept of {units}", key="layers.count", hint=f"ask for 1 to {units}"
            )
        if self.choose == "evenly":
            return np.unique(np.rint(np.linspace(0, units - 1, self.count)).astype(np.int64))
        return None


class PruneBudget(BaseModel):
    """The share of the encoder's FLOPs or parameters that may remain, over all layers and targets together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flops: float | None = Field(default=None, gt=0, le=1)
    parameters: float | None = Field(default=None, gt=0, le=1)
    targets: tuple[Target, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> "PruneBudget":
        if (self.flops is None) == (self.parameters is None):
            raise ValueError("budget: give either `flops` or `parameters`")
        return self

    @property
    def kind(self) -> Literal["flops", "parameters"]:
        """What is limited."""
        return "flops" if self.flops is not None else "parameters"

    @property
    def share(self) -> float:
        """How much of it may remain."""
        return self.flops or self.parameters or 1.0


class PruneSchedule(BaseModel):
    """In how many rounds the same share of what is left goes, each followed by a recovery of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(default=1, ge=1)


class Prune(BaseModel):
    """Remove units, least important first, and train on after each round as `recover` says.

    `target` gives the share of units that STAYS by target; `budget` the share of FLOPs (of a document of `seq`
    tokens) or parameters that stays, found over all layers and targets together; `layers` comes before both.
    `even` takes as many units from every layer, which stock transformers can load; without it layers lose as
    their importance says. Importance is measured on `documents` random training documents, `losses` being what
    the units matter to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["prune"] = "prune"
    target: dict[Target, float] = Field(default_factory=dict)
    budget: PruneBudget | None = None
    layers: KeepLayers | None = None
    importance: Kind = "taylor"
    documents: int = Field(default=512, ge=1)
    seq: int = Field(default=128, ge=1)
    even: bool = False
    multiple_of: int = Field(default=8, ge=1)
    schedule: PruneSchedule = PruneSchedule()
    losses: tuple[LossSpec, ...] = (LabelLoss(), LogitLoss())
    recover: FitSpec = FitSpec(epochs=1)

    @model_validator(mode="after")
    def _something_to_do(self) -> "Prune":
        if self.target and self.budget is not None:
            raise ValueError("prune: give `target` or `budget`, not both")
        if not self.target and self.budget is None and self.layers is None:
            raise ValueError("prune: give `target`, `budget` or `layers`")
        for name, share in self.target.items():
            if not 0 < share <= 1:
                raise ValueError(
                    f"prune: target.{name} is {share:g}; it is the share that stays, over 0 and up to 1"
                )
        if self.layers is not None and any(name in WHOLE for name in self.named):
            raise ValueError("prune: `layers` chooses the layers already; leave them out of the targets")
        return self

    @property
    def named(self) -> tuple[str, ...]:
        """The targets named by the user, of which every one must exist."""
        return (*self.target, *((self.budget.targets or ()) if self.budget is not None else ()))
