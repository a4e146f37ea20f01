"""Bulk prediction: every format says the same, memory stays flat, and a mistake leaves nothing behind."""

import csv
import io
import json
import sys
import tracemalloc
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyfold.bulk import BulkSpec, predict_file
from polyfold.errors import InputError
from polyfold.streams import open_rows
from toys import TOY_TASKS

ODD = ["", 'w1, "w2"', "w3\nw4", "w5 語 😀", " ".join(["w6"] * 30)]


@pytest.fixture(scope="module")
def texts(toy_texts):
    return [*toy_texts, *ODD]


def write_source(folder, suffix, texts, **columns):
    """The same documents in any format, with an id column."""
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    for name, values in columns.items():
        rows = [{**row, name: value} for row, value in zip(rows, values, strict=True)]
    path = folder / f"source{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    else:
        with path.open("w", encoding="utf8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read_target(path):
    """Any output as rows with Python values, the way its reader would take them."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
    with path.open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    for row in rows:
        row["topics"] = row["topics"].split("|") if row["topics"] else []
        row["truncated"] = json.loads(row["truncated"])
        for name in row:
            row[name] = float(row[name]) if ":" in name else row[name]
    return rows


@pytest.mark.parametrize("source", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_all_formats_give_the_predictors_own_answers(onnx_predictor, tmp_path, texts, source):
    path = write_source(tmp_path, source, texts)
    answers = onnx_predictor.predict(texts)
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        target = tmp_path / f"target{suffix}"
        summary = predict_file(onnx_predictor, path, target, BulkSpec(probabilities=True))
        rows = read_target(target)
        assert [row["id"] for row in rows] == [f"d{i}" for i in range(len(texts))]
        for row, answer in zip(rows, answers, strict=True):
            assert {"domain": row["domain"], "topics": row["topics"]} == answer.labels
            assert row["truncated"] is answer.truncated
            for task in TOY_TASKS:
                written = {label: row[f"{task.name}:{label}"] for label in task.labels}
                assert written == {k: round(v, 6) for k, v in answer.probabilities[task.name].items()}
        assert (summary.documents, summary.truncated) == (len(texts), sum(one.truncated for one in answers))
        assert summary.truncated > 0
        assert summary.documents_per_second == pytest.approx(summary.documents / summary.seconds)


@pytest.mark.parametrize("chunk_rows", [1, 7, 64, 65, 10_000])
def test_the_chunk_size_changes_nothing(onnx_predictor, tmp_path, texts, chunk_rows):
    path = write_source(tmp_path, ".csv", texts)
    predict_file(onnx_predictor, path, tmp_path / "all.jsonl")
    predict_file(onnx_predictor, path, tmp_path / "some.jsonl", BulkSpec(chunk_rows=chunk_rows))
    assert (tmp_path / "all.jsonl").read_bytes() == (tmp_path / "some.jsonl").read_bytes()


def test_standard_input_to_standard_output_is_lines_to_jsonl(onnx_predictor, monkeypatch, capfdbinary):
    lines = "w1 w2\n\nw3 語\r\nw4"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.FileIO(1, "w", closefd=False)))
    assert predict_file(onnx_predictor, "-", "-").documents == 4
    rows = [json.loads(line) for line in capfdbinary.readouterr().out.decode().splitlines()]
    answers = onnx_predictor.predict(["w1 w2", "", "w3 語", "w4"])
    assert rows == [{"id": i, **one.labels, "truncated": False} for i, one in enumerate(answers, 1)]


def test_tasks_and_thresholds_reach_the_predictor(onnx_predictor, tmp_path, texts):
    path = write_source(tmp_path, ".csv", texts)
    spec = BulkSpec(tasks=("topics",), thresholds={"topics": 0.0})
    predict_file(onnx_predictor, path, tmp_path / "out.jsonl", spec)
    rows = read_target(tmp_path / "out.jsonl")
    assert all(list(row) == ["id", "topics", "truncated"] for row in rows)
    assert all(row["topics"] == list(TOY_TASKS[1].labels) for row in rows)


def test_the_text_is_written_only_if_asked(onnx_predictor, tmp_path, texts):
    path = write_source(tmp_path, ".jsonl", texts)
    predict_file(onnx_predictor, path, tmp_path / "all.jsonl", BulkSpec(keep="all"))
    assert "text" not in read_target(tmp_path / "all.jsonl")[0]
    for suffix in (".csv", ".jsonl", ".parquet"):
        predict_file(onnx_predictor, path, tmp_path / f"out{suffix}", BulkSpec(include_text=True))
        assert [row["text"] for row in read_target(tmp_path / f"out{suffix}")] == texts


def test_kept_columns_keep_their_values_and_in_parquet_their_types(onnx_predictor, tmp_path, texts):
    stars, tags = list(range(len(texts))), [[f"t{i}", "x|y"] for i in range(len(texts))]
    path = write_source(tmp_path, ".parquet", texts, stars=stars, tags=tags)
    predict_file(onnx_predictor, path, tmp_path / "out.parquet", BulkSpec(keep=("stars", "tags")))
    table = pq.read_table(tmp_path / "out.parquet")
    assert (table["stars"].to_pylist(), table["tags"].to_pylist()) == (stars, tags)
    assert table.schema.field("stars").type == pa.int64()
    predict_file(onnx_predictor, path, tmp_path / "out.csv", BulkSpec(keep="all"))
    rows = read_target(tmp_path / "out.csv")
    assert [int(row["stars"]) for row in rows] == stars
    assert [json.loads(row["tags"]) for row in rows] == tags


def test_numbers_as_ids_in_jsonl_survive_every_target(onnx_predictor, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"key": 5, "text": "w1"}\n\n{"key": "b", "text": "\\ud800"}\n')
    for suffix in (".csv", ".jsonl", ".parquet"):
        spec = BulkSpec(id="key", include_text=True)
        predict_file(onnx_predictor, source, tmp_path / f"out{suffix}", spec)
        assert [str(row["key"]) for row in read_target(tmp_path / f"out{suffix}")] == ["5", "b"]


def test_without_an_id_rows_are_numbered(onnx_predictor, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("text,row\nw1,9\n\nw2,9\n")
    predict_file(onnx_predictor, source, tmp_path / "out.parquet", BulkSpec(keep="all", chunk_rows=1))
    rows = read_target(tmp_path / "out.parquet")
    assert [(row["id"], row["row"]) for row in rows] == [(1, "9"), (2, "9")]


def test_a_kept_column_of_a_tasks_name_asks_for_a_prefix(onnx_predictor, tmp_path, texts):
    path = write_source(tmp_path, ".csv", texts, domain=["gold"] * len(texts))
    with pytest.raises(InputError, match=r"key 'domain'[\s\S]*prefix"):
        predict_file(onnx_predictor, path, tmp_path / "out.csv", BulkSpec(keep="all"))
    predict_file(onnx_predictor, path, tmp_path / "out.jsonl", BulkSpec(keep="all", prefix="predicted_"))
    row = read_target(tmp_path / "out.jsonl")[0]
    assert row["domain"] == "gold"
    assert row["predicted_domain"] in TOY_TASKS[0].labels


def test_a_text_longer_than_csvs_own_limit_is_read(onnx_predictor, tmp_path):
    path = write_source(tmp_path, ".csv", ["w1 " * 100_000])
    assert predict_file(onnx_predictor, path, tmp_path / "out.csv").truncated == 1


BAD = {
    "no column": ("in.csv", b"id,body\n1,w1\n", "key 'text': there is no such column[^>]*-> columns: id, body"),
    "empty csv": ("in.csv", b"", "the file is empty"),
    "header only": ("in.csv", b"id,text\n", "no documents"),
    "empty jsonl": ("in.jsonl", b"", "no documents"),
    "empty lines": ("in.txt", b"", "no documents"),
    "field count": ("in.csv", b"id,text\n1,w1\n2,w1,w2\n", "row 2: 3 fields where the header names 2"),
    "open quote": ("in.csv", b'id,text\n1,w1\n2,"w1\n', "row 2: not valid CSV"),
    "csv bytes": ("in.csv", b"id,text\n1,w1\n2,\xff\n", "row 2: not valid UTF-8"),
    "twice": ("in.csv", b"text,text\nw1,w2\n", "key 'text': two columns"),
    "bad json": ("in.jsonl", b'{"text": "w1"}\n{"text": \n', "row 2: not valid JSON"),
    "no object": ("in.jsonl", b'{"text": "w1"}\n[1]\n', "row 2: not a JSON object"),
    "json bytes": ("in.jsonl", b'{"text": "w1"}\n{"text": "\xff"}\n', "row 2: not valid UTF-8"),
    "no text": ("in.jsonl", b'{"text": "w1"}\n{"body": "w1"}\n', "row 2, key 'text': no text here"),
    "number": ("in.jsonl", b'{"text": "w1"}\n{"text": 3}\n', "row 2, key 'text': the text is int"),
    "no id": ("in.jsonl", b'{"text": "w1", "id": 1}\n{"text": "w2"}\n', "row 2, key 'id': no id here"),
    "line bytes": ("in.txt", b"w1\n\xff\n", "row 2: not valid UTF-8"),
    "no parquet": ("in.parquet", b"PAR1 is not enough", "corrupt, or not Parquet"),
    "suffix": ("in.docx", b"w1", "names no format[^>]*-> use one of .csv"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_its_place_and_leaves_the_old_target(onnx_predictor, tmp_path, case):
    name, content, told = BAD[case]
    (tmp_path / name).write_bytes(content)
    target = tmp_path / "out.jsonl"
    target.write_text("as it was")
    with pytest.raises(InputError, match=told) as caught:
        predict_file(onnx_predictor, tmp_path / name, target, BulkSpec(chunk_rows=1))
    assert str(tmp_path / name) in str(caught.value)
    assert target.read_text() == "as it was"
    assert {path.name for path in tmp_path.iterdir()} == {name, "out.jsonl"}


def test_a_damaged_parquet_page_is_an_input_error(onnx_predictor, tmp_path, texts):
    path = write_source(tmp_path, ".parquet", texts)
    content = bytearray(path.read_bytes())
    content[4:600] = b"\x00" * 596
    path.write_bytes(content)
    with pytest.raises(InputError, match="corrupt"):
        predict_file(onnx_predictor, path, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_mistakes_of_the_call_are_told_before_any_work(onnx_predictor, tmp_path, texts):
    path = write_source(tmp_path, ".csv", texts)
    for source, target, spec, told in (
        (path, path, BulkSpec(), "same file"),
        (tmp_path / "none.csv", tmp_path / "out.csv", BulkSpec(), "No such file"),
        (tmp_path / "none.parquet", tmp_path / "out.csv", BulkSpec(), "no such file"),
        (path, tmp_path / "out.txt", BulkSpec(), "names no format"),
        (path, "-", BulkSpec(target_format="parquet"), "cannot be streamed"),
        (path, tmp_path, BulkSpec(target_format="csv"), "is a folder"),
        (path, path / "below" / "out.csv", BulkSpec(), "cannot write here"),
        (path, tmp_path / "out.csv", BulkSpec(tasks=("weather",)), "no task 'weather'"),
        (path, tmp_path / "out.csv", BulkSpec(label_delimiter="f"), "holds the delimiter"),
        (path, tmp_path / "out.csv", BulkSpec(keep=("nobody",)), "no such column"),
    ):
        with pytest.raises(InputError, match=told):
            predict_file(onnx_predictor, source, target, spec)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_rows_are_read_as_they_are_needed(tmp_path):
    path = tmp_path / "in.csv"
    path.write_bytes(b"text\n" + b"w1\n" * 5000 + b"\xff\n")
    with open_rows(Path(path), "csv") as rows:
        stream = rows.read(["text"])
        assert len(list(islice(stream, 5000))) == 5000
        with pytest.raises(InputError, match="row 5001"):
            next(stream)


def test_memory_does_not_grow_with_the_file(onnx_predictor, tmp_path):
    peaks = []
    for rows in (500, 5000):
        path = tmp_path / f"{rows}.csv"
        path.write_text("text\n" + "".join(f"w{i % 200} w{i % 7}\n" for i in range(rows)))
        tracemalloc.start()
        predict_file(onnx_predictor, path, tmp_path / "out.csv", BulkSpec(chunk_rows=100, probabilities=True))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
