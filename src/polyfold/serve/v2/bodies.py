"""Bodies of inference over HTTP: JSON, with tensors as bytes behind it where a client wants that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from polyfold.serve.engine.served import ServedModel
from polyfold.serve.v2.binary_tensors import HEADER, Tail, bad, encode_elements, encode_float32, split_body
from polyfold.serve.v2.infer import HTTP_ONLY, Value, flag
from polyfold.serve.v2.inputs import HALF_PAIR, Given
from polyfold.serve.v2.outputs import Output
from polyfold.serve.v2.schemas import InferRequest, InputTensor, parse

SIZE = "binary_data_size"
AS_BYTES = "binary_data"


@dataclass(frozen=True)
class Asked:
    """A request's body: its inputs, the outputs it names, and whether each is wanted as bytes."""

    id: str | None
    parameters: Mapping[str, Value]
    inputs: tuple[Given, ...]
    outputs: tuple[str, ...]
    as_bytes: Mapping[str, bool]
    all_as_bytes: bool


@dataclass(frozen=True)
class Written:
    """An answer's body, and its headers."""

    content: bytes
    headers: dict[str, str]


def read_body(body: bytes, json_length: str | None) -> Asked:
    """A request, and every byte behind its JSON given to an input."""
    content, tail = split_body(body, json_length)
    request = parse(InferRequest, content)
    if request.id is not None and HALF_PAIR.search(request.id):
        raise bad("the id holds half of a surrogate pair, which no answer could repeat")
    inputs = tuple(_given(one, tail) for one in request.inputs)
    tail.check_empty()
    as_bytes: dict[str, bool] = {}
    for wanted in request.outputs or ():
        _check_known(wanted.name, wanted.parameters, AS_BYTES)
        if AS_BYTES in wanted.parameters:
            as_bytes[wanted.name] = flag(wanted.parameters, AS_BYTES)
    return Asked(
        request.id,
        request.parameters,
        inputs,
        tuple(one.name for one in request.outputs or ()),
        as_bytes,
        flag(request.parameters, HTTP_ONLY),
    )


def write_body(asked: Asked, model: ServedModel, outputs: Sequence[Output]) -> Written:
    """The answer to a request, each output in the form it is wanted in."""
    tensors, tail = [], []
    for output in outputs:
        tensor: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        if asked.as_bytes.get(output.name, asked.all_as_bytes):
            raw = encode(output)
            tensor["parameters"] = {SIZE: len(raw)}
            tail.append(raw)
        else:
            tensor["data"] = output.strings if output.numbers is None else output.numbers.reshape(-1)
        tensors.append(tensor)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": model.version, "outputs": tensors}
    if asked.id is not None:
        answer["id"] = asked.id
    content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tail:
        return Written(content, {"content-type": "application/json"})
    headers = {"content-type": "application/octet-stream", HEADER: str(len(content))}
    return Written(b"".join([content, *tail]), headers)


def encode(output: Output) -> bytes:
    """An output as bytes."""
    if output.numbers is not None:
        return encode_float32(output.numbers)
    return encode_elements([one.encode() for one in output.strings or ()])


def _given(tensor: InputTensor, tail: Tail) -> Given:
    _check_known(tensor.name, tensor.parameters, SIZE)
    shape, size = tuple(tensor.shape), tensor.parameters.get(SIZE)
    if size is None:
        return Given(tensor.name, tensor.datatype, shape, data=tensor.data)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise bad(f"{SIZE} of '{tensor.name[:64]}' is no number of bytes")
    if tensor.data is not None:
        raise bad(f"'{tensor.name[:64]}' has both data and {SIZE}", hint="give one of them")
    return Given(tensor.name, tensor.datatype, shape, raw=tail.take(tensor.name[:64], size))


def _check_known(tensor: str, parameters: Mapping[str, Value], known: str) -> None:
    for name in parameters:
        if name != known:
            raise bad(f"'{tensor[:64]}' has an unknown parameter '{name[:64]}'", hint=f"known is {known}")
