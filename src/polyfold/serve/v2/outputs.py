"""A model's answers as tensors of the Open Inference Protocol.

For every task: `labels_TASK`, BYTES [n], is a label, or a JSON list of labels where a document may carry several;
`probabilities_TASK`, FP32 [n, labels], is calibrated; `logits_TASK`, FP32 [n, labels], is what the network gave.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson

from polyfold.serve.engine.answers import Answers
from polyfold.serve.engine.served import ServedModel
from polyfold.serve.refusals import Refusal
from polyfold.serve.v2.binary_tensors import bad
from polyfold.tasks import Task

Part = Literal["labels", "probabilities", "logits"]

PARTS: tuple[Part, ...] = ("labels", "probabilities", "logits")
DEFAULT: tuple[Part, ...] = ("labels", "probabilities")
"""What is answered where no output is named: logits say nothing more, and would double the answer."""

STATUS = {"model_failed": 503, "deadline_exceeded": 504}
"""Of a row that failed for a reason that is not its own; any other is the text's own, and 422."""


@dataclass(frozen=True)
class Wanted:
    """An output that a request asks for."""

    part: Part
    task: Task

    @property
    def name(self) -> str:
        """As the protocol has it."""
        return f"{self.part}_{self.task.name}"

    @property
    def datatype(self) -> str:
        """BYTES for labels, FP32 for numbers."""
        return "BYTES" if self.part == "labels" else "FP32"

    def shape(self, rows: int) -> list[int]:
        """Of so many rows; -1 for any number of them."""
        return [rows] if self.part == "labels" else [rows, len(self.task.labels)]


@dataclass(frozen=True)
class Output:
    """An answered output: strings [n], or float32 [n, labels]."""

    name: str
    datatype: str
    shape: list[int]
    strings: list[str] | None = None
    numbers: np.ndarray | None = None


def outputs_of(model: ServedModel) -> list[Wanted]:
    """Everything that a model can be asked for."""
    return [Wanted(part, task) for part in PARTS for task in model.tasks]


def choose(model: ServedModel, names: Sequence[str]) -> list[Wanted]:
    """The outputs of these names, or without any the default ones, in their order."""
    possible = {one.name: one for one in outputs_of(model)}
    if not names:
        return [one for one in possible.values() if one.part in DEFAULT]
    if len(set(names)) < len(names):
        raise bad("an output is asked for twice")
    for name in names:
        if name not in possible:
            raise bad(f"there is no output '{name[:64]}'", hint=f"this model has: {', '.join(possible)}")
    return [possible[name] for name in names]


def answer(model: ServedModel, answers: Answers, wanted: Sequence[Wanted]) -> list[Output]:
    """The wanted outputs; Refusal where a row has no answer, since the protocol has no errors of single rows."""
    if answers.failures:
        row, failure = min(answers.failures.items())
        more = f" ({len(answers.failures)} rows in all)" if len(answers.failures) > 1 else ""
        status = STATUS.get(failure.code, 422)
        raise Refusal(
            status,
            "model_failed" if status == 503 else "deadline_exceeded" if status == 504 else "bad_request",
            f"row {row} (counted from 0) has no answer: {failure.message}{more}",
            hint="send the request without it" if status == 422 else None,
            retry_after_s=1.0 if status == 503 else None,
        )
    return [_output(model, answers, one) for one in wanted]


def _output(model: ServedModel, answers: Answers, wanted: Wanted) -> Output:
    columns = model.columns[wanted.task.name]
    shape = wanted.shape(len(answers.truncated))
    if wanted.part == "labels":
        strings = list(_labels(wanted.task, answers.probabilities[:, columns]))
        return Output(wanted.name, wanted.datatype, shape, strings=strings)
    numbers = answers.logits if wanted.part == "logits" else answers.probabilities
    return Output(wanted.name, wanted.datatype, shape, numbers=np.ascontiguousarray(numbers[:, columns]))


def _labels(task: Task, probabilities: np.ndarray) -> Iterator[str]:
    """A document's label, or its labels as a JSON list."""
    decided: list[Any] = task.decide(probabilities).tolist()
    if not task.multi_label:
        yield from (task.labels[place] for place in decided)
    else:
        for row in decided:
            chosen = [label for label, yes in zip(task.labels, row, strict=True) if yes]
            yield orjson.dumps(chosen).decode()
