"""Teachers: what a student is asked to imitate, computed while it trains or read from a cache.

A teacher may have another tokenizer than its student, so an online teacher reads the document's row number in
the batch and looks its own token ids up.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from polyfold.artifact import Artifact, digest_json, write_atomically
from polyfold.batch import Batch, Taught
from polyfold.data.batches import EncodedDocuments, encode
from polyfold.data.dataset import Documents
from polyfold.errors import InputError
from polyfold.model.classifier import Model, load_model
from polyfold.tasks import Task
from polyfold.text import open_tokenizer
from polyfold.train.evaluate import predict_logits


class Teacher(Protocol):
    """What is to be imitated on the documents of a batch; no gradient."""

    def __call__(self, batch: Batch) -> Taught: ...


class OnlineTeacher:
    """One multi-task model, or one model a task: each answers for the tasks it was trained on."""

    def __init__(self, models: Sequence[tuple[Model, EncodedDocuments]]) -> None:
        """Each model comes with the training documents encoded by its own tokenizer."""
        self._models = tuple(models)
        for model, _ in self._models:
            model.classifier.eval()

    def __call__(self, batch: Batch) -> Taught:
        """Logits of every task some model knows, float [batch labels]."""
        indices = batch.index.cpu().numpy()
        logits: dict[str, Tensor] = {}
        with torch.inference_mode():
            for model, encoded in self._models:
                device = next(model.classifier.parameters()).device
                own = encoded.batch(indices).to(device)
                outputs = model.classifier(own.input_ids, own.attention_mask)
                logits.update(outputs.logits)
        # Cloned outside inference mode, so that autograd may save them for the student's backward pass.
        return _everywhere(
            {name: values.float().clone().to(batch.input_ids.device) for name, values in logits.items()}
        )


class CachedTeacher:
    """Logits computed once and read from an Arrow file, memory-mapped."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        self._logits = {name: torch.from_numpy(_matrix(table.column(name)).copy()) for name in table.column_names}

    def __call__(self, batch: Batch) -> Taught:
        """The stored logits of the batch's documents."""
        rows = batch.index.cpu()
        return _everywhere(
            {name: values[rows].to(batch.input_ids.device) for name, values in self._logits.items()}
        )


def open_online_teacher(artifacts: Sequence[Artifact], documents: Documents) -> OnlineTeacher:
    """Load the teacher's models and encode the documents for each."""
    models = []
    for artifact in artifacts:
        model = load_model(artifact.path)
        tokenizer = open_tokenizer(artifact.path, model.backbone.tokenizer)
        models.append((model, encode(documents, tokenizer, model.max_length)))
    return OnlineTeacher(models)


def open_cached_teacher(artifacts: Sequence[Artifact], documents: Documents, folder: Path) -> CachedTeacher:
    """The cache for these teachers on these documents, computed now if it is missing.

    The file is named by a hash of teachers and texts, so a stale one is never read.
    """
    key = digest_json([[artifact.manifest.key for artifact in artifacts], list(documents.texts)])[:16]
    path = folder / f"teacher-{key}.arrow"
    if not path.exists():
        _write_cache(path, artifacts, documents)
    return CachedTeacher(path)


def _everywhere(logits: Mapping[str, Tensor]) -> Taught:
    """An answer that covers every document."""
    return Taught(
        logits, {name: torch.ones(len(one), dtype=torch.bool, device=one.device) for name, one in logits.items()}
    )


def require_tasks(teacher_tasks: Sequence[Task], tasks: Sequence[Task]) -> None:
    """A teacher's labels must be the student's, by name and order; InputError names the first that differs."""
    own = {task.name: task for task in tasks}
    for task in teacher_tasks:
        mine = own.get(task.name)
        if mine is not None and (mine.labels != task.labels or mine.kind != task.kind):
            raise InputError(
                f"the teacher's task '{task.name}' has labels {task.labels}, the data has {mine.labels}",
                hint="train the teacher on this data's labels",
            )


def _write_cache(path: Path, artifacts: Sequence[Artifact], documents: Documents) -> None:
    columns: dict[str, pa.Array] = {}
    for artifact in artifacts:
        model = load_model(artifact.path)
        tokenizer = open_tokenizer(artifact.path, model.backbone.tokenizer)
        encoded = encode(documents, tokenizer, model.max_length)
        label = f"{artifact.manifest.name} answers"
        for name, values in predict_logits(model.classifier, model.tasks, encoded, label).items():
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    sink = pa.BufferOutputStream()
    table = pa.table(columns)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    write_atomically(path, sink.getvalue().to_pybytes())


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
    return np.asarray(flat.reshape(len(column), -1))
