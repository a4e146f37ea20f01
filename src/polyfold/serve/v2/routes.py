"""`/v2`: the Open Inference Protocol over HTTP, and its model repository.

All of it is one route of the application with a router of its own behind it, since all of it, unknown paths too,
has the protocol's own form of errors: a string.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from polyfold.serve.access.hosts import check_body_type
from polyfold.serve.engine.fleet import Routing
from polyfold.serve.exchange import exchange_of
from polyfold.serve.http.bodies import JSON, header, read_body, refusal_headers
from polyfold.serve.http.predict import answered, server_timing
from polyfold.serve.refusals import Refusal
from polyfold.serve.service import Service
from polyfold.serve.v2.binary_tensors import HEADER
from polyfold.serve.v2.bodies import read_body as read_request
from polyfold.serve.v2.bodies import write_body
from polyfold.serve.v2.infer import ask, understand
from polyfold.serve.v2.metadata import describe_model, describe_server, find, model_is_ready
from polyfold.serve.v2.repository import Repository
from polyfold.serve.v2.schemas import (
    IndexRequest,
    LoadRequest,
    ModelReady,
    Schema,
    UnloadRequest,
    V2Live,
    V2Ready,
    error_json,
    parse,
)

Endpoint = Callable[[Request], Awaitable[Response]]

MODEL = "/v2/models/{name}"
VERSION = "/v2/models/{name}/versions/{version}"
REPOSITORY = "/v2/repository/models/{name}"


def add_v2(app: FastAPI, service: Service) -> None:
    """Everything under /v2."""
    protocol = Protocol(service)
    app.router.routes += [Route("/v2", protocol), Route("/v2/{rest:path}", protocol)]


class Protocol:
    """The routes of /v2, and their errors in the protocol's form."""

    def __init__(self, service: Service) -> None:
        infer = Infer(service)
        asked = [Route(f"{path}/infer", infer, methods=["POST"]) for path in (MODEL, VERSION)]
        self.routes = [*asked, *state_routes(service), *repository_routes(service)]
        self._router = Router(self.routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._router(scope, receive, send)
        except Refusal as refusal:
            await _refuse(scope, receive, send, refusal)
        except HTTPException as error:
            await _refuse(scope, receive, send, _unrouted(error))


class Infer:
    """`POST /v2/models/NAME[/versions/VERSION]/infer`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, exchange, path = self._service, exchange_of(scope), scope["path_params"]
        check_form(scope)
        body = await read_body(scope, receive, service.limits)
        length = header(scope["headers"], HEADER.encode())
        asked = read_request(body, None if length is None else length.decode("latin-1"))
        # Only now, and asked without waiting for anything: a version picked earlier may have gone meanwhile.
        model = service.fleet.pick(path["name"], path.get("version"), exchange.request_id)
        exchange.model, exchange.version = model.name, model.version
        started, limits = exchange.started, service.limits
        inference = understand(model, asked.inputs, asked.outputs, asked.parameters, limits, started)
        exchange.texts = len(inference.rows)
        found = await ask(service, exchange.caller, inference, lambda ticket: answered(ticket, receive))
        exchange.timing = found.answers.timing
        written = write_body(asked, model, found.outputs)
        headers = written.headers | {"server-timing": server_timing(found.answers.timing).decode()}
        await Response(written.content, headers=headers)(scope, receive, send)
        service.answered(model, inference.rows.texts, found.answers)


def state_routes(service: Service) -> list[Route]:
    """Who answers, and whether it is ready: GET and HEAD."""

    async def server(request: Request) -> Response:
        return _json(describe_server())

    async def live(request: Request) -> Response:
        return _json(V2Live(live=True))

    async def ready(request: Request) -> Response:
        well = service.fleet.ready and not service.stopping
        return _json(V2Ready(ready=well), 200 if well else 503)

    async def model(request: Request) -> Response:
        found = find(service.fleet, request.path_params["name"], request.path_params.get("version"))
        return _json(describe_model(service.fleet, found))

    async def model_ready(request: Request) -> Response:
        name = request.path_params["name"]
        well = model_is_ready(service.fleet, name, request.path_params.get("version"))
        return _json(ModelReady(name=name, ready=well), 200 if well else 503)

    endpoints: dict[str, Endpoint] = {
        "/v2": server,
        "/v2/health/live": live,
        "/v2/health/ready": ready,
        MODEL: model,
        VERSION: model,
        f"{MODEL}/ready": model_ready,
        f"{VERSION}/ready": model_ready,
    }
    return [Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()]


def repository_routes(service: Service) -> list[Route]:
    """Which models are in service, and changing that: for callers with the role admin."""
    repository = Repository(service.fleet, service.spec.repository)

    async def body(request: Request, schema: type[Schema]) -> Schema:
        _check_admin(request.scope)
        check_form(request.scope)
        given = await read_body(request.scope, request.receive, service.limits)
        return parse(schema, given or b"{}")

    async def index(request: Request) -> Response:
        found = await repository.index(await body(request, IndexRequest))
        return _answer([one.model_dump() for one in found])

    async def load(request: Request) -> Response:
        return _json(await repository.load(request.path_params["name"], await body(request, LoadRequest)))

    async def unload(request: Request) -> Response:
        await repository.unload(request.path_params["name"], await body(request, UnloadRequest))
        return _answer({})

    async def routing(request: Request) -> Response:
        _check_admin(request.scope)
        name = request.path_params["name"]
        if request.method == "PUT":
            return _json(repository.route(name, await body(request, Routing)))
        return _json(repository.routing(name))

    return [
        Route("/v2/repository/index", index, methods=["POST"]),
        Route(f"{REPOSITORY}/load", load, methods=["POST"]),
        Route(f"{REPOSITORY}/unload", unload, methods=["POST"]),
        Route(f"{REPOSITORY}/routing", routing, methods=["GET", "PUT"]),
    ]


def check_form(scope: Scope) -> None:
    """Refusal where the body is said to be something else than JSON or bytes. Triton's clients say nothing."""
    content_type = header(scope["headers"], b"content-type")
    if content_type is not None:
        check_body_type(content_type.decode("latin-1"))
    if header(scope["headers"], b"content-encoding") not in (None, b"identity"):
        # A few bytes may unpack to gigabytes; texts are short, and compressing them saves little.
        raise Refusal(415, "bad_request", "the body is compressed", hint="send it without Content-Encoding")


def _check_admin(scope: Scope) -> None:
    """The gate has asked for the role already; this holds if a path should ever slip past it."""
    if not exchange_of(scope).caller.admin:
        hint = "use a key with the role admin, from the file given to --keys"
        raise Refusal(403, "forbidden", "only an administrator may change which models are loaded", hint=hint)


def _unrouted(error: HTTPException) -> Refusal:
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return Refusal(405, "method_not_allowed", "this path takes other methods", hint=f"allowed: {allowed}")
    return Refusal(404, "not_found", "there is nothing at this path", hint="see /docs for what there is")


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    exchange_of(scope).code = refusal.code
    headers = dict(refusal_headers(refusal))
    if refusal.status == 405 and refusal.hint:
        headers["allow"] = refusal.hint.removeprefix("allowed: ")
    response = Response(error_json(refusal), refusal.status, headers=headers, media_type=JSON.decode())
    await response(scope, receive, send)


def _json(content: BaseModel, status: int = 200) -> Response:
    return _answer(content.model_dump(), status)


def _answer(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type=JSON.decode())
