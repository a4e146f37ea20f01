import json
from dataclasses import replace

import numpy as np
import pytest
from toy_drift import LANGUAGES, ROW, Clock, ToyRun, ToyVersion, reading_detector, sampler_of

from polyfold.artifact import read_config
from polyfold.errors import MissingExtra
from polyfold.measure.report import REPORT, write_report
from polyfold.serve.watch.answer_counts import count_rows
from polyfold.serve.watch.drift import WINDOW_SECONDS, WINDOW_TEXTS, Drift
from polyfold.serve.watch.stability import WATCH
from toys import TOY_TASKS, write_toy_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return ToyRun(tmp_path_factory.mktemp("run"))


class Watching:
    """A drift whose detector reads the language from the text, closed at the end of the test."""

    def __init__(self, run, detector=reading_detector, served=None, report=None):
        self.run, self.clock, self.samplers = run, Clock(), []
        self.served = served or run.served()
        self.drift = Drift(report, sampler_of(detector, self.clock, self.samplers), self.clock)
        self.drift.watch(self.served)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.drift.close()

    def serve(self, rows, texts=None, **answers):
        """Answer these documents; by default their own texts came."""
        for start in range(0, len(rows), 50):
            some = rows[start : start + 50]
            sent = [self.run.texts[row] for row in some] if texts is None else texts[start : start + 50]
            self.drift.offer("feedback", "1", sent)
            found = self.run.answers(some, self.served.tasks, **answers)
            self.drift.add("feedback", "1", count_rows(self.served.tasks, found.probabilities, found.tokens))
            for sampler in self.samplers:
                sampler.drained()

    def states(self):
        (model,) = self.drift.summary()["models"]
        return {(one["name"], one["task"]): one["state"] for one in model["distributions"]}

    def reading(self, name, task=None):
        (model,) = self.drift.summary()["models"]
        return next(one for one in model["distributions"] if (one["name"], one["task"]) == (name, task))


EVERY = {("language", None), ("length", None)} | {
    (name, task.name) for name in ("label", "confidence") for task in TOY_TASKS
}


def test_texts_like_the_test_documents_are_no_drift(run):
    for seed in range(5):
        with Watching(run) as watching:
            watching.serve(run.draw(seed, 1500))
            assert watching.states() == dict.fromkeys(EVERY, "ok")
            assert watching.drift.summary()["state"] == "ok"
            assert watching.reading("confidence", "domain")["served_mean"] == pytest.approx(
                watching.reading("confidence", "domain")["expected_mean"], abs=0.02
            )


def test_a_language_mix_turned_round_is_found_and_nothing_else(run):
    with Watching(run) as watching:
        rows = run.draw(1, 1500)
        other = {"de": "ja", "en": "en", "ja": "de"}
        watching.serve(rows, [other[run.texts[row][:2]] for row in rows])
        states = watching.states()
        assert states.pop(("language", None)) == "drifted"
        assert set(states.values()) == {"ok"}
        assert watching.drift.summary()["state"] == "drifted"
        reading = watching.reading("language")
        served = dict(zip(reading["values"], reading["served"], strict=True))
        assert served["ja"] == pytest.approx(0.5, abs=0.05)


def test_a_language_the_model_was_never_tested_on_is_found(run):
    with Watching(run) as watching:
        rows = run.draw(1, 1500)
        watching.serve(rows, ["fi" if place % 4 == 0 else run.texts[row] for place, row in enumerate(rows)])
        assert watching.states()["language", None] == "drifted"
        reading = watching.reading("language")
        assert dict(zip(reading["values"], reading["served"], strict=True))["other"] == pytest.approx(
            0.25, abs=0.01
        )


def test_texts_of_no_sure_language_do_not_count(run):
    with Watching(run) as watching:
        rows = run.draw(1, 1500)
        watching.serve(rows, ["???" if place % 2 else run.texts[row] for place, row in enumerate(rows)])
        assert watching.states()["language", None] == "ok"
        assert watching.reading("language")["texts"] == 750


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"longer": 9}, ("length", None)),
        ({"shift": {"domain": np.array([0.0, 0.0, 3.0])}}, ("label", "domain")),
        ({"shift": {"topics": np.full(4, -4.0)}}, ("label", "topics")),
    ],
)
def test_longer_texts_and_other_answers_are_found_where_they_are(run, change, found):
    with Watching(run) as watching:
        watching.serve(run.draw(1, 1500), **change)
        states = watching.states()
        assert states[found] == "drifted"
        assert states["language", None] == "ok"
        untouched = {key for key in EVERY if key[1] not in (None, found[1])}
        assert {states[key] for key in untouched} == {"ok"}


def test_a_model_that_grows_unsure_is_found_though_it_gives_the_same_labels(run):
    with Watching(run) as watching:
        unsure = {name: -0.8 * values for name, values in run.logits.items()}
        rows = run.draw(1, 1500)
        for start in range(0, 1500, 50):
            some = rows[start : start + 50]
            watching.serve(some, shift={"domain": unsure["domain"][some]})
        states = watching.states()
        assert (states["confidence", "domain"], states["label", "domain"]) == ("drifted", "ok")


def test_nothing_is_claimed_from_few_texts(run):
    with Watching(run) as watching:
        assert watching.drift.summary()["state"] == "gathering"
        needed = watching.reading("length")["texts_needed"]
        assert needed > 200
        watching.serve(run.draw(1, needed - 1), longer=9)
        assert watching.reading("length")["state"] == "gathering"
        assert watching.reading("length")["stability_index"] is None
        watching.serve(run.draw(2, 1), longer=9)
        assert watching.reading("length")["stability_index"] > WATCH


def test_drift_that_is_over_is_forgotten_by_texts_and_by_time(run):
    with Watching(run) as watching:
        watching.serve(run.draw(1, 1500), longer=9)
        assert watching.states()["length", None] == "drifted"
        watching.serve(run.draw(2, WINDOW_TEXTS + WINDOW_TEXTS // 20))
        assert watching.states()["length", None] == "ok"
        watching.clock.now += WINDOW_SECONDS + 1
        assert watching.states() == dict.fromkeys(EVERY, "gathering")


def test_without_a_report_it_says_so_and_how_to_give_one(run, tmp_path):
    folder = write_toy_folder(tmp_path / "model", "onnxruntime")
    lonely = ToyVersion(folder, read_config(folder)[0])
    with Watching(run, served=lonely) as watching:
        watching.serve(run.draw(1, 500))
        summary = watching.drift.summary()
        (model,) = summary["models"]
        assert (summary["state"], model["state"], model["distributions"]) == ("no reference", "no reference", [])
        assert "--report" in model["hint"]
        assert watching.samplers == []
    with Watching(run, served=lonely, report=run.root / REPORT) as watching:
        assert watching.drift.summary()["models"][0]["row"] == ROW


def test_without_the_detector_languages_are_not_measured_and_all_else_is(run):
    def missing():
        raise MissingExtra("py3langid", "serve")

    with Watching(run, missing) as watching:
        watching.serve(run.draw(1, 1500))
        states = watching.states()
        assert states.pop(("language", None)) == "not measured"
        assert set(states.values()) == {"ok"}
        assert "polyfold[serve]" in watching.reading("language")["reason"]


def test_a_language_the_detector_does_not_know_is_named(tmp_path):
    small = ToyRun(tmp_path)
    served = small.served()
    content = json.loads((tmp_path / REPORT).read_bytes())
    content["rows"][1]["profile"]["languages"]["tlh"] = 5
    (tmp_path / REPORT).write_text(json.dumps(content))
    with Watching(small, served=served) as watching:
        watching.serve(small.draw(1, 1500))
        assert watching.reading("language")["state"] == "not measured"
        assert "tlh" in watching.reading("language")["reason"]


def test_a_small_reference_claims_nothing(tmp_path):
    small = ToyRun(tmp_path, count=60)
    with Watching(small) as watching:
        watching.serve(small.draw(1, 2000))
        assert watching.reading("length")["state"] == "not measured"
        assert "60 test documents are too few" in watching.reading("length")["reason"]


def test_another_models_report_is_not_compared_label_by_label(run):
    other = tuple(
        task.model_copy(update={"labels": (*task.labels[:-1], "new")}) if task.name == "domain" else task
        for task in TOY_TASKS
    )
    with Watching(run, served=replace(run.served(), tasks=other)) as watching:
        watching.serve(run.draw(1, 1500))
        assert watching.states()["label", "domain"] == "not measured"
        assert watching.states()["label", "topics"] == "ok"


def test_a_version_that_takes_anothers_place_begins_anew(run):
    with Watching(run) as watching:
        watching.serve(run.draw(1, 1500), longer=9)
        watching.drift.watch(watching.served)
        assert watching.states() == dict.fromkeys(EVERY, "gathering")
        watching.drift.forget("feedback", "1")
        assert watching.drift.summary()["models"] == []
        watching.serve(run.draw(1, 50))


def test_the_summary_is_plain_json_without_any_text(run):
    with Watching(run) as watching:
        watching.serve(run.draw(1, 1500))
        text = json.dumps(watching.drift.summary(), allow_nan=False)
        assert " text " not in text
        assert str(run.root) not in text
        for reading in json.loads(text)["models"][0]["distributions"]:
            assert len(reading["values"]) == len(reading["expected"]) == len(reading["served"])
            assert sum(reading["served"]) == pytest.approx(1.0, abs=0.01)


def test_a_report_of_before_profiles_measures_languages_only(tmp_path):
    old = ToyRun(tmp_path)
    served = old.served()
    write_report(old.report(profile=None), tmp_path)
    with Watching(old, served=served) as watching:
        watching.serve(old.draw(1, 1500))
        assert watching.states() == {("language", None): "ok"}
        (model,) = watching.drift.summary()["models"]
        assert "measure again" in model["reason"]
        assert set(LANGUAGES) < set(watching.reading("language")["values"])
