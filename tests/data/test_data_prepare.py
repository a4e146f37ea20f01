"""Preparing: what is refused and how it is said, what is kept, and that the format does not matter."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyfold.data.dataset import SPLITS
from polyfold.data.prepare import input_files, load_dataset, load_preparation, prepare
from polyfold.data.spec import DataSpec, TaskSpec, UnlabelledSpec
from polyfold.errors import InputError

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
SENTIMENT = TaskSpec(name="sentiment")
TOPICS = TaskSpec(name="topics", kind="multi_label")


def rows_of(count=30, **changes):
    """Rows in two languages, with two sentiments, two topics, and every split."""
    return [
        {
            "id": f"d{i}",
            "text": f"text number {i}",
            "language": ("en", "de")[i % 2],
            "split": ("train", "train", "train", "dev", "test", "test")[i // 2 % 6],
            "sentiment": ("good", "bad", "bad")[i % 3],
            "topics": [["price"], ["price", "staff"], []][i % 3],
            **{key: value(i) for key, value in changes.items()},
        }
        for i in range(count)
    ]


def write_jsonl(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf8")


def spec_of(path="a.jsonl", **changes):
    given = {"id": "id", "split": "split", "tasks": (SENTIMENT, TOPICS)}
    return DataSpec(path=path, **{**given, **changes})


def load(folder, spec, seed=0):
    return load_dataset(prepare(spec, folder, folder / "runs", seed))


def refused(folder, rows, **changes):
    write_jsonl(folder / "a.jsonl", rows)
    with pytest.raises(InputError) as caught:
        prepare(spec_of(**changes), folder, folder / "runs", 0)
    assert not (folder / "runs").exists(), "half-written"
    assert "text number" not in str(caught.value)
    return caught.value


def at(index, value, otherwise):
    return lambda i: value if i == index else otherwise(i) if callable(otherwise) else otherwise


def everything(dataset):
    """All of a data set as plain values."""
    return {
        name: (
            list(documents.ids),
            list(documents.texts),
            list(documents.languages),
            list(documents.groups),
            {task: values.tolist() for task, values in documents.labels.items()},
        )
        for name in (*SPLITS, "unlabelled")
        for documents in [dataset.split(name)]
    }


# --- what is refused ---------------------------------------------------------------------------------------


def test_a_missing_column_lists_the_columns_and_the_nearest(tmp_path):
    error = refused(tmp_path, rows_of(), text="texd")
    assert (error.file, error.key) == ("a.jsonl", "texd")
    assert "did you mean 'text'" in error.problem
    assert "sentiment" in str(error.hint)


def test_a_missing_language_column_says_how_to_do_without(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "language"} for row in rows_of()]
    error = refused(tmp_path, rows)
    assert error.key == "language"
    assert "language: null" in str(error.hint)
    dataset = load(tmp_path, spec_of(language=None))
    assert set(dataset.train.languages) == {"und"}


def test_an_unknown_label_is_named_with_the_nearest(tmp_path):
    rows = rows_of(sentiment=at(7, "godo", lambda i: ("good", "bad")[i % 2]))
    error = refused(tmp_path, rows, tasks=(TaskSpec(name="sentiment", labels=("good", "bad")),))
    assert (error.file, error.row, error.key) == ("a.jsonl", 8, "sentiment")
    assert "unknown label 'godo'; did you mean 'good'?" in error.problem
    assert "d7" in str(error)


def test_an_unknown_label_in_a_list_is_named_by_its_own_row(tmp_path):
    rows = rows_of(topics=at(11, ["price", "stuff"], lambda i: [["price"], None, ["staff", "price"]][i % 3]))
    tasks = (TaskSpec(name="topics", kind="multi_label", labels=("price", "staff")),)
    error = refused(tmp_path, rows, tasks=tasks)
    assert (error.row, error.key) == (12, "topics")
    assert "unknown label 'stuff'; did you mean 'staff'?" in error.problem


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [
        ("sentiment", lambda i: i % 2, "a number"),
        ("sentiment", lambda i: i % 2 == 0, "true or false"),
        ("sentiment", lambda i: ["good"], "a list"),
        ("topics", lambda i: "price", "text"),
        ("topics", lambda i: 3, "a number"),
        ("topics", lambda i: [i], "a list of numbers"),
        ("sentiment", lambda i: "", "an empty text"),
        ("topics", lambda i: ["price", None], "a null or an empty text"),
    ],
)
def test_a_label_of_the_wrong_kind_is_named(tmp_path, column, value, found):
    rows = rows_of(**{column: lambda i: None if i < 2 else value(i)})
    error = refused(tmp_path, rows)
    assert (error.file, error.row, error.key) == ("a.jsonl", 3, column)
    assert "label of the wrong kind" in error.problem
    assert found in error.problem


def test_one_number_among_text_labels_is_named(tmp_path):
    error = refused(tmp_path, rows_of(sentiment=at(4, 1, lambda i: ("good", "bad")[i % 2])))
    assert (error.row, error.key) == (5, "sentiment")


def test_a_list_in_a_single_label_csv_cell_is_of_the_wrong_kind(tmp_path):
    (tmp_path / "a.csv").write_text('text,language,sentiment\na,en,good\nb,en,"[""good"", ""bad""]"\n')
    with pytest.raises(InputError, match="wrong kind: a list") as caught:
        prepare(DataSpec(path="a.csv", tasks=(SENTIMENT,)), tmp_path, tmp_path / "runs", 0)
    assert caught.value.row == 2


def test_duplicate_ids_name_both_rows(tmp_path):
    error = refused(tmp_path, rows_of(id=at(9, "d4", lambda i: f"d{i}")))
    assert (error.file, error.row, error.key) == ("a.jsonl", 10, "id")
    assert "first used in a.jsonl row 5" in error.problem


def test_a_missing_id_is_refused(tmp_path):
    error = refused(tmp_path, rows_of(id=at(9, None, lambda i: f"d{i}")))
    assert (error.row, error.key) == (10, "id")


@pytest.mark.parametrize("task", ["sentiment", "topics"])
def test_a_task_with_one_class_is_refused(tmp_path, task):
    same = {"sentiment": lambda i: "good", "topics": lambda i: ["price"]}[task]
    error = refused(tmp_path, rows_of(**{task: same}))
    assert error.key == task
    assert "one class only" in error.problem


def test_a_task_with_one_class_in_train_is_refused(tmp_path):
    error = refused(tmp_path, [{**row, "sentiment": row["split"]} for row in rows_of()])
    assert "one class only: every labelled training row has 'train'" in error.problem


def test_a_task_without_labelled_training_rows_is_refused(tmp_path):
    rows = [{**row, "sentiment": None if row["split"] == "train" else row["sentiment"]} for row in rows_of()]
    error = refused(tmp_path, rows)
    assert error.key == "sentiment"
    assert "no labelled training rows" in error.problem


def test_an_absurdly_long_text_is_refused_by_its_length(tmp_path):
    error = refused(tmp_path, rows_of(text=at(6, "secret" * 2000, lambda i: f"text {i}")))
    assert (error.row, error.key) == (7, "text")
    assert "12,000 characters" in error.problem
    assert "secret" not in str(error)


def test_a_text_that_is_a_number_is_refused(tmp_path):
    error = refused(tmp_path, rows_of(text=lambda i: i))
    assert (error.row, error.key) == (1, "text")
    assert "a number where text is needed" in error.problem


def test_a_missing_language_is_refused(tmp_path):
    error = refused(tmp_path, rows_of(language=at(3, None, "en")))
    assert (error.row, error.key) == (4, "language")


def test_an_unknown_split_lists_the_known_ones(tmp_path):
    error = refused(tmp_path, rows_of(split=at(2, "tset", "train")))
    assert (error.row, error.key) == (3, "split")
    assert "validation" in str(error.hint)


def test_a_split_column_without_train_is_refused(tmp_path):
    assert "no train rows" in refused(tmp_path, rows_of(split=lambda i: "test")).problem


def test_a_group_in_two_given_splits_is_named(tmp_path):
    error = refused(tmp_path, rows_of(group=lambda i: "shared" if i in (0, 6) else f"g{i}"), group="group")
    assert (error.row, error.key) == (7, "group")
    assert "group 'shared' is in train and in dev" in error.problem


def test_languages_that_no_document_has_are_refused(tmp_path):
    error = refused(tmp_path, rows_of(), languages=("fr",))
    assert "de, en" in str(error.hint)


def test_a_text_column_given_as_labels_is_refused(tmp_path):
    error = refused(tmp_path, rows_of(3000), tasks=(TaskSpec(name="sentiment", column="text"),))
    assert "3000 different labels" in error.problem


def test_invalid_utf8_inside_parquet_is_named_by_row(tmp_path):
    table = pa.Table.from_pylist([{**row, "topics": None} for row in rows_of()])
    raw = pa.array([b"fine"] * 4 + [b"bad \xff"] + [b"fine"] * 25, pa.binary())
    position = table.column_names.index("text")
    broken = pa.StringArray.from_buffers(30, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(table.set_column(position, "text", broken), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="invalid UTF-8 at byte 4") as caught:
        prepare(spec_of("a.parquet", tasks=(SENTIMENT,)), tmp_path, tmp_path / "runs", 0)
    assert (caught.value.file, caught.value.row, caught.value.key) == ("a.parquet", 5, "text")


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": {"train": "a", "dev": "b", "validation": "c"}},
        {"path": {"dev": "b"}},
        {"path": {"train": "a"}, "split": "split"},
        {"limits": {"unlabelled": 3}},
        {"fractions": {"train": 0.9, "dev": 0.2, "test": 0.1}},
        {"tasks": (SENTIMENT, SENTIMENT)},
        {"tasks": ({"name": "x", "labels": ("only",)},)},
        {"colour": "red"},
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ValidationError):
        DataSpec(**{"path": "a.csv", "tasks": (SENTIMENT,), **wrong})


# --- what is kept ------------------------------------------------------------------------------------------


def test_nulls_are_not_labelled_and_empty_lists_are(tmp_path):
    rows = rows_of(
        sentiment=lambda i: (None, "good", "bad")[i % 3], topics=lambda i: (None, [], ["staff", "price"])[i % 3]
    )
    write_jsonl(tmp_path / "a.jsonl", rows)
    dataset = load(tmp_path, spec_of())
    assert [task.labels for task in dataset.tasks] == [("bad", "good"), ("price", "staff")]
    for name in SPLITS:
        documents = dataset.split(name)
        numbers = [int(one[1:]) for one in documents.ids]
        assert documents.labels["sentiment"].tolist() == [(-1, 1, 0)[i % 3] for i in numbers]
        assert documents.labels["topics"].tolist() == [([-1, -1], [0, 0], [1, 1])[i % 3] for i in numbers]
        assert documents.labels["topics"].dtype == np.int8
    assert sum(len(dataset.split(name)) for name in SPLITS) == 30


def test_empty_texts_are_dropped_counted_and_warned_of(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", rows_of(text=lambda i: (None, " \t", f"text {i}")[min(i, 2)]))
    artifact = prepare(spec_of(), tmp_path, tmp_path / "runs", 0)
    found = load_preparation(artifact)
    assert found.empty == 2
    assert "2 documents without text were left out; the first: a.jsonl row 1 (id 'd0')" in found.warnings
    assert sum(len(load_dataset(artifact).split(name)) for name in SPLITS) == 28


def test_a_language_or_label_without_training_rows_is_a_warning(tmp_path):
    rows = rows_of(
        language=lambda i: "fr" if i // 2 % 6 == 4 else "en",
        sentiment=lambda i: "rare" if i // 2 % 6 == 4 else ("good", "bad")[i % 2],
    )
    write_jsonl(tmp_path / "a.jsonl", rows)
    warnings = load_preparation(prepare(spec_of(), tmp_path, tmp_path / "runs", 0)).warnings
    assert "languages in test with no training rows: fr" in warnings
    assert "task 'sentiment': label 'rare' is in test, not in train" in warnings


def test_labels_outside_a_tasks_languages_count_as_not_labelled(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", rows_of())
    tasks = (
        TaskSpec(name="sentiment", languages=("de",)),
        TaskSpec(name="topics", kind="multi_label", languages=("de",)),
    )
    artifact = prepare(spec_of(tasks=tasks), tmp_path, tmp_path / "runs", 0)
    dataset = load_dataset(artifact)
    assert load_preparation(artifact).labels_outside_task_languages == {"sentiment": 15, "topics": 15}
    for task in dataset.tasks:
        german = np.asarray(dataset.train.languages) == "de"
        assert (dataset.train.labelled(task) == german).all()


def test_limits_and_samples_keep_what_they_say(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", rows_of(120))
    whole = load(tmp_path, spec_of())
    some = load(tmp_path, spec_of(limits={"train": 20}, test_sample_per_language=4))
    assert len(some.train) == 20
    assert set(some.train.ids) < set(whole.train.ids)
    for language in ("en", "de"):
        ids = sorted(one for one, of in zip(whole.test.ids, whole.test.languages, strict=True) if of == language)
        kept = {one for one, of in zip(some.test.ids, some.test.languages, strict=True) if of == language}
        assert kept == set(ids[:4])
    other = load(tmp_path, spec_of(limits={"train": 20}), seed=1)
    assert set(other.train.ids) != set(some.train.ids)


def test_dropping_duplicates_leaves_a_text_in_one_split_and_test_first(tmp_path):
    # Rows 0 (train), 6 (dev) and 8 (test) share a text; 1 and 3 (train) share another one.
    same = {0: "one", 6: "one ", 8: "one", 1: "two", 3: "two"}
    write_jsonl(tmp_path / "a.jsonl", rows_of(text=lambda i: same.get(i, f"text {i}")))
    artifact = prepare(spec_of(duplicates="drop"), tmp_path, tmp_path / "runs", 0)
    dataset = load_dataset(artifact)
    assert load_preparation(artifact).duplicates_dropped == 3
    assert "d8" in dataset.test.ids
    assert not {"d0", "d3"} & set(dataset.train.ids)
    assert "d6" not in dataset.dev.ids


def test_missing_splits_are_made_from_train_with_a_warning(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", rows_of(60, split=lambda i: "test" if i % 6 == 0 else "train"))
    artifact = prepare(spec_of(), tmp_path, tmp_path / "runs", 0)
    dataset = load_dataset(artifact)
    assert set(dataset.test.ids) == {f"d{i}" for i in range(0, 60, 6)}
    assert len(dataset.dev) > 0
    assert "the data has no dev rows: made from the train rows" in load_preparation(artifact).warnings


def test_without_groups_equal_texts_stay_in_one_split(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", rows_of(60, text=lambda i: f"text {i // 3}"))
    dataset = load(tmp_path, spec_of(split=None))
    texts = [set(dataset.split(name).texts) for name in SPLITS]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]


def test_unlabelled_texts_never_hold_what_dev_or_test_holds(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", rows_of())
    (tmp_path / "more.csv").write_text(
        "body,lang\ntext number 8 ,en\nnew,en\nnew,en\n,en\ntext number 0,en\nneu,de\nnouveau,fr\n"
    )
    more = UnlabelledSpec(path="more.csv", text="body", language="lang", languages=("en", "de"))
    artifact = prepare(spec_of(unlabelled=more), tmp_path, tmp_path / "runs", 0)
    dataset = load_dataset(artifact)
    assert sorted(dataset.unlabelled.texts) == ["neu", "new", "text number 0"]
    left_out = load_preparation(artifact).unlabelled_left_out
    assert left_out == {"empty": 1, "in_dev_or_test": 1, "duplicates": 1}
    assert set(input_files(spec_of(unlabelled=more), tmp_path)) == {"a.jsonl", "more.csv"}


def test_a_finished_folder_is_reused_and_a_changed_file_is_not(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", rows_of())
    first = prepare(spec_of(), tmp_path, tmp_path / "runs", 0)
    stamp = (first.path / "train.parquet").stat().st_mtime_ns
    again = prepare(spec_of(), tmp_path, tmp_path / "runs", 0)
    assert again.path == first.path
    assert (again.path / "train.parquet").stat().st_mtime_ns == stamp
    write_jsonl(tmp_path / "a.jsonl", rows_of(36))
    assert prepare(spec_of(), tmp_path, tmp_path / "runs", 0).path != first.path
    first.verify()


# --- formats -----------------------------------------------------------------------------------------------

LABELS = st.sampled_from(["a", "b|c", "d, e", "ü"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": TEXTS,
            "language": st.sampled_from(["en", "de"]),
            "sentiment": st.sampled_from(["good", "bad", None]),
            "topics": st.none() | st.lists(LABELS, unique=True, max_size=3),
        }
    ),
    max_size=8,
)
FIXED = [
    {"text": f"{split} {label} {i}", "language": "en", "sentiment": label, "topics": topics, "split": split}
    for split in SPLITS
    for i, (label, topics) in enumerate([("good", ["a"]), ("bad", ["b|c"])])
]


def write_all(folder, rows):
    """The same rows as CSV, JSONL, Parquet and a folder saved by `datasets`; returns the spec of each."""
    import datasets

    names = ["text", "language", "sentiment", "topics", "split"]
    with (folder / "a.csv").open("w", encoding="utf8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            topics = "" if row["topics"] is None else json.dumps(row["topics"], ensure_ascii=False)
            writer.writerow({**row, "sentiment": row["sentiment"] or "", "topics": topics})
    write_jsonl(folder / "a.jsonl", rows)
    schema = pa.schema(
        [*((name, pa.string()) for name in names if name != "topics"), ("topics", pa.list_(pa.string()))]
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, folder / "a.parquet")
    datasets.Dataset(table).save_to_disk(folder / "saved")
    return ("a.csv", "a.jsonl", "a.parquet", "saved")


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, st.randoms(use_true_random=False))
def test_every_format_gives_the_same_data_set(tmp_path_factory, rows, random):
    pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("formats")
    every = FIXED + [{**row, "split": random.choice(SPLITS)} for row in rows]
    tasks = (SENTIMENT, TOPICS)
    found = [load(folder, DataSpec(path=path, split="split", tasks=tasks)) for path in write_all(folder, every)]
    assert len(found) == 4
    for other in found[1:]:
        assert everything(other) == everything(found[0])
        assert other.tasks == found[0].tasks
        assert other.fingerprint == found[0].fingerprint


def test_one_file_a_split_and_a_folder_give_the_same_data_set(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in SPLITS:
        write_jsonl(folder / f"{name}.jsonl", [row for row in rows_of() if row["split"] == name])
    paths = {"train": "folder/train.jsonl", "validation": "folder/dev.jsonl", "test": "folder/test.jsonl"}
    by_name = load(tmp_path, spec_of(paths, split=None, id=None))
    by_folder = load(tmp_path, spec_of("folder", split=None, id=None))
    assert sorted(by_name.train.texts) == sorted(by_folder.train.texts)
    assert everything(by_name) == everything(by_folder)


def test_delimited_cells_are_read_with_the_tasks_delimiter(tmp_path):
    cells = ["", "[]", "price; staff", "staff", "price"] * 6
    lines = [f"text {i},en,{cell}" for i, cell in enumerate(cells)]
    (tmp_path / "a.csv").write_text("text,language,topics\n" + "\n".join(lines))
    task = TaskSpec(name="topics", kind="multi_label", delimiter=";")
    dataset = load(tmp_path, DataSpec(path="a.csv", tasks=(task,)))
    wanted = [[-1, -1], [0, 0], [1, 1], [0, 1], [1, 0]]
    assert dataset.tasks[0].labels == ("price", "staff")
    for name in SPLITS:
        documents = dataset.split(name)
        numbers = [int(text.split()[1]) for text in documents.texts]
        assert documents.labels["topics"].tolist() == [wanted[i % 5] for i in numbers]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.list_view(pa.string()),
        pa.list_(pa.string_view()),
    ],
    ids=str,
)
def test_every_arrow_list_of_text_reads_the_same(tmp_path, kind):
    rows = rows_of()
    topics = [None if i % 4 == 3 else row["topics"] for i, row in enumerate(rows)]
    table = pa.Table.from_pylist([{**row, "topics": None} for row in rows])
    table = table.set_column(table.column_names.index("topics"), "topics", pa.array(topics, kind))
    pq.write_table(table, tmp_path / "a.parquet")
    dataset = load(tmp_path, spec_of("a.parquet"))
    wanted = [[-1, -1] if i % 4 == 3 else ([1, 0], [1, 1], [0, 0])[i % 3] for i in range(30)]
    for name in SPLITS:
        documents = dataset.split(name)
        assert documents.labels["topics"].tolist() == [wanted[int(one[1:])] for one in documents.ids]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000))
def test_made_splits_keep_groups_together_and_repeat(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("groups")
    write_jsonl(folder / "a.jsonl", rows_of(60, group=lambda i: f"g{i // 4}" if i % 7 else None))
    spec = spec_of(split=None, group="group")
    dataset = load(folder, spec, seed)
    groups = [set(dataset.split(name).groups) for name in SPLITS]
    assert all(groups)
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    again = load_dataset(prepare(spec, folder, folder / "again", seed))
    assert again.fingerprint == dataset.fingerprint


def test_the_shared_benchmark_is_read_whole(tmp_path):
    if not (SHARED / "feedback.parquet").exists():
        pytest.skip("../shared/data/feedback.parquet is not here")
    core = ("ar", "de", "en", "es", "fr", "ja", "ko", "nl", "pt", "ru", "tr", "zh")
    tasks = (TaskSpec(name="domain"), SENTIMENT, TOPICS)
    spec = DataSpec(
        path="feedback.parquet",
        language="lang",
        id="id",
        group="group",
        split="split",
        tasks=tasks,
        languages=core,
    )
    dataset = load_dataset(prepare(spec, SHARED, tmp_path, 0))
    assert [len(dataset.split(name)) for name in SPLITS] == [103_688, 25_717, 45_085]
    assert [len(task.labels) for task in dataset.tasks] == [6, 4, 9]
