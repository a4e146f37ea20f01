"""Servers that stand in for a real one, honest or lying, and the answers that they know."""

import json
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.service.answers import Expected  # noqa: E402
from benchmarks.service.jobs import Job, run  # noqa: E402

from toys import TOY_TASKS  # noqa: E402

TEXTS = [f"text {number}" for number in range(40)]


def toy_expected(tolerance=0.02):
    """Random probabilities of forty texts, and what the toy tasks decide of them."""
    draw = np.random.default_rng(3)
    flat = draw.random((len(TEXTS), sum(len(task.labels) for task in TOY_TASKS)))
    labels = []
    for row in flat:
        start, found = 0, {}
        for task in TOY_TASKS:
            decided = task.decide(row[None, start : start + len(task.labels)])[0]
            names = [label for label, on in zip(task.labels, np.atleast_1d(decided), strict=False) if on]
            found[task.name] = names if task.multi_label else task.labels[int(decided)]
            start += len(task.labels)
        labels.append(found)
    return Expected(TOY_TASKS, labels, [False] * len(TEXTS), flat, tolerance)


def item_of(expected, row, probabilities):
    """What an honest server says of a text."""
    item = {"labels": dict(expected.labels[row]), "truncated": False}
    if probabilities:
        flat = iter(expected.probabilities[row].tolist())
        item["probabilities"] = {task.name: {label: next(flat) for label in task.labels} for task in TOY_TASKS}
    return item


class StandIn:
    """Answers from the table; `lie` changes the raw answer of every fifth request, `delay` comes before any."""

    def __init__(self, expected, lie=None, delay=None):
        self.expected, self.lie, self.delay = expected, lie, delay
        self.requests = 0
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    def answer(self, body):
        """The bytes to send back; None closes the connection."""
        with self.lock:
            self.requests += 1
            number = self.requests
        content = json.loads(body)
        texts = [content["text"]] if "text" in content else content["texts"]
        rows = [TEXTS.index(text) for text in texts]
        if self.lie is not None and number % 5 == 0:
            return self.lie(self, rows, content.get("probabilities", False))
        return whole(self.honest(rows, content.get("probabilities", False)))

    def honest(self, rows, probabilities):
        """The predictions of these rows."""
        return {"predictions": [item_of(self.expected, row, probabilities) for row in rows]}


def whole(content, status=200, headers=""):
    """A response as it goes over the wire."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Quiet(ThreadingHTTPServer):
    """Connections that a client resets are no news."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """Not told."""


@contextmanager
def serving(stand_in):
    """The stand-in behind a port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            with stand_in.lock:
                stand_in.under_way += 1
                stand_in.most_under_way = max(stand_in.most_under_way, stand_in.under_way)
            body = self.rfile.read(int(self.headers["content-length"]))
            if stand_in.delay is not None:
                stand_in.delay()
            answer = stand_in.answer(body)
            with stand_in.lock:
                stand_in.under_way -= 1
            if answer is None:
                self.close_connection = True
            else:
                self.wfile.write(answer)

        def log_message(self, *arguments):
            """Not told."""

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def put(tmp_path, stand_in, **settings):
    """A load on a stand-in: what became of it, and the account of its answers."""
    file = tmp_path / "texts.json"
    file.write_text(json.dumps(TEXTS))
    with serving(stand_in) as port:
        given = {"mode": "closed", "count": 100, "seconds": 20.0, "connections": 4, "patience_s": 2.0, **settings}
        outcome = run(Job(port=port, texts=str(file), **given), tmp_path / "job")
    return outcome, stand_in.expected.check(outcome)


class Stall:
    """A server that does nothing until some moment after its first request."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.until = None
        self.lock = threading.Lock()

    def __call__(self):
        with self.lock:
            if self.until is None:
                self.until = time.monotonic() + self.seconds
        time.sleep(max(0.0, self.until - time.monotonic()))
