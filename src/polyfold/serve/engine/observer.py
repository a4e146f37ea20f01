"""What the core of the service tells about its work, to whoever counts it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from polyfold.serve.engine.answers import Answers

if TYPE_CHECKING:
    from polyfold.serve.engine.served import ServedModel

DropReason = Literal["cancelled", "deadline"]


@dataclass(frozen=True)
class BatchFacts:
    """One batch: how many documents, their tokens without and with padding, and seconds."""

    runtime: str
    documents: int
    tokens: int
    padded_tokens: int
    infer_s: float
    oldest_wait_s: float


class Observer(Protocol):
    """Called from the event loop or a model's own thread, once a batch or a request: it must be cheap and safe."""

    def batch(self, model: str, version: str, facts: BatchFacts) -> None: ...

    def tokenized(self, model: str, version: str, documents: int, seconds: float) -> None: ...

    def answered(self, model: "ServedModel", texts: Sequence[str] | None, answers: Answers) -> None:
        """A finished request; `texts` is None where token ids were given."""
        ...

    def failed_over(self, model: str, version: str, away_from: str, to: str | None, reason: str) -> None: ...

    def poison(self, model: str, version: str) -> None:
        """A text that no runtime answers."""
        ...

    def dropped(self, model: str, version: str, reason: DropReason, documents: int) -> None: ...

    def shadowed(self, model: str, version: str, task: str, agreed: int, disagreed: int) -> None: ...
