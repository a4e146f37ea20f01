"""Comparing two artifacts: what is counted is what differs, and an artifact does not differ from itself."""

import json

import numpy as np
import pytest

from polyfold import metrics
from polyfold.data.dataset import Documents
from polyfold.errors import InputError
from polyfold.measure.compare import Comparison, compare
from polyfold.measure.compare_views import comparison_html, comparison_markdown, comparison_tables
from polyfold.predictor import Predictor
from polyfold.tasks import NOT_LABELLED, Task
from toys import TOY_TASKS, WORDS, toy_graph, write_toy_folder

LANGUAGES = ("en", "de", "ja")


def documents(count=240, seed=5):
    """Random texts in three languages with random labels, a quarter of them missing."""
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 12))) for _ in range(count)]
    labels = {
        "domain": random.integers(0, 3, count),
        "topics": (random.random((count, 4)) < 0.4).astype(np.int8),
    }
    for values in labels.values():
        values[random.random(count) < 0.25] = NOT_LABELLED
    ids = [f"d{row}" for row in range(count)]
    return Documents(ids, texts, [LANGUAGES[row % 3] for row in range(count)], ids, labels)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Toy artifacts by name; `wider` has a label and a task of its own, `single` a task of another kind."""
    root = tmp_path_factory.mktemp("compared")
    domain, topics = TOY_TASKS
    wider = (
        domain.model_copy(update={"labels": ("other", "returns", "billing", "delivery")}),
        Task(name="urgency", labels=("low", "high")),
    )
    return {
        "same": write_toy_folder(root / "same", "onnxruntime"),
        "openvino": write_toy_folder(root / "openvino", "openvino"),
        "other": write_toy_folder(root / "other", "onnxruntime", graph=toy_graph(TOY_TASKS, seed=1)),
        "wider": write_toy_folder(root / "wider", "onnxruntime", tasks=wider, graph=toy_graph(wider, seed=2)),
        "single": write_toy_folder(
            root / "single",
            "onnxruntime",
            tasks=(domain, Task(name="topics", labels=topics.labels)),
        ),
    }


@pytest.fixture(scope="module")
def predictors(folders):
    return {name: Predictor.open(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("second", ["same", "openvino"])
def test_an_artifact_does_not_differ_from_itself_in_either_runtime(predictors, second):
    found, flips = compare(predictors["same"], predictors[second], documents(), TOY_TASKS, "toys")
    assert flips == []
    assert [one.task for one in found.tasks] == ["domain", "topics"]
    for one in found.tasks:
        for counted in (one.flips, *one.flips_by_language.values()):
            assert (counted.flipped, counted.percent, counted.percent_ci95[0]) == (0, 0.0, 0.0)
            assert counted.percent_ci95[1] > 0.0
        assert set(one.quality_by_language) == set(LANGUAGES)
        for gain in (one.quality, *one.quality_by_language.values()):
            assert (gain.verdict, gain.difference, gain.ci95) == ("same", 0.0, (0.0, 0.0))
        assert not any(one.gained.values()) and not any(one.lost.values())


def test_flips_are_those_that_the_predictions_show(predictors):
    given = documents()
    found, flips = compare(predictors["same"], predictors["other"], given, TOY_TASKS, "toys")
    answers = [predictors[name].predict(given.texts) for name in ("same", "other")]
    expected = {
        (row, task.name)
        for task in TOY_TASKS
        for row in range(len(given))
        if answers[0][row].labels[task.name] != answers[1][row].labels[task.name]
    }
    assert len(expected) > 100
    assert {(flip.row, flip.task) for flip in flips} == expected
    for flip in flips:
        for said, answer in ((flip.first, answers[0]), (flip.second, answers[1])):
            labels = answer[flip.row].labels[flip.task]
            assert said == ("|".join(labels) if isinstance(labels, list) else labels)
    for one in found.tasks:
        rows = [row for row, task in expected if task == one.task]
        assert one.flips.flipped == len(rows)
        assert one.flips.documents == len(given)
        for language in LANGUAGES:
            count = sum(given.languages[row] == language for row in rows)
            assert one.flips_by_language[language].flipped == count
        # Every single-label flip takes one label and gives another.
        if one.kind == "single_label":
            assert sum(one.gained.values()) == sum(one.lost.values()) == len(rows)


def test_differences_are_those_of_macro_f1_and_change_sign_with_the_order(predictors):
    given = documents()
    found, _ = compare(predictors["same"], predictors["other"], given, TOY_TASKS, "toys")
    back, _ = compare(predictors["other"], predictors["same"], given, TOY_TASKS, "toys")
    for task, one, other in zip(TOY_TASKS, found.tasks, back.tasks, strict=True):
        rows = given.labelled(task)
        logits = predictors["same"].logits(given.texts)[task.name][rows]
        expected = metrics.macro_f1(task, given.labels[task.name][rows], task.decide(task.probabilities(logits)))
        assert one.quality.first == pytest.approx(expected)
        assert one.quality.documents == rows.sum()
        assert one.quality.difference == pytest.approx(one.quality.second - one.quality.first)
        assert one.quality.ci95[0] <= one.quality.difference <= one.quality.ci95[1]
        assert other.quality.difference == pytest.approx(-one.quality.difference)


def test_the_model_that_the_labels_come_from_is_better_and_the_other_worse(predictors):
    given = documents()
    logits = predictors["other"].logits(given.texts)
    labels = {task.name: task.decide(task.probabilities(logits[task.name])) for task in TOY_TASKS}
    perfect = Documents(given.ids, given.texts, given.languages, given.groups, labels)
    found, _ = compare(predictors["same"], predictors["other"], perfect, TOY_TASKS, "toys")
    assert [one.quality.verdict for one in found.tasks] == ["better", "better"]
    assert [one.quality.second for one in found.tasks] == pytest.approx([1.0, 1.0])
    back, _ = compare(predictors["other"], predictors["same"], perfect, TOY_TASKS, "toys")
    assert [one.quality.verdict for one in back.tasks] == ["worse", "worse"]


def test_labels_and_tasks_of_one_side_are_told_and_labels_meet_by_name(predictors):
    given = documents()
    found, flips = compare(predictors["same"], predictors["wider"], given, TOY_TASKS, "toys")
    assert (found.tasks_only_in_first, found.tasks_only_in_second) == (("topics",), ("urgency",))
    (one,) = found.tasks
    assert (one.labels_only_in_first, one.labels_only_in_second) == ((), ("returns",))
    answers = [predictors[name].predict(given.texts) for name in ("same", "wider")]
    different = [
        row for row in range(len(given)) if answers[0][row].labels["domain"] != answers[1][row].labels["domain"]
    ]
    assert [flip.row for flip in flips] == different
    assert one.quality is not None
    assert any("topics" in note for note in found.notes)
    said = comparison_markdown(found)
    assert "only the first has: topics" in said
    assert "labels of task 'domain' that only the second has: returns" in said


def test_a_task_of_another_kind_is_told_and_left_out(predictors):
    found, _ = compare(predictors["same"], predictors["single"], documents(), TOY_TASKS, "toys")
    assert [one.task for one in found.tasks] == ["domain"]
    assert any("'topics' is multi_label in the first and single_label in the second" in n for n in found.notes)
    data = (TOY_TASKS[0], Task(name="topics", labels=TOY_TASKS[1].labels))
    given = documents()
    labels = {**given.labels, "topics": np.zeros(len(given), dtype=np.int64)}
    given = Documents(given.ids, given.texts, given.languages, given.groups, labels)
    found, _ = compare(predictors["same"], predictors["same"], given, data, "toys")
    assert [one.quality is None for one in found.tasks] == [False, True]
    assert any("in the data: no quality" in note for note in found.notes)


def test_without_labels_flips_are_counted_and_nothing_is_scored(predictors):
    given = documents()
    bare = Documents(given.ids, given.texts, given.languages, given.groups)
    found, flips = compare(predictors["same"], predictors["other"], bare, (), "toys")
    assert flips and all(flip.truth is None for flip in flips)
    assert all(one.quality is None and not one.quality_by_language for one in found.tasks)
    assert len(comparison_html(found)) > 1000
    with pytest.raises(InputError, match="no documents"):
        compare(predictors["same"], predictors["other"], Documents([], [], [], []), (), "toys")


def test_a_comparison_comes_back_from_json_and_its_page_holds_every_figure(predictors):
    found, _ = compare(predictors["same"], predictors["other"], documents(), TOY_TASKS, "toys")
    assert Comparison.model_validate_json(found.model_dump_json()) == found
    assert "d0" not in json.dumps(found.model_dump(exclude={"first", "second"}))
    page = comparison_html(found)
    tables = comparison_tables(found)
    assert [table.title for table in tables] == [
        "What changed", "What changed by language", "Labels that came and went",
    ]  # fmt: skip
    for table in tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert table.title in page
    assert page.count('id="figure-') == 2
