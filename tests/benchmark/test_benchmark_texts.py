"""The texts measured on are distinct, and those that come with Polyfold are the demo's test texts."""

import csv
from pathlib import Path

import pytest

from polyfold.benchmark.texts import OWN, read_texts
from polyfold.errors import InputError

DEMO = Path(__file__).parents[2] / "demo" / "feedback.csv"


def test_the_bundled_texts_are_the_demos_test_texts():
    with DEMO.open(encoding="utf8", newline="") as file:
        test = [row["text"] for row in csv.DictReader(file) if row["split"] == "test"]
    assert OWN.read_text(encoding="utf8").splitlines() == test
    found = read_texts(None, "text", 10_000)
    assert found.given == found.distinct == len(found.used) == 600


def test_duplicates_bring_nothing_and_are_counted(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("comment\n" + "one\ntwo\none\nthree\n" * 5, encoding="utf8")
    found = read_texts(path, "comment", 2)
    assert (found.given, found.distinct, found.used) == (20, 3, ("one", "three"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "id,body\n1,x\n", "there is no such column"),
        ("a.csv", "text\n", "there are no texts in it"),
        ("a.jsonl", '{"text": "x"}\n{"text": 3}\n', "no text here"),
        ("a.txt", "  \n\n", "there are no texts in it"),
        ("a.xml", "<text/>", "names no format"),
    ],
)
def test_a_file_without_texts_is_an_input_error(tmp_path, name, content, said):
    (tmp_path / name).write_text(content, encoding="utf8")
    with pytest.raises(InputError, match=said):
        read_texts(tmp_path / name, "text", 10)


def test_a_plain_files_lines_are_its_texts_whatever_the_column_is_called(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n", encoding="utf8")
    assert read_texts(tmp_path / "a.txt", "comment", 10).used == ("one", "two")
