"""The same protocol over gRPC, asked by a real client over a real port."""

import asyncio
import importlib.util
import sys
from contextlib import contextmanager

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import text_format
from toy_v2 import in_process, key_of

from polyfold.errors import InputError, MissingExtra
from polyfold.serve.v2 import grpc_server
from polyfold.serve.v2.binary_tensors import decode_elements, encode_elements
from polyfold.serve.v2.grpc_messages import read_protocol
from polyfold.serve.v2.grpc_server import start_grpc
from polyfold.serve.v2.metadata import GRPC_CALLS, GRPC_SERVICE
from polyfold.text import pad
from toys import TOY_TASKS

PROTOCOL = read_protocol()
LOGITS = [f"logits_{task.name}" for task in TOY_TASKS]

STOCK_REQUEST = bytes.fromhex(
    "0a03746f791201311a013722120a0b646561646c696e655f6d73120310f4032a1a0a0474657874120542595445531a01022a084202773142"
    "0277322a1c0a09696e7075745f6964731205494e5436341a0201022a041a020002320f0a0d6c6162656c735f646f6d61696e3a020102"
)
"""What tritonclient 2.73 writes; what it says is in the test that reads it."""


@contextmanager
def listening(*models, **options):
    """A service with its gRPC side on a free port: the service, and the client's channel."""
    with in_process(*models, **options) as service:
        server = service.run(start_grpc(service.service, "127.0.0.1", 0))
        channel = service.run(opened(server.port))
        try:
            yield service, channel
        finally:
            service.gate.set()
            service.run(channel.close())
            service.run(server.stop(1.0))


async def opened(port):
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


@pytest.fixture(scope="module")
def served(toy_folders):
    folder = toy_folders["onnxruntime"]
    with listening(("toy", "1", folder), max_texts=80, max_body_bytes=50_000) as parts:
        yield parts


def call(served, name, request=None, metadata=None, timeout=10.0):
    """One call's answer; `request` is a message, or bytes as they are."""
    service, channel = served

    async def made():
        raw = request if isinstance(request, bytes) else (request or message(name)).SerializeToString()
        method = channel.unary_unary(f"/{PROTOCOL.service}/{name}")
        return await method(raw, metadata=metadata, timeout=timeout)

    return PROTOCOL.methods[name].response.FromString(service.run(made()))


def refused(served, name, request=None, **options):
    """The error of a call that must have one."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        call(served, name, request, **options)
    return error.value


def message(name, /, **fields):
    return PROTOCOL.methods[name].request(**fields)


def question(texts, outputs=(), *, raw=False, **fields):
    """An inference request for texts."""
    asked = message("ModelInfer", model_name="toy", **fields)
    tensor = asked.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    encoded = [text.encode() for text in texts]
    if raw:
        asked.raw_input_contents.append(encode_elements(encoded))
    else:
        tensor.contents.bytes_contents.extend(encoded)
    for name in outputs:
        asked.outputs.add(name=name)
    return asked


def values(answer):
    """Outputs by name: lists of strings, or float32 arrays."""
    found = {}
    for place, output in enumerate(answer.outputs):
        if answer.raw_output_contents:
            assert not output.HasField("contents")
            raw = answer.raw_output_contents[place]
            numbers = np.frombuffer(raw, "<f4") if output.datatype == "FP32" else None
            strings = (
                None if numbers is not None else decode_elements(memoryview(raw), output.shape[0], output.name)
            )
        else:
            numbers = np.array(output.contents.fp32_contents, np.float32) if output.datatype == "FP32" else None
            strings = list(output.contents.bytes_contents)
        if numbers is None:
            found[output.name] = [one.decode() for one in strings]
        else:
            found[output.name] = numbers.reshape(output.shape)
    return found


def test_a_stock_clients_request_is_read_as_it_was_meant():
    read = PROTOCOL.methods["ModelInfer"].request.FromString(STOCK_REQUEST)
    written = """
        model_name: "toy" model_version: "1" id: "7"
        parameters { key: "deadline_ms" value { int64_param: 500 } }
        inputs { name: "text" datatype: "BYTES" shape: 2 contents { bytes_contents: "w1" bytes_contents: "w2" } }
        inputs { name: "input_ids" datatype: "INT64" shape: 1 shape: 2
                 contents { int64_contents: 0 int64_contents: 2 } }
        outputs { name: "labels_domain" }
        raw_input_contents: "\\001\\002"
    """
    assert read == text_format.Parse(written, message("ModelInfer"))
    assert read.SerializeToString(deterministic=True) == STOCK_REQUEST


def test_every_call_of_the_protocol_is_answered_and_named_in_the_metrics():
    assert PROTOCOL.service == GRPC_SERVICE
    assert tuple(PROTOCOL.methods) == GRPC_CALLS
    assert len(GRPC_CALLS) == 6


def test_without_grpcio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    spec = importlib.util.spec_from_file_location("without_grpcio", grpc_server.__file__)
    with pytest.raises(MissingExtra, match=r"polyfold\[grpc\]"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("raw", [False, True])
def test_answers_are_the_predictors(served, onnx_predictor, toy_texts, raw):
    names = [f"{part}_{task.name}" for part in ("logits", "probabilities", "labels") for task in TOY_TASKS]
    answer = call(served, "ModelInfer", question(toy_texts, names, raw=raw, id="7"))
    assert (answer.model_name, answer.model_version, answer.id) == ("toy", "1", "7")
    assert bool(answer.raw_output_contents) == raw
    found = values(answer)
    assert list(found) == names
    logits, predictions = onnx_predictor.logits(toy_texts), onnx_predictor.predict(toy_texts)
    for task in TOY_TASKS:
        np.testing.assert_allclose(found[f"logits_{task.name}"], logits[task.name], atol=1e-5)
        probabilities = predictions.probabilities[task.name]
        np.testing.assert_allclose(found[f"probabilities_{task.name}"], probabilities, atol=1e-5)
    assert found["labels_domain"] == [one.labels["domain"] for one in predictions]


@pytest.mark.parametrize("raw", [False, True])
def test_token_ids_are_answered_as_their_texts_are(served, onnx_predictor, toy_texts, raw):
    arrays = pad(onnx_predictor.tokenizer.encode(toy_texts, 16).ids, pad_id=1)
    asked = message("ModelInfer", model_name="toy", model_version="1")
    for name, array in zip(("input_ids", "attention_mask"), arrays, strict=True):
        tensor = asked.inputs.add(name=name, datatype="INT64", shape=array.shape)
        if raw:
            asked.raw_input_contents.append(array.tobytes())
        else:
            tensor.contents.int64_contents.extend(array.reshape(-1).tolist())
    by_ids = values(call(served, "ModelInfer", asked))
    by_text = values(call(served, "ModelInfer", question(toy_texts)))
    assert list(by_ids) == list(by_text)
    for name, found in by_ids.items():
        if name.startswith("labels"):
            assert found == by_text[name]
        else:
            np.testing.assert_allclose(found, by_text[name], atol=1e-5)


def test_the_service_and_its_models_say_what_they_are(served):
    service, _ = served
    assert call(served, "ServerLive").live
    assert call(served, "ServerReady").ready
    assert call(served, "ModelReady", message("ModelReady", name="toy", version="1")).ready
    assert call(served, "ServerMetadata").name == "polyfold"
    found = call(served, "ModelMetadata", message("ModelMetadata", name="toy"))
    over_http = service.ask("GET", "/v2/models/toy").json()
    assert found.platform == over_http["platform"]
    for ours, theirs in ((found.inputs, over_http["inputs"]), (found.outputs, over_http["outputs"])):
        assert [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in ours] == theirs


def _changed(**fields):
    asked = question(["w1", "w2"])
    for name, value in fields.items():
        if name == "shape":
            asked.inputs[0].shape[:] = value
        else:
            setattr(asked.inputs[0], name, value)
    return asked


def _with(**fields):
    return question(["w1", "w2"], **fields)


MALFORMED = {
    "no message": b"\xff\xff\xff",
    "no input": message("ModelInfer", model_name="toy"),
    "an unknown input": _changed(name="txt"),
    "a negative size": _changed(shape=[-2]),
    "too many elements": _changed(shape=[1]),
    "another type": _changed(datatype="FP32"),
    "an unknown output": question(["w1"], ["labels_other"]),
    "an unknown parameter": _with(parameters={"priority": {"int64_param": 1}}),
    "a parameter without a value": _with(parameters={"deadline_ms": {}}),
    "contents twice": _with(raw_input_contents=[encode_elements([b"w1", b"w2"])]),
    "too many rows": question(["w1"] * 81),
    "a text too long": question(["w" * 20_001]),
    "text that is no UTF-8": message(
        "ModelInfer", model_name="toy",
        inputs=[{"name": "text", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [b"\xff"]}}],
    ),
    "raw bytes of too few inputs": message(
        "ModelInfer", model_name="toy", raw_input_contents=[b""],
        inputs=[{"name": name, "datatype": "INT64", "shape": [0, 1]} for name in ("input_ids", "attention_mask")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_in_the_protocols_form_is_an_invalid_argument(served, name):
    error = refused(served, "ModelInfer", MALFORMED[name])
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    assert error.details()
    trailing = dict(error.trailing_metadata())
    assert trailing["x-request-id"]
    assert trailing["x-error-code"] in ("bad_request", "too_many_texts", "body_too_large")


def test_a_model_that_is_not_there_is_not_found(served):
    for name, request in (
        ("ModelInfer", message("ModelInfer", model_name="other")),
        ("ModelInfer", question(["w1"], model_version="9")),
        ("ModelMetadata", message("ModelMetadata", name="other")),
        ("ModelReady", message("ModelReady", name="other")),
    ):
        assert refused(served, name, request).code() == grpc.StatusCode.NOT_FOUND


def test_a_message_beyond_the_limit_is_not_taken(served):
    error = refused(served, "ModelInfer", question(["w" * 1000] * 60))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_request_keeps_its_id(served):
    error = refused(served, "ModelInfer", b"\xff", metadata=(("x-request-id", "mine-1"),))
    assert dict(error.trailing_metadata())["x-request-id"] == "mine-1"


def test_an_answer_that_comes_too_late_is_told_so_by_the_server(served):
    service, _ = served
    service.gate.clear()
    asked = question(["w4 w5 w6"], parameters={"deadline_ms": {"int64_param": 30}})
    error = refused(served, "ModelInfer", asked)
    service.gate.set()
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert dict(error.trailing_metadata())["x-error-code"] == "deadline_exceeded"


def test_a_call_that_its_client_gives_up_waits_no_more(served):
    service, channel = served
    service.gate.clear()
    model = service.service.fleet.models[0]

    async def given_up():
        method = channel.unary_unary(f"/{PROTOCOL.service}/ModelInfer")
        calls = [method(question([f"w{number} w2 w3 w4"]).SerializeToString()) for number in range(8)]
        while model.pending < len(calls):
            await asyncio.sleep(0)
        for one in calls:
            one.cancel()
        while model.pending:
            await asyncio.sleep(0)

    service.run(given_up())
    assert model.queue_tokens == 0
    assert service.events.seen.count(("dropped", "toy", "1", "cancelled", 1)) == 8
    service.gate.set()
    assert call(served, "ModelInfer", question(["w1"])).outputs


def test_keys_open_the_same_as_over_http(toy_folders, tmp_path):
    key, path = key_of(tmp_path, "predict")
    other, _ = key_of(tmp_path, "metrics")
    with listening(("toy", "1", toy_folders["onnxruntime"]), keys=path) as served:
        asked = question(["w1"])
        assert refused(served, "ModelInfer", asked).code() == grpc.StatusCode.UNAUTHENTICATED
        assert refused(served, "ModelMetadata").code() == grpc.StatusCode.UNAUTHENTICATED
        lesser = (("x-api-key", other),)
        assert refused(served, "ModelInfer", asked, metadata=lesser).code() == grpc.StatusCode.PERMISSION_DENIED
        for metadata in ((("x-api-key", key),), (("authorization", f"Bearer {key}"),)):
            assert call(served, "ModelInfer", asked, metadata=metadata).outputs
        assert call(served, "ServerLive").live
        assert call(served, "ServerReady").ready


def test_a_service_that_stops_is_unavailable_and_says_when_to_come_again(toy_folders):
    with listening(("toy", "1", toy_folders["onnxruntime"])) as served:
        service, _ = served
        service.run(service.service.fleet.stop(1.0))
        error = refused(served, "ModelInfer", question(["w1"]))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert int(dict(error.trailing_metadata())["retry-after"]) >= 1
        assert not call(served, "ServerReady").ready
        assert call(served, "ServerLive").live


def test_a_port_that_is_taken_is_told(served):
    service, _ = served

    async def twice():
        first = await start_grpc(service.service, "127.0.0.1", 0)
        try:
            await start_grpc(service.service, "127.0.0.1", first.port)
        finally:
            await first.stop(0.0)

    with pytest.raises(InputError, match="cannot listen"):
        service.run(twice())
