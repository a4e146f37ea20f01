"""One inference of the Open Inference Protocol, whichever way it came: what is asked, by when, of whom.

The protocol has no errors of single rows: where one has no answer, the request has none, and the error names it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from polyfold.serve.access.gatekeeper import Caller
from polyfold.serve.engine.answers import Answers, Ticket
from polyfold.serve.engine.served import ServedModel
from polyfold.serve.refusals import Refusal
from polyfold.serve.service import Service
from polyfold.serve.spec import Limits
from polyfold.serve.v2.binary_tensors import bad
from polyfold.serve.v2.inputs import Given, Reach, Rows, read_rows
from polyfold.serve.v2.outputs import Output, Wanted, answer, choose

Value = bool | int | float | str
Wait = Callable[[Ticket], Awaitable[Answers]]
"""How to wait for an answer: over HTTP, somebody must look whether the client is still there; gRPC does so."""

IGNORED = ("sequence_id", "sequence_start", "sequence_end")
"""Triton's: which requests belong together. Here no answer depends on another request."""

HTTP_ONLY = "binary_data_output"
KNOWN = ("deadline_ms", "timeout", HTTP_ONLY, *IGNORED)


@dataclass(frozen=True)
class Inference:
    """A request that has been understood."""

    model: ServedModel
    rows: Rows
    wanted: tuple[Wanted, ...]
    deadline: float

    def until(self, moment: float) -> "Inference":
        """The same, answered by this moment if that is sooner."""
        return replace(self, deadline=min(self.deadline, moment))


@dataclass(frozen=True)
class Found:
    """An inference's answers, and the outputs made of them."""

    answers: Answers
    outputs: tuple[Output, ...]


def understand(
    model: ServedModel,
    inputs: Sequence[Given],
    outputs: Sequence[str],
    parameters: Mapping[str, Value],
    limits: Limits,
    arrived: float,
) -> Inference:
    """Everything checked that can be, before anything is counted or computed."""
    seconds = patience(parameters, limits)
    wanted = tuple(choose(model, outputs))
    reach = Reach(model.vocabulary_size, model.config.max_length)
    return Inference(model, read_rows(inputs, reach, limits), wanted, arrived + seconds)


async def ask(service: Service, caller: Caller, inference: Inference, wait: Wait) -> Found:
    """The outputs that were asked for; Refusal where one row has no answer."""
    model, rows = inference.model, inference.rows
    spent = service.clock()
    service.gatekeeper.spend(caller, len(rows), spent)
    try:
        if rows.texts is not None:
            ticket = model.submit(rows.texts, inference.deadline)
        else:
            ticket = model.submit_ids(rows.ids or (), inference.deadline)
        answers = await wait(ticket)
        return Found(answers, tuple(answer(model, answers, inference.wanted)))
    except Refusal:
        service.gatekeeper.give_back(caller, len(rows), spent)
        raise


async def simply(ticket: Ticket) -> Answers:
    """Wait for the answer; whoever waits no more gives the ticket up."""
    try:
        return await ticket.future
    except asyncio.CancelledError:
        ticket.cancel()
        raise


def patience(parameters: Mapping[str, Value], limits: Limits) -> float:
    """How many seconds the client waits at most."""
    for name in parameters:
        if name not in KNOWN:
            raise bad(f"there is no parameter '{name[:64]}'", hint=f"known are {', '.join(KNOWN)}")
    milliseconds = limits.deadline_ms
    if "deadline_ms" in parameters:
        milliseconds = _whole(parameters, "deadline_ms")
    elif "timeout" in parameters:
        milliseconds = ceil(_whole(parameters, "timeout") / 1000)
    return min(milliseconds, limits.max_deadline_ms) / 1000


def flag(parameters: Mapping[str, Value], name: str, default: bool = False) -> bool:
    """A parameter that is true or false."""
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise bad(f"the parameter {name} is neither true nor false")
    return value


def _whole(parameters: Mapping[str, Value], name: str) -> int:
    value = parameters[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise bad(f"the parameter {name} is no whole number above 0")
    return value
