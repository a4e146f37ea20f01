"""How much each removable unit matters: to the distillation loss, by the size of its weights, or not at all."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfold.batch import Batch
from polyfold.compress.budget import Importance
from polyfold.data.batches import EncodedDocuments
from polyfold.model.classifier import Classifier
from polyfold.model.structure import gates
from polyfold.model.units import Group
from polyfold.train.objectives import Objective

Kind = Literal["taylor", "magnitude", "random"]

DOCUMENTS_PER_BATCH = 8


def taylor(
    classifier: Classifier,
    chosen: Sequence[Group],
    batches: Iterable[Batch],
    objective: Objective,
    piece_weights: Float[Tensor, "vocab"] | None = None,
) -> Importance:
    """The mean over batches of |dL/dg| at g = 1, g being what a unit's output is multiplied by: float64 [units].

    To first order it is what the loss would change by without the unit: Molchanov et al., "Importance Estimation
    for Neural Network Pruning" (2019), section 3.1, with gates; Michel et al., "Are Sixteen Heads Really Better
    than One?" (2019), Eq. 2. The absolute value is taken a batch, so that documents of one batch that disagree
    cancel: batches should be small.
    """
    classifier.eval()
    totals = {group.key: np.zeros(group.units) for group in chosen}
    seen = 0
    with gates(classifier, chosen, piece_weights) as values:
        device = next(classifier.parameters()).device
        objective.modules.to(device)
        for batch in batches:
            counts = objective.counts(batch)
            sums = objective(classifier, batch.to(device))
            loss = torch.stack([value / max(1.0, counts[name]) for name, value in sums.items()]).sum()
            # Only the gates' gradients are asked for: those of a whole vocabulary would take most of the time.
            found = torch.autograd.grad(loss, list(values.values()), allow_unused=True)
            for key, gradient in zip(values, found, strict=True):
                if gradient is not None:
                    totals[key] += gradient.abs().double().cpu().numpy()
            seen += 1
    assert seen
    return {key: total / seen for key, total in totals.items()}


def at_random(chosen: Sequence[Group], generator: np.random.Generator) -> Importance:
    """What any other measure has to beat."""
    return {group.key: generator.random(group.units) for group in chosen}


def sample(train: EncodedDocuments, count: int, generator: np.random.Generator) -> list[Batch]:
    """Small batches of like length from so many random documents."""
    rows = generator.choice(len(train), size=min(count, len(train)), replace=False)
    rows = rows[np.argsort(train.encoding.lengths[rows], kind="stable")]
    starts = range(0, len(rows), DOCUMENTS_PER_BATCH)
    return [train.batch(rows[start : start + DOCUMENTS_PER_BATCH]) for start in starts]
