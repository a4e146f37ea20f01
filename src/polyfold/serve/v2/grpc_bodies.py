"""Inference requests and answers as the messages of `proto/inference.proto`."""

from collections.abc import Mapping, Sequence
from typing import Any

from polyfold.serve.engine.served import ServedModel
from polyfold.serve.v2.binary_tensors import bad
from polyfold.serve.v2.bodies import encode
from polyfold.serve.v2.infer import Value
from polyfold.serve.v2.inputs import Given
from polyfold.serve.v2.outputs import Output
from polyfold.serve.v2.schemas import ModelMetadata

CONTENTS = {"BYTES": "bytes_contents", "INT64": "int64_contents"}
"""Where a message holds elements of the types that we read."""


def read_inputs(message: Any) -> tuple[Given, ...]:
    """A request's inputs, as bytes or element by element; both at once are refused."""
    raw: Sequence[bytes] = message.raw_input_contents
    for tensor in message.inputs:
        if tensor.parameters:
            raise bad(f"'{tensor.name[:64]}' has parameters", hint="no parameter of an input is known")
        if raw and tensor.HasField("contents"):
            raise bad(f"'{tensor.name[:64]}' has contents beside raw_input_contents", hint="give one of them")
    if raw and len(raw) != len(message.inputs):
        raise bad(f"there are {len(message.inputs)} inputs, and raw_input_contents holds {len(raw)}")
    return tuple(
        Given(tensor.name, tensor.datatype, tuple(tensor.shape), raw=memoryview(raw[place]))
        if raw
        else Given(tensor.name, tensor.datatype, tuple(tensor.shape), data=_elements(tensor))
        for place, tensor in enumerate(message.inputs)
    )


def read_outputs(message: Any) -> tuple[str, ...]:
    """The names of the outputs that a request asks for."""
    for wanted in message.outputs:
        if wanted.parameters:
            raise bad(f"'{wanted.name[:64]}' has parameters", hint="no parameter of an output is known")
    return tuple(wanted.name for wanted in message.outputs)


def read_parameters(message: Any) -> Mapping[str, Value]:
    """A request's parameters as plain values."""
    found: dict[str, Value] = {}
    for name, parameter in message.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise bad(f"the parameter '{name[:64]}' has no value")
        found[name] = getattr(parameter, kind)
    return found


def fill_answer(message: Any, model: ServedModel, outputs: Sequence[Output], *, raw: bool) -> None:
    """Write the outputs into a response: as bytes, or element by element."""
    message.model_name, message.model_version = model.name, model.version
    for output in outputs:
        tensor = message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        if raw:
            message.raw_output_contents.append(encode(output))
        elif output.numbers is not None:
            tensor.contents.fp32_contents.extend(output.numbers.ravel().tolist())
        else:
            tensor.contents.bytes_contents.extend(one.encode() for one in output.strings or ())


def fill_metadata(message: Any, found: ModelMetadata) -> None:
    """Write what is known of a model; the protocol's message has no place for `parameters`."""
    message.name, message.platform = found.name, found.platform
    message.versions.extend(found.versions)
    for ours, theirs in ((found.inputs, message.inputs), (found.outputs, message.outputs)):
        for one in ours:
            theirs.add(name=one.name, datatype=one.datatype, shape=one.shape)


def _elements(tensor: Any) -> Sequence[Any]:
    where = CONTENTS.get(tensor.datatype)
    # Of another type: the reader of inputs will say which one is wanted.
    return [] if where is None else list(getattr(tensor.contents, where))
