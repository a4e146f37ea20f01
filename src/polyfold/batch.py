"""The torch tensors of a training step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Documents of one forward pass, padded on the right.

    `labels[task]` is int64 [batch] (single-label) or float [batch labels] (multi-label), its values arbitrary
    where `label_mask[task]` is False; `index` holds each document's row in the data set it was drawn from.
    """

    input_ids: Int[Tensor, "batch seq"]
    attention_mask: Int[Tensor, "batch seq"]
    index: Int[Tensor, "batch"]
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    label_mask: Mapping[str, Bool[Tensor, "batch"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.index.to(device),
            {name: values.to(device) for name, values in self.labels.items()},
            {name: mask.to(device) for name, mask in self.label_mask.items()},
        )


@dataclass(frozen=True)
class Internals:
    """What layerwise distillation reads of an encoder, for every position of a padded batch.

    `hidden_states` begins with the embedding layer's output, then one tensor a layer. `queries`, `keys` and
    `values` hold one tensor a layer with the heads side by side (as the projections leave them, before any
    scaling or rotation), and `heads` how many heads each layer has. Only what was asked for is filled.
    """

    hidden_states: tuple[Float[Tensor, "batch seq hidden"], ...] = ()
    queries: tuple[Float[Tensor, "batch seq hidden"], ...] = ()
    keys: tuple[Float[Tensor, "batch seq hidden"], ...] = ()
    values: tuple[Float[Tensor, "batch seq hidden"], ...] = ()
    heads: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outputs:
    """What a classifier returns: logits by task, the sentence vector the heads read, internals if asked for."""

    logits: Mapping[str, Float[Tensor, "batch labels"]]
    pooled: Float[Tensor, "batch hidden"]
    internals: Internals | None = None


@dataclass(frozen=True)
class Taught:
    """A teacher's answer for the documents of a batch, without gradient.

    `covered[task]` tells for which documents there is an answer: a teacher may know some tasks or languages only,
    and the logits of the others are arbitrary. `pooled` and `internals` are there only if some loss reads them.
    """

    logits: Mapping[str, Float[Tensor, "batch labels"]]
    covered: Mapping[str, Bool[Tensor, "batch"]]
    pooled: Float[Tensor, "batch hidden"] | None = None
    internals: Internals | None = None
