"""Static token embeddings in model2vec's `StaticModel`, and linear heads: no neural network runs at all.

The vectors are the token table of a stock folder, as model2vec would treat those of a distilled model: the leading
principal directions, each token weighed by how rare it is (SIF, Arora et al. 2017, with model2vec's coefficient).
Where model2vec itself takes frequencies from Zipf's law and the place in the vocabulary, these are counted on the
training texts. `settings`: folder, width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from linear import fit_heads, load_heads, save_heads
from worker import Job, Scores, decided, serve, split_tasks

MODEL, HEADS = "model", "heads.npz"
SIF = 1e-4
MAX_LENGTH = 128


class StaticEmbeddings:
    """The mean of a text's vectors, and one matrix product for all tasks."""

    batch_sizes: Sequence[int] = (32, 1024)

    def __init__(self, job: Job) -> None:
        from model2vec import StaticModel

        self.tasks = job.tasks
        self.files: Sequence[Path] = [job.folder / MODEL, job.folder / HEADS]
        self.model = StaticModel.from_pretrained(self.files[0])
        self.weights, self.biases = load_heads(self.files[1])

    def answer(self, texts: list[str], batch_size: int) -> object:
        return decided(self.tasks, self.scores(texts, batch_size))

    def scores(self, texts: list[str], batch_size: int) -> Scores:
        features = self.model.encode(texts, batch_size=batch_size, use_multiprocessing=False)
        return split_tasks(self.tasks, features @ self.weights + self.biases)


def _prepare(job: Job) -> None:
    from model2vec import StaticModel
    from sklearn.linear_model import LogisticRegression
    from tokenizers import Tokenizer

    source, train = Path(job.settings["folder"]), job.sample("train")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    table = _token_table(source)[: tokenizer.get_vocab_size()]
    encoded = tokenizer.encode_batch_fast(train["texts"], add_special_tokens=False)
    counts = np.bincount(np.concatenate([one.ids for one in encoded]), minlength=len(table))
    vectors = _principal(table, counts, min(job.settings["width"], table.shape[1]))
    vectors *= (SIF / (SIF + counts / counts.sum()))[:, None]
    model = StaticModel(vectors.astype(np.float32), tokenizer, normalize=True, max_length=MAX_LENGTH)
    features = model.encode(train["texts"])

    def fit(rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Vectors of length one in hundreds of directions: the usual C of 1 would hold the weights far too small.
        fitted = LogisticRegression(C=100.0, max_iter=300).fit(rows, labels)
        return fitted.coef_, fitted.intercept_

    model.save_pretrained(job.folder / MODEL)
    save_heads(job.folder / HEADS, *fit_heads(features, train, job.tasks, fit))


def _token_table(folder: Path) -> Any:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        names = [name for name in weights.keys() if name.endswith("word_embeddings.weight")]  # noqa: SIM118 - no mapping
        if len(names) != 1:
            raise ValueError(f"{folder} has {len(names)} token tables, not one")
        return np.asarray(weights.get_tensor(names[0]), np.float32)


def _principal(table: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray:
    """The table on its leading principal directions [vocabulary, width], those of tokens that occur."""
    seen = table[counts > 0]
    mean = seen.mean(axis=0)
    _, directions = np.linalg.eigh(np.cov((seen - mean).T))
    return np.asarray((table - mean) @ directions[:, ::-1][:, :width])


if __name__ == "__main__":
    serve(StaticEmbeddings, _prepare)
