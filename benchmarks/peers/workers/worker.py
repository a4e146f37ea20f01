"""What every peer's process does: read orders on standard input, one JSON a line, and answer on standard output.

It runs in the peer's own environment, so it imports the standard library and numpy, and nothing of Polyfold. The
script beside it that a peer is started with says how to prepare, open and ask that peer, and calls `serve`.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

Scores = dict[str, np.ndarray]

TUNED_ON = 192
"""Documents on which batch sizes are compared: six batches of the largest."""


@dataclass(frozen=True)
class Job:
    """A peer's order: its folder for what it prepares, the folder of common inputs, and its own settings.

    `tasks` are dicts of name, kind (single_label, multi_label) and labels.
    """

    folder: Path
    inputs: Path
    settings: Mapping[str, Any]
    tasks: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, path: Path) -> "Job":
        """The order as the driver wrote it."""
        content = json.loads(path.read_text(encoding="utf8"))
        inputs = Path(content["inputs"])
        tasks = json.loads((inputs / "tasks.json").read_text(encoding="utf8"))
        return cls(Path(content["folder"]), inputs, content["settings"], tasks)

    def sample(self, name: str) -> dict[str, Any]:
        """The documents of `train`, `dev`, `test` or `speed`."""
        content: dict[str, Any] = json.loads((self.inputs / f"{name}.json").read_text(encoding="utf8"))
        return content


class Peer(Protocol):
    """A loaded model."""

    @property
    def files(self) -> Sequence[Path]:
        """All that it reads from disk."""
        ...

    @property
    def batch_sizes(self) -> Sequence[int]:
        """Those worth trying; none where it chooses its batches itself."""
        ...

    def answer(self, texts: list[str], batch_size: int) -> object:
        """Every task's decision on every text, as the peer's users would ask for it: this is what is timed."""
        ...

    def scores(self, texts: list[str], batch_size: int) -> Scores:
        """Probabilities [texts, labels] by task, for scoring."""
        ...


class _Process:
    """One peer in its process: the state between orders."""

    def __init__(self, job: Job, open_peer: Callable[[Job], Peer], prepare: Callable[[Job], None] | None) -> None:
        self.job, self.open_peer, self.prepare_peer = job, open_peer, prepare
        self.peer: Peer | None = None
        self.batch_size = 32
        self.slices: list[list[str]] = []
        self.singles: list[str] = []

    def prepare(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Whatever is done once and kept on disk: fitting, exporting, quantizing."""
        started = time.perf_counter()
        self.job.folder.mkdir(parents=True, exist_ok=True)
        if self.prepare_peer is not None:
            self.prepare_peer(self.job)
        return {"seconds": time.perf_counter() - started}

    def load(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Imports and loading, from a bare process to one that can answer; the texts come afterwards."""
        started = time.perf_counter()
        self.peer = self.open_peer(self.job)
        seconds = time.perf_counter() - started
        speed = self.job.sample("speed")
        self.slices, self.singles = speed["slices"], speed["singles"]
        disk_mb = sum(size_of(path) for path in self.peer.files) / 1e6
        return {"seconds": seconds, "disk_mb": disk_mb, "versions": versions(order["versions"])}

    def tune(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """The batch size that is fastest on some of the texts; the passes warm the peer up in any case."""
        assert self.peer is not None
        texts = self.slices[0][:TUNED_ON]
        sizes = list(self.peer.batch_sizes) or [self.batch_size]
        self.peer.answer(texts, sizes[0])
        spent = {}
        for size in sizes:
            started = time.perf_counter()
            self.peer.answer(texts, size)
            spent[size] = time.perf_counter() - started
        self.batch_size = min(spent, key=spent.__getitem__)
        self.peer.answer(self.singles[:1], 1)
        rates = {str(size): len(texts) / seconds for size, seconds in spent.items()}
        chosen = self.batch_size if self.peer.batch_sizes else None
        return {"batch_size": chosen, "documents_per_second": rates if self.peer.batch_sizes else {}}

    def turn(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """One slice of texts, and further ones until so many seconds have gone by."""
        assert self.peer is not None
        gc.collect()
        number, documents = int(order["slice"]), 0
        started = time.perf_counter()
        while True:
            texts = self.slices[number % len(self.slices)]
            self.peer.answer(texts, self.batch_size)
            documents, number = documents + len(texts), number + 1
            seconds = time.perf_counter() - started
            if seconds >= order["seconds"]:
                return {"documents": documents, "seconds": seconds, **memory_mb()}

    def singles_turn(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Texts one by one: milliseconds each."""
        assert self.peer is not None
        spent = []
        for text in self.singles[order["first"] : order["last"]]:
            started = time.perf_counter()
            self.peer.answer([text], 1)
            spent.append(1e3 * (time.perf_counter() - started))
        return {"latency_ms": spent}

    def score(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Probabilities of a sample, written to a file."""
        assert self.peer is not None
        found = self.peer.scores(self.job.sample(order["sample"])["texts"], self.batch_size)
        arrays: dict[str, Any] = {name: np.asarray(values, np.float32) for name, values in found.items()}
        np.savez(order["file"], **arrays)
        return {}


def serve(open_peer: Callable[[Job], Peer], prepare: Callable[[Job], None] | None = None) -> None:
    """Answer orders until `stop` or the end of the input; one that fails is answered with its reason, the last."""
    # What libraries print goes to the log: the answers have a copy of standard output for themselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)

    def reply(content: Mapping[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    def die(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        reply({"ok": False, "reason": f"{kind.__name__}: {error}"})

    sys.excepthook = die
    process = _Process(Job.read(Path(sys.argv[1])), open_peer, prepare)
    moves = {
        "prepare": process.prepare, "load": process.load, "tune": process.tune, "turn": process.turn,
        "singles": process.singles_turn, "score": process.score,
    }  # fmt: skip
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "stop":
            return
        reply({"ok": True, **moves[order["do"]](order)})


def memory_mb() -> dict[str, float]:
    """The resident size now and at its largest, in MB (1e6 bytes); nothing where the system does not tell."""
    names = {"VmRSS:": "resident_mb", "VmHWM:": "peak_mb"}
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    fields = [line.split() for line in lines]
    return {names[field[0]]: int(field[1]) * 1024 / 1e6 for field in fields if field and field[0] in names}


def versions(names: Iterable[str]) -> dict[str, str]:
    """The installed ones of these distributions."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(file.stat().st_size for file in files)


def batches(texts: Sequence[str], size: int) -> Iterable[list[str]]:
    """The texts in their order, `size` at a time."""
    for start in range(0, len(texts), size):
        yield list(texts[start : start + size])


def split_tasks(tasks: Sequence[Mapping[str, Any]], logits: np.ndarray) -> Scores:
    """Logits [n, labels of all tasks] to each task's probabilities: softmax, or a sigmoid a label."""
    found, start = {}, 0
    for task in tasks:
        part = logits[:, start : start + len(task["labels"])].astype(np.float32)
        start += len(task["labels"])
        if task["kind"] == "multi_label":
            found[task["name"]] = 0.5 * (1.0 + np.tanh(0.5 * part))
        else:
            powers = np.exp(part - part.max(axis=1, keepdims=True))
            found[task["name"]] = powers / powers.sum(axis=1, keepdims=True)
    return found


def decided(tasks: Sequence[Mapping[str, Any]], scores: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """Each task's label names by document: the likeliest one, or all from one half on."""
    found: dict[str, list[Any]] = {}
    for task in tasks:
        values, labels = scores[task["name"]], task["labels"]
        if task["kind"] == "multi_label":
            found[task["name"]] = [
                [label for label, on in zip(labels, row, strict=True) if on] for row in (values >= 0.5).tolist()
            ]
        else:
            found[task["name"]] = [labels[index] for index in values.argmax(axis=1).tolist()]
    return found
