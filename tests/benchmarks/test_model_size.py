"""The size of the smallest shape on disk, from the real tokenizer and texts: the goal of 30 MB is met."""

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"


@pytest.mark.shapes
def test_minilm_l6_with_twelve_languages_is_at_most_30_mb_in_int8(tmp_path):
    if not (SHARED / "data" / "feedback.parquet").is_file():
        pytest.skip("the benchmark's texts are not here")
    main = runpy.run_path(str(ROOT / "benchmarks" / "model_size.py"))["main"]
    folders = ["--data", str(SHARED / "data"), "--tokenizers", str(SHARED / "tokenizers")]
    main([*folders, "--out", str(tmp_path), "--sizes", "40000", "--texts", "20000"])
    sizes = json.loads((tmp_path / "model_size.json").read_bytes())["size_mb"]["40000"]
    for form in ("int8 static", "int8 dynamic", "int8 weights"):
        assert 20 < sizes[form]["total"] <= 30, form
    assert sizes["fp32"]["total"] > 100 > sizes["fp32, int8 embeddings"]["total"]


def test_the_committed_sizes_meet_the_goal():
    content = json.loads((ROOT / "docs" / "results" / "compression" / "model_size.json").read_bytes())
    assert content["goal"] and set(content["goal"].values()) == {"met"}
    for forms in content["size_mb"].values():
        assert forms["int8 static"]["total"] <= content["goal_mb"]
