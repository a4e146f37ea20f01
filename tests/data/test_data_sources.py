"""Bad files are named by file, row and key; good ones read the same whatever the format."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyfold.data.sources import digest_source, read_table
from polyfold.errors import InputError


def refused(folder: Path, name: str, content: bytes) -> InputError:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_table(name, folder)
    return caught.value


def test_a_csv_row_with_a_cell_too_many_is_named(tmp_path):
    error = refused(tmp_path, "a.csv", b'text,language\n"one, quoted\ntext",en\nsecret, words,en\n')
    assert (error.file, error.row) == ("a.csv", 2)
    assert "3 cells where the header has 2" in str(error)
    assert "secret" not in str(error)


def test_an_open_quote_in_csv_is_refused_with_its_row(tmp_path):
    error = refused(tmp_path, "a.csv", b'text,language\nfine,en\n"never closed,en\n')
    assert error.file == "a.csv"
    assert error.row == 2
    assert "not valid CSV" in error.problem


def test_a_csv_header_that_names_a_column_twice_is_refused(tmp_path):
    error = refused(tmp_path, "a.csv", b"text,text\na,b\n")
    assert error.key == "text"


@pytest.mark.parametrize(
    ("name", "content", "row", "offset"),
    [
        ("a.csv", b'text,language\n"two\nlines",en\nbad \xff,en\n', 2, 33),
        ("marked.csv", b"\xef\xbb\xbftext,language\nbad \xff,en\n", 1, 21),
        ("header.csv", b"te\xffxt,language\na,en\n", None, 2),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', 2, 24),
    ],
)
def test_invalid_utf8_is_named_by_row_and_byte(tmp_path, name, content, row, offset):
    assert content[offset] == 0xFF
    error = refused(tmp_path, name, content)
    assert (error.file, error.row) == (name, row)
    assert f"invalid UTF-8 at byte {offset}" in error.problem


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_an_empty_file_says_so(tmp_path, name):
    assert "empty" in refused(tmp_path, name, b"").problem


def test_files_without_rows_say_so(tmp_path):
    assert "no rows" in refused(tmp_path, "a.csv", b"text,language\n").problem
    assert "no rows" in refused(tmp_path, "a.jsonl", b"\n\n").problem
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no rows"):
        read_table("a.parquet", tmp_path)


def test_corrupt_parquet_says_so_wherever_it_is_broken(tmp_path):
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"text": [f"text {i}" for i in range(500)]}), whole)
    content = whole.read_bytes()
    for broken in (b"not parquet at all", content[:-20], content[: len(content) // 2]):
        error = refused(tmp_path, "a.parquet", broken)
        assert error.file == "a.parquet"
        assert "corrupt, or not Parquet" in error.problem


def test_broken_json_is_named_by_row_without_quoting_it(tmp_path):
    error = refused(tmp_path, "a.jsonl", b'{"text": "a"}\n\n{"text": "secret" "b"}\n')
    assert error.row == 2
    assert "at character 19" in error.problem
    assert "secret" not in str(error)


def test_a_json_line_that_is_no_object_is_refused(tmp_path):
    error = refused(tmp_path, "a.jsonl", b'{"text": "a"}\n[1]\n')
    assert error.row == 2
    assert "a list of a number, not an object" in error.problem


@pytest.mark.parametrize(
    ("odd", "found"),
    [
        (b"3", "a number where most rows have text"),
        (b"true", "true or false where most rows have text"),
        (b'["x"]', "a list where most rows have text"),
    ],
)
def test_a_value_unlike_the_rest_of_its_column_is_named(tmp_path, odd, found):
    rows = [b'{"text": "a"}', b'{"text": ' + odd + b"}", b'{"text": "b"}']
    error = refused(tmp_path, "a.jsonl", b"\n".join(rows))
    assert (error.file, error.row, error.key) == ("a.jsonl", 2, "text")
    assert found in error.problem


def test_half_a_surrogate_pair_is_refused(tmp_path):
    error = refused(tmp_path, "a.jsonl", b'{"text": "a"}\n{"text": "\\ud83d"}\n')
    assert (error.row, error.key) == (2, "text")


def test_line_separators_inside_json_texts_do_not_end_a_row(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\u2028b\x85c"}\n', encoding="utf8")
    (part,) = read_table("a.jsonl", tmp_path)
    assert part.table["text"].to_pylist() == ["a\u2028b\x85c"]


def test_an_unknown_suffix_lists_what_is_allowed(tmp_path):
    error = refused(tmp_path, "a.xlsx", b"x")
    assert ".xlsx" in error.problem
    assert ".parquet" in str(error.hint)


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    (tmp_path / "feedback.csv").write_text("text\na\n")
    with pytest.raises(InputError, match=r"did you mean 'feedback\.csv'"):
        read_table("feedbak.csv", tmp_path)


def test_a_folder_without_split_files_says_how_to_name_them(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "all.csv").write_text("text\na\n")
    with pytest.raises(InputError, match="name them train, dev and test"):
        read_table("folder", tmp_path)


def test_a_folder_of_split_files_knows_its_splits(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "train-00000-of-00001.csv").write_text("text\na\nb\n")
    (folder / "validation.jsonl").write_text('{"text": "c"}\n')
    (folder / "notes.csv").write_text("ignored")
    parts = read_table("folder", tmp_path)
    assert {part.split: part.table.num_rows for part in parts} == {"train": 2, "dev": 1}


def test_label_numbers_of_a_saved_data_set_become_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        text=datasets.Value("string"),
        kind=datasets.ClassLabel(names=["good", "bad"]),
        topics=datasets.Sequence(datasets.ClassLabel(names=["x", "y"])),
    )
    rows = datasets.Dataset.from_dict(
        {"text": ["a", "b", "c"], "kind": [1, -1, 0], "topics": [[0, 1], [], None]}, features=features
    )
    datasets.DatasetDict({"train": rows.select([2, 0, 1])}).save_to_disk(tmp_path / "saved")
    (part,) = read_table("saved", tmp_path)
    assert part.split == "train"
    assert part.table["kind"].to_pylist() == ["good", "bad", None]
    assert part.table["topics"].to_pylist() == [None, ["x", "y"], []]


def test_a_hub_id_out_of_reach_is_an_input_error(tmp_path):
    pytest.importorskip("datasets")
    code = (
        "from pathlib import Path\n"
        "from polyfold.data.sources import read_table\n"
        "from polyfold.errors import InputError\n"
        "try:\n    read_table('nobody/nothing', Path('.'))\n"
        "except InputError as error:\n    print(error)\n"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=offline, cwd=tmp_path)
    assert "no data set of this name could be loaded from the hub" in done.stdout


def test_digests_follow_the_content_of_every_file(tmp_path):
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    path = {"train": "train.jsonl", "dev": "dev.jsonl"}
    before = digest_source(path, tmp_path)
    (tmp_path / "dev.jsonl").write_text(json.dumps({"text": "changed"}))
    after = digest_source(path, tmp_path)
    assert before["train.jsonl"] == after["train.jsonl"]
    assert before["dev.jsonl"] != after["dev.jsonl"]
