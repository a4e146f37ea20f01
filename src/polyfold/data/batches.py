"""Documents to batches: steps of a fixed number of documents, each cut by length under a token budget.

A step's documents are drawn at random, so the gradient is unbiased; only inside a step are documents of like
length put together, so that little is padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from polyfold.batch import Batch
from polyfold.data.dataset import Documents
from polyfold.tasks import NOT_LABELLED, Task
from polyfold.text import Encoding, Tokenizer, pad


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
        input_ids, attention_mask = pad([self.encoding.ids[i] for i in indices], self.pad_id)
        labels, masks = {}, {}
        for name, values in self.documents.labels.items():
            chosen = values[indices]
            first = chosen if chosen.ndim == 1 else chosen[:, 0]
            masks[name] = torch.from_numpy(first != NOT_LABELLED)
            labels[name] = torch.from_numpy(
                chosen.astype(np.int64) if chosen.ndim == 1 else chosen.astype(np.float32)
            )
        return Batch(
            torch.from_numpy(input_ids),
            torch.from_numpy(attention_mask),
            torch.from_numpy(np.asarray(indices, dtype=np.int64)),
            labels,
            masks,
        )


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
    lengths: np.ndarray, weights: np.ndarray | None, spec: BatchSpec, seed: int, epoch: int
) -> list[list[np.ndarray]]:
    """The steps of one epoch, each a list of batches (arrays of document indices) under the token budget.

    A pure function of its arguments: a resumed run or another process finds the same plan.
    """
    generator = np.random.default_rng([seed, epoch])
    count = len(lengths)
    order = generator.permutation(count) if weights is None else generator.choice(count, size=count, p=weights)
    size = spec.documents_per_step
    return [split_step(order[start : start + size], lengths, spec) for start in range(0, count, size)]


def split_step(indices: np.ndarray, lengths: np.ndarray, spec: BatchSpec) -> list[np.ndarray]:
    """Cut one step's documents into batches of like length whose padded tokens stay within the budget.

    Beyond the budget a batch also ends where its longest document would be over 1.5 times its shortest:
    measured on the feedback data this leaves under a tenth of the tokens padding.
    """
    chosen = indices[np.argsort(lengths[indices], kind="stable")] if spec.length_grouping == "step" else indices
    batches: list[np.ndarray] = []
    start, longest = 0, 0
    for position, index in enumerate(chosen):
        length = int(lengths[index])
        widest = max(longest, length)
        count = position - start
        over = (count + 1) * widest > spec.token_budget
        uneven = spec.length_grouping == "step" and count >= 16 and length > 1.5 * lengths[chosen[start]] + 4
        if count and (over or uneven):
            batches.append(chosen[start:position])
            start, widest = position, length
        longest = widest
    batches.append(chosen[start:])
    return batches
