"""`POST /predict`: texts in, labels out. Plain ASGI, as this is the path that must cost next to nothing."""

import asyncio
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from polyfold.serve.engine.answers import Answers, Failure, Ticket, Timing
from polyfold.serve.engine.served import ServedModel
from polyfold.serve.exchange import Exchange, exchange_of
from polyfold.serve.http.answers_json import Item, items_of, with_failures
from polyfold.serve.http.bodies import JSON, ClientGone, header, read_body, send_json
from polyfold.serve.http.questions import Question, questions, usable
from polyfold.serve.http.schemas import PredictRequest
from polyfold.serve.http.strict_json import parse
from polyfold.serve.refusals import Code, Refusal
from polyfold.serve.service import Service

WATCH_AFTER_S = 0.05
"""A request that waits longer than this is watched for its client leaving; the others are not worth a task."""

_CODES: dict[str, Code] = {"thresholds": "bad_threshold"}


class Predict:
    """The endpoint, as an ASGI application of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, exchange = self._service, exchange_of(scope)
        check_json(header(scope["headers"], b"content-type"))
        asked = parse(PredictRequest, await read_body(scope, receive, service.limits), _CODES)
        model = service.fleet.pick(asked.model, asked.version, exchange.request_id)
        exchange.model, exchange.version = model.name, model.version
        wanted = questions(model, asked.tasks, asked.thresholds)
        texts, failures = self._texts(asked, exchange)
        service.gatekeeper.spend(exchange.caller, len(texts), exchange.started)
        answers = await self._answers(model, texts, self._deadline(asked, exchange), exchange, receive)
        await _send(send, exchange, asked, answers, wanted, failures)
        if answers is not None:
            service.answered(model, texts, answers)

    def _texts(self, asked: PredictRequest, exchange: Exchange) -> tuple[list[str], dict[int, Failure]]:
        given: list[Any] = [asked.text] if asked.texts is None else asked.texts
        limits = self._service.limits
        if len(given) > limits.max_texts:
            hint = f"send at most {limits.max_texts:,} at a time"
            raise Refusal(413, "too_many_texts", f"the request has {len(given):,} texts", hint=hint)
        exchange.texts = len(given)
        return usable(given, limits.max_characters)

    def _deadline(self, asked: PredictRequest, exchange: Exchange) -> float:
        limits = self._service.limits
        if asked.deadline_ms is None:
            return exchange.started + min(limits.deadline_ms, limits.max_deadline_ms) / 1000
        if asked.deadline_ms > limits.max_deadline_ms:
            hint = f"at most {limits.max_deadline_ms:,} ms"
            raise Refusal(422, "bad_request", f"the deadline is {asked.deadline_ms:,} ms", hint=hint)
        return exchange.started + asked.deadline_ms / 1000

    async def _answers(
        self, model: ServedModel, texts: list[str], deadline: float, exchange: Exchange, receive: Receive
    ) -> Answers | None:
        """None where there is nothing to ask."""
        if not texts:
            return None
        try:
            answers = await answered(model.submit(texts, deadline), receive)
        except Refusal:
            self._service.gatekeeper.give_back(exchange.caller, len(texts), exchange.started)
            raise
        exchange.timing = answers.timing
        exchange.tokens = int(answers.tokens.sum())
        return answers


async def answered(ticket: Ticket, receive: Receive) -> Answers:
    """A ticket's answers; ClientGone where the client left, and then what still waits of it is dropped."""
    loop = asyncio.get_running_loop()
    watching: list[asyncio.Task[None]] = []
    later = loop.call_later(WATCH_AFTER_S, lambda: watching.append(loop.create_task(_watch(ticket, receive))))
    try:
        return await ticket.future
    except asyncio.CancelledError:
        # The watcher has cancelled the ticket, or somebody this request.
        if any(task.done() for task in watching):
            raise ClientGone from None
        ticket.cancel()
        raise
    finally:
        later.cancel()
        for task in watching:
            task.cancel()


async def _watch(ticket: Ticket, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    ticket.cancel()


def check_json(content_type: bytes | None) -> None:
    """Refusal where the body is not said to be JSON: a page of another site could send any other type unasked."""
    if content_type == JSON:
        return
    if (content_type or b"").partition(b";")[0].strip().lower() != JSON:
        hint = "set the header Content-Type: application/json"
        raise Refusal(415, "bad_request", "the body is not declared to be JSON", hint=hint)


async def _send(
    send: Send,
    exchange: Exchange,
    asked: PredictRequest,
    answers: Answers | None,
    wanted: list[Question],
    failures: dict[int, Failure],
) -> None:
    items: list[Item] = []
    headers = []
    if answers is not None:
        items = items_of(answers, wanted, probabilities=asked.probabilities)
        headers = [(b"server-timing", server_timing(answers.timing))]
        exchange.failed_texts = len(answers.failures)
    exchange.failed_texts += len(failures)
    content = {
        "model": exchange.model,
        "version": exchange.version,
        "request_id": exchange.request_id,
        "predictions": with_failures(items, failures, exchange.texts),
    }
    await send_json(send, orjson.dumps(content), headers=headers)


def server_timing(timing: Timing) -> bytes:
    """The header of that name (W3C Server Timing), in milliseconds."""
    queue, tokenize, infer = timing.queue_s * 1e3, timing.tokenize_s * 1e3, timing.infer_s * 1e3
    return b"queue;dur=%.3f, tokenize;dur=%.3f, infer;dur=%.3f" % (queue, tokenize, infer)
