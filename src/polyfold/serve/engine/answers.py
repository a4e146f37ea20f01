"""What a request gets back from a model, before it is JSON, tensors or protobuf."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Failure:
    """Why one text has no answer while its neighbours have theirs."""

    code: str
    message: str


@dataclass(frozen=True)
class Timing:
    """Seconds a request spent waiting until its last text's batch began, being tokenized, and in batches."""

    queue_s: float
    tokenize_s: float
    infer_s: float


@dataclass(frozen=True)
class Answers:
    """One request's rows, in the order asked.

    `logits` and `probabilities` (calibrated) are float32 [n, labels of all tasks], heads side by side in the
    order of the model's tasks; `truncated` is bool [n], `tokens` int64 [n]. A row in `failures` is NaN.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    truncated: np.ndarray
    tokens: np.ndarray
    timing: Timing
    failures: dict[int, Failure] = field(default_factory=dict)


@dataclass(frozen=True)
class Ticket:
    """A request under way. `cancel` drops what is still queued, unless another request waits for the same text."""

    future: "asyncio.Future[Answers]"
    cancel: Callable[[], None]
