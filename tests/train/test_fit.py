"""The loop: the same weights however a step is cut, the best epoch's weights, its rates, and its complaints."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_fit import close, fit_spec, same, state, toy_transformer, train_toy

from polyfold.batch import Taught
from polyfold.data.batches import BatchSpec, encode
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.text import open_tokenizer
from polyfold.train.evaluate import dev_scores
from polyfold.train.fit import FitSpec, learning_rate_factor
from toys_torch import toy_documents, toy_model


def scripted(scores, states=None):
    """A dev score that follows a script; keeps the weights it was asked about."""
    left = iter(scores)

    def evaluate(module):
        if states is not None:
            states.append({name: value.detach().clone() for name, value in module.state_dict().items()})
        return {"domain": next(left)}

    return evaluate


def test_training_learns_what_the_words_say(tmp_path):
    documents = toy_documents(40, 1, missing=0.1)
    model = toy_model(tmp_path / "source")
    own = encode(documents, open_tokenizer(tmp_path / "source", model.backbone.tokenizer), model.max_length)
    spec = fit_spec(epochs=12, learning_rate=0.02)
    _, result = train_toy(
        tmp_path, spec, model=model, documents=documents, evaluate=dev_scores(model.tasks, own, "toy")
    )
    scores = [entry["mean"] for entry in result.history]
    assert scores[0] < 0.6
    assert result.best_score == max(scores) > 0.95
    assert result.best_epoch == int(np.argmax(scores))
    assert result.steps == 12 * 5


@pytest.mark.parametrize(
    "batch",
    [
        {"token_budget": 10_000},
        {"token_budget": 24},
        {"token_budget": 1},
        {"token_budget": 60, "length_grouping": "none"},
    ],
)
def test_the_weights_are_the_same_however_steps_are_cut_into_batches(batch, tmp_path):
    found = []
    for name, change in (("usual", {}), ("cut", batch)):
        spec = fit_spec(epochs=1, batch=BatchSpec(documents_per_step=8, token_budget=40).model_copy(update=change))
        folder = tmp_path / name
        found.append(state(train_toy(folder, spec, losses=(LabelLoss(class_weights="balanced"),))[0]))
    assert close(*found)


@pytest.mark.parametrize("budget", [24, 90, 10_000])
def test_a_transformer_that_leaves_padding_out_trains_as_it_does_in_padded_batches(budget, tmp_path, monkeypatch):
    def trained(name):
        spec = fit_spec(epochs=1, learning_rate=1e-3, batch=BatchSpec(documents_per_step=8, token_budget=budget))
        model = toy_transformer(tmp_path / name / "source")
        return state(train_toy(tmp_path / name, spec, model=model)[0])

    short = trained("short")
    with monkeypatch.context() as patch:
        # As for a family whose layers are not known.
        patch.setattr("polyfold.model.first_token.FAMILIES", frozenset())
        padded = trained("padded")
    assert close(short, padded)
    assert not same(short, state(toy_transformer(tmp_path / "other")))


def test_a_run_begun_in_bf16_ends_in_it_where_another_precision_would_be_chosen_now(tmp_path, monkeypatch):
    class Dies(Exception):
        pass

    def die(*_):
        raise Dies

    chosen = ["bf16", "fp32"]
    monkeypatch.setattr("polyfold.train.fit.choose_precision", lambda *_: chosen[0])
    spec = fit_spec(checkpoint_minutes=0.0)
    whole = state(train_toy(tmp_path / "whole", spec)[0])
    with pytest.raises(Dies):
        train_toy(tmp_path / "killed", spec, evaluate=die)
    chosen.reverse()
    assert same(state(train_toy(tmp_path / "killed", spec)[0]), whole)
    assert not same(state(train_toy(tmp_path / "fresh", spec)[0]), whole)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    spec = fit_spec(epochs=1, head_dropout=0.3, token_dropout=0.3)
    states = [
        state(train_toy(tmp_path / name, spec, seed=seed)[0]) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert same(states[0], states[1])
    assert not close(states[0], states[2])


def test_the_best_epochs_weights_are_kept_and_patience_ends_the_run(tmp_path):
    states = []
    scores = [0.3, 0.5, 0.5, 0.4, 0.9]
    model, result = train_toy(tmp_path, fit_spec(epochs=5, patience=2), evaluate=scripted(scores, states))
    assert len(states) == 4
    assert (result.best_epoch, result.best_score) == (1, 0.5)
    assert same(state(model), states[1])
    assert not same(states[1], states[3])
    assert not model.classifier.training
    assert result.steps == 4 * 5


def test_without_patience_every_epoch_is_trained(tmp_path):
    states = []
    _, result = train_toy(tmp_path, fit_spec(epochs=4), evaluate=scripted([0.9, 0.1, 0.1, 0.1], states))
    assert (len(states), result.best_epoch) == (4, 0)


def test_no_epochs_leave_the_model_as_it_was(tmp_path):
    model = toy_model(tmp_path / "source")
    before = state(model)
    _, result = train_toy(tmp_path, fit_spec(epochs=0), model=model)
    assert same(state(model), before)
    assert (result.steps, result.best_epoch, result.history) == (0, -1, [])


@settings(deadline=None)
@given(
    st.integers(1, 300),
    st.floats(0, 1),
    st.sampled_from(["linear", "cosine", "none"]),
)
def test_the_learning_rate_warms_up_to_one_and_never_rises_again(total, warmup, decay):
    spec = FitSpec(warmup=warmup, decay=decay)
    factors = [learning_rate_factor(step, total, spec) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    top = int(np.argmax(factors))
    assert top <= warmup * total
    assert all(a <= b for a, b in pairwise(factors[: top + 1]))
    assert all(a >= b for a, b in pairwise(factors[top:]))
    if warmup * total >= 1:
        assert factors[0] == pytest.approx(1 / (warmup * total))
    if decay == "none":
        assert set(factors[int(np.ceil(warmup * total)) :]) <= {1.0}


def test_decays_are_a_line_and_half_a_cosine_down_to_zero():
    steps = np.arange(20, 100)
    share = (steps - 20) / 80
    linear = [learning_rate_factor(int(step), 100, FitSpec(warmup=0.2, decay="linear")) for step in steps]
    cosine = [learning_rate_factor(int(step), 100, FitSpec(warmup=0.2, decay="cosine")) for step in steps]
    assert linear == pytest.approx(1 - share)
    assert cosine == pytest.approx((1 + np.cos(np.pi * share)) / 2)


def test_an_embedding_rate_of_zero_freezes_the_table_alone(tmp_path):
    model = toy_model(tmp_path / "source")
    before = state(model)
    train_toy(tmp_path, fit_spec(epochs=1, embedding_learning_rate=0.0, weight_decay=0.5), model=model)
    moved = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert "encoder.embedding.weight" not in moved
    assert {"encoder.projection.weight", "heads.domain.weight", "heads.topics.bias"} <= moved


def test_heads_and_embeddings_take_rates_of_their_own(tmp_path):
    slow = fit_spec(epochs=1, learning_rate=1e-12, weight_decay=0.0)
    changes = {}
    for name, spec in (
        ("heads", slow.model_copy(update={"head_learning_rate": 0.01})),
        ("embedding", slow.model_copy(update={"embedding_learning_rate": 0.01})),
    ):
        model = toy_model(tmp_path / name / "source")
        before = state(model)
        train_toy(tmp_path / name, spec, model=model)
        changes[name] = {
            key for key, value in state(model).items() if not torch.allclose(value, before[key], atol=1e-6)
        }
    assert changes["heads"]
    assert all(key.startswith("heads.") for key in changes["heads"])
    assert changes["embedding"] == {"encoder.embedding.weight"}


def test_weight_decay_shrinks_matrices_and_leaves_vectors_and_the_table(tmp_path):
    model = toy_model(tmp_path / "source")
    before = state(model)
    spec = fit_spec(epochs=1, weight_decay=0.5, learning_rate=0.1, warmup=0.0, decay="none")
    train_toy(tmp_path, spec, model=model, losses=(LabelLoss(weight=0.0),))
    for name, value in state(model).items():
        kept = value.ndim == 1 or name == "encoder.embedding.weight"
        assert torch.allclose(value, before[name] * (1.0 if kept else (1 - 0.1 * 0.5) ** 5), atol=1e-6), name


def test_gradients_are_clipped_so_that_one_step_of_a_huge_loss_is_like_one_of_a_small(tmp_path):
    found = []
    for name, weight in (("small", 1e3), ("huge", 1e6)):
        spec = fit_spec(epochs=1, clip_norm=1e-3)
        found.append(state(train_toy(tmp_path / name, spec, losses=(LabelLoss(weight=weight),))[0]))
    assert close(*found, atol=1e-4)


def test_a_run_that_diverges_says_so_and_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"learning_rate.*diverged at step \d+(.|\n)*lower the learning rate"):
        train_toy(tmp_path, fit_spec(epochs=3, learning_rate=1e30, warmup=0.0))


def test_steps_and_epochs_are_logged_as_json_lines_and_for_tensorboard_if_asked(tmp_path):
    losses = (LabelLoss(), LogitLoss(weight=0.5))

    def teacher(batch):
        return Taught({"domain": torch.zeros(len(batch), 3)}, {"domain": torch.ones(len(batch), dtype=torch.bool)})

    _, result = train_toy(tmp_path, fit_spec(epochs=4, tensorboard=True), losses=losses, teacher=teacher)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "losses" in line] == [10, 20]
    assert [line["step"] for line in lines if "epoch" in line] == [5, 10, 15, 20]
    assert all(set(line["losses"]) == {"labels", "logits1"} for line in lines if "losses" in line)
    assert [line["mean"] for line in lines if "epoch" in line] == [entry["mean"] for entry in result.history]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("losses/labels")] == [10, 20]
    shown = [event.value for event in board.Scalars("dev_macro_f1/sentiment")]
    assert shown == pytest.approx([entry["dev_macro_f1"]["sentiment"] for entry in result.history])


def test_without_being_asked_nothing_is_written_for_tensorboard(tmp_path):
    train_toy(tmp_path, fit_spec(epochs=1))
    assert not (tmp_path / "tensorboard").exists()


def test_mixed_precision_trains_full_precision_weights_near_those_of_full_precision(tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        spec = fit_spec(epochs=2, precision=precision, learning_rate=0.001)
        model, _ = train_toy(tmp_path / precision, spec)
        assert {value.dtype for value in state(model).values()} == {torch.float32}
        line = (tmp_path / precision / "metrics.jsonl").read_text().splitlines()[1]
        losses[precision] = json.loads(line)["losses"]["labels"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_fp16_without_a_gpu_is_refused_with_what_is_allowed(tmp_path):
    with pytest.raises(InputError, match=r"fit\.precision.*needs a GPU(.|\n)*bf16"):
        train_toy(tmp_path, fit_spec(precision="fp16"))


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"epochs": -1}, {"learning_rate": 0}, {"warmup": 2}, {"precision": "int8"}, {"optimizer": "x"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FitSpec(**wrong)
