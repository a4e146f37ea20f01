"""Teacher logits on disk: an Arrow file, read memory-mapped and only where it is what it should be.

Beside `teacher-KEY.arrow` stands `teacher-KEY.sha256`, written last, in the form that `sha256sum -c` reads. A file
without it was not finished; one that does not match it is damaged; one that holds another key is not ours.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from polyfold.artifact import digest_file, digest_json, write_atomically
from polyfold.batch import Batch, Taught
from polyfold.console import note
from polyfold.data.dataset import Documents
from polyfold.train.answers import Answer, Answers, TeacherSet
from polyfold.train.teachers import ModelTeacher

KEY = b"polyfold_key"
COVERED = "covered:"
"""Before a task's name: the column that says for which documents there is an answer. No task has a colon."""


class CachedTeacher:
    """Logits computed once, read from a memory-mapped Arrow file: only the rows of a batch are ever copied."""

    guide: ModelTeacher | None = None

    def __init__(self, path: Path) -> None:
        """`path` must be whole; `open_cache` sees to that."""
        # The arrays below point into the map, which lives as long as they do.
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        names = [name for name in table.column_names if not name.startswith(COVERED)]
        self._logits = {name: _matrix(table.column(name)) for name in names}
        self._covered = {name: _Bits(table.column(COVERED + name)) for name in names}

    def __call__(self, batch: Batch) -> Taught:
        """The stored answers for the batch's documents."""
        rows, device = batch.index.cpu().numpy(), batch.input_ids.device
        logits = {name: torch.from_numpy(values[rows]).to(device) for name, values in self._logits.items()}
        covered = {name: torch.from_numpy(bits[rows]).to(device) for name, bits in self._covered.items()}
        return Taught(logits, covered)


class _Bits:
    """A column of truth values where it lies in the file: eight to a byte, the lowest bit first."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        if column.num_chunks == 0:
            self._bytes, self._offset = np.zeros(0, dtype=np.uint8), 0
            return
        assert column.num_chunks == 1, "it is written in one piece"
        chunk = column.chunk(0)
        self._bytes, self._offset = np.frombuffer(chunk.buffers()[1], dtype=np.uint8), chunk.offset

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """The values of these rows, bool [rows]."""
        places = rows + self._offset
        return np.asarray(self._bytes[places >> 3] >> (places & 7) & 1, dtype=bool)


def cache_key(teachers: TeacherSet, documents: Documents) -> str:
    """Sixteen hexadecimal digits over the teachers and all that they read of the documents."""
    return digest_json([teachers.key, list(documents.texts), list(documents.languages)])[:16]


def open_cache(folder: Path, key: str, answer: Callable[[], Answers]) -> CachedTeacher:
    """The cache of that key, computed now if it is missing, unfinished, damaged or somebody else's."""
    path = folder / f"teacher-{key}.arrow"
    problem = _problem(path, key)
    if problem is not None:
        if path.exists():
            note(f"{path.name}: {problem}; the teacher is asked again")
        _write(path, key, answer())
    return CachedTeacher(path)


def _problem(path: Path, key: str) -> str | None:
    """Why a cache cannot be used, or None."""
    if not path.exists():
        return "it is missing"
    if not _sum(path).exists():
        return "it has no checksum, so it was not finished"
    digest = digest_file(path)
    if _sum(path).read_bytes() != _line(digest, path):
        return "it does not match its checksum"
    with pa.memory_map(str(path)) as source:
        held = (pa.ipc.open_file(source).schema.metadata or {}).get(KEY, b"").decode()
    return None if held == key else f"it belongs to other teachers or documents ('{held}')"


def _write(path: Path, key: str, answers: Answers) -> None:
    columns: dict[str, pa.Array] = {}
    for name, answer in answers.items():
        columns[name] = _column(answer)
        columns[COVERED + name] = pa.array(answer.covered.cpu().numpy())
    table = pa.table(columns).replace_schema_metadata({KEY: key.encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    _sum(path).unlink(missing_ok=True)
    write_atomically(path, sink.getvalue().to_pybytes())
    write_atomically(_sum(path), _line(digest_file(path), path))


def _column(answer: Answer) -> pa.Array:
    values = answer.logits.cpu().numpy()
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A view of the file, float32 [n, labels]; no documents make no chunk."""
    width = column.type.list_size
    if column.num_chunks == 0:
        return np.zeros((0, width), dtype=np.float32)
    assert column.num_chunks == 1, "it is written in one piece"
    flat = column.chunk(0).flatten().to_numpy(zero_copy_only=True)
    return np.asarray(flat.reshape(len(column), width))


def _sum(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _line(digest: str, path: Path) -> bytes:
    return f"{digest}  {path.name}\n".encode()
