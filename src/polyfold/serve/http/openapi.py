"""The OpenAPI document: what each path takes and answers, with an example for each.

Written out, since the routes that matter are plain ASGI; the schemas are those that the code itself checks with.
Routes that FastAPI knows by itself are taken over as it describes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from polyfold.serve.http import schemas
from polyfold.serve.v2 import openapi as v2_openapi

Document = dict[str, Any]

DESCRIPTION = """\
One endpoint for every language and task: send texts, get every task's labels with calibrated probabilities.

Every answer has a header `x-request-id`; send one yourself to find a request in the logs. Every error has the same
shape, `{"error": {"code", "message", "hint", "request_id"}}`; branch on `code`. Where it helps to come again, the
header `Retry-After` says in how many seconds. If the service was started with keys, send yours as
`Authorization: Bearer KEY` or `x-api-key: KEY`.
"""

PREDICTION = {"labels": {"domain": "delivery", "topics": ["speed"]}, "truncated": False}
PROBABILITIES = {
    "domain": {"billing": 0.021734, "delivery": 0.951207, "other": 0.027059},
    "topics": {"price": 0.032845, "speed": 0.884112, "staff": 0.117203, "app": 0.008411},
}
ASKED = {
    "one text": {"text": "Where is my parcel?"},
    "many texts, with probabilities": {"texts": ["Where is my parcel?", "最高です"], "probabilities": True},
    "one task at a threshold of your own": {
        "text": "Where is my parcel?",
        "tasks": ["topics"],
        "thresholds": {"topics": {"speed": 0.4}},
    },
}
ANSWERED: Mapping[str, list[Document]] = {
    "one text": [PREDICTION],
    "many texts, with probabilities": [{**PREDICTION, "probabilities": PROBABILITIES}] * 2,
    "one of two is no text": [PREDICTION, {"error": {"code": "not_a_text", "message": "it is not a string"}}],
}

# By status: what it means, and an example's code and message.
ERRORS: Mapping[int, tuple[str, str, str]] = {
    400: ("The body is not JSON.", "bad_json", "the body is empty"),
    401: ("No API key, or one that is not known.", "unauthorized", "this service asks for an API key"),
    403: (
        "The key may not do this, or another website asks.",
        "forbidden",
        "this needs a key with the role admin",
    ),
    404: ("No such model, version or path.", "unknown_model", "there is no model 'feedbak'"),
    408: ("The body came too slowly.", "body_timeout", "the body came too slowly"),
    413: ("Too many bytes or texts.", "too_many_texts", "the request has 2,000 texts"),
    415: ("The body is of another type.", "bad_request", "the body is not declared to be JSON"),
    422: ("JSON, but not what is asked for here.", "unknown_task", "this model has no task 'topic'"),
    429: ("Too many requests for this key.", "rate_limited", "this key may send 10 requests a second"),
    500: ("A fault of the service.", "internal", "something went wrong in the service"),
    503: ("Not now: starting, stopping, or too much waits.", "queue_full", "200,000 tokens are waiting already"),
    504: ("No answer within the deadline.", "deadline_exceeded", "its time was up before it was computed"),
}
PREDICT_ERRORS = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
STATE_ERRORS = (401, 403, 500)

MODELS: Sequence[type[BaseModel]] = (
    schemas.PredictRequest,
    schemas.PredictResponse,
    schemas.ErrorResponse,
    schemas.Health,
    schemas.Live,
    schemas.ModelInfo,
    schemas.StatsInfo,
)

HEALTH = {
    "status": "ready",
    "models": [
        {
            "name": "feedback",
            "version": "1",
            "state": "ready",
            "runtime": "openvino",
            "runtimes": ["openvino", "onnxruntime"],
            "failovers": 0,
            "queue_tokens": 0,
            "tokens_per_second": 41230.5,
        }
    ],
}
MODEL = {
    "name": "feedback",
    "version": "1",
    "runtime": "openvino",
    "precision": "int8",
    "languages": None,
    "tasks": [
        {
            "name": "topics",
            "kind": "multi_label",
            "labels": ["price", "speed"],
            "languages": None,
            "thresholds": {"price": 0.4, "speed": 0.55},
        }
    ],
    "max_length": 128,
    "share": 100.0,
    "shadow": False,
    "card": None,
}
STATS = {
    "requests_per_second": 212.4,
    "documents_per_second": 212.4,
    "latency_ms_p50": 4.1,
    "latency_ms_p99": 17.8,
    "queue_tokens": 0,
    "uptime_s": 86400.0,
    "drift": {},
}


def document(app: FastAPI) -> Document:
    """The whole document of an application."""
    found: Document = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    _, definitions = models_json_schema(
        [(model, "validation") for model in (*MODELS, *v2_openapi.MODELS)],
        ref_template="#/components/schemas/{model}",
    )
    components = found.setdefault("components", {})
    components["schemas"] = {**definitions["$defs"], **components.get("schemas", {})}
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    found["security"] = [{}, {"bearer": []}, {"header": []}]
    found["paths"] = {**_paths(), **v2_openapi.paths(), **found.get("paths", {})}
    return found


def _paths() -> Document:
    health = {
        "200": _json("Requests are answered.", "Health", {"ready": HEALTH}),
        "503": _json("They are not.", "Health", {"starting": {"status": "starting", "models": []}}),
    }
    every = {"type": "array", "items": _ref("ModelInfo")}
    text = {"schema": {"type": "string"}, "example": "polyfold_queue_tokens 0.0\n"}
    metrics = {"description": "All metrics.", "content": {"text/plain": text}}
    open_to_all = {
        "/health": _get("Is the service ready?", "And how does each model do?", health),
        "/live": _get(
            "Is the process alive?",
            "It answers; its models may still be loading.",
            {"200": _json("It is.", "Live", {"live": {"status": "live"}})},
        ),
    }
    with_key: dict[str, tuple[str, str, Document]] = {
        "/models": (
            "Which models are there?",
            "With their tasks, labels and model cards.",
            _json("Every loaded version.", every, {"one model": [MODEL]}),
        ),
        "/stats": (
            "How much is going on?",
            "Rates of the last ten seconds, and drift.",
            _json("Now.", "StatsInfo", {"busy": STATS}),
        ),
        "/metrics": ("Metrics for Prometheus", "In its text format.", metrics),
    }
    asked = {
        path: _get(summary, description, {"200": answer, **errors(STATE_ERRORS)})
        for path, (summary, description, answer) in with_key.items()
    }
    return {"/predict": {"post": _predict()}} | {path: {"get": get} for path, get in (open_to_all | asked).items()}


def _predict() -> Document:
    examples = {name: {"value": _answer(items)} for name, items in ANSWERED.items()}
    answer = {"schema": _ref("PredictResponse"), "examples": examples}
    headers = {
        "server-timing": {
            "description": "Milliseconds in the queue, tokenizing and computing.",
            "schema": {"type": "string"},
        }
    }
    return {
        "operationId": "predict",
        "summary": "Label texts",
        "description": "A text that cannot be answered gets an `error` in its place, the others their answers.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _ref("PredictRequest"),
                    "examples": {name: {"value": value} for name, value in ASKED.items()},
                }
            },
        },
        "responses": {
            "200": {
                "description": "Labels in the order of the texts.",
                "headers": headers,
                "content": {"application/json": answer},
            },
            **errors(PREDICT_ERRORS),
        },
    }


def _answer(items: list[Document]) -> Document:
    return {"model": "feedback", "version": "1", "request_id": "a91d3c0f7be2", "predictions": items}


def _get(summary: str, description: str, responses: Document) -> Document:
    name = "".join(one for one in summary.lower().replace(" ", "_") if one.isalpha() or one == "_")
    return {"operationId": name, "summary": summary, "description": description, "responses": responses}


def errors(statuses: Sequence[int]) -> Document:
    """The responses of these statuses, by status."""
    found = {}
    for status in statuses:
        description, code, message = ERRORS[status]
        example = {"error": {"code": code, "message": message, "hint": None, "request_id": "a91d3c0f7be2"}}
        found[str(status)] = _json(description, "ErrorResponse", {code: example})
        if status in (429, 503):
            seconds = {"description": "Seconds until it is worth trying again.", "schema": {"type": "integer"}}
            found[str(status)]["headers"] = {"retry-after": seconds}
    return found


def _json(description: str, schema: str | Document, examples: Document) -> Document:
    content = {
        "schema": _ref(schema) if isinstance(schema, str) else schema,
        "examples": {name: {"value": value} for name, value in examples.items()},
    }
    return {"description": description, "content": {"application/json": content}}


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}
