"""Texts to count on come from any of the formats alike, and what cannot be read is said."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyfold.artifact import digest_file
from polyfold.errors import InputError
from polyfold.model.corpus import CorpusSpec, corpus_files, read_corpus

ROWS = [("en", "the room"), ("de", "das Zimmer"), ("ja", '部屋, "静か"'), ("en", "")]
TEXTS = [text for _, text in ROWS if text]
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def write(path):
    rows = [{"lang": language, "text": text, "stars": 3} for language, text in ROWS]
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
        case ".txt":
            path.write_text("".join(f"{text}\n" for _, text in ROWS), encoding="utf8")
        case _:
            with path.open("w", encoding="utf8", newline="") as file:
                writer = csv.DictWriter(
                    file, ["lang", "text", "stars"], delimiter="\t" if path.suffix == ".tsv" else ","
                )
                writer.writeheader()
                writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_texts_with_their_languages(tmp_path, suffix):
    write(tmp_path / f"some{suffix}")
    spec = CorpusSpec(path=f"some{suffix}", language="lang")
    assert list(read_corpus(spec, tmp_path)) == ROWS[:3]
    nameless = CorpusSpec(path=f"some{suffix}")
    assert list(read_corpus(nameless, tmp_path)) == [("und", text) for text in TEXTS]
    assert list(read_corpus(CorpusSpec(path=f"some{suffix}", limit=2), tmp_path)) == [
        ("und", t) for t in TEXTS[:2]
    ]


def test_of_a_text_file_every_line_is_a_text(tmp_path):
    write(tmp_path / "some.txt")
    assert [text for _, text in read_corpus(CorpusSpec(path="some.txt"), tmp_path)] == TEXTS


def test_the_digest_is_the_files_own_and_absolute_paths_are_taken_as_they_are(tmp_path):
    path = write(tmp_path / "some.csv")
    assert corpus_files(CorpusSpec(path="some.csv"), tmp_path) == {"some.csv": digest_file(path)}
    assert corpus_files(CorpusSpec(path=str(path)), tmp_path / "elsewhere") == {str(path): digest_file(path)}


def test_a_corpus_that_is_not_there_is_refused(tmp_path):
    for use in (corpus_files, lambda spec, base: list(read_corpus(spec, base))):
        with pytest.raises(InputError, match=r"none\.csv(.|\n)*no such corpus"):
            use(CorpusSpec(path="none.csv"), tmp_path)
        with pytest.raises(InputError, match="folder"):
            use(CorpusSpec(path="."), tmp_path)
        (tmp_path / "some.doc").write_text("the room", encoding="utf8")
        with pytest.raises(InputError, match=r"\.doc"):
            use(CorpusSpec(path="some.doc"), tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path, suffix):
    write(tmp_path / f"some{suffix}")
    for spec in (
        CorpusSpec(path=f"some{suffix}", text="body"),
        CorpusSpec(path=f"some{suffix}", language="body"),
    ):
        with pytest.raises(InputError, match=r"'body'(.|\n)*lang, text, stars"):
            list(read_corpus(spec, tmp_path))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_column_of_numbers_is_no_text(tmp_path, suffix):
    write(tmp_path / f"some{suffix}")
    with pytest.raises(InputError, match=r"row 1, key 'stars': not text"):
        list(read_corpus(CorpusSpec(path=f"some{suffix}", text="stars"), tmp_path))


def test_a_corpus_without_any_text_is_refused(tmp_path):
    (tmp_path / "blank.txt").write_text("\n  \n", encoding="utf8")
    with pytest.raises(InputError, match="no text"):
        list(read_corpus(CorpusSpec(path="blank.txt"), tmp_path))
