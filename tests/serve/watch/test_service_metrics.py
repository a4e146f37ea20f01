import re
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from toy_drift import Clock, ToyRun, answers_of, reading_detector, sampler_of
from toy_service import run as run_to_end

from polyfold.serve.engine.answers import Failure
from polyfold.serve.engine.fleet import Fleet
from polyfold.serve.engine.observer import BatchFacts
from polyfold.serve.exchange import Exchange
from polyfold.serve.spec import ModelSource, ServeSpec
from polyfold.serve.watch.drift import Drift
from polyfold.serve.watch.metrics import MOST_VERSIONS, Metrics
from polyfold.serve.watch.scrape import STATES, Sources
from toys import TOY_TASKS

DOCS = Path(__file__).parents[3] / "docs" / "OBSERVABILITY.md"
DASHBOARD = Path(__file__).parents[3] / "deploy" / "grafana-dashboard.json"
FACTS = BatchFacts("onnxruntime", documents=3, tokens=30, padded_tokens=40, infer_s=0.02, oldest_wait_s=0.01)
WHO = {"model": "feedback", "version": "1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return ToyRun(tmp_path_factory.mktemp("run"), count=2000)


@pytest.fixture
def metrics():
    """Metrics without a detector of languages, and of two routes."""
    found = Metrics(Drift(sampler=lambda: pytest.fail("nothing asks for languages here")))
    found.allow_routes(["/predict", "/health"])
    yield found
    found.close()


def samples(metrics):
    """Every sample of a scrape, by name and labels, but for the process's own."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if not sample.name.startswith(("process_", "python_")):
                key = sample.name, tuple(sorted(sample.labels.items()))
                assert key not in found, f"{key} is there twice"
                found[key] = sample.value
    return found


def value(metrics, name, **labels):
    return samples(metrics)[name, tuple(sorted(labels.items()))]


def everything(metrics, served, run):
    """One of each that can be told."""
    metrics.ask(Sources(lambda: [served], lambda: 3, lambda: 2, lambda: 1, lambda: 0, lambda: 5))
    metrics.request_done("/predict", 200, None, 0.02)
    metrics.request_done("/predict", 503, "queue_full", 0.001)
    metrics.batch("feedback", "1", FACTS)
    metrics.tokenized("feedback", "1", 3, 0.0002)
    rows = run.draw(1, 1500)
    texts = [run.texts[row] for row in rows]
    metrics.answered(served, texts, replace(run.answers(rows), failures={0: Failure("inference_failed", "!")}))
    metrics.failed_over("feedback", "1", "openvino", None, "broken")
    metrics.poison("feedback", "1")
    metrics.dropped("feedback", "1", "deadline", 4)
    metrics.shadowed("feedback", "1", "domain", 8, 2)


@pytest.fixture(scope="module")
def full(run):
    """Metrics that were told everything there is, with languages."""
    samplers = []
    found = Metrics(Drift(sampler=sampler_of(reading_detector, Clock(), samplers)))
    found.allow_routes(["/predict"])
    found.ask(Sources(lambda: [run.served()]))
    found.render()
    everything(found, run.served(), run)
    for place in range(0, run.count, 50):
        found.drift.offer("feedback", "1", run.texts[place : place + 50])
        samplers[0].drained()
    yield found
    found.close()


def test_two_services_in_one_process_share_no_figure(metrics):
    other = Metrics()
    metrics.poison("feedback", "1")
    metrics.request_done("/predict", 200, None, 0.1)
    assert value(metrics, "polyfold_poison_texts_total", **WHO) == 1
    assert not any(name.startswith(("polyfold_poison", "polyfold_requests_t")) for name, _ in samples(other))
    other.close()


def test_every_figure_is_what_was_told(full):
    assert value(full, "polyfold_requests_total", route="/predict", status="200", code="") == 1
    assert value(full, "polyfold_requests_total", route="/predict", status="503", code="queue_full") == 1
    assert value(full, "polyfold_refusals_total", code="queue_full") == 1
    assert value(full, "polyfold_request_seconds_sum", route="/predict") == pytest.approx(0.021)
    assert value(full, "polyfold_queue_seconds_count", **WHO) == 1
    assert value(full, "polyfold_tokenize_seconds_sum", **WHO) == pytest.approx(0.0002)
    assert value(full, "polyfold_inference_seconds_sum", **WHO, runtime="onnxruntime") == pytest.approx(0.02)
    assert value(full, "polyfold_batch_tokens_sum", **WHO) == 30
    assert value(full, "polyfold_batch_documents_sum", **WHO) == 3
    assert value(full, "polyfold_batch_padding_share_sum", **WHO) == pytest.approx(0.25)
    assert value(full, "polyfold_texts_total", **WHO) == 1500
    assert value(full, "polyfold_truncated_texts_total", **WHO) == 0
    assert value(full, "polyfold_failed_texts_total", **WHO, code="inference_failed") == 1
    assert value(full, "polyfold_failovers_total", **WHO, away_from="openvino", to="none") == 1
    assert value(full, "polyfold_poison_texts_total", **WHO) == 1
    assert value(full, "polyfold_dropped_texts_total", **WHO, reason="deadline") == 4
    assert value(full, "polyfold_shadow_answers_total", **WHO, task="domain", agreed="yes") == 8
    assert value(full, "polyfold_shadow_answers_total", **WHO, task="domain", agreed="no") == 2
    assert value(full, "polyfold_queue_tokens", **WHO) == 7
    assert value(full, "polyfold_tokens_per_second", **WHO) == 1000
    assert value(full, "polyfold_runtime_info", **WHO, runtime="onnxruntime") == 1
    assert [value(full, "polyfold_model_state", **WHO, state=state) for state in STATES] == [1, 0, 0, 0]
    asked = ("open_connections", "requests_in_flight", "log_lines_lost_total", "key_reloads_failed_total")
    assert [value(full, f"polyfold_{name}") for name in asked] == [3, 2, 1, 0]
    assert value(full, "polyfold_spans_lost_total") == 5


def test_answers_are_counted_by_label_and_confidence(full, run):
    answers = run.answers(run.draw(1, 1500))
    own = answers.probabilities[:, : len(TOY_TASKS[0].labels)]
    for place, label in enumerate(TOY_TASKS[0].labels):
        expected = (own.argmax(axis=1) == place).sum()
        assert value(full, "polyfold_labels_total", **WHO, task="domain", label=label) == expected
    mean = value(full, "polyfold_confidence_sum", **WHO, task="domain") / 1500
    assert mean == pytest.approx(own.max(axis=1).mean(), rel=1e-4)
    assert value(full, "polyfold_confidence_count", **WHO, task="domain") == 1500


def test_drift_is_told_with_what_it_is_measured_from(full):
    for distribution, task in (("language", ""), ("length", ""), ("label", "topics"), ("confidence", "domain")):
        labels = {**WHO, "distribution": distribution, "task": task}
        assert 0 <= value(full, "polyfold_drift_stability_index", **labels) < 0.1
        assert 0 <= value(full, "polyfold_drift_total_variation", **labels) < 0.2
    assert value(full, "polyfold_drift_texts", **WHO, distribution="length", task="") == 1500
    shares = [share for (name, _), share in samples(full).items() if name == "polyfold_language_share"]
    assert sum(shares) == pytest.approx(1.0)


def test_drift_that_cannot_be_claimed_has_no_number(metrics, run, tmp_path):
    lonely = replace(run.served(), folder=tmp_path)
    everything(metrics, lonely, run)
    assert not any("drift" in name for name, _ in samples(metrics))
    assert metrics.drift_summary()["state"] == "no reference"


def test_no_path_code_or_status_of_a_client_makes_a_series(metrics):
    for route, status, code in (("/predict", 200, None), ("/nothing", 404, "not_found"), ("/x", 418, "teapot")):
        metrics.request_done(route, status, code, 0.1)
    before = set(samples(metrics))
    random = np.random.default_rng(0)
    for number in range(2000):
        path = f'/predict/{number}/"}}\n' + bytes(random.integers(32, 127, 9).tolist()).decode()
        metrics.exchanged(Exchange("id", "GET", path, 0.0, route=path, status=404, code="not_found"))
        metrics.request_done(path, 418, f"code-{number}", 0.1)
    assert set(samples(metrics)) == before
    assert value(metrics, "polyfold_requests_total", route="other", status="418", code="other") == 2001
    assert value(metrics, "polyfold_request_seconds_count", route="other") == 4002


def test_a_label_that_is_no_identifier_is_escaped(metrics, run, tmp_path):
    wild = (TOY_TASKS[0].model_copy(update={"labels": ('a"b', "line\nbreak", "كلمة\\")}),)
    served = replace(run.served(), tasks=wild, folder=tmp_path)
    metrics.answered(served, None, answers_of(np.array([[0.1, 0.8, 0.1]], np.float32), [5]))
    assert value(metrics, "polyfold_labels_total", **WHO, task="domain", label="line\nbreak") == 1
    assert value(metrics, "polyfold_labels_total", **WHO, task="domain", label="كلمة\\") == 0


def test_versions_long_gone_are_forgotten_and_those_served_are_not(metrics, run, tmp_path):
    served = replace(run.served(), folder=tmp_path, version="served")
    metrics.ask(Sources(lambda: [served]))
    for number in range(3 * MOST_VERSIONS):
        version = replace(served, version=str(number))
        metrics.answered(version, None, run.answers(np.arange(2)))
        metrics.batch("feedback", str(number), FACTS)
        if number % MOST_VERSIONS == 0:
            metrics.render()
    versions = {dict(labels).get("version") for _, labels in samples(metrics)} - {None}
    assert "served" in versions
    assert str(3 * MOST_VERSIONS - 1) in versions
    assert len(versions) <= MOST_VERSIONS + 2  # and the build's own
    assert len(metrics.drift_summary()["models"]) <= MOST_VERSIONS + 1


def test_counting_loses_nothing_between_threads(metrics, run, tmp_path):
    served = replace(run.served(), folder=tmp_path)
    answers = run.answers(np.arange(3))

    def work():
        for _ in range(500):
            metrics.answered(served, None, answers)
            metrics.batch("feedback", "1", FACTS)
            metrics.request_done("/predict", 200, None, 0.1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.render()
    for thread in threads:
        thread.join()
    assert value(metrics, "polyfold_texts_total", **WHO) == 6000
    assert value(metrics, "polyfold_batch_documents_count", **WHO) == 2000
    assert value(metrics, "polyfold_requests_total", route="/predict", status="200", code="") == 2000


def test_another_folder_of_the_same_tasks_goes_on_counting_and_one_of_others_begins_anew(metrics, run, tmp_path):
    served = replace(run.served(), folder=tmp_path)
    metrics.answered(served, None, run.answers(np.arange(10)))
    copied = tuple(task.model_copy() for task in TOY_TASKS)
    assert copied is not TOY_TASKS
    metrics.answered(replace(served, tasks=copied), None, run.answers(np.arange(10)))
    assert value(metrics, "polyfold_texts_total", **WHO) == 20
    one = TOY_TASKS[:1]
    metrics.answered(replace(served, tasks=one), None, run.answers(np.arange(10), one))
    assert value(metrics, "polyfold_texts_total", **WHO) == 10
    assert not any(("task", "topics") in labels for _, labels in samples(metrics))


def test_no_text_is_in_any_figure(full, run):
    said = full.render().decode()
    assert " text " in run.texts[0]
    assert not any(text in said for text in run.texts)
    assert " text " not in re.sub(r"^#.*$", "", said, flags=re.MULTILINE)


def test_a_real_fleet_is_observed(metrics, toy_folders, toy_texts):
    async def serve():
        spec = ServeSpec(models=(ModelSource(name="toy", folders=(toy_folders["onnxruntime"],)),))
        fleet = Fleet(spec, metrics)
        metrics.ask(Sources(lambda: fleet.models))
        await fleet.start()
        for text in toy_texts:
            model = fleet.pick(None, None, text)
            answers = await model.submit([text], time.monotonic() + 10).future
            metrics.answered(model, [text], answers)
        found = samples(metrics)
        await fleet.stop(5)
        return found

    found, who = run_to_end(serve()), (("model", "toy"), ("version", "1"))
    count = len(toy_texts)
    assert found["polyfold_texts_total", who] == found["polyfold_queue_seconds_count", who] == count
    assert found["polyfold_tokenize_seconds_count", who] == count
    assert found["polyfold_batch_documents_sum", who] == count
    assert 0 < found["polyfold_truncated_texts_total", who] < count
    assert found["polyfold_batch_padding_share_bucket", (("le", "+Inf"), *who)] > 0
    labels = Counter(dict(labels)["task"] for name, labels in found if name == "polyfold_labels_total")
    assert labels == {task.name: len(task.labels) for task in TOY_TASKS}


def test_every_metric_is_documented_and_every_documented_metric_exists(full):
    said = full.render().decode()
    exist = set(re.findall(r"^# TYPE (polyfold_\w+)", said, re.MULTILINE))
    documented = set(re.findall(r"^\| `(polyfold_\w+)`", DOCS.read_text(encoding="utf8"), re.MULTILINE))
    assert len(exist) >= 30
    assert exist == documented


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist(full):
    said = full.render().decode()
    exist = {name for name, _ in samples(full)} | set(re.findall(r"^# TYPE (process_\w+)", said, re.MULTILINE))
    for path in (DOCS, DASHBOARD):
        asked = set(re.findall(r"\b(?:polyfold|process)_\w+", _expressions(path)))
        assert len(asked) >= 10
        assert asked <= exist, f"{path.name}: {asked - exist}"


def test_the_alerts_are_rules_as_prometheus_reads_them():
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", DOCS.read_text(encoding="utf8"), re.MULTILINE | re.DOTALL)
    (group,) = yaml.safe_load(block)["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names) >= 10
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "annotations"}
        assert rule["annotations"]["summary"]
        for opening, closing in ("()", "[]", "{}"):
            assert rule["expr"].count(opening) == rule["expr"].count(closing)


def _expressions(path):
    """The PromQL in a file: a fenced block's `expr:` lines, or a dashboard's "expr" values."""
    return "\n".join(re.findall(r'"?expr"?: "?(.*)', path.read_text(encoding="utf8")))
