"""Cutting the embedded encoder gives the model that masking describes, in whatever combination."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from polyfold.model import structure
from polyfold.model.classifier import load_model, save_model
from polyfold.model.flops import encoder_cost
from polyfold.model.magnitudes import magnitudes
from polyfold.model.structure_convolutional import BRANCHES, COLUMNS, RANK
from polyfold.model.use_multilingual import UseConfig
from toys_torch import toy_model

TARGETS = {
    "branches", "branch_width", "embedding_width", "embedding_rank", "sentence_width", "dense_width",
}  # fmt: skip
SEQ = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def model(folder):
    return toy_model(folder, dropout=0.0)


@pytest.fixture(scope="module")
def weights(model):
    return torch.rand(model.classifier.encoder.embedding.num_embeddings) * 5


def documents():
    ids = torch.randint(0, 50, (3, SEQ), generator=torch.Generator().manual_seed(0))
    return ids, (torch.arange(SEQ)[None] < torch.tensor([SEQ, 5, 2])[:, None]).long()


def logits(model):
    with torch.no_grad():
        found = model.classifier.eval()(*documents()).logits
    return torch.cat(list(found.values()), dim=1)


def masked_logits(model, keep, weights=None):
    chosen = [group for group in structure.groups(model.backbone, SEQ) if group.key in keep]
    with structure.gates(model.classifier, chosen, weights) as gates:
        for key, kept in keep.items():
            gates[key].data.zero_()[torch.from_numpy(kept)] = 1.0
        return logits(model)


@st.composite
def keeps(draw, model):
    """Some units of some groups."""
    keep = {}
    for group in structure.groups(model.backbone, SEQ):
        if draw(st.booleans()):
            some = draw(st.sets(st.integers(0, group.units - 1), min_size=1))
            keep[group.key] = np.array(sorted(some))
    return keep


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_pruned_encoder_computes_what_the_masked_one_does(data, model, weights):
    keep = data.draw(keeps(model))
    expected = masked_logits(model, keep, weights)
    before = logits(model)
    small = structure.cut(model, keep, weights)
    assert torch.allclose(logits(small), expected, atol=2e-5, rtol=1e-4)
    assert torch.equal(logits(model), before)
    # And once more: what was cut can be cut again, a factorized table among it.
    again = data.draw(keeps(small))
    assert torch.allclose(
        logits(structure.cut(small, again, weights)), masked_logits(small, again, weights), atol=2e-5, rtol=1e-4
    )


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_costs_are_those_that_torch_counts(data, model):
    keep = data.draw(keeps(model))
    encoder = structure.cut(model, keep).classifier.encoder
    told = structure.cost(model.backbone, SEQ, keep)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(*(part[:1] for part in documents()))
    assert told.flops == counter.get_total_flops() == encoder_cost(encoder, 1, SEQ).flops
    assert told.parameters == sum(parameter.numel() for parameter in encoder.parameters())


def test_every_target_is_there_and_one_unit_less_costs_as_much_less_as_its_group_says(model):
    found = structure.groups(model.backbone, SEQ)
    assert {group.target for group in found} == TARGETS
    whole = structure.cost(model.backbone, SEQ, {})
    for group in found:
        if group.key not in (BRANCHES, RANK):
            less = structure.cost(model.backbone, SEQ, {group.key: np.arange(1, group.units)})
            assert whole.flops - less.flops == group.flops_per_unit > 0, group
            assert whole.parameters - less.parameters == group.parameters_per_unit > 0, group


def test_gates_of_one_change_nothing(model, weights):
    expected = logits(model)
    with structure.gates(model.classifier, structure.groups(model.backbone, SEQ), weights):
        assert torch.allclose(logits(model), expected, atol=1e-5)
    assert torch.equal(logits(model), expected)


def test_without_a_cut_the_same_logits_and_the_same_configuration_come_back(model):
    same = structure.cut(model, {})
    assert same.backbone.config == model.backbone.config
    assert torch.equal(logits(same), logits(model))


def test_a_cut_model_is_saved_and_loaded_and_old_configurations_still_load(model, weights, folder, tmp_path):
    keep = {
        BRANCHES: np.array([0, 2]), ("branch_width", 2): np.array([1, 2, 5]), COLUMNS: np.arange(3, 13),
        RANK: np.arange(6), ("dense_width", 1): np.arange(7), ("sentence_width", 2): np.arange(0, 32, 2),
    }  # fmt: skip
    small = structure.cut(model, keep, weights)
    save_model(small, tmp_path, folder)
    again = load_model(tmp_path)
    assert again.backbone.config["orders"] == [[2, 0], [5, 2]]
    assert again.backbone.config["branch_widths"] == [8, 3]
    assert (again.backbone.width, again.backbone.config["embedding_rank"]) == (16, 6)
    assert torch.equal(logits(again), logits(small))
    old = {"vocab_size": 10, "embedding_width": 4, "branch_width": 3, "sentence_width": 5, "dense_width": 6}
    config = UseConfig(**old)
    assert (config.branch_sizes, config.dense_sizes) == ((3, 3, 3), (5, 6, 6, 5))


def test_factorizing_the_whole_table_changes_no_logit_and_fewer_directions_lose_the_least_they_can(model, weights):
    encoder = model.classifier.encoder
    table = encoder.embedding.weight.detach().double()
    shares = (weights + 1).double().sqrt()[:, None]
    best = torch.linalg.svd(table * shares, full_matrices=False)
    whole = structure.cut(model, {RANK: np.arange(16)}, weights)
    assert torch.allclose(logits(whole), logits(model), atol=1e-5)
    cut = structure.cut(model, {RANK: np.arange(5)}, weights).classifier.encoder
    product = (cut.expansion.weight @ cut.embedding.weight.T).T.detach().double()
    lost = ((table - product) * shares).square().sum()
    # Eckart and Young: no table of rank five comes nearer than the singular values that are left out.
    assert float(lost) == pytest.approx(float(best.S[5:].square().sum()), rel=1e-5)


def test_a_magnitude_is_the_norm_of_what_a_cut_takes_away(model, weights):
    state = model.classifier.encoder.state_dict()
    total = {name: float(value.double().square().sum()) for name, value in state.items()}
    found = structure.groups(model.backbone, SEQ)
    told = magnitudes(model.classifier.encoder, found, weights)
    assert {key: len(values) for key, values in told.items()} == {group.key: group.units for group in found}
    for key, unit in ((("dense_width", 1), 3), (("sentence_width", 1), 0), (COLUMNS, 7)):
        kept = np.delete(np.arange(len(told[key])), unit)
        left = structure.cut(model, {key: kept}).classifier.encoder.state_dict()
        lost = sum(total.values()) - sum(float(value.double().square().sum()) for value in left.values())
        assert told[key][unit] ** 2 == pytest.approx(lost, rel=1e-4), key
    assert (np.diff(told[RANK]) <= 1e-6).all()
