"""Cutting a transformer gives the model that masking describes, whatever is cut and however often."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyfold.errors import InputError
from polyfold.model import structure
from polyfold.model.factorized import FactorizedEmbedding
from polyfold.model.flops import encoder_cost
from polyfold.model.layout import layout_of, sizes_of
from toys_families import FAMILIES, HEADS, LAYERS, NEURONS, VOCAB, WIDTH, family_model, logits, toy_batch

PER_LAYER = {"heads": HEADS, "feed_forward": NEURONS}
WHOLE = {"layers": LAYERS, "width": WIDTH, "embedding_rank": WIDTH}
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def models():
    return {family: family_model(family) for family in FAMILIES}


def subset(units):
    return st.sets(st.integers(0, units - 1), min_size=1).map(lambda kept: np.array(sorted(kept)))


@st.composite
def keeps(draw, targets=("heads", "feed_forward", "layers", "width", "embedding_rank")):
    """Some units of some groups of the toys."""
    keep = {}
    for target in targets:
        if target in WHOLE and draw(st.booleans()):
            keep[target, None] = draw(subset(WHOLE[target]))
        for layer in range(LAYERS) if target in PER_LAYER else ():
            if draw(st.booleans()):
                keep[target, layer] = draw(subset(PER_LAYER[target]))
    return keep


def masked_logits(model, keep, piece_weights=None):
    chosen = [group for group in structure.groups(model.backbone, 8) if group.key in keep]
    with structure.gates(model.classifier, chosen, piece_weights) as gates:
        for key, kept in keep.items():
            gone = torch.ones(len(gates[key]), dtype=torch.bool)
            gone[torch.from_numpy(kept)] = False
            gates[key].data[gone] = 0.0
        return logits(model)


@pytest.mark.parametrize("family", FAMILIES)
@few
@given(data=st.data())
def test_a_pruned_model_computes_what_the_masked_one_does(family, models, data):
    keep = data.draw(keeps())
    expected = masked_logits(models[family], keep)
    assert torch.allclose(logits(structure.cut(models[family], keep)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("target", [*PER_LAYER, *WHOLE])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_target_changes_what_the_model_computes(family, target, models):
    key = (target, 1 if target in PER_LAYER else None)
    units = {**PER_LAYER, **WHOLE}[target]
    keep = {key: np.arange(1, units)}
    before = logits(models[family])
    cut = logits(structure.cut(models[family], keep))
    assert torch.allclose(cut, masked_logits(models[family], keep), atol=1e-5)
    assert not torch.allclose(cut, before, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_everything_changes_no_logit_and_neither_do_gates_of_one(family, models):
    model = models[family]
    keep = {group.key: np.arange(group.units) for group in structure.groups(model.backbone, 8)}
    before = logits(model)
    assert torch.allclose(logits(structure.cut(model, keep)), before, atol=1e-5)
    assert torch.allclose(masked_logits(model, keep), before, atol=1e-5)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("family", FAMILIES)
@few
@given(data=st.data())
def test_pruning_twice_is_pruning_once_by_what_stays_both_times(family, models, data):
    model = models[family]
    first = data.draw(keeps(targets=("heads", "feed_forward", "width")))
    once = structure.cut(model, first)
    second, both = {}, dict(first)
    for group in structure.groups(once.backbone, 8):
        if group.target in ("heads", "feed_forward", "width") and data.draw(st.booleans()):
            second[group.key] = data.draw(subset(group.units))
            both[group.key] = first.get(group.key, np.arange(group.units))[second[group.key]]
    twice = structure.cut(once, second)
    assert torch.allclose(logits(twice), logits(structure.cut(model, both)), atol=1e-5)
    assert twice.backbone.family == structure.cut(model, both).backbone.family


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_ranks_pruned_twice_are_those_that_stay_both_times(family, models):
    model = models[family]
    once = structure.cut(model, {("layers", None): np.array([1, 2]), ("embedding_rank", None): np.arange(9)})
    twice = structure.cut(once, {("layers", None): np.array([1]), ("embedding_rank", None): np.arange(5)})
    direct = structure.cut(model, {("layers", None): np.array([2]), ("embedding_rank", None): np.arange(5)})
    assert torch.allclose(logits(twice), logits(direct), atol=1e-5)


def test_a_truncated_rank_is_the_model_with_the_best_table_of_that_rank(models):
    model = models["xlm-roberta"]
    weights = torch.arange(VOCAB).float()
    kept = 6
    cut = structure.cut(model, {("embedding_rank", None): np.arange(kept)}, weights)
    tokens = cut.classifier.encoder.encoder.embeddings.word_embeddings
    assert isinstance(tokens, FactorizedEmbedding)
    table = model.classifier.encoder.encoder.embeddings.word_embeddings.weight.detach()
    # Independently: scale rows by the root of their weight, cut the singular values, scale back.
    roots = (weights.double() + 1.0).sqrt()[:, None]
    left, values, right = torch.linalg.svd(roots * table.double(), full_matrices=False)
    best = (left[:, :kept] * values[:kept]) @ right[:kept] / roots
    assert torch.allclose(tokens(torch.arange(VOCAB)).double(), best, atol=1e-5)
    replaced = structure.cut(model, {})
    with torch.no_grad():
        replaced.classifier.encoder.encoder.embeddings.word_embeddings.weight.copy_(best)
    assert torch.allclose(logits(cut), logits(replaced), atol=1e-5)


def test_weights_choose_other_directions(models):
    model = models["bert"]
    keep = {("embedding_rank", None): np.arange(4)}
    weights = torch.zeros(VOCAB)
    weights[:6] = 1e6
    plain, weighed = structure.cut(model, keep), structure.cut(model, keep, weights)
    rows = model.classifier.encoder.encoder.embeddings.word_embeddings.weight.detach()[:6]

    def error(cut):
        return (cut.classifier.encoder.encoder.embeddings.word_embeddings(torch.arange(6)) - rows).square().sum()

    assert error(weighed) < error(plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gates_gradient_is_what_a_small_step_of_the_gate_changes(family):
    model, step = family_model(family), 1e-3
    model.classifier.double()
    with structure.gates(model.classifier, structure.groups(model.backbone, 8)) as gates:
        _loss(model).backward()
        for key, gate in gates.items():
            for unit in (0, len(gate) - 1):
                found = []
                for sign in (1.0, -1.0):
                    with torch.no_grad():
                        gate.data[unit] = 1.0 + sign * step
                        found.append(float(_loss(model)))
                gate.data[unit] = 1.0
                slope = (found[0] - found[1]) / (2 * step)
                assert slope == pytest.approx(float(gate.grad[unit]), rel=2e-3, abs=1e-4), key


def _loss(model):
    outputs = model.classifier(*toy_batch())
    return sum(values.square().sum() for values in outputs.logits.values())


def test_leaving_the_gates_leaves_the_model_as_it_was(models):
    model = models["bert"]
    before = logits(model)
    groups = structure.groups(model.backbone, 8)
    with structure.gates(model.classifier, groups) as gates:
        for gate in gates.values():
            gate.data.fill_(0.5)
        assert not torch.allclose(logits(model), before)
    assert torch.equal(logits(model), before)
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in model.classifier.modules())


@pytest.mark.parametrize("target", [*PER_LAYER, *WHOLE])
def test_removing_all_units_of_a_group_is_refused(target, models):
    key = (target, 0 if target in PER_LAYER else None)
    with pytest.raises(InputError, match="would remove all"):
        structure.cut(models["bert"], {key: np.array([], dtype=np.int64)})


@pytest.mark.parametrize("key", [("heads", LAYERS), ("branches", None), ("heads", None), ("width", 0)])
def test_groups_that_are_not_there_are_refused(key, models):
    with pytest.raises(InputError, match="has no units"):
        structure.cut(models["bert"], {key: np.array([0])})


@pytest.mark.parametrize("unit", [-1, HEADS])
def test_units_that_are_not_there_are_refused(unit, models):
    with pytest.raises(InputError, match=f"has no unit {unit}"):
        structure.cut(models["bert"], {("heads", 0): np.array([0, unit])})


@pytest.mark.parametrize("family", FAMILIES)
@few
@given(data=st.data())
def test_the_cost_foretold_is_the_cost_of_the_cut_model(family, models, data):
    keep = data.draw(keeps())
    model = models[family]
    found = structure.cost(model.backbone, 7, keep)
    assert found == encoder_cost(structure.cut(model, keep).classifier.encoder, 1, 7)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_groups_figures_are_what_removing_one_unit_saves(family, models):
    model = models[family]
    groups = structure.groups(model.backbone, 7)
    assert {group.key for group in groups} == {
        *((target, None) for target in WHOLE),
        *((target, layer) for target in PER_LAYER for layer in range(LAYERS)),
    }
    for group in groups:
        before = structure.cost(model.backbone, 7, {group.key: np.arange(group.units)})
        after = structure.cost(model.backbone, 7, {group.key: np.arange(group.units - 1)})
        assert before.flops - after.flops == group.flops_per_unit
        # A ModernBERT layer is a norm more than its first.
        spare = WIDTH if group.target == "layers" and family == "modernbert" else 0
        assert before.parameters - after.parameters == pytest.approx(group.parameters_per_unit, abs=spare)


@pytest.mark.parametrize("family", FAMILIES)
def test_cutting_does_not_touch_the_model_it_was_given(family, models):
    model = models[family]
    layout = layout_of(family)
    state = {name: value.clone() for name, value in model.classifier.state_dict().items()}
    sizes, config = sizes_of(model.classifier.encoder.encoder, layout), dict(model.backbone.config)
    cut = structure.cut(model, {("heads", 0): np.array([2]), ("width", None): np.arange(10)})
    with torch.no_grad():
        for parameter in cut.classifier.parameters():
            parameter.fill_(7.0)
    assert sizes_of(model.classifier.encoder.encoder, layout) == sizes
    assert dict(model.backbone.config) == config
    for name, value in model.classifier.state_dict().items():
        assert torch.equal(value, state[name]), name
