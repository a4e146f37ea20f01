"""A model that answers from arithmetic, an observer that remembers, and clocks that are told the time."""

import asyncio
import threading
from dataclasses import dataclass, field

import numpy as np

from polyfold.serve.engine.answers import Failure
from polyfold.serve.engine.runner import Answered
from polyfold.text import Encoding
from toys import TOY_TASKS

LONGEST = 64
LABELS = sum(len(task.labels) for task in TOY_TASKS)


def ids_of(text):
    """Token ids that spell the text, so that rows can be traced back to it."""
    return np.array([ord(letter) for letter in text[:LONGEST]] or [0], np.int64)


def logits_of(ids):
    """A row that no other text has, by chance of one in many millions."""
    return np.random.default_rng(ids.tolist()).normal(size=LABELS).astype(np.float32)


@dataclass
class ToyModel:
    """Remembers its batches; waits for `gate` before each; fails texts that hold '!'."""

    tasks: tuple = TOY_TASKS
    runtime: str = "toy"
    lanes: int = 1
    batches: list = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    started: int = 0

    def encode(self, texts):
        rows = [ids_of(text) for text in texts]
        return Encoding.of(rows, np.array([len(text) > LONGEST for text in texts]))

    def answer(self, encoding, lane):
        self.started += 1
        assert self.gate.wait(10)
        rows = list(encoding.ids)
        self.batches.append(rows)
        bad = {place: Failure("inference_failed", "!") for place, row in enumerate(rows) if ord("!") in row}
        logits = np.array([logits_of(row) for row in rows])
        logits[list(bad)] = np.nan
        return Answered(logits, bad)


@dataclass
class Reports:
    """What a batcher told."""

    facts: list = field(default_factory=list)
    documents_tokenized: int = 0
    drops: list = field(default_factory=list)
    poisons: int = 0

    def batch(self, facts):
        self.facts.append(facts)

    def tokenized(self, documents, seconds):
        self.documents_tokenized += documents

    def dropped(self, reason, documents):
        self.drops.append((reason, documents))

    def poison(self):
        self.poisons += 1


@dataclass
class Events:
    """An observer of the whole service that remembers."""

    seen: list = field(default_factory=list)

    def batch(self, model, version, facts):
        self.seen.append(("batch", model, version, facts.documents))

    def tokenized(self, model, version, documents, seconds):
        self.seen.append(("tokenized", model, version, documents))

    def answered(self, model, texts, answers):
        self.seen.append(("answered", model.name, model.version))

    def failed_over(self, model, version, away_from, to, reason):
        self.seen.append(("failed_over", model, version, away_from, to, reason))

    def poison(self, model, version):
        self.seen.append(("poison", model, version))

    def dropped(self, model, version, reason, documents):
        self.seen.append(("dropped", model, version, reason, documents))

    def shadowed(self, model, version, task, agreed, disagreed):
        self.seen.append(("shadowed", model, version, task, agreed, disagreed))


def run(coroutine):
    """A coroutine to its end, or an error after ten seconds."""

    async def bounded():
        async with asyncio.timeout(10):
            return await coroutine

    return asyncio.run(bounded())
