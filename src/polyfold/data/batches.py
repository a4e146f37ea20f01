"""Documents to batches: steps of a fixed number of documents, each cut by length under a token budget.

A step's documents are drawn at random, so the gradient is unbiased; only inside a step are documents of like
length put together, so that little is padding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from polyfold.batch import Batch
from polyfold.data.dataset import Documents
from polyfold.tasks import NOT_LABELLED, Task
from polyfold.text import Encoding, Tokenizer, pad_rows
from polyfold.text.rectangles import RECTANGLE_TOKENS, cheapest_bounds


class BatchSpec(BaseModel):
    """How documents become steps.

    `documents_per_step` go into one optimizer step whatever the hardware; `token_budget` bounds the padded
    tokens of one forward pass. A sampling temperature T draws a language (or task) with n documents in
    proportion to n^(1/T): 1 keeps the data's own mix, more evens it out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents_per_step: int = Field(default=64, gt=0)
    token_budget: int = Field(default=2048, gt=0)
    language_temperature: float = Field(default=1.0, ge=1.0)
    task_temperature: float = Field(default=1.0, ge=1.0)
    length_grouping: Literal["step", "none"] = "step"


@dataclass(frozen=True)
class EncodedDocuments:
    """A split's documents as token ids of one tokenizer, with their labels."""

    documents: Documents
    encoding: Encoding
    pad_id: int
    unknown_id: int | None = None

    def __len__(self) -> int:
        return len(self.documents)

    def batch(self, indices: np.ndarray) -> Batch:
        """The chosen documents as tensors."""
        input_ids, attention_mask = pad_rows(self.encoding, indices, self.pad_id)
        rows = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        return Batch(
            torch.from_numpy(input_ids),
            torch.from_numpy(attention_mask),
            rows,
            {name: values[rows] for name, (values, _) in self._labels.items()},
            {name: mask[rows] for name, (_, mask) in self._labels.items()},
        )

    @cached_property
    def _labels(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """By task the labels of the whole split as a batch holds them, and which documents have one."""
        found = {}
        for name, values in self.documents.labels.items():
            single = values.ndim == 1
            mask = (values if single else values[:, 0]) != NOT_LABELLED
            found[name] = (
                torch.from_numpy(values.astype(np.int64 if single else np.float32)),
                torch.from_numpy(mask),
            )
        return found


def encode(documents: Documents, tokenizer: Tokenizer, max_length: int) -> EncodedDocuments:
    """Tokenize a split once, before the first epoch."""
    encoding = tokenizer.encode(documents.texts, max_length)
    return EncodedDocuments(documents, encoding, tokenizer.spec.pad_id, tokenizer.unknown_id)


def drop_tokens(batch: Batch, share: float, unknown_id: int) -> Batch:
    """A copy in which a random share of the tokens is unknown; a document's first and last token stay.

    Feedback repeats few words for each label, and a model that may lean on any one of them overfits. The
    teacher still sees the whole document, so its student also learns to fill the gaps.
    """
    positions = torch.arange(batch.input_ids.shape[1])
    inner = (positions > 0) & (positions < batch.attention_mask.sum(dim=1, keepdim=True) - 1)
    dropped = inner & (torch.rand(batch.input_ids.shape) < share)
    return replace(batch, input_ids=batch.input_ids.masked_fill(dropped, unknown_id))


def sampling_weights(documents: Documents, tasks: Sequence[Task], spec: BatchSpec) -> np.ndarray | None:
    """Each document's chance to be drawn, float64 [n] summing to 1; None where the data's own mix is kept."""
    if spec.language_temperature == 1.0 and spec.task_temperature == 1.0:
        return None
    weights = np.ones(len(documents))
    _, inverse, counts = np.unique(np.asarray(documents.languages), return_inverse=True, return_counts=True)
    weights *= counts[inverse] ** (1.0 / spec.language_temperature - 1.0)
    if spec.task_temperature != 1.0:
        labelled = np.stack([documents.labelled(task) for task in tasks], axis=1)
        per_task = np.maximum(labelled.sum(axis=0), 1) ** (1.0 / spec.task_temperature - 1.0)
        # A document answers for the mean of the tasks it is labelled for; an unlabelled one for all of them.
        rows = np.where(labelled.any(axis=1, keepdims=True), labelled, True)
        weights *= (rows * per_task).sum(axis=1) / rows.sum(axis=1)
    return weights / weights.sum()


def steps_per_epoch(documents: int, spec: BatchSpec) -> int:
    """Optimizer steps an epoch; the last one may be smaller."""
    return -(-documents // spec.documents_per_step)


def plan_epoch(
    lengths: np.ndarray,
    weights: np.ndarray | None,
    spec: BatchSpec,
    seed: int,
    epoch: int,
    ragged: bool = False,
) -> list[list[np.ndarray]]:
    """The steps of one epoch, each a list of batches (arrays of document indices) under the token budget.

    A pure function of its arguments: a resumed run or another process finds the same plan.
    """
    generator = np.random.default_rng([seed, epoch])
    count = len(lengths)
    order = generator.permutation(count) if weights is None else generator.choice(count, size=count, p=weights)
    size = spec.documents_per_step
    return [split_step(order[start : start + size], lengths, spec, ragged) for start in range(0, count, size)]


def split_step(
    indices: np.ndarray, lengths: np.ndarray, spec: BatchSpec, ragged: bool = False
) -> list[np.ndarray]:
    """Cut one step's documents into batches of like length whose padded tokens stay within the budget.

    Beyond the budget a batch also ends where its longest document would be over 1.5 times its shortest, which
    leaves a quarter of the tokens padding where a step has 64 feedback texts, and a fifth where it has 256. A
    model whose passes are `ragged` (`model/first_token.py`) leaves padding out by itself: a batch is then as many
    documents as the budget lets, counted in the rectangles that it will cut the batch into.
    """
    if spec.length_grouping == "none":
        bounds = _bounds(lengths[indices], spec.token_budget, even=False)
        return [indices[start:end] for start, end in pairwise(bounds)]
    chosen = indices[np.argsort(lengths[indices], kind="stable")]
    cut = _joined_bounds if ragged else _bounds
    return [chosen[start:end] for start, end in pairwise(cut(lengths[chosen], spec.token_budget))]


def _bounds(lengths: np.ndarray, token_budget: int, even: bool = True) -> list[int]:
    """Where batches begin and end, each as long as the budget and (if `even`) its lengths let it."""
    bounds, longest, listed = [0], 0, lengths.tolist()
    for place, length in enumerate(listed):
        count, longest = place - bounds[-1], max(longest, length)
        uneven = even and count >= 16 and length > 1.5 * listed[bounds[-1]] + 4
        if count and ((count + 1) * longest > token_budget or uneven):
            bounds.append(place)
            longest = length
    return [*bounds, len(listed)]


def _joined_bounds(lengths: np.ndarray, token_budget: int) -> list[int]:
    """The cheapest rectangles, neighbours in one batch while their tokens stay within the budget together."""
    kept, tokens = [0], 0
    rectangles = cheapest_bounds(lengths, token_budget, RECTANGLE_TOKENS)
    for start, end in pairwise(rectangles):
        own = (end - start) * int(lengths[end - 1])
        if start > kept[-1] and tokens + own > token_budget:
            kept.append(start)
            tokens = 0
        tokens += own
    return [*kept, len(lengths)]
