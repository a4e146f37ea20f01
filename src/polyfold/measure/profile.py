"""Test documents in counts, as a served model sees them: the reference that a service measures drift against."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from polyfold import metrics
from polyfold.data.dataset import Documents
from polyfold.measure.accuracy import Logits
from polyfold.measure.report import Profile, TaskProfile
from polyfold.tasks import Task

TOKEN_BOUNDS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Fine where texts are short, and each bound at most twice the one before."""


def profile(tasks: Sequence[Task], documents: Documents, lengths: np.ndarray, logits: Logits) -> Profile:
    """Of all documents, labelled or not, since a service asks every task of every text.

    `lengths` holds their tokens, int [n].
    """
    places = np.searchsorted(TOKEN_BOUNDS, lengths)
    return Profile(
        documents=len(documents),
        languages=dict(sorted(Counter(documents.languages).items())),
        token_bounds=TOKEN_BOUNDS,
        tokens=tuple(np.bincount(places, minlength=len(TOKEN_BOUNDS) + 1).tolist()),
        tasks={task.name: _task_profile(task, logits[task.name]) for task in tasks} if len(documents) else {},
    )


def _task_profile(task: Task, logits: np.ndarray) -> TaskProfile:
    probabilities = task.probabilities(logits)
    sure, predicted = metrics.confidence(task, probabilities), task.decide(probabilities)
    counts = metrics.label_counts(task, predicted).tolist()
    return TaskProfile(
        mean_confidence=float(sure.mean()),
        confidence=tuple(metrics.confidence_counts(sure).tolist()),
        labels=dict(zip(task.labels, counts, strict=True)),
        without_label=int((~predicted.any(axis=1)).sum()) if task.multi_label else None,
    )
