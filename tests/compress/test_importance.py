"""Taylor importance is the derivative it says it is."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from polyfold.compress.bench import Bench
from polyfold.compress.importance import at_random, sample, taylor
from polyfold.model import structure
from polyfold.train.teachers import ModelTeacher
from toys_pipeline import convolutional_model, transformer_model

SEQ = 16
STEP = 1e-6


class Divergence:
    """KL divergence from another model's softmax, in double precision, as no training needs it."""

    modules = torch.nn.ModuleDict()
    wanted = frozenset()

    def __init__(self, teacher):
        self.teacher = teacher

    def counts(self, batch):
        return {"logits": float(len(batch))}

    def __call__(self, model, batch):
        taught = self.teacher(batch).logits
        found = model(batch.input_ids, batch.attention_mask).logits
        terms = [
            functional.kl_div(values.log_softmax(-1), taught[name].double().softmax(-1), reduction="sum")
            for name, values in found.items()
        ]
        return {"logits": torch.stack(terms).sum()}


@pytest.fixture(
    scope="module", params=[transformer_model, convolutional_model], ids=["transformer", "convolutional"]
)
def setting(request, tmp_path_factory, toy_data):
    """A model in double precision, its documents, and the distillation loss of another model."""
    folder = tmp_path_factory.mktemp("model")
    model, other = request.param(folder), request.param(folder, seed=1)
    train = Bench(toy_data, folder, folder, 0, "toy", None).encode(model, toy_data.train)
    model.classifier.double()
    return model, train, Divergence(ModelTeacher(other, train))


def loss_of(model, batch, objective):
    counts = objective.counts(batch)
    with torch.no_grad():
        return sum(float(value) / counts[name] for name, value in objective(model.classifier, batch).items())


def test_it_is_the_finite_difference_of_the_loss_by_the_gate(setting):
    model, train, objective = setting
    groups = structure.groups(model.backbone, SEQ)
    weights = torch.ones(model.backbone.config["vocab_size"])
    (batch,) = sample(train, 8, np.random.default_rng(0))
    told = taylor(model.classifier, groups, [batch], objective, weights)
    random = np.random.default_rng(1)
    for group in groups:
        unit = int(random.integers(group.units))
        found = []
        for way in (STEP, -STEP):
            with structure.gates(model.classifier, groups, weights) as gates:
                gates[group.key].data[unit] += way
                found.append(loss_of(model, batch, objective))
        slope = abs(found[0] - found[1]) / (2 * STEP)
        assert told[group.key][unit] == pytest.approx(slope, rel=1e-4, abs=1e-8), (group.key, unit)
    assert all(values.max() > 0 for values in told.values())


def test_of_several_batches_it_is_the_mean(setting):
    model, train, objective = setting
    groups = [group for group in structure.groups(model.backbone, SEQ) if group.layer is not None]
    batches = sample(train, 16, np.random.default_rng(0))
    assert len(batches) == 2
    apart = [taylor(model.classifier, groups, [batch], objective) for batch in batches]
    for key, values in taylor(model.classifier, groups, batches, objective).items():
        assert values == pytest.approx((apart[0][key] + apart[1][key]) / 2)


def test_it_leaves_no_gradient_on_the_model_and_changes_none_of_its_answers(setting):
    model, train, objective = setting
    (batch,) = sample(train, 8, np.random.default_rng(0))
    before = loss_of(model, batch, objective)
    taylor(model.classifier, structure.groups(model.backbone, SEQ), [batch], objective)
    assert loss_of(model, batch, objective) == before
    assert all(parameter.grad is None for parameter in model.classifier.parameters())


def test_a_sample_holds_each_document_once_and_hangs_on_the_generator(setting):
    _, train, _ = setting
    rows = torch.cat([batch.index for batch in sample(train, 20, np.random.default_rng(0))]).tolist()
    assert len(set(rows)) == len(rows) == 20
    again = torch.cat([batch.index for batch in sample(train, 20, np.random.default_rng(1))]).tolist()
    assert sorted(again) != sorted(rows)
    assert sum(len(batch) for batch in sample(train, 10**6, np.random.default_rng(0))) == len(train)


def test_random_importance_differs_by_seed_and_unit(setting):
    model, _, _ = setting
    groups = structure.groups(model.backbone, SEQ)
    one, other = (at_random(groups, np.random.default_rng(seed)) for seed in (0, 1))
    for group in groups:
        assert len(set(one[group.key])) == group.units
        assert not np.array_equal(one[group.key], other[group.key])
