"""Requests and answers of the Open Inference Protocol as JSON, strictly read.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md; the repository calls are Triton's
(docs/protocol/extension_model_repository.md). Fields that the protocol does not know are refused, so that a typing
mistake is told and not ignored.
"""

from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field

from polyfold.errors import InputError
from polyfold.serve.engine.fleet import Routing
from polyfold.serve.http import strict_json
from polyfold.serve.refusals import Refusal

Schema = TypeVar("Schema", bound=BaseModel)

Parameters = dict[str, bool | int | float | str]
Size = Annotated[int, Field(ge=0, le=2**63 - 1)]
Name = Annotated[str, Field(max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class InputTensor(_Strict):
    """`text`: BYTES [n] or [n, 1]. Or both `input_ids` and `attention_mask`: INT64 [n, seq], right-padded.

    `data` is row after row, nested as the shape says or flat. Without it the bytes follow the JSON, and the
    parameter `binary_data_size` says how many.
    """

    name: Name
    shape: list[Size] = Field(max_length=8)
    datatype: Name
    parameters: Parameters = {}
    data: list[Any] | None = None


class WantedOutput(_Strict):
    """An output by its name; the parameter `binary_data` asks for it as bytes behind the JSON."""

    name: Name
    parameters: Parameters = {}


class InferRequest(_Strict):
    """Texts or token ids to classify. Without `outputs`: labels and probabilities of every task.

    Parameters: `deadline_ms` (or Triton's `timeout`, in microseconds) is the time that the client waits;
    `binary_data_output` asks for all outputs as bytes. `sequence_id`, `sequence_start` and `sequence_end` change
    nothing, since no answer depends on an earlier request.
    """

    id: Annotated[str, Field(max_length=1024)] | None = None
    parameters: Parameters = {}
    inputs: list[InputTensor] = Field(min_length=1, max_length=8)
    outputs: list[WantedOutput] | None = Field(default=None, max_length=1024)


class OutputTensor(BaseModel):
    """One answer, row after row; BYTES of a multi-label task are JSON lists of labels."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float] | list[str] | None = None


class InferResponse(BaseModel):
    """What a model answers."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    """A tensor's form; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(BaseModel):
    """Who answers, and what beside the protocol's core."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    """What a model reads and answers; the labels of its tasks stand in `parameters`."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]


class V2Live(BaseModel):
    """Whether the process answers."""

    live: bool


class V2Ready(BaseModel):
    """Whether every model may be asked."""

    ready: bool


class ModelReady(BaseModel):
    """Whether one model may be asked."""

    name: str
    ready: bool


class V2Error(BaseModel):
    """Every error of the protocol: a message for people. The header x-request-id names the request in the logs."""

    error: str


class IndexRequest(_Strict):
    """Asks for all models of the service and its repository, or those that are `ready`."""

    ready: bool = False


class IndexEntry(BaseModel):
    """One version of one model: READY, UNAVAILABLE, or UNLOADING while it finishes what it has."""

    name: str
    version: str
    state: str
    reason: str


class LoadParameters(_Strict):
    """What to load: `version` (by default the newest in the repository) from `path` (by default NAME/VERSION).

    The newest is the one with the greatest number. `fallbacks` are folders of the same model for other runtimes,
    which take over where the first fails; all paths begin at the service's repository. `share` is the percentage
    of the requests without a version that a new one gets.
    """

    version: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    path: str | None = Field(default=None, min_length=1, max_length=1024)
    fallbacks: list[Annotated[str, Field(min_length=1, max_length=1024)]] = Field(default=[], max_length=8)
    share: float = Field(default=100.0, ge=0.0, le=100.0)


class LoadRequest(_Strict):
    """Brings a version into service, or replaces the one of its number; until then that one goes on."""

    parameters: LoadParameters = LoadParameters()


class UnloadParameters(_Strict):
    """Which version to take out of service, or else all. Triton's `unload_dependents` changes nothing."""

    version: str | None = Field(default=None, max_length=64)
    unload_dependents: bool = False


class UnloadRequest(_Strict):
    """Takes versions out of service once they have finished what they have."""

    parameters: UnloadParameters = UnloadParameters()


class Loaded(BaseModel):
    """A version that now takes requests."""

    name: str
    version: str
    runtime: str
    routing: Routing


def parse(schema: type[Schema], given: bytes) -> Schema:
    """A body as its schema; Refusal 400 says where it does not fit, and quotes no text of it."""
    try:
        return strict_json.parse(schema, given)
    except Refusal as refusal:
        # One status for all that is malformed, as the protocol has it, and no hint at another route's body.
        raise Refusal(400, refusal.code, refusal.message) from None


def plain(refusal: Refusal) -> str:
    """A refusal as the one string that the protocol's errors are; what UTF-8 cannot say is replaced."""
    text = f"{refusal.message} -> {refusal.hint}" if refusal.hint else refusal.message
    return text.encode("utf-8", "replace").decode()


def error_json(refusal: Refusal) -> bytes:
    """The body of every error under /v2."""
    return orjson.dumps({"error": plain(refusal)})


def refused(error: InputError, status: int = 422) -> Refusal:
    """What a caller is told of a mistake that the lower floors found."""
    where = "".join(f"{one}: " for one in (error.file, error.key) if one is not None)
    return Refusal(status, "bad_request", f"{where}{error.problem}", hint=error.hint)
