"""The benchmark of trimmed vocabularies: its figures are what a plain count gives, and hold no text."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyfold.text import TokenizerSpec, open_tokenizer
from toys_torch import WORDS, write_word_piece_json, write_xlm_r_json

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("vocabulary_benchmark", ROOT / "benchmarks" / "vocabulary.py")
assert SPEC is not None and SPEC.loader is not None
vocabulary = importlib.util.module_from_spec(SPEC)
sys.modules["vocabulary_benchmark"] = vocabulary  # dataclasses look their module up
SPEC.loader.exec_module(vocabulary)

FILES = {"xlm-roberta": write_xlm_r_json, "bert-base-multilingual-cased": write_word_piece_json}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """The benchmark run on toy texts: its folder and what it wrote."""
    root = tmp_path_factory.mktemp("benchmark")
    rows = [
        {"text": f"{word} {other}", "lang": language, "split": split}
        for language in (*vocabulary.LANGUAGES, "th")
        for place, (word, other) in enumerate(zip(WORDS, reversed(WORDS), strict=True))
        for split in ("train" if place % 3 else "test",)
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "feedback.parquet")
    some = [
        {"text": word, "lang": language, "source": "toy"} for word in WORDS[:9] for language in ("en", "de", "th")
    ]
    pq.write_table(pa.Table.from_pylist(some), root / "corpus.parquet")
    for name, write in FILES.items():
        write(root / f"{name}.json")
        (root / f"{name}.json.gz").write_bytes(gzip.compress((root / f"{name}.json").read_bytes()))
    arguments = ["--data", str(root), "--tokenizers", str(root), "--out", str(root / "out")]
    assert vocabulary.main(arguments) == 0
    return root, rows, json.loads((root / "out" / "vocabulary.json").read_bytes())


def test_every_setting_is_there_for_both_tokenizers(made):
    _, rows, content = made
    names = [(one["tokenizer"], one["counted"], one["setting"]) for one in content["results"]]
    assert len(set(names)) == len(names) == 2 * (1 + len(vocabulary.SETTINGS))
    ours = [row for row in rows if row["lang"] != "th"]
    assert content["train_texts"] == sum(row["split"] == "train" for row in ours)
    assert content["test_texts"] == sum(row["split"] == "test" for row in ours)
    assert content["corpus_texts"] == 18


def test_the_full_vocabulary_changes_nothing_and_sizes_are_rows_times_bytes(made):
    root, _, content = made
    for one in content["results"]:
        assert one["table_mb"]["384_fp32"] == pytest.approx(one["pieces"] * 384 * 4 / 1e6, abs=0.01)
        assert one["table_mb"]["768_int8"] == pytest.approx(one["pieces"] * 772 / 1e6, abs=0.01)
        assert 0 <= one["gained_unknown"] <= one["changed"] <= 1
        assert set(one["changed_by_language"]) == set(vocabulary.LANGUAGES)
        if one["setting"] == "the full vocabulary":
            assert one["changed"] == one["gained_unknown"] == 0
            assert one["tokens_ratio"] == 1
            name = "xlm-roberta" if one["tokenizer"] == "XLM-R" else "bert-base-multilingual-cased"
            spec = TokenizerSpec(kind="tokenizers", file=f"{name}.json", pad_id=0)
            assert one["pieces"] == open_tokenizer(root, spec).vocabulary_size


def test_less_coverage_and_smaller_sizes_leave_fewer_pieces_and_change_more(made):
    _, _, content = made
    for name in ("XLM-R", "mBERT"):
        found = {
            one["setting"]: one
            for one in content["results"]
            if one["tokenizer"] == name and one["counted"] == "all"
        }
        wide, narrow = found["coverage 1"], found["coverage 0.99"]
        assert narrow["pieces"] <= wide["pieces"]
        assert narrow["changed"] >= wide["changed"]
        assert found["coverage 1, all pieces of the scripts"]["changed"] == 0


def test_nothing_that_is_written_holds_a_text(made):
    root, _, _ = made
    for name in ("vocabulary.json", "vocabulary.md"):
        written = (root / "out" / name).read_text(encoding="utf8")
        assert not [word for word in WORDS if len(word) > 5 and word in written]
    table = [
        line for line in (root / "out" / "vocabulary.md").read_text(encoding="utf8").splitlines() if "|" in line
    ]
    assert len(table) == 2 + 2 * (1 + len(vocabulary.SETTINGS))
    assert len({line.count("|") for line in table}) == 1


def test_limits_draw_evenly_and_missing_files_are_said(made, tmp_path, capsys):
    root, _, _ = made
    texts = vocabulary.read_texts(root, 6, 24)
    assert len(texts.corpus) == 6
    assert {language for language, _ in texts.test} == set(vocabulary.LANGUAGES)
    assert vocabulary.main(["--data", str(tmp_path), "--tokenizers", str(root), "--out", str(tmp_path)]) == 2
    assert "feedback.parquet" in capsys.readouterr().err
    assert vocabulary.main(["--data", str(root), "--tokenizers", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "no such tokenizer" in capsys.readouterr().err
