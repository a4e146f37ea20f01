"""/v2 over HTTP: its answers are the predictor's, whichever way they are asked for and given."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_v2 import ids_inputs, in_process, texts_input

from polyfold.predictor import Predictor
from polyfold.serve.http.app import build_app
from polyfold.serve.http.strict_json import parse
from polyfold.serve.refusals import Refusal
from polyfold.serve.v2.binary_tensors import HEADER, decode_elements, encode_elements
from polyfold.serve.v2.openapi import ANSWERED, ASKED, INDEX, LOADED, MODEL, MODELS, SERVER, paths
from polyfold.serve.v2.routes import Protocol
from polyfold.serve.v2.schemas import (
    IndexEntry,
    InferRequest,
    InferResponse,
    Loaded,
    ModelMetadata,
    ServerMetadata,
)
from polyfold.text import pad
from toys import TOY_TASKS

INFER = "/v2/models/toy/infer"
LOGITS = [f"logits_{task.name}" for task in TOY_TASKS]
ALL = [f"{part}_{task.name}" for part in ("labels", "probabilities", "logits") for task in TOY_TASKS]
LIMITS = {"max_body_bytes": 100_000, "max_texts": 80, "max_characters": 500}


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def served(request, toy_folders):
    """The toy model behind the application, and the same model as a predictor."""
    with in_process(("toy", "1", toy_folders[request.param]), **LIMITS) as service:
        yield service, Predictor.open(toy_folders[request.param])


@pytest.fixture(scope="module")
def service(toy_folders):
    """The toy model behind the application."""
    with in_process(("toy", "1", toy_folders["onnxruntime"]), **LIMITS) as service:
        yield service


def asked(inputs, outputs=ALL, **more):
    return {"inputs": inputs, "outputs": [{"name": name} for name in outputs], **more}


def arrays(response):
    """Outputs by name: lists of strings, or float32 arrays, from JSON and from the bytes behind it."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(HEADER, len(response.content)))
    tail, found = memoryview(response.content)[length:], {}
    for output in orjson.loads(response.content[:length])["outputs"]:
        if (size := output.get("parameters", {}).get("binary_data_size")) is not None:
            raw, tail = tail[:size], tail[size:]
            if output["datatype"] == "FP32":
                data = np.frombuffer(raw, "<f4")
            else:
                data = [one.decode() for one in decode_elements(raw, output["shape"][0], output["name"])]
        else:
            data = np.array(output["data"], np.float32) if output["datatype"] == "FP32" else output["data"]
        found[output["name"]] = data if isinstance(data, list) else data.reshape(output["shape"])
    assert not tail
    return found


def check_equal(found, expected):
    """Strings equal, numbers bit for bit."""
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def check_refused(response, *statuses):
    """An error of the protocol: one string, the request's id in the header."""
    assert response.status_code in statuses, response.text
    assert list(response.json()) == ["error"]
    assert type(response.json()["error"]) is str
    assert response.headers["x-request-id"]


def test_answers_are_the_predictors(served, toy_texts):
    service, predictor = served
    found = arrays(service.ask("POST", INFER, json=asked([texts_input(toy_texts)])))
    logits, predictions = predictor.logits(toy_texts), predictor.predict(toy_texts)
    for task in TOY_TASKS:
        np.testing.assert_allclose(found[f"logits_{task.name}"], logits[task.name], atol=1e-5)
        probabilities = predictions.probabilities[task.name]
        np.testing.assert_allclose(found[f"probabilities_{task.name}"], probabilities, atol=1e-5)
        labels = found[f"labels_{task.name}"]
        read = [json.loads(one) for one in labels] if task.multi_label else labels
        assert read == [one.labels[task.name] for one in predictions]


def test_token_ids_are_answered_as_their_texts_are(served, toy_texts):
    service, predictor = served
    ids, mask = pad(predictor.tokenizer.encode(toy_texts, 16).ids, pad_id=1)
    by_text = arrays(service.ask("POST", INFER, json=asked([texts_input(toy_texts)])))
    by_ids = arrays(service.ask("POST", INFER, json=asked(ids_inputs(ids, mask))))
    for name in ALL:
        if name.startswith("labels"):
            assert by_ids[name] == by_text[name]
        else:
            np.testing.assert_allclose(by_ids[name], by_text[name], atol=1e-5)


def test_bytes_behind_the_json_say_the_same_as_the_json(service, toy_texts):
    texts = toy_texts[:7]
    expected = arrays(service.ask("POST", INFER, json=asked([texts_input(texts)])))
    raw = encode_elements([text.encode() for text in texts])
    tensor = {"name": "text", "shape": [7, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    content = orjson.dumps(asked([tensor], parameters={"binary_data_output": True}))
    headers = {HEADER: str(len(content)), "content-type": "application/octet-stream"}
    answer = service.ask("POST", INFER, content=content + raw, headers=headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    check_equal(arrays(answer), expected)


def test_each_output_may_be_bytes_or_json_for_itself(service):
    body = asked([texts_input(["w1", "w2 w3"])])
    expected = arrays(service.ask("POST", INFER, json=body))
    for place, output in enumerate(body["outputs"]):
        output["parameters"] = {"binary_data": place % 2 == 0}
    answer = service.ask("POST", INFER, json=body)
    assert int(answer.headers[HEADER]) < len(answer.content)
    check_equal(arrays(answer), expected)


def test_ids_as_bytes_are_answered_as_ids_in_json(service, onnx_predictor):
    ids, mask = pad(onnx_predictor.tokenizer.encode(["w1 w2", "w3"], 16).ids, pad_id=1)
    expected = arrays(service.ask("POST", INFER, json=asked(ids_inputs(ids, mask))))
    inputs, raw = ids_inputs(ids, mask), ids.tobytes() + mask.tobytes()
    for one in inputs:
        del one["data"]
        one["parameters"] = {"binary_data_size": ids.nbytes}
    content = orjson.dumps(asked(inputs))
    check_equal(
        arrays(service.ask("POST", INFER, content=content + raw, headers={HEADER: str(len(content))})), expected
    )


def test_outputs_come_as_asked_for_and_the_id_comes_back(service):
    body = asked([texts_input(["w1"])], ["logits_topics", "labels_domain"], id="17")
    answer = service.ask("POST", "/v2/models/toy/versions/1/infer", json=body).json()
    assert [one["name"] for one in answer["outputs"]] == ["logits_topics", "labels_domain"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("toy", "1", "17")


def test_no_rows_are_answered_by_none(service):
    found = arrays(service.ask("POST", INFER, json=asked([texts_input([])])))
    assert [len(values) for values in found.values()] == [0] * len(ALL)


def test_a_request_is_counted_as_answered_once(service):
    service.events.seen.clear()
    service.ask("POST", INFER, json=asked([texts_input(["w1", "w2"])]))
    assert service.events.seen.count(("answered", "toy", "1")) == 1


def _tensor(**fields):
    return asked([texts_input(["w1", "w2"]) | fields])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (_tensor(name="txt"), 400),
        (_tensor(shape=[3]), 400),
        (_tensor(shape=[1, 2]), 400),
        (_tensor(shape=[2, 1, 1]), 400),
        (_tensor(shape=[]), 400),
        (_tensor(datatype="FP32"), 400),
        (_tensor(data=["w1", None]), 400),
        (_tensor(data=["w1", 2]), 400),
        (_tensor(data=None), 400),
        (_tensor(parameters={"binary_data_size": 1}), 400),
        (_tensor(parameters={"classification": 1}), 400),
        (asked([texts_input(["w1"])], ["labels_other"]), 400),
        (asked([texts_input(["w1"]), texts_input(["w1"])]), 400),
        (asked(ids_inputs(np.zeros((1, 2), int), np.ones((1, 2), int))[:1]), 400),
        (asked(ids_inputs(np.zeros((1, 17), int), np.ones((1, 17), int))), 400),
        (asked(ids_inputs(np.full((1, 2), 204), np.ones((1, 2), int))), 400),
        (asked(ids_inputs(np.zeros((1, 2), int), np.zeros((1, 2), int))), 400),
        (asked([]), 400),
        (asked([texts_input(["\ud800"])]), 400),
        (asked([texts_input(["w1"])], id="\ud800"), 400),
        (asked([texts_input(["w1"])], ["\ud800"]), 400),
        (asked([texts_input(["w1"])], parameters={"\ud800": 1}), 400),
        ({}, 400),
        ([], 400),
        (asked([texts_input(["w1"])], parameters={"deadline_ms": -1}), 400),
        (asked([texts_input(["w1"])], parameters={"binary_data_output": 1}), 400),
        (asked([texts_input(["w1"] * 81)]), 413),
        (asked([texts_input(["w" * 501])]), 413),
        (asked([texts_input(["w" * 100] * 999)]), 413),
    ],
)
def test_what_is_not_in_the_protocols_form_is_told_in_it(service, body, status):
    # Not httpx's own JSON, which cannot write half of a surrogate pair.
    check_refused(service.ask("POST", INFER, content=json.dumps(body)), status)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/toy/versions/9", 404),
        ("GET", "/v2/models/other/ready", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/toy/versions/9/infer", 404),
        ("GET", "/v2/elsewhere", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
    ],
)
def test_paths_that_lead_nowhere_are_told_so_in_the_protocols_form(service, method, path, status):
    check_refused(service.ask(method, path, json=asked([texts_input(["w1"])], [])), status)


@pytest.mark.parametrize("headers", [{"content-type": "text/plain"}, {"content-encoding": "gzip"}])
def test_a_body_that_is_neither_json_nor_bytes_is_no_request(service, headers):
    body = orjson.dumps(asked([texts_input(["w1"])]))
    check_refused(service.ask("POST", INFER, content=body, headers=headers), 415)
    assert service.ask("POST", INFER, content=body).status_code == 200


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_request_with_anything_changed_is_answered_or_refused_and_never_a_fault(service, data):
    raw = encode_elements([b"w1", "w2 \u00e9".encode()])
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    content = orjson.dumps(asked([tensor], ["labels_domain"]))
    body = bytearray(content + raw)
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    length = data.draw(st.sampled_from([len(content), len(content), 0, len(content) - 1, len(body) + 1]))
    answer = service.ask("POST", INFER, content=bytes(body), headers={HEADER: str(length)})
    if answer.status_code != 200:
        check_refused(answer, 400, 413)


def test_an_answer_that_comes_too_late_is_504_and_its_texts_wait_no_more(service):
    service.gate.clear()
    service.events.seen.clear()
    body = asked([texts_input(["w9 w8 w7"])], parameters={"deadline_ms": 40})
    check_refused(service.ask("POST", INFER, json=body), 504)
    assert ("dropped", "toy", "1", "deadline", 1) in service.events.seen
    assert service.service.fleet.models[0].pending == 0
    service.gate.set()
    answer = service.ask("POST", INFER, json=asked([texts_input(["w9 w8 w7"])]))
    assert answer.status_code == 200


def test_a_client_that_leaves_is_waited_for_no_more(service):
    model, sent = service.service.fleet.models[0], []
    body = orjson.dumps(asked([texts_input(["w4 w3 w2 w1"])]))
    messages = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": INFER, "raw_path": INFER.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "headers": [],
    }  # fmt: skip

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    service.gate.clear()
    service.run(build_app(service.service)(scope, receive, send))
    assert (messages, sent, model.pending) == ([], [], 0)
    service.gate.set()


def test_the_service_and_its_models_say_what_they_are(service):
    server = ServerMetadata.model_validate(service.ask("GET", "/v2").json())
    assert server.name == "polyfold"
    assert {"binary_tensor_data", "model_repository"} <= set(server.extensions)
    assert service.ask("GET", "/v2/health/live").json() == {"live": True}
    assert service.ask("GET", "/v2/health/ready").json() == {"ready": True}
    assert service.ask("GET", "/v2/models/toy/versions/1/ready").json() == {"name": "toy", "ready": True}
    model = ModelMetadata.model_validate(service.ask("GET", "/v2/models/toy").json())
    assert [one.name for one in model.outputs] == ALL
    assert model.versions == ["1"]
    assert model.parameters["tasks"]["topics"]["labels"] == list(TOY_TASKS[1].labels)


def test_metadata_describes_what_is_answered(service):
    model = service.ask("GET", "/v2/models/toy").json()
    answer = service.ask("POST", INFER, json=asked([texts_input(["w1", "w2", "w3"])])).json()
    for told, given_ in zip(model["outputs"], answer["outputs"], strict=True):
        assert (told["name"], told["datatype"]) == (given_["name"], given_["datatype"])
        assert given_["shape"] == [3 if size == -1 else size for size in told["shape"]]
    plain = service.ask("POST", INFER, json={"inputs": [texts_input(["w1"])]}).json()
    assert [one["name"] for one in plain["outputs"]] == model["parameters"]["default_outputs"]


def test_a_service_that_stops_is_alive_and_not_ready(toy_folders):
    with in_process(("toy", "1", toy_folders["onnxruntime"])) as service:
        service.run(service.service.fleet.stop(1.0))
        assert service.ask("GET", "/v2/health/live").status_code == 200
        for path in ("/v2/health/ready", "/v2/models/toy/ready"):
            assert service.ask("GET", path).status_code == 503
        check_refused(service.ask("POST", INFER, json=asked([texts_input(["w1"])])), 503)


def test_every_route_is_documented_and_every_documented_path_is_a_route(service):
    routes = {
        (route.path, method) for route in Protocol(service.service).routes for method in route.methods - {"HEAD"}
    }
    documented = {(path, verb.upper()) for path, verbs in paths().items() for verb in verbs}
    assert routes == documented
    assert len(routes) == 14


def test_examples_in_the_document_are_what_they_show():
    for example in ASKED.values():
        assert parse(InferRequest, orjson.dumps(example)).inputs
    for schema, example in (
        (InferResponse, ANSWERED), (ServerMetadata, SERVER), (ModelMetadata, MODEL), (Loaded, LOADED),
        *((IndexEntry, one) for one in INDEX),
    ):  # fmt: skip
        schema.model_validate(example)


def test_every_schema_that_the_document_names_is_there():
    names = {model.__name__ for model in MODELS}
    written = orjson.dumps(paths()).decode()
    used = {part.split('"')[0] for part in written.split("#/components/schemas/")[1:]}
    assert used == names


def test_an_error_of_the_protocol_is_one_string(service):
    with pytest.raises(Refusal):
        parse(InferRequest, b"{")
    error = service.ask("POST", INFER, content=b"{").json()["error"]
    assert "JSON" in error
