"""What the service says of itself, and that everything it says has the shape that its own documents give."""

import json
import re
from dataclasses import replace

import jsonschema
import pytest
from toy_app import ToyApp

from polyfold import __version__
from polyfold.predictor import Predictor
from polyfold.serve.http.gate import ALWAYS, UNLESS_SAID
from polyfold.serve.http.openapi import document
from toys import TOY_TASKS, write_toy_folder

PATHS = ("/live", "/health", "/models", "/stats", "/metrics", "/openapi.json", "/docs", "/")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = write_toy_folder(tmp_path_factory.mktemp("model") / "toy", "onnxruntime")
    (folder / "README.md").write_text("# Toy\n\nKennt 200 Wörter.", encoding="utf8")
    app = ToyApp(f"toy@3={folder}")
    yield app
    app.close()


@pytest.fixture(scope="module")
def described(toy):
    return toy.get("/openapi.json").json()


def validator(described, schema):
    """Checks values against a schema of the document."""
    return jsonschema.Draft202012Validator({**schema, "components": described["components"]})


def operations(described):
    return [
        (path, verb, operation) for path, item in described["paths"].items() for verb, operation in item.items()
    ]


@pytest.mark.parametrize("path", PATHS)
def test_every_path_answers_get_and_head_alike(toy, path):
    got, head = toy.get(path), toy.run(toy.client.head(path))
    assert (got.status_code, head.status_code) == (200, 200)
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/v2", "/v2/nothing"])
def test_every_answer_carries_the_security_headers_and_its_id(toy, path):
    headers = toy.get(path, headers={"x-request-id": "my.id-1"}).headers
    for name, value in ALWAYS:
        assert headers[name.decode()] == value.decode()
    for name, _ in UNLESS_SAID:
        assert headers[name.decode()]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-request-id"] == "my.id-1"
    assert len(headers.get_list("x-request-id")) == len(headers.get_list("x-frame-options")) == 1
    assert "server" not in headers


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("POST", "/predict/", 404, "not_found"),
        ("GET", "/static/../secrets", 404, "not_found"),
        ("GET", "/static/nothing.js", 404, "not_found"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("PUT", "/health", 405, "method_not_allowed"),
        ("OPTIONS", "/predict", 405, "method_not_allowed"),
        ("BREW", "/predict", 405, "method_not_allowed"),
    ],
)
def test_what_there_is_not_is_an_error_in_the_one_shape(toy, described, method, path, status, code):
    answer = toy.run(toy.client.request(method, path))
    assert answer.status_code == status
    validator(described, {"$ref": "#/components/schemas/ErrorResponse"}).validate(answer.json())
    assert answer.json()["error"]["code"] == code
    assert ("allow" in answer.headers) == (status == 405)
    exchange = toy.seen.exchanges[-1]
    assert (exchange.status, exchange.code, exchange.method) == (status, code, method)


def test_what_is_told_of_a_model_is_what_it_is(toy):
    (info,) = toy.get("/models").json()
    predictor = Predictor.open(toy.spec.models[0].folders[0])
    assert (info["name"], info["version"], info["runtime"]) == ("toy", "3", "onnxruntime")
    assert info["precision"] == predictor.config.precision
    assert info["max_length"] == predictor.config.max_length
    assert (info["share"], info["shadow"]) == (100.0, False)
    assert info["card"] == "# Toy\n\nKennt 200 Wörter."
    assert [(task["name"], task["kind"], tuple(task["labels"])) for task in info["tasks"]] == [
        (task.name, task.kind, task.labels) for task in TOY_TASKS
    ]
    assert info["tasks"][1]["thresholds"] == dict(zip(TOY_TASKS[1].labels, TOY_TASKS[1].thresholds, strict=True))


def test_health_tells_how_each_model_does(toy):
    health = toy.get("/health").json()
    assert health["status"] == "ready"
    (model,) = health["models"]
    assert (model["name"], model["version"], model["state"]) == ("toy", "3", "ready")
    assert model["runtime"] == model["runtimes"][0] == "onnxruntime"
    assert (model["failovers"], model["queue_tokens"]) == (0, 0)


def test_the_pace_counts_what_was_answered_and_only_that(toy):
    toy.predict(texts=["w1", "w2"])
    toy.predict(text="w1", model="another")
    stats = toy.get("/stats").json()
    assert stats["latency_ms_p50"] > 0.0
    assert stats["uptime_s"] >= 0.0
    assert sum(second.texts for second in toy.service.stats._seconds) >= 2


def test_the_service_lives_before_it_is_ready_and_is_unready_before_it_ends(toy_folders):
    app = ToyApp(f"toy={toy_folders['onnxruntime']}", started=False)
    try:
        assert app.get("/live").status_code == 200
        starting = app.get("/health")
        assert (starting.status_code, starting.json()["status"]) == (503, "starting")
        app.run(app.fleet.start())
        assert app.get("/health").json()["status"] == "ready"
        app.service.stopping = True
        stopping = app.get("/health")
        assert (stopping.status_code, stopping.json()["status"]) == (503, "stopping")
        assert app.get("/live").status_code == 200
        # What was sent before the end is still answered.
        assert app.predict(text="w1").status_code == 200
    finally:
        app.close()


class Breaking:
    """A session that works until it is told to break."""

    def __init__(self, inner, switch):
        self.inner, self.switch = inner, switch

    def run(self, *inputs):
        if self.switch["broken"]:
            raise RuntimeError("the runtime is gone")
        return self.inner.run(*inputs)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_health_is_degraded_on_a_second_choice_and_failed_without_any(toy_folders):
    switches = {"onnxruntime": {"broken": False}, "openvino": {"broken": False}}

    def opener(candidate):
        predictor = Predictor.open(candidate.folder, runtime=candidate.runtime, threads=1)
        return replace(predictor, session=Breaking(predictor.session, switches[candidate.runtime]))

    app = ToyApp(f"toy={toy_folders['onnxruntime']}", opener=opener)
    try:
        assert app.get("/health").json()["status"] == "ready"
        switches["onnxruntime"]["broken"] = True
        assert app.predict(text="w1").status_code == 200
        degraded = app.get("/health")
        assert (degraded.status_code, degraded.json()["status"]) == (200, "degraded")
        assert degraded.json()["models"][0]["runtime"] == "openvino"
        assert degraded.json()["models"][0]["failovers"] == 1
        switches["openvino"]["broken"] = True
        answer = app.predict(text="w2")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_failed")
        failed = app.get("/health")
        assert (failed.status_code, failed.json()["status"]) == (503, "failed")
        assert failed.json()["models"][0]["state"] == "failed"
    finally:
        app.close()


def test_the_document_describes_every_path_but_the_pages(toy, described):
    assert described["info"]["version"] == __version__
    pages = {"/", "/favicon.ico", "/static/{name}", "/static/{digest}/{name}", "/docs", "/openapi.json"}
    routed = {route.path for route in toy.app.app.routes} - pages - {"/v2/{rest:path}"}
    assert routed
    assert routed <= set(described["paths"])
    assert described == json.loads(json.dumps(document(toy.app.app)))


def test_every_example_is_valid_by_its_own_schema_and_every_operation_has_one(described):
    seen = 0
    for path, verb, operation in operations(described):
        contents = [response.get("content", {}) for response in operation["responses"].values()]
        contents.append(operation.get("requestBody", {}).get("content", {}))
        for content in contents:
            # Bytes have no example in JSON.
            for body in (body for kind, body in content.items() if kind != "application/octet-stream"):
                examples = [one["value"] for one in body.get("examples", {}).values()]
                examples += [body["example"]] if "example" in body else []
                assert examples, (path, verb)
                for example in examples:
                    validator(described, body["schema"]).validate(example)
                    seen += 1
    assert seen > 60


def test_answers_are_valid_by_the_schemas_of_the_document(toy, described):
    def check(path, verb, answer):
        content = described["paths"][path][verb]["responses"][str(answer.status_code)]["content"]
        validator(described, content["application/json"]["schema"]).validate(answer.json())

    for path in ("/health", "/live", "/models", "/stats"):
        check(path, "get", toy.get(path))
    for body in ({"text": "w1"}, {"texts": ["w1", None], "probabilities": True}, {"texts": []}, {}, {"text": 1}):
        check("/predict", "post", toy.predict(**body))


def test_the_examples_of_predict_can_be_sent(toy, described):
    examples = described["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert len(examples) == 3
    for example in examples.values():
        assert toy.post("/predict", json=example["value"]).status_code == 200


def test_docs_show_every_operation_and_load_nothing(toy, described):
    page = toy.get("/docs").text
    for path, verb, operation in operations(described):
        assert f">{verb.upper()}</span> <code>{path}</code>" in page
        assert operation["summary"] in page
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!#|openapi\.json"|\./")', page)
    assert "http://" not in page
    assert "https://" not in page


def test_metrics_are_what_the_service_was_given(toy):
    toy.service.metrics = lambda: b"polyfold_toys 1.0\n"
    answer = toy.get("/metrics")
    assert answer.text == "polyfold_toys 1.0\n"
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
