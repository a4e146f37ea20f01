"""Timing of pruned structures: what is rebuilt is what was pruned, and a ratio is that of neighbours."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import compression_speed as speed  # noqa: E402

RESULTS = ROOT / "docs" / "results" / "compression"
LABELS = sum(len(task.labels) for task in speed.TASKS)
TRANSFORMER = {
    "vocab_size": 5000, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 128, "pad_token_id": None, "model_type": "bert",
}  # fmt: skip
PRUNED = TRANSFORMER | {
    "num_attention_heads": 1, "layer_heads": [1, 3], "layer_feed_forward": [24, 40], "head_size": 8,
    "embedding_rank": None, "model_type": "polyfold-bert",
}  # fmt: skip
ENCODER = {
    "vocab_size": 5000, "embedding_width": 32, "branch_width": 16, "orders": [[2, 0], [3, 1]],
    "sentence_width": 24, "dense_width": 16, "model_type": "use-multilingual",
}  # fmt: skip


@pytest.fixture
def structures(tmp_path):
    """A folder with two groups of toy structures."""
    content = {
        "transformer/large": TRANSFORMER,
        "transformer/cut": PRUNED,
        "encoder/teacher": ENCODER,
        "encoder/narrow": ENCODER | {"branch_widths": [8, 4]},
    }
    (tmp_path / "structures.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("name", ["layers-3", "flops-25-gradual", "width-50", "embedding-rank-25"])
def test_a_rebuilt_transformer_costs_what_its_pruning_run_counted(name):
    config = json.loads((RESULTS / "structures.json").read_bytes())[f"transformer/{name}"]
    counted = json.loads((RESULTS / "pruning-transformer" / "dev.json").read_bytes())["rows"][name]
    model = speed.rebuilt(config)
    heads = config["hidden_size"] * LABELS
    assert speed.model_cost(model, 1, 128).flops == counted["flops_after"] + 2 * heads
    assert speed.whole_parameters(model, config) == counted["parameters_after"] + heads + LABELS


def test_rebuilt_encoders_cost_what_their_report_says():
    found = json.loads((RESULTS / "structures.json").read_bytes())
    report = json.loads((RESULTS / "pruning-encoder" / "report.json").read_bytes())
    rows = {row["name"].removesuffix(".prune"): row for row in report["rows"] if row["stage"] != "student"}
    names = [name for name in found if name.startswith("encoder/")]
    assert len(names) == len(rows) == 17
    for name in names:
        model, row = speed.rebuilt(found[name], table_rows=10), rows[name.removeprefix("encoder/")]
        assert speed.model_cost(model, 1, 128).flops / 1e6 == pytest.approx(row["mflops_per_document"])
        assert speed.whole_parameters(model, found[name]) / 1e6 == pytest.approx(row["parameters_million"])


def test_every_structure_is_timed_against_its_own_whole_one(structures, tmp_path):
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--rounds", "2", "--seconds", "0", "--documents", "9", "--data", str(tmp_path)]
    assert speed.main([str(structures), *arguments]) == 0
    found = speed.SpeedFile.model_validate_json((out / "speed.json").read_bytes())
    assert "random" in found.weights and "never scored" in found.weights
    assert found.command.startswith("python benchmarks/compression_speed.py") and found.documents == 9
    whole = {name: one.whole for name, one in found.structures.items()}
    assert whole == {
        "transformer/large": "transformer/large", "transformer/cut": "transformer/large",
        "encoder/teacher": "encoder/teacher", "encoder/narrow": "encoder/teacher",
    }  # fmt: skip
    for group, cut in (("transformer/large", "transformer/cut"), ("encoder/teacher", "encoder/narrow")):
        before, after = found.structures[group], found.structures[cut]
        assert after.mflops_per_document < before.mflops_per_document and after.parameters < before.parameters
        assert set(after.speed) == {"dense_32x128", "real_lengths"}
        assert all(one.rounds == 2 and one.speedup_least > 0 for one in after.speed.values())


def test_one_structure_brings_only_its_own_whole_one(structures):
    assert list(speed.read_structures(structures, ["encoder/narrow"])) == ["encoder/teacher", "encoder/narrow"]


def test_a_structure_that_is_not_there_is_the_users_mistake(structures, tmp_path, capsys):
    assert speed.main([str(structures), "--only", "encoder/none"]) == 2
    assert "no structure is named 'encoder/none'" in capsys.readouterr().err
    assert speed.main([str(tmp_path / "elsewhere")]) == 2
    assert "structures.json" in capsys.readouterr().err


@given(st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e4)), min_size=1, max_size=9))
def test_a_speedup_is_the_median_of_ratios_of_neighbours_and_lies_between_its_extremes(pairs):
    found = speed.timed(pairs)
    ratios = [own / whole for own, whole in pairs]
    assert found.speedup == pytest.approx(np.median(ratios), abs=1e-4)
    assert found.speedup_least <= found.speedup <= found.speedup_most and found.rounds == len(pairs)
    # Both sides three times as slow, as when the machine is busy: the ratio does not see it.
    assert speed.timed([(own / 3, whole / 3) for own, whole in pairs]).speedup == pytest.approx(
        found.speedup, abs=2e-4
    )


def test_rounds_take_turns_in_who_begins():
    order = []

    def subject(name):
        return speed.Subject(1, 1.0, {"work": lambda: order.append(name)}, {"work": 1})

    for number in range(3):
        speed.in_turns(subject("cut"), subject("whole"), "work", number, 0.0)
    assert order == ["cut", "whole", "whole", "cut", "cut", "whole"]


def test_lengths_without_texts_are_those_of_real_ones(tmp_path):
    lengths, told = speed.lengths_of(tmp_path, 4000)
    assert "log-normal" in told and len(lengths) == 4000 and lengths.min() >= 3 and lengths.max() <= 128
    assert np.median(lengths) == pytest.approx(20.5, abs=1.5)
    assert np.percentile(lengths, 95) == pytest.approx(64, rel=0.1)
    assert (lengths == speed.lengths_of(tmp_path, 4000)[0]).all()


def test_lengths_of_real_texts_are_their_token_counts():
    data = ROOT / ".." / "shared" / "data"
    if not (data / "feedback.parquet").is_file():
        pytest.skip("the benchmark's texts are not here")
    lengths, told = speed.lengths_of(data, 64)
    assert "test texts" in told and len(lengths) == 64 and 3 <= lengths.min() <= lengths.max() <= 128
