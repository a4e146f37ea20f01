"""A linear model on hashed character n-grams: the classic that a neural model has to beat.

`settings`: buckets, longest (of the n-grams). Trained on all of the `train` sample with a logistic loss.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from linear import fit_heads, load_heads, save_heads
from worker import Job, Scores, decided, serve, split_tasks

HEADS = "heads.npz"


class HashedNgrams:
    """scikit-learn's vectorizer, then one sparse product for all tasks."""

    batch_sizes: Sequence[int] = (32, 1024)

    def __init__(self, job: Job) -> None:
        self.tasks = job.tasks
        self.files: Sequence[Path] = [job.folder / HEADS]
        self.vectorizer = _vectorizer(job)
        self.weights, self.biases = load_heads(self.files[0])

    def answer(self, texts: list[str], batch_size: int) -> object:
        return decided(self.tasks, self.scores(texts, batch_size))

    def scores(self, texts: list[str], batch_size: int) -> Scores:
        parts = [
            self.vectorizer.transform(texts[start : start + batch_size]) @ self.weights
            for start in range(0, len(texts), batch_size)
        ]
        return split_tasks(self.tasks, np.concatenate(parts) + self.biases)


def _vectorizer(job: Job) -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        analyzer="char", ngram_range=(1, job.settings["longest"]), n_features=job.settings["buckets"],
        dtype=np.float32,
    )  # fmt: skip


def _prepare(job: Job) -> None:
    from sklearn.linear_model import SGDClassifier

    def fit(features: Any, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Averaged: the last steps of plain SGD on 60,000 documents are still noisy.
        model = SGDClassifier(
            loss="log_loss", alpha=1e-6, max_iter=8, tol=None, average=True, random_state=0, n_jobs=-1
        )
        model.fit(features, labels)
        return model.coef_, model.intercept_

    train = job.sample("train")
    features = _vectorizer(job).transform(train["texts"])
    save_heads(job.folder / HEADS, *fit_heads(features, train, job.tasks, fit))


if __name__ == "__main__":
    serve(HashedNgrams, _prepare)
