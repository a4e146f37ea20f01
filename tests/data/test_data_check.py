"""The check counts what is planted, and never shows a text."""

import dataclasses
from io import StringIO

import numpy as np
from rich.console import Console

from polyfold.data.check import check, render
from polyfold.data.dataset import Dataset, Documents, Preparation
from polyfold.tasks import Task

TASKS = (
    Task(name="sentiment", labels=("good", "bad", "never")),
    Task(name="topics", kind="multi_label", labels=("price", "staff")),
)


def documents(name, texts, languages, sentiment, topics):
    ids = [f"{name}{i}" for i in range(len(texts))]
    labels = {
        "sentiment": np.asarray(sentiment, dtype=np.int64),
        "topics": np.asarray(topics, dtype=np.int8).reshape(-1, 2),
    }
    return Documents(ids, texts, languages, [f"g-{one}" for one in ids], labels)


def planted():
    train = documents(
        "train",
        ["one", "two", "two ", "cafe\u0301"],
        ["en", "en", "de", "de"],
        [0, 1, 0, -1],
        [[1, 0], [-1, -1], [0, 0], [1, 0]],
    )
    dev = documents("dev", ["caf\u00e9", "four"], ["en", "fr"], [0, 0], [[1, 0], [0, 1]])
    test = documents("test", ["one", "six"], ["en", "de"], [0, 0], [[0, 0], [1, 0]])
    return Dataset(TASKS, train, dev, test, Documents([], [], [], []), "f" * 64)


def test_counts_are_those_planted():
    found = check(planted())
    assert found.documents == {"train": {"de": 2, "en": 2}, "dev": {"en": 1, "fr": 1}, "test": {"de": 1, "en": 1}}
    sentiment, topics = found.tasks["sentiment"], found.tasks["topics"]
    assert sentiment.counts["train"] == {
        "de": {"good": 1, "bad": 0, "never": 0},
        "en": {"good": 1, "bad": 1, "never": 0},
    }
    assert topics.counts["train"] == {"de": {"price": 1, "staff": 0}, "en": {"price": 1, "staff": 0}}
    assert sentiment.unlabelled_share == {"train": 0.25, "dev": 0.0, "test": 0.0}
    assert sentiment.labels_in_one_split_only == {"bad": "train"}
    assert sentiment.labels_never_seen == ("never",)
    assert topics.labels_in_one_split_only == {"staff": "dev"}
    assert found.languages_without_training_rows == {"dev": ("fr",)}


def test_duplicates_leaks_and_conflicts_are_found_by_normal_form():
    duplicates = check(planted()).duplicates
    assert duplicates.within == {"train": 1, "dev": 0, "test": 0}
    assert {leak.splits: leak.ids for leak in duplicates.across} == {
        ("train", "dev"): (("train3", "dev0"),),
        ("train", "test"): (("train0", "test0"),),
    }
    # "two" is bad and good; "one" has the topic price in train and none in test.
    assert duplicates.conflicting == {"sentiment": 1, "topics": 1}
    assert duplicates.conflicting_ids == {"sentiment": (("train1", "train2"),), "topics": (("train0", "test0"),)}


def test_groups_that_cross_splits_are_leaks():
    dataset = planted()
    crossing = dataclasses.replace(dataset.test, groups=["g-train1", "own"])
    found = check(dataclasses.replace(dataset, test=crossing))
    (leak,) = found.group_leaks
    assert (leak.splits, leak.count, leak.ids) == (("train", "test"), 1, (("train1", "test0"),))
    assert check(dataset).group_leaks == ()


def test_lengths_are_percentiles_of_real_documents():
    lengths = np.arange(1, 101)
    found = check(planted(), token_lengths={"train": lengths})
    assert found.tokens is not None
    at = found.tokens["train"]
    assert (at.p50, at.p90, at.p95, at.p99, at.longest) == (51, 91, 96, 100, 100)
    for value, percent in ((at.p50, 50), (at.p95, 95)):
        assert (lengths <= value).mean() >= percent / 100
    assert found.characters["test"].longest == 3
    assert check(planted()).tokens is None


def test_every_finding_is_a_warning_and_those_of_preparing_come_first():
    found = check(planted(), Preparation(empty=2, warnings=("2 documents without text were left out",)))
    assert found.warnings[0] == "2 documents without text were left out"
    said = "\n".join(found.warnings)
    for part in ("fr", "label 'never'", "label 'bad' is in train only", "label 'staff' is in dev, not in train"):
        assert part in said
    assert "1 texts are in both train and dev" in said
    assert len(set(found.warnings)) == len(found.warnings)


def test_tables_and_json_hold_ids_but_no_text():
    dataset = planted()
    hidden = [f"confidential {i}" for i in range(2)]
    dataset = dataclasses.replace(
        dataset,
        dev=dataclasses.replace(dataset.dev, texts=hidden),
        test=dataclasses.replace(dataset.test, texts=hidden),
    )
    found = check(dataset)
    out = StringIO()
    Console(file=out, width=200).print(render(found))
    for shown in (out.getvalue(), found.model_dump_json()):
        assert "dev0" in shown
        assert "confidential" not in shown
    assert "Task sentiment (single_label)" in out.getvalue()
