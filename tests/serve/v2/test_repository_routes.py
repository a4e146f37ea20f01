"""Bringing models into service and out of it while it runs: only by those who may, and never a broken one."""

import asyncio
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from toy_v2 import finished, in_process, key_of, texts_input

from polyfold.predictor import Predictor
from polyfold.serve.access.gatekeeper import Gatekeeper
from polyfold.serve.access.key_file import KeyFile
from toys import TOY_TASKS, toy_graph

INFER = "/v2/models/toy/infer"
LOAD = "/v2/repository/models/toy/load"
UNLOAD = "/v2/repository/models/toy/unload"
ROUTING = "/v2/repository/models/toy/routing"
INDEX = "/v2/repository/index"
BODY = {"inputs": [texts_input(["w1 w2 w3"])], "outputs": [{"name": "logits_domain"}]}


def two_versions(folder):
    """FOLDER/toy/1 and /2, which answer differently."""
    for version in ("1", "2"):
        finished(folder / "toy" / version, graph=toy_graph(TOY_TASKS, seed=int(version)))
    return folder


@contextmanager
def administered(root):
    """Version 1 of ROOT/repository in service; `ask` sends the administrator's key."""
    repository = two_versions(root / "repository")
    key, keys = key_of(root, "predict", "admin")
    with in_process(("toy", "1", repository / "toy" / "1"), repository=repository, keys=keys) as service:
        service.client.headers["x-api-key"] = key
        yield service


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


@pytest.fixture
def service(tmp_path, repository):
    """A service for one test, which may change it."""
    with administered(tmp_path) as service:
        yield service


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """A service and its folder for all tests that ask for what is refused."""
    root = tmp_path_factory.mktemp("unchanged")
    with administered(root) as service:
        yield service, root
        assert [one.version for one in service.service.fleet.models] == ["1"]
        assert service.service.fleet.routing["toy"].shares == {"1": 100.0}


def logits(answer):
    """The version that answered, and what."""
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return found["model_version"], np.array(found["outputs"][0]["data"], np.float32)


def expected(repository, version):
    return Predictor.open(repository / "toy" / version).logits(["w1 w2 w3"])["domain"][0]


def check_refused(answer, status, words=""):
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]


def test_a_version_that_is_loaded_takes_the_requests(service, repository):
    answer = service.ask("POST", LOAD)
    routing = {"shares": {"2": 100.0}, "shadow": None}
    assert answer.json() == {"name": "toy", "version": "2", "runtime": "onnxruntime", "routing": routing}
    version, found = logits(service.ask("POST", INFER, json=BODY))
    assert version == "2"
    np.testing.assert_allclose(found, expected(repository, "2"), atol=1e-5)
    version, found = logits(service.ask("POST", "/v2/models/toy/versions/1/infer", json=BODY))
    assert version == "1"
    np.testing.assert_allclose(found, expected(repository, "1"), atol=1e-5)


def test_a_share_of_the_requests_goes_to_a_new_version(service):
    service.ask("POST", LOAD, json={"parameters": {"version": "2", "share": 25}})
    assert service.ask("GET", ROUTING).json() == {"shares": {"1": 75.0, "2": 25.0}, "shadow": None}
    ids = [f"request-{number}" for number in range(200)]
    versions = [logits(service.ask("POST", INFER, json=BODY, headers={"x-request-id": one}))[0] for one in ids]
    assert 20 <= versions.count("2") <= 80
    again = [logits(service.ask("POST", INFER, json=BODY, headers={"x-request-id": one}))[0] for one in ids]
    assert again == versions


def test_a_corrupt_version_is_refused_while_the_old_one_answers_everything(service, repository):
    weights = repository / "toy" / "2" / "onnx" / "model.onnx"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)

    async def meanwhile():
        loading = asyncio.ensure_future(service.client.post(LOAD, json={"parameters": {"version": "2"}}))
        answers = []
        while not loading.done() or len(answers) < 20:
            answers.append(await service.client.post(INFER, json=BODY))
        return await loading, answers

    loaded, answers = service.run(meanwhile())
    check_refused(loaded, 422, "does not match its checksum")
    assert {logits(one)[0] for one in answers} == {"1"}
    assert service.ask("GET", ROUTING).json()["shares"] == {"1": 100.0}
    assert service.ask("GET", "/v2/health/ready").status_code == 200


def test_a_version_is_replaced_without_a_request_lost(service, repository):
    before = expected(repository, "1")
    shutil.rmtree(repository / "toy" / "1")
    finished(repository / "toy" / "1", graph=toy_graph(TOY_TASKS, seed=9))
    after = expected(repository, "1")

    async def meanwhile():
        loading = asyncio.ensure_future(service.client.post(LOAD, json={"parameters": {"version": "1"}}))
        answers = []
        while not loading.done():
            answers.append(await service.client.post(INFER, json=BODY))
        return await loading, answers, await service.client.post(INFER, json=BODY)

    loaded, answers, last = service.run(meanwhile())
    assert loaded.status_code == 200
    assert answers
    for answer in answers:
        version, found = logits(answer)
        assert version == "1"
        assert np.allclose(found, before, atol=1e-5) or np.allclose(found, after, atol=1e-5)
    np.testing.assert_allclose(logits(last)[1], after, atol=1e-5)


def test_a_request_whose_body_comes_while_its_version_goes_is_answered_by_the_next(service):
    async def slow(loaded):
        yield b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", '
        await loaded.wait()
        yield b'"data": ["w1 w2 w3"]}], "outputs": [{"name": "logits_domain"}]}'

    async def meanwhile():
        loaded = asyncio.Event()
        asking = asyncio.ensure_future(service.client.post(INFER, content=slow(loaded)))
        await service.client.post(LOAD)
        await service.client.post(UNLOAD, json={"parameters": {"version": "1"}})
        loaded.set()
        return await asking

    assert logits(service.run(meanwhile()))[0] == "2"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "not a finished artifact"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "damaged manifest"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "file is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "does not match its checksum"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(service, repository, damage, words):
    damage(repository / "toy" / "2")
    check_refused(service.ask("POST", LOAD, json={"parameters": {"version": "2"}}), 422, words)
    assert logits(service.ask("POST", INFER, json=BODY))[0] == "1"


def test_a_model_that_opens_nowhere_is_refused(service, repository):
    folder = repository / "toy" / "3"
    graph = toy_graph(TOY_TASKS)
    graph.graph.node[0].op_type = "Nonsense"
    finished(folder, graph=graph)
    check_refused(service.ask("POST", LOAD), 422)
    assert logits(service.ask("POST", INFER, json=BODY))[0] == "1"


@pytest.mark.parametrize(
    "path",
    ["../outside", "toy/../../outside", "/etc", "way/out", "way/out/../../outside", ".", "toy/1/config.json",
     "nowhere", "circle", "a\0b", "x" * 1000],
)  # fmt: skip
def test_a_path_that_leaves_the_repository_is_refused(unchanged, path):
    service, root = unchanged
    links = root / "repository"
    if not (root / "outside").exists():
        finished(root / "outside")
        (links / "way").mkdir()
        (links / "way" / "out").symlink_to(root / "outside")
        (links / "circle").symlink_to(links / "circle")
    for parameters in ({"path": path}, {"fallbacks": [path], "version": "2"}):
        answer = service.ask("POST", LOAD, json={"parameters": parameters})
        check_refused(answer, 422, "the repository has no folder")
        assert str(root) not in answer.text


def test_a_link_within_the_repository_is_followed(service, repository):
    (repository / "newest").symlink_to(repository / "toy" / "2")
    answer = service.ask("POST", LOAD, json={"parameters": {"path": "newest", "version": "canary"}})
    assert answer.json()["version"] == "canary"
    assert service.service.fleet.models[-1].folder == (repository / "toy" / "2").resolve()


def test_a_fallback_stands_behind_the_folder_that_is_loaded(service, repository):
    finished(repository / "spare", "openvino", graph=toy_graph(TOY_TASKS, seed=2))
    parameters = {"version": "2", "fallbacks": ["spare"]}
    assert service.ask("POST", LOAD, json={"parameters": parameters}).status_code == 200
    assert service.service.fleet.models[-1].runtimes[:2] == ("onnxruntime", "openvino")


def test_the_index_has_what_is_in_service_and_what_could_be(service, repository):
    (repository / "notes").mkdir()
    listed = service.ask("POST", INDEX, json={}).json()
    assert [(one["name"], one["version"], one["state"]) for one in listed] == [
        ("toy", "1", "READY"),
        ("toy", "2", "UNAVAILABLE"),
    ]
    assert [one["version"] for one in service.ask("POST", INDEX, json={"ready": True}).json()] == ["1"]
    service.ask("POST", LOAD)
    assert {one["state"] for one in service.ask("POST", INDEX).json()} == {"READY"}


def test_an_unloaded_version_takes_no_more_requests(service):
    service.ask("POST", LOAD)
    assert service.ask("POST", UNLOAD, json={"parameters": {"version": "2"}}).status_code == 200
    assert logits(service.ask("POST", INFER, json=BODY))[0] == "1"
    check_refused(service.ask("POST", "/v2/models/toy/versions/2/infer", json=BODY), 404)
    check_refused(service.ask("POST", UNLOAD, json={"parameters": {"version": "2"}}), 404)
    assert service.ask("POST", UNLOAD).status_code == 200
    check_refused(service.ask("POST", INFER, json=BODY), 404)
    assert service.ask("GET", "/v2/health/ready").status_code == 503


def test_requests_are_shared_as_the_routing_says(service):
    service.ask("POST", LOAD)
    routing = {"shares": {"1": 100.0, "2": 0.0}, "shadow": "2"}
    assert service.ask("PUT", ROUTING, json=routing).json() == routing
    assert service.ask("GET", ROUTING).json() == routing
    assert logits(service.ask("POST", INFER, json=BODY))[0] == "1"


@pytest.mark.parametrize(
    ("routing", "status"),
    [
        ({"shares": {"1": 90}}, 422),
        ({"shares": {"1": 50, "9": 50}}, 422),
        ({"shares": {"1": 100}, "shadow": "9"}, 422),
        ({"shares": {"1": 200, "2": -100}}, 422),
        ({"shares": {}}, 400),
        ({}, 400),
        ([], 400),
        ({"shares": {"1": 100}, "more": 1}, 400),
    ],
)
def test_a_routing_that_cannot_be_is_refused_and_changes_nothing(service, routing, status):
    service.ask("POST", LOAD, json={"parameters": {"version": "2", "share": 10}})
    before = service.ask("GET", ROUTING).json()
    check_refused(service.ask("PUT", ROUTING, json=routing), status)
    assert service.ask("GET", ROUTING).json() == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (LOAD, {"parameters": {"config": "{}"}}),
        (LOAD, {"parameters": {"version": "a/b"}}),
        (LOAD, {"parameters": {"version": 2}}),
        (LOAD, {"parameters": {"share": 101}}),
        (LOAD, {"parameters": {"path": ""}}),
        (LOAD, []),
        (UNLOAD, {"parameters": {"x": 1}}),
        (INDEX, {"ready": "yes"}),
        ("/v2/repository/models/a%20b/load", {}),
        ("/v2/repository/models/.../load", {}),
    ],
)
def test_a_body_of_another_form_is_refused(unchanged, path, body):
    check_refused(unchanged[0].ask("POST", path, json=body), 400)


@pytest.mark.parametrize(("method", "path"), [("GET", ROUTING), ("PUT", ROUTING), ("POST", UNLOAD)])
def test_a_model_that_is_not_there_cannot_be_changed(unchanged, method, path):
    body = {"shares": {"1": 100}} if method == "PUT" else {}
    check_refused(unchanged[0].ask(method, path.replace("toy", "other"), json=body), 404, "there is no")


EVERY = [("POST", INDEX), ("POST", LOAD), ("POST", UNLOAD), ("GET", ROUTING), ("PUT", ROUTING)]


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_only_administrators_change_models(unchanged, method, path):
    service, root = unchanged
    lesser, _ = key_of(root, "predict")
    service.service.gatekeeper = Gatekeeper(KeyFile(root / "keys.yaml", lambda *told: None, 0.0))
    for key, status in ((lesser, 403), ("pf_wrong", 401)):
        check_refused(service.ask(method, path, headers={"x-api-key": key}), status)


@pytest.fixture(scope="module")
def open_service(tmp_path_factory):
    """Version 1 in service, with a repository and without a file of keys."""
    repository = two_versions(tmp_path_factory.mktemp("open"))
    with in_process(("toy", "1", repository / "toy" / "1"), repository=repository) as service:
        yield service


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_without_keys_nobody_changes_models(open_service, method, path):
    check_refused(open_service.ask(method, path), 403, "--keys")
    assert [one.version for one in open_service.service.fleet.models] == ["1"]


def test_without_a_repository_nothing_can_be_loaded(tmp_path):
    repository = two_versions(tmp_path / "repository")
    key, keys = key_of(tmp_path, "admin")
    with in_process(("toy", "1", repository / "toy" / "1"), keys=keys) as service:
        answer = service.ask("POST", LOAD, headers={"x-api-key": key})
        check_refused(answer, 422, "--repository")
