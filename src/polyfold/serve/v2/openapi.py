"""The part of the OpenAPI document that is /v2, with an example for each path."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from polyfold.serve.engine.fleet import Routing
from polyfold.serve.v2 import schemas as v2_schemas
from polyfold.serve.v2.binary_tensors import HEADER
from polyfold.serve.v2.metadata import EXTENSIONS

Document = dict[str, Any]

MODELS: Sequence[type[BaseModel]] = (
    v2_schemas.InferRequest,
    v2_schemas.InferResponse,
    v2_schemas.ServerMetadata,
    v2_schemas.ModelMetadata,
    v2_schemas.V2Live,
    v2_schemas.V2Ready,
    v2_schemas.ModelReady,
    v2_schemas.V2Error,
    v2_schemas.IndexRequest,
    v2_schemas.IndexEntry,
    v2_schemas.LoadRequest,
    v2_schemas.UnloadRequest,
    v2_schemas.Loaded,
    Routing,
)

ERRORS: Mapping[int, tuple[str, str]] = {
    400: ("Not in the protocol's form.", "there is no input 'txt' -> give text, or input_ids and attention_mask"),
    401: ("No API key, or one that is not known.", "this service asks for an API key"),
    403: ("The key may not do this.", "this needs a key with the role admin"),
    404: ("No such model, version or path.", "there is no model 'feedbak' -> models: feedback"),
    408: ("The body came too slowly.", "the body came too slowly"),
    413: ("Too many bytes, rows or characters.", "the request has 2,000 rows -> send at most 1,024 at a time"),
    415: ("The body is of another type.", "the body is of a type that is not read here"),
    422: ("Understood, and cannot be done.", "row 3 (counted from 0) has no answer: ..."),
    429: ("Too many requests for this key.", "this key may send 10 requests a second"),
    500: ("A fault of the service.", "something went wrong in the service"),
    503: ("Not now: starting, stopping, or too much waits.", "200,000 tokens are waiting already"),
    504: ("No answer within the deadline.", "its time was up before it was computed"),
}
INFER_ERRORS = tuple(ERRORS)
STATE_ERRORS = (401, 403, 404, 500)
ADMIN_ERRORS = (400, 401, 403, 404, 408, 413, 415, 422, 500)

TEXTS = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["Where is my parcel?", "最高です"]}
ASKED = {
    "texts": {"id": "42", "inputs": [TEXTS]},
    "one output, and not much time": {
        "inputs": [TEXTS],
        "outputs": [{"name": "labels_domain"}],
        "parameters": {"deadline_ms": 200},
    },
    "token ids": {
        "inputs": [
            {"name": "input_ids", "shape": [1, 4], "datatype": "INT64", "data": [0, 5, 2, 1]},
            {"name": "attention_mask", "shape": [1, 4], "datatype": "INT64", "data": [1, 1, 1, 0]},
        ]
    },
}
OUTPUTS = [
    {"name": "labels_domain", "datatype": "BYTES", "shape": [2], "data": ["delivery", "other"]},
    {"name": "labels_topics", "datatype": "BYTES", "shape": [2], "data": ['["speed"]', "[]"]},
    {"name": "probabilities_domain", "datatype": "FP32", "shape": [2, 2], "data": [0.951, 0.049, 0.127, 0.873]},
]
ANSWERED = {"model_name": "feedback", "model_version": "1", "id": "42", "outputs": OUTPUTS}
SERVER = {"name": "polyfold", "version": "0.1.0", "extensions": list(EXTENSIONS)}
MODEL = {
    "name": "feedback",
    "versions": ["1", "2"],
    "platform": "openvino",
    "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
    "outputs": [{"name": "labels_domain", "datatype": "BYTES", "shape": [-1]}],
    "parameters": {"tasks": {"domain": {"kind": "single_label", "labels": ["delivery", "other"]}}},
}
ROUTING = {"shares": {"1": 90, "2": 10}, "shadow": None}
LOADED = {"name": "feedback", "version": "2", "runtime": "openvino", "routing": ROUTING}
INDEX = [
    {"name": "feedback", "version": "1", "state": "READY", "reason": ""},
    {"name": "feedback", "version": "2", "state": "UNAVAILABLE", "reason": "not loaded"},
]

INFER = f"""\
Texts, or token ids of the model's own tokenizer, to labels and probabilities. The protocol has no errors of single
rows: where one row has no answer the whole request has none, and the error names the row.

Tensors may stand as bytes behind the JSON (Triton's binary tensor data extension): the header `{HEADER}` then
gives the length of the JSON, and the parameter `binary_data_size` of each input how many bytes are its own. The
parameter `binary_data` of an output, or `binary_data_output` of the request, asks for such an answer.
"""
LOAD = """\
The version is compared with its checksums, opened and warmed up while the others go on; only then does it take
requests. If it cannot be served, the answer is 422, and all is as before. Takes as long as loading takes.
"""
ADMIN = "Only for keys with the role `admin`. "


def paths() -> Document:
    """Every path of /v2."""
    name, version = _parameter("name"), _parameter("version")
    found: Document = {
        "/v2": {"get": _get("v2_server", "Who answers", "ServerMetadata", SERVER)},
        "/v2/health/live": {"get": _get("v2_live", "Is the process alive", "V2Live", {"live": True})},
        "/v2/health/ready": {"get": _ready("v2_ready", "Are all models ready", "V2Ready", {"ready": True})},
    }
    for path, parameters, suffix in (
        ("/v2/models/{name}", [name], ""),
        ("/v2/models/{name}/versions/{version}", [name, version], "_of_version"),
    ):
        ready = {"name": "feedback", "ready": True}
        found[path] = {"get": _get(f"v2_model{suffix}", "What a model reads and answers", "ModelMetadata", MODEL)}
        found[f"{path}/ready"] = {
            "get": _ready(f"v2_model_ready{suffix}", "Is a model ready", "ModelReady", ready, STATE_ERRORS)
        }
        found[f"{path}/infer"] = {"post": _infer(f"v2_infer{suffix}")}
        for one in ("", "/ready", "/infer"):
            _add_parameters(found[path + one], parameters)
    return found | _repository([name])


def _add_parameters(path: Document, parameters: Sequence[Document]) -> None:
    for operation in path.values():
        operation["parameters"] = list(parameters)


def _infer(operation: str) -> Document:
    answer = _answer("Outputs in the order asked for.", "InferResponse", {"texts": ANSWERED})
    answer["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    body = _body("InferRequest", ASKED, required=True)
    body["content"]["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    responses = {"200": answer, **_errors(INFER_ERRORS)}
    return _operation(operation, "Label texts or token ids", INFER, responses, body)


def _repository(parameters: Sequence[Document]) -> Document:
    """The paths that change which models are in service."""
    load = {"the newest": {}, "a version": {"parameters": {"version": "2", "share": 10}}}
    routing = {"200": _answer("Percentages by version.", "Routing", {"nine to one": ROUTING})}
    listed = {"type": "array", "items": _ref("IndexEntry")}
    model = "/v2/repository/models/{name}"
    calls: dict[tuple[str, str], tuple[str, str, Document, Document | None]] = {
        ("/v2/repository/index", "post"): (
            "Which versions are there",
            "In service, and in the repository.",
            {"200": _answer("All versions.", listed, {"two": INDEX})},
            _body("IndexRequest", {"all": {}, "those in service": {"ready": True}}),
        ),
        (f"{model}/load", "post"): (
            "Bring a version into service",
            LOAD,
            {"200": _answer("It takes requests.", "Loaded", {"version 2": LOADED})},
            _body("LoadRequest", load),
        ),
        (f"{model}/unload", "post"): (
            "Take versions out of service",
            "What they have begun is finished first.",
            {"200": _answer("They take no more requests.", {"type": "object"}, {"done": {}})},
            _body("UnloadRequest", {"all": {}, "one": {"parameters": {"version": "1"}}}),
        ),
        (f"{model}/routing", "get"): ("How requests are shared", "Among versions.", routing, None),
        (f"{model}/routing", "put"): (
            "Share requests anew",
            "`shares` are percentages by version and make 100; the `shadow` version only listens.",
            routing,
            _body("Routing", {"nine to one": ROUTING}, required=True),
        ),
    }
    found: Document = {}
    for (path, verb), (summary, description, responses, body) in calls.items():
        operation = f"v2_{path.rpartition('/')[2]}_{verb}"
        documented = _operation(operation, summary, ADMIN + description, responses | _errors(ADMIN_ERRORS), body)
        found.setdefault(path, {})[verb] = documented
    for path, operations in found.items():
        _add_parameters(operations, parameters if "{name}" in path else [])
    return found


def _operation(
    operation: str, summary: str, description: str, responses: Document, body: Document | None = None
) -> Document:
    found = {"operationId": operation, "summary": summary, "description": description, "responses": responses}
    return found | ({"requestBody": body} if body is not None else {}) | {"tags": ["Open Inference Protocol v2"]}


def _get(operation: str, summary: str, schema: str, example: Document) -> Document:
    responses = {"200": _answer("Now.", schema, {"example": example}), **_errors(STATE_ERRORS)}
    return _operation(operation, summary, "", responses)


def _ready(
    operation: str, summary: str, schema: str, example: Document, errors: Sequence[int] = (500,)
) -> Document:
    responses = {
        "200": _answer("Yes.", schema, {"ready": example}),
        **_errors(errors),
        "503": _answer("No.", schema, {"not ready": {**example, "ready": False}}),
    }
    return _operation(operation, summary, "", responses)


def _errors(statuses: Sequence[int]) -> Document:
    return {
        str(status): _answer(ERRORS[status][0], "V2Error", {"example": {"error": ERRORS[status][1]}})
        for status in statuses
    }


def _body(schema: str, examples: Mapping[str, Any], *, required: bool = False) -> Document:
    return {"required": required, "content": _content(schema, examples)}


def _answer(description: str, schema: str | Document, examples: Mapping[str, Any]) -> Document:
    return {"description": description, "content": _content(schema, examples)}


def _content(schema: str | Document, examples: Mapping[str, Any]) -> Document:
    named = {name: {"value": value} for name, value in examples.items()}
    return {"application/json": {"schema": _ref(schema) if isinstance(schema, str) else schema, "examples": named}}


def _parameter(name: str) -> Document:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}
