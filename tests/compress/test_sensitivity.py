"""Sensitivity: what is not quantized loses nothing, budgets are kept, and those nothing can meet are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from polyfold.compress.grids import prepare_grids
from polyfold.compress.sensitivity import (
    PLOT,
    TABLE,
    Findings,
    Loss,
    Sensitivity,
    _divergence,
    loss_between,
    measure_sensitivity,
    plot,
)
from polyfold.data.batches import encode
from polyfold.errors import InputError
from polyfold.model.classifier import load_model
from polyfold.tasks import Task
from polyfold.text import open_tokenizer
from polyfold.train.evaluate import predict_logits
from toys_pipeline import toy_samples


@pytest.fixture(scope="module")
def bench(torch_toys, toy_data):
    """A toy model, the dev documents it reads, and its grids."""
    folder = torch_toys["transformer"]["folders"]["fp32"]["torch"]
    model = load_model(folder)
    dev = encode(toy_data.dev, open_tokenizer(folder, model.backbone.tokenizer), model.max_length)
    return model, dev, prepare_grids(model.classifier, toy_samples(model))


@pytest.fixture(scope="module")
def findings(bench):
    model, dev, grids = bench
    return measure_sensitivity(grids, model, dev, Sensitivity(), (), "toy")


def test_every_layer_is_measured_alone_and_all_together_cost_more_than_any(bench, findings):
    assert set(findings.layers) == set(bench[2].layers)
    assert any(name.endswith("word_embeddings") for name in findings.layers)
    assert any(".matmul." in name for name in findings.layers)
    assert all(loss.kl >= 0 for loss in findings.layers.values())
    assert sum(loss.kl > 0 for loss in findings.layers.values()) > 10
    assert findings.together.kl > np.median([loss.kl for loss in findings.layers.values()])
    assert findings.keep == ()


def test_a_layer_that_has_no_quantizer_costs_nothing(bench):
    model, dev, grids = bench
    # Attention's second product stays in floating point on the processor; no layer means no loss.
    nothing = measure_sensitivity(grids, model, dev, Sensitivity(), ["heads"], "toy")
    assert not [name for name in nothing.layers if name.startswith("heads.")]
    with torch.no_grad():
        exact = grids.quantized(grids.layers)
    logits = [predict_logits(one, model.tasks, dev, "toy") for one in (grids.module, exact)]
    assert loss_between(model.tasks, dev, *logits) == Loss(0.0, 0.0)


def test_a_budget_leaves_the_worst_layers_out_until_it_holds(bench, findings):
    model, dev, grids = bench
    budget = 0.3 * findings.together.kl
    found = measure_sensitivity(grids, model, dev, Sensitivity(kl_budget=budget), (), "toy")
    assert found.together.kl <= budget < findings.together.kl
    worst = sorted(found.layers, key=lambda name: -found.layers[name].kl)
    assert found.keep == tuple(worst[: len(found.keep)])
    assert 0 < len(found.keep) < len(worst)
    # One layer fewer would not have done.
    less = measure_sensitivity(grids, model, dev, Sensitivity(), found.keep[:-1], "toy")
    assert less.together.kl > budget


def test_a_budget_that_nothing_can_meet_is_refused(bench):
    model, dev, grids = bench
    with pytest.raises(InputError, match="no layer can be quantized within this budget"):
        measure_sensitivity(grids, model, dev, Sensitivity(kl_budget=0.0), (), "toy")


def test_a_budget_in_macro_f1_needs_labels(bench):
    model, dev, grids = bench
    bare = {name: np.full_like(values, -1) for name, values in dev.documents.labels.items()}
    unlabelled = replace(dev, documents=replace(dev.documents, labels=bare))
    with pytest.raises(InputError, match="needs labelled dev documents"):
        measure_sensitivity(grids, model, unlabelled, Sensitivity(loss_budget_percent=1.0), (), "toy")
    assert Loss(0.1, 0.5).within(Sensitivity(loss_budget_percent=0.5))
    assert not Loss(0.1, 0.6).within(Sensitivity(loss_budget_percent=0.5))
    assert not Loss(0.1, 0.4).within(Sensitivity(loss_budget_percent=0.5, kl_budget=0.05))
    assert Loss(9.0, 99.0).within(Sensitivity())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_divergence_is_that_of_probabilities(seed):
    generator = np.random.default_rng(seed)
    tasks = (
        Task(name="one", labels=("a", "b", "c")),
        Task(name="many", kind="multi_label", labels=("x", "y")),
    )
    p, q = ({"one": generator.normal(0, 3, (5, 3)), "many": generator.normal(0, 3, (5, 2))} for _ in range(2))
    single = (softmax(p["one"], 1) * np.log(softmax(p["one"], 1) / softmax(q["one"], 1))).sum(axis=1).mean()
    on, other = (1 / (1 + np.exp(-one["many"])) for one in (p, q))
    many = (on * np.log(on / other) + (1 - on) * np.log((1 - on) / (1 - other))).sum(axis=1).mean()

    found = np.mean([_divergence(task, p[task.name], q[task.name]) for task in tasks])
    assert found == pytest.approx((single + many) / 2, rel=1e-9)
    assert all(_divergence(task, p[task.name], p[task.name]) == 0 for task in tasks)


def test_the_table_and_its_plot_say_what_was_found(findings, tmp_path):
    kept = Findings(findings.layers, (next(iter(findings.layers)),), findings.together)
    kept.write(tmp_path)
    table = json.loads((tmp_path / TABLE).read_bytes())
    assert table["kept"] == list(kept.keep)
    assert list(table["layers"]) == sorted(table["layers"], key=lambda name: -table["layers"][name]["kl"])
    drawn = (tmp_path / PLOT).read_text(encoding="utf8")
    assert drawn == plot(kept)
    assert drawn.count("<rect") == len(findings.layers)
    assert drawn.count('fill="none"') == 1
    assert all(name in drawn for name in findings.layers)
