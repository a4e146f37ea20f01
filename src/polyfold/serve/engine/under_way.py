"""A request that has no answer yet, and the texts it waits for."""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from polyfold.serve.engine.answers import Answers, Failure, Timing
from polyfold.serve.engine.fair_queue import Entry, Flow


@dataclass(eq=False)
class Request:
    """One ticket's rows as they come in; `missing` counts those still to come."""

    future: "asyncio.Future[Answers]"
    rows: int
    labels: int
    started: float
    deadline: float
    flow: Flow = field(default_factory=Flow)
    tokenize_s: float = 0.0
    begun: float = 0.0
    infer_s: float = 0.0
    failures: dict[int, Failure] = field(default_factory=dict)
    waits_for: "list[Waiting]" = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self.missing = self.rows
        self.logits = np.full((self.rows, self.labels), np.nan, np.float32)
        self.probabilities = np.full((self.rows, self.labels), np.nan, np.float32)
        self.truncated = np.zeros(self.rows, bool)
        self.tokens = np.zeros(self.rows, np.int64)

    def answers(self) -> Answers:
        """Its rows, once none is missing."""
        waited = max(0.0, self.begun - self.started - self.tokenize_s)
        timing = Timing(waited, self.tokenize_s, self.infer_s)
        return Answers(self.logits, self.probabilities, self.truncated, self.tokens, timing, self.failures)


@dataclass(eq=False)
class Waiting:
    """One distinct text under way, and the rows of the requests that want it."""

    key: Hashable
    truncated: bool
    entry: "Entry[Waiting]" = field(init=False)
    rows: list[tuple[Request, int]] = field(default_factory=list)
