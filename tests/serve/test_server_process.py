"""Real processes of `polyfold serve`: how they begin, what they withstand, and how they end."""

import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from server_process import PROGRAM, running

from polyfold.cli.serve import serve
from polyfold.predictor import Predictor
from polyfold.serve.spec import ServeSpec

HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
BODY = b'{"text": "w1 w2"}'
NUMBERS = (
    *("max-body-bytes", "max-texts", "max-characters", "queue-tokens", "deadline-ms", "max-deadline-ms"),
    *("body-timeout", "idle-timeout", "connections", "token-budget", "batch-ms", "max-wait-ms"),
    *("drain", "threads", "port", "grpc-port"),
)
WORDS = ("keys", "log-file", "report", "traces", "cache-dir")


@pytest.fixture(scope="module")
def folder(toy_folders):
    return toy_folders["onnxruntime"]


@pytest.fixture(scope="module")
def server(folder):
    options = ("--max-body-bytes", "50000", "--body-timeout", "0.3", "--idle-timeout", "1")
    with running([f"toy={folder}"], *options) as process:
        yield process
        assert process.process.poll() is None
    assert process.wait() == 0
    assert "Traceback" not in process.stderr()


@contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        yield connection


def read_all(connection):
    """Everything until the other side closes."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def read_answer(connection):
    """One answer's status, headers and body."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(65536)
        assert part, answer
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(status.split()[1]), headers, body


def code_of(body):
    return json.loads(body)["error"]["code"]


def test_it_answers_what_the_predictor_answers(server, folder, toy_texts):
    answer = httpx.post(f"{server.url}/predict", json={"texts": toy_texts})
    expected = Predictor.open(folder).predict(toy_texts)
    assert [item["labels"] for item in answer.json()["predictions"]] == [one.labels for one in expected]


def test_it_says_where_it_listens_what_it_serves_and_where_the_docs_are(server):
    said = server.stderr()
    assert f"listening at {server.url}" in said
    assert "/docs" in said
    assert "ready: toy@1 (fp32 on onnxruntime)" in said
    assert httpx.get(f"{server.url}/docs").status_code == 200
    assert "warning" not in said


def test_metrics_count_what_happened(server):
    httpx.post(f"{server.url}/predict", json={"text": "w1"})
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'polyfold_requests_total{code="",route="/predict",status="200"}' in metrics
    assert "polyfold_open_connections" in metrics
    assert "polyfold_requests_in_flight 1.0" in metrics


def test_the_log_has_a_line_for_a_request_and_not_its_text(server):
    httpx.post(f"{server.url}/predict", json={"text": "w1 geheim"}, headers={"x-request-id": "the-logged-one"})
    line = json.loads(server.wait_for("the-logged-one"))
    assert (line["event"], line["path"], line["status"], line["texts"]) == ("request", "/predict", 200, 1)
    assert "geheim" not in server.stderr()


def test_one_connection_carries_many_requests_in_order(server):
    with connected(server) as connection:
        request = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
        for _ in range(3):
            connection.sendall(request)
            assert read_answer(connection)[0] == 200


def test_requests_sent_behind_each_other_are_answered_in_order(server):
    with connected(server) as connection:
        for number in range(5):
            head = HEAD + b"x-request-id: number-%d\r\ncontent-length: %d\r\n\r\n" % (number, len(BODY))
            connection.sendall(head + BODY)
        connection.sendall(b"nonsense\r\n\r\n")
        answers = read_all(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers[:5]] == [b"200"] * 5
    for number, answer in enumerate(answers[:5]):
        assert b"x-request-id: number-%d" % number in answer


def test_a_body_in_chunks_is_read_and_bounded(server):
    with connected(server) as connection:
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:3], BODY[3:]))
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert read_answer(connection)[0] == 200
    with connected(server) as connection:
        chunk = b"%x\r\n%s\r\n" % (10_000, b"x" * 10_000)
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 6)
        status, _, body = read_answer(connection)
        assert (status, code_of(body)) == (413, "body_too_large")


def test_a_length_that_lies_gains_nothing(server):
    # More than declared: the rest is not HTTP.
    with connected(server) as connection:
        connection.sendall(HEAD + b"content-length: 17\r\n\r\n" + BODY + b"x" * 100)
        answers = read_all(connection)
        assert answers.startswith(b"HTTP/1.1 200 OK")
        assert answers.count(b"HTTP/1.1") <= 2
    # Less than declared: the time for the body runs out.
    with connected(server) as connection:
        connection.sendall(HEAD + b"content-length: 40000\r\n\r\n" + BODY)
        status, headers, body = read_answer(connection)
        assert (status, code_of(body), headers["connection"]) == (408, "body_timeout", "close")
        assert read_all(connection) == b""
    # More than is allowed: refused before it is sent, and the client that sends it still hears of it.
    with connected(server) as connection:
        connection.sendall(HEAD + b"content-length: 60000\r\n\r\n" + b"x" * 60_000)
        assert read_answer(connection)[0] == 413
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
        assert read_answer(connection)[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /live HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /live HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_400_in_the_one_shape(server, sent):
    with connected(server) as connection:
        connection.sendall(sent)
        status, headers, body = read_answer(connection)
        assert (status, code_of(body), headers["connection"]) == (400, "bad_request", "close")


def test_an_upgrade_is_ignored(server):
    with connected(server) as connection:
        connection.sendall(
            b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        )
        assert read_answer(connection)[0] == 200


@pytest.mark.parametrize("sent", [b"x: " + b"y" * 70_000, b"".join(b"x-%d: y\r\n" % n for n in range(9000))])
def test_headers_without_end_are_cut_off(server, sent):
    with connected(server) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\n" + sent)
        status, _, body = read_answer(connection)
        assert (status, code_of(body)) == (431, "bad_request")


def test_who_does_not_finish_a_request_is_sent_away(server):
    with connected(server) as silent, connected(server) as slow:
        slow.sendall(b"GET /live HTTP/1.1\r\nhost: loc")
        status, _, body = read_answer(slow)
        assert (status, code_of(body)) == (408, "body_timeout")
        assert read_all(silent) == b""


def test_many_idle_connections_are_in_nobodys_way(server):
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(300)]
    try:
        assert httpx.post(f"{server.url}/predict", json={"text": "w1"}).status_code == 200
        # All of them are sent away after the idle timeout.
        assert [connection.recv(1) for connection in connections] == [b""] * len(connections)
    finally:
        for connection in connections:
            connection.close()


def test_a_client_that_leaves_while_its_request_is_sent_is_no_error(server):
    for _ in range(5):
        with connected(server) as connection:
            connection.sendall(HEAD + b"content-length: 100\r\n\r\n" + BODY)
    assert httpx.get(f"{server.url}/live").status_code == 200


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_what_is_under_way_and_exits_with_0(folder, order):
    with running([folder]) as server, connected(server) as connection, connected(server) as idle:
        half = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY[:5]
        connection.sendall(half)
        # Another request's answer: by now the half one has been read.
        assert httpx.get(f"{server.url}/live").status_code == 200
        server.process.send_signal(order)
        # Idle connections are closed, new ones are not taken; the half request still counts.
        assert read_all(idle) == b""
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", server.port), timeout=10)
        connection.sendall(BODY[5:])
        status, headers, _ = read_answer(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert server.wait() == 0
        assert "Traceback" not in server.stderr()


def test_a_second_signal_does_not_wait(folder):
    with running([folder]) as server, connected(server) as connection:
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY[:5])
        assert httpx.get(f"{server.url}/live").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionError):
            while True:
                socket.create_connection(("127.0.0.1", server.port), timeout=10).close()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait(5.0) == 1
        assert "stopped at once" in server.stderr()


def test_what_does_not_finish_in_time_does_not_hold_up_the_end(folder):
    with running([folder], "--drain", "0.2") as server, connected(server) as connection:
        connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY[:5])
        assert httpx.get(f"{server.url}/live").status_code == 200
        server.process.terminate()
        assert server.wait(8.0) == 0


def test_before_it_is_ready_it_listens_and_can_be_stopped(folder):
    with running([folder], ready=False) as server:
        assert httpx.get(f"{server.url}/live").status_code == 200
        server.process.terminate()
        assert server.wait(10.0) == 0


def test_a_folder_that_is_no_model_ends_it_with_one_message(tmp_path, folder):
    command = [str(PROGRAM), "serve", f"good={folder}", f"bad={tmp_path}", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert "no config.json here" in done.stderr
    assert str(tmp_path) in done.stderr.replace("\n", "")


def test_a_port_in_use_ends_it_with_one_message(server, folder, polyfold):
    code, _, said = polyfold("serve", folder, "--port", server.port)
    assert code == 2
    assert f"port {server.port}" in said
    assert "-> another service uses it" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "no.such.host.invalid"], "--host"),
        (["--host", "203.0.113.7"], "Cannot assign"),
        (["--keys", "nowhere.yaml"], "nowhere.yaml"),
        (["--log-file", "no/such/folder/log"], "no log can be written"),
        (["--traces", "nonsense"], "no address of a collector"),
    ],
)
def test_what_it_cannot_start_with_ends_it_with_one_message(folder, arguments, words, polyfold):
    code, _, said = polyfold("serve", folder, "--port", 0, *arguments)
    assert code == 2
    assert words in said
    assert said.count("error:") == 1


def test_what_the_command_line_gets_wrong_is_told_without_starting(polyfold, folder):
    for arguments, words in (
        ([], "no model is named"),
        ([folder, folder], "two models are called onnxruntime@1"),
        (["=x"], "no usable name"),
        (["--repository", folder / "config.json"], "it is no folder"),
    ):
        code, _, said = polyfold("serve", *arguments)
        assert code == 2
        assert words in said


def test_every_setting_of_the_service_is_an_option(folder, monkeypatch, polyfold):
    from polyfold.serve import server as module

    started = []
    monkeypatch.setattr(module, "serve", started.append)
    code, _, _ = polyfold("serve", f"name@2={folder},{folder}")
    assert code == 0
    (spec,) = started
    # Left alone, the command line says what the code says.
    assert spec == ServeSpec(models=spec.models, cache_dir=spec.cache_dir)
    assert (spec.models[0].name, spec.models[0].version) == ("name", "2")
    assert spec.models[0].folders == (folder, folder)
    given = [item for name in NUMBERS for item in (f"--{name}", "7")]
    given += [item for name in WORDS for item in (f"--{name}", "x")]
    given += [
        "--repository",
        folder,
        "--host",
        "::1",
        "--runtime",
        "openvino",
        "--log-format",
        "text",
        "--allow-host",
        "x",
    ]
    polyfold("serve", folder, "--bf16", *given)
    told = started[1]
    flat = {**told.model_dump(), **told.limits.model_dump(), **told.batching.model_dump()}
    plain = {**spec.model_dump(), **spec.limits.model_dump(), **spec.batching.model_dump()}
    assert [name for name in flat if flat[name] == plain[name]] == []


def test_help_names_the_defaults_that_the_service_has():
    spec = ServeSpec(models=())
    defaults = {**spec.model_dump(), **spec.limits.model_dump(), **spec.batching.model_dump()}
    seconds = {"body_timeout": "body_timeout_s", "idle_timeout": "idle_timeout_s", "drain": "drain_seconds"}
    said, found = inspect.signature(serve).parameters, 0
    for name, parameter in said.items():
        text = parameter.annotation.__metadata__[0].help
        if (number := re.search(r"\[default: ([0-9.]+)\]", text)) is not None:
            assert float(number[1]) == defaults[seconds.get(name, name)]
            found += 1
    assert found == 13


def test_a_service_that_others_can_reach_without_keys_is_warned_of(capfd):
    from polyfold.serve.server import warn_if_open

    warn_if_open(ServeSpec(models=(), host="0.0.0.0"))
    assert "warning" in capfd.readouterr().err
    for spec in (ServeSpec(models=()), ServeSpec(models=(), host="0.0.0.0", keys="keys.yaml")):
        warn_if_open(spec)
        assert capfd.readouterr().err == ""


def test_a_runtime_that_hangs_does_not_keep_the_process_and_its_requests_are_told(folder):
    script = f"""
import os, re, signal, sys, threading, urllib.error, urllib.request
sys.path += {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from polyfold import cli
from polyfold.serve import server
from polyfold.serve.engine import fleet
from toy_app import Held

held, told, url = Held(), server.note, []
fleet.opener_of = lambda spec: held
server.HANGING_S = 1.0

def ask(server_url):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    request = urllib.request.Request(
        server_url + "/predict", b'{{"text": "w1"}}', {{"content-type": "application/json"}}
    )
    try:
        urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode(), flush=True)

def note(message):
    found = re.search(r"http://\\S+", message)
    url.extend([found[0]] if found else [])
    if message.startswith("ready"):
        held.gate.clear()
        threading.Thread(target=ask, args=(url[0],)).start()

server.note = note
sys.argv = ["polyfold", "serve", {str(folder)!r}, "--port", "0", "--drain", "0.2"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert "Timeout" in done.stderr
    status, _, body = done.stdout.partition(" ")
    assert (status, code_of(body)) == ("503", "stopping")


def test_the_server_never_imports_torch(folder):
    script = f"""
import os, re, signal, sys, threading, urllib.request
from polyfold import cli
from polyfold.serve import server

def ask(server_url):
    for path in ("/", "/docs", "/metrics", "/models", "/v2"):
        urllib.request.urlopen(server_url + path).read()
    body = b'{{"texts": ["w1"], "probabilities": true}}'
    request = urllib.request.Request(server_url + "/predict", body, {{"content-type": "application/json"}})
    urllib.request.urlopen(request).read()
    print(sorted(name for name in ("torch", "transformers", "tensorflow") if name in sys.modules), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

told, url = server.note, []
def note(message):
    found = re.search(r"http://\\S+", message)
    url.extend([found[0]] if found else [])
    if message.startswith("ready"):
        threading.Thread(target=ask, args=(url[0],)).start()
server.note = note
sys.argv = ["polyfold", "serve", {str(folder)!r}, "--port", "0"]
cli.main()
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
