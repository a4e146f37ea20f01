"""The vocabulary of structured pruning: groups of units, the sets that are kept, and what a model costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfold.errors import InputError

Key = tuple[str, int | None]
"""A group's name: its target, and the layer (or branch) it lies in, None where it runs through the whole model."""

Keep = Mapping[Key, np.ndarray]
"""By group, the indices (int64, ascending) of the units that stay. A group that is not named keeps all of them."""

Gates = Mapping[Key, Float[Tensor, "units"]]
"""By group, the number each unit is multiplied by: 1 leaves it alone, 0 masks it."""


@dataclass(frozen=True)
class Cost:
    """What a model costs: parameters, and floating-point operations of one document (2 a multiply-add)."""

    flops: int
    parameters: int


@dataclass(frozen=True)
class Group:
    """Units of one kind that can be removed one by one, each leaving a dense model.

    `flops_per_unit` (2 a multiply-add, one document of the length that was asked about) and `parameters_per_unit`
    are what removing one unit saves while everything else stays as it is. They are marginal: two targets that
    share a matrix (heads and width) save less together than the sum, which is what `structure.cost` is for. A
    rank is counted against a table that is factorized already.
    """

    target: str
    layer: int | None
    units: int
    flops_per_unit: float
    parameters_per_unit: int

    @property
    def key(self) -> Key:
        """The group's name in gates and keep sets."""
        return (self.target, self.layer)


def check_keep(groups: Sequence[Group], keep: Keep) -> dict[Key, np.ndarray]:
    """The sets that are named, as ascending int64 arrays; InputError where they name what is not there.

    At least one unit of every group stays: a model without heads in a layer is none that its family can hold, and
    whoever wants a layer gone can say so by the target `layers`.
    """
    by_key = {group.key: group for group in groups}
    for key in keep:
        if key not in by_key:
            raise InputError(
                f"this model has no units {_words(key)} to prune",
                hint=f"it has {', '.join(sorted({_words(key) for key in by_key}))}",
            )
    return {key: _checked(by_key[key], indices) for key, indices in keep.items()}


def _checked(group: Group, kept: np.ndarray) -> np.ndarray:
    indices = np.unique(np.asarray(kept, dtype=np.int64))
    if len(indices) == 0:
        raise InputError(
            f"pruning would remove all {group.units} units of {_words(group.key)}",
            hint="keep at least one of them",
        )
    if indices[0] < 0 or indices[-1] >= group.units:
        raise InputError(
            f"{_words(group.key)} has no unit {int(indices[0] if indices[0] < 0 else indices[-1])}",
            hint=f"its units are 0 to {group.units - 1}",
        )
    return indices


def ones(groups: Sequence[Group], like: Tensor) -> dict[Key, Float[Tensor, "units"]]:
    """A gate of ones for each group, of that tensor's kind: leaves whose gradients can be read."""
    return {
        group.key: torch.ones(group.units, device=like.device, dtype=like.dtype, requires_grad=True)
        for group in groups
    }


def _words(key: Key) -> str:
    target, layer = key
    return f"'{target}'" if layer is None else f"'{target}' of layer {layer}"
