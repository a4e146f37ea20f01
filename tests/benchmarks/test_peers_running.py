"""Peers as processes: orders and answers over pipes, turns, and failures that are told and never dropped."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from peers import driver  # noqa: E402
from peers.catalogue import WORKERS, PeerSpec  # noqa: E402
from peers.client import Client  # noqa: E402
from peers.environments import PeerFailed  # noqa: E402

FAKE = """
import sys, time
sys.path.insert(0, {workers!r})
from pathlib import Path
import numpy as np
from worker import serve

class Fake:
    batch_sizes = (1, 8)
    def __init__(self, job):
        print("libraries talk on standard output")
        if job.settings.get("fails") == "load":
            raise ValueError("no weights")
        self.settings, self.tasks, self.seen, self.files = job.settings, job.tasks, 0, [job.inputs / "tasks.json"]
        self.kept = (job.folder / "kept").read_text() if job.settings.get("prepares") else ""
    def answer(self, texts, batch_size):
        self.seen += 1
        # One document at a time is slow here, so that eight must be chosen.
        time.sleep(0.002 * len(texts) if batch_size == 1 and len(texts) > 1 else 0.001)
        if self.settings.get("fails") == "turn" and self.seen > 5:
            sys.stderr.write("Segmentation fault\\n")
            sys.stderr.flush()
            import os
            os._exit(139)
        if self.settings.get("silent") and self.seen > 5:
            time.sleep(30)
    def scores(self, texts, batch_size):
        rows = np.arange(len(texts))[:, None]
        return {{task["name"]: rows + np.arange(len(task["labels"])) for task in self.tasks}}

def prepare(job):
    (job.folder / "kept").write_text("prepared by " + sys.executable)

if __name__ == "__main__":
    serve(Fake, prepare)
"""


@pytest.fixture
def work(tmp_path):
    """A work folder with the common inputs and the fake peer's script."""
    (tmp_path / "fake.py").write_text(FAKE.format(workers=str(WORKERS)))
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    speed = {"slices": [[f"a{n}" for n in range(10)], [f"b{n}" for n in range(10)]], "singles": list("abcdef")}
    (inputs / "tasks.json").write_text(json.dumps([{"name": "t", "kind": "single_label", "labels": ["x", "y"]}]))
    (inputs / "speed.json").write_text(json.dumps(speed))
    for sample, count in (("dev", 2), ("test", 3)):
        (inputs / f"{sample}.json").write_text(json.dumps({"texts": ["?"] * count, "labels": {"t": [0] * count}}))
    return tmp_path


def spec(work, name="fake", prepares=False, **settings):
    """A peer that is the fake script."""
    settings |= {"prepares": True} if prepares else {}
    return PeerSpec(
        name, f"The {name}", "scikit-learn", str(work / "fake.py"), "fitted", settings, prepares=prepares
    )


def begin(work, *specs):
    """The peers started, in this Python instead of an environment of their own."""
    running, failed = {}, {}
    for one in specs:
        try:
            running[one.name] = driver.start(one, work, work / "inputs", Path(sys.executable))
        except PeerFailed as reason:
            failed[one.name] = str(reason)
    return running, failed


@pytest.fixture
def silently(monkeypatch):
    """No pauses between turns, and no walk through this Python's own environment."""
    monkeypatch.setattr(driver, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(driver, "size_mb", lambda python: 1.0)
    return lambda what: None


def test_a_peer_is_prepared_loaded_timed_and_scored_in_its_own_process(work, silently):
    running, failed = begin(work, spec(work, prepares=True))
    assert not failed
    one = running["fake"]
    assert (work / "prepared" / "fake" / "kept").read_text() == f"prepared by {sys.executable}"
    assert one.tuned["batch_size"] == 8 and set(one.tuned["documents_per_second"]) == {"1", "8"}
    assert driver.measure(running, 2, driver.Pace(3, 0.0, 2), silently) == {}
    scored = driver.score(one, work)
    one.client.close()
    assert scored.test["t"].tolist() == [[0, 1], [1, 2], [2, 3]] and scored.dev["t"].shape == (2, 2)
    result = driver.result_of(one)
    assert result.speed is not None and len(result.speed.rounds) == 3 and result.speed.batch_size == 8
    # Ten documents, a millisecond at least.
    assert 0 < result.speed.least <= result.speed.documents_per_second <= result.speed.most <= 10_000
    assert result.latency is not None and result.latency.texts == 6 and result.latency.p50_ms >= 1.0
    assert result.footprint is not None and result.footprint.prepare_seconds is not None
    assert result.footprint.disk_mb == round((work / "inputs" / "tasks.json").stat().st_size / 1e6, 2)
    assert one.client.process.returncode == 0
    assert "libraries talk" in (work / "logs" / "fake.log").read_text()


def test_a_turn_lasts_as_long_as_asked_and_walks_on_through_the_slices(work, silently):
    running, _ = begin(work, spec(work))
    client = running["fake"].client
    short, long = client.ask("turn", slice=1, seconds=0.0), client.ask("turn", slice=1, seconds=0.05)
    client.close()
    assert short["documents"] == 10
    assert long["seconds"] >= 0.05 and long["documents"] > 20 and long["documents"] % 10 == 0


def test_peers_take_turns_and_the_order_changes_with_every_round(work, silently, monkeypatch):
    asked = []
    ask = Client.ask

    def noted(self, do, *rest, **order):
        if do == "turn":
            asked.append((self.log.stem, order["slice"]))
        return ask(self, do, *rest, **order)

    running, _ = begin(work, spec(work, "one"), spec(work, "two"))
    monkeypatch.setattr(Client, "ask", noted)
    driver.measure(running, 2, driver.Pace(3, 0.0, 1), silently)
    for one in running.values():
        one.client.close()
    assert asked == [("one", 0), ("two", 0), ("two", 1), ("one", 1), ("one", 0), ("two", 0)]


def test_a_peer_that_cannot_load_says_why(work, silently):
    running, failed = begin(work, spec(work, fails="load"))
    assert not running and failed == {"fake": "load: ValueError: no weights"}
    assert "Traceback" in (work / "logs" / "fake.log").read_text()


def test_a_peer_that_dies_in_a_turn_is_told_of_and_the_others_go_on(work, silently):
    running, failed = begin(work, spec(work, "dies", fails="turn"), spec(work, "lives"))
    assert not failed
    failed = driver.measure(running, 2, driver.Pace(2, 0.0, 3), silently)
    assert list(running) == ["lives"] and len(running["lives"].rates) == 2
    running["lives"].client.close()
    assert list(failed) == ["dies"]
    assert "the process ended with code 139" in failed["dies"] and "Segmentation fault" in failed["dies"]


def test_a_peer_that_stays_silent_is_given_up(work, silently):
    running, _ = begin(work, spec(work, silent=True))
    client = running["fake"].client
    with pytest.raises(PeerFailed, match=r"no answer in 0.2 s"):
        for _ in range(9):
            client.ask("turn", timeout=0.2, slice=0, seconds=0.0)
    client.close()
    assert client.process.returncode is not None


def test_scores_arrive_as_they_were_sent(work, silently):
    running, _ = begin(work, spec(work))
    file = work / "some.npz"
    running["fake"].client.ask("score", sample="dev", file=str(file))
    running["fake"].client.close()
    with np.load(file) as stored:
        assert stored["t"].dtype == np.float32 and stored["t"].tolist() == [[0, 1], [1, 2]]
