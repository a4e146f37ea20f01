"""The laws of the speed baseline: what it is, where it comes from, and that it is known when it is random."""

import json

import numpy as np
import pytest
import torch

from polyfold.errors import InputError
from polyfold.measure import baseline as baselines
from polyfold.measure.baseline import KNOWN_SHAPES, load_baseline
from toys_pipeline import toy_ids, toy_rows, write_hub_folder

SMALL = {
    "model_type": "bert", "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16, "max_position_embeddings": 140,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_hub_folder(tmp_path_factory.mktemp("baseline") / "toy-bert")


@pytest.fixture
def no_hub(monkeypatch):
    """A hub out of reach, without waiting for it; one small shape is known."""
    monkeypatch.setattr(baselines, "hub_options", lambda _: {"local_files_only": True})
    monkeypatch.setattr(baselines, "KNOWN_SHAPES", {"nobody/toy": SMALL})


def test_a_local_folder_is_loaded_with_its_weights_and_tokenizer(folder):
    baseline = load_baseline("toy-bert", None, folder.parent, max_length=8)
    assert (baseline.name, baseline.weights) == ("toy-bert", "trained")
    encoding = baseline.own_tokenizer.encode([row["text"] for row in toy_rows()])
    assert len(encoding) == 60
    assert encoding.lengths.max() == 8
    ids, mask = toy_ids(100, (3, 8))
    states = baseline.run_ids(ids, mask).last_hidden_state
    assert states.shape == (3, 8, 32)
    assert states.is_inference()
    table = baseline.encoder.get_input_embeddings().weight
    assert baseline.parameters - baseline.trunk_parameters == table.numel()
    assert not baseline.encoder.training


def test_a_folder_that_says_its_weights_are_random_is_believed(folder, tmp_path):
    copied = write_hub_folder(tmp_path / "toy-bert")
    settings = json.loads((copied / "config.json").read_text(encoding="utf8"))
    (copied / "config.json").write_text(json.dumps({**settings, "polyfold_random_weights": True}), encoding="utf8")
    assert load_baseline("toy-bert", None, tmp_path, 8).weights == "random"


def test_a_known_shape_out_of_reach_is_built_with_the_same_random_weights_each_time(no_hub, tmp_path):
    before = torch.get_rng_state()
    first, second = (load_baseline("nobody/toy", None, tmp_path, 8) for _ in range(2))
    assert first.weights == second.weights == "random"
    assert first.own_tokenizer is None
    ids, mask = toy_ids(100, (2, 8))
    left, right = (one.run_ids(ids, mask).last_hidden_state.numpy() for one in (first, second))
    np.testing.assert_array_equal(left, right)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_random_baseline_may_be_given_a_tokenizer(no_hub, folder):
    baseline = load_baseline("nobody/toy", "toy-bert/tokenizer.json", folder.parent, max_length=8)
    assert baseline.own_tokenizer.encode(["the parcel came"]).lengths.max() <= 8


def test_an_unknown_name_out_of_reach_is_refused_with_what_is_allowed(no_hub, tmp_path):
    with pytest.raises(InputError, match=r"measure\.baseline.*nobody/else.*cannot be loaded[\s\S]*nobody/toy"):
        load_baseline("nobody/else", None, tmp_path, 8)


def test_a_tokenizer_that_is_not_there_is_refused(folder):
    with pytest.raises(InputError, match=r"measure\.baseline_tokenizer"):
        load_baseline("toy-bert", "none.json", folder.parent, 8)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("FacebookAI/xlm-roberta-base", 277.45), ("google-bert/bert-base-multilingual-cased", 177.26)],
)
def test_the_known_shapes_have_the_published_sizes(name, millions):
    # The published counts (278.0 and 177.9 million) less the pooling layer, which no classifier here reads.
    with torch.device("meta"):
        encoder = baselines._random(KNOWN_SHAPES[name])
    assert sum(one.numel() for one in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
