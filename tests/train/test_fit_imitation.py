"""The loop where projections are learned beside the model, and where there is nothing to score."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy_fit import close, same, state
from toy_imitation import imitation, model_of, pair, texts

from polyfold.artifact import CHECKPOINTS
from polyfold.data.batches import BatchSpec
from polyfold.losses.hidden import HiddenStatesLoss
from polyfold.losses.labels import LabelLoss
from polyfold.losses.relations import RelationLoss
from polyfold.losses.sentence import SentenceLoss
from polyfold.train.fit import FitContext, FitSpec, fit
from polyfold.train.objectives import TaskObjective
from toys_torch import TASKS

STUDENT = {"layers": 2, "width": 16, "heads": 2}
TEACHER = {"layers": 3, "width": 32, "heads": 4, "seed": 7}
LOSSES = (RelationLoss(relation_heads=4), HiddenStatesLoss(), SentenceLoss())


def spec_of(**changes):
    settings = {
        "epochs": 2, "learning_rate": 5e-3, "checkpoint_minutes": 0.0, "token_dropout": 0.2,
        "batch": BatchSpec(documents_per_step=8, token_budget=60),
    }  # fmt: skip
    return FitSpec(**{**settings, **changes})


class Dies(Exception):
    """What a killed run looks like from inside."""


class Mortal:
    """An objective that dies before its n-th batch."""

    def __init__(self, objective, left):
        self.objective, self.left = objective, left

    @property
    def modules(self):
        return self.objective.modules

    @property
    def wanted(self):
        return self.objective.wanted

    def counts(self, batch):
        return self.objective.counts(batch)

    def __call__(self, model, batch):
        self.left -= 1
        if self.left < 0:
            raise Dies
        return self.objective(model, batch)


def train(folder, deaths=(), tasks=(), losses=LOSSES, score=lambda _: {}, **changes):
    """Train from fresh objects in a folder, dying as planned and living at last."""
    encoded, spec = texts(), spec_of(**changes)
    for life in (*deaths, 10**9):
        # Everything is made anew, as in another process; only the folder is left of the last life.
        student, teacher = model_of(tasks=tasks, **STUDENT), model_of(**TEACHER)
        if tasks:
            objective = TaskObjective(tasks, losses, encoded.documents, *reversed(pair(losses, student, teacher)))
        else:
            objective = imitation(losses, student, teacher, encoded)
        try:
            context = FitContext(folder, 0, "toy", score)
            result = fit(student.classifier, encoded, Mortal(objective, life), spec, None, context)
        except Dies:
            continue
        return student, objective, result
    raise AssertionError("the last life does not end")


def learned(objective):
    return {name: value.detach().clone() for name, value in objective.modules.state_dict().items()}


@pytest.mark.parametrize("tasks", [(), TASKS])
def test_a_killed_run_ends_with_the_model_and_projections_of_one_that_was_never_killed(tasks, tmp_path):
    losses = (LabelLoss(), *LOSSES) if tasks else LOSSES
    found = []
    for name, deaths in (("unharmed", ()), ("killed", (4, 5, 3))):
        student, objective, result = train(tmp_path / name, deaths, tasks, losses)
        found.append((state(student), learned(objective), result.history))
    assert len(found[0][1]) == 2
    assert same(found[0][0], found[1][0])
    assert same(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("unharmed", "killed")]
    assert logs[0] == logs[1]


def test_projections_are_learned_saved_in_checkpoints_and_never_part_of_the_student(tmp_path):
    student, objective, _ = train(tmp_path)
    fresh = learned(imitation(LOSSES, model_of(**STUDENT), model_of(**TEACHER)))
    trained = learned(objective)
    assert trained.keys() == fresh.keys()
    assert not any(torch.allclose(value, fresh[name], atol=1e-3) for name, value in trained.items())
    (checkpoint,) = (tmp_path / CHECKPOINTS).iterdir()
    assert same(load_file(checkpoint / "projections.safetensors"), trained)
    assert load_file(checkpoint / "model.safetensors").keys() == state(model_of(**STUDENT)).keys()
    assert state(student).keys() == state(model_of(**STUDENT)).keys()


def test_projections_take_the_heads_rate_and_are_clipped_with_the_rest(tmp_path):
    slow = {"learning_rate": 1e-12, "weight_decay": 0.0}
    student, objective, _ = train(tmp_path / "rate", **slow, head_learning_rate=5e-3)
    fresh = learned(imitation(LOSSES, model_of(**STUDENT), model_of(**TEACHER)))
    assert close(state(student), state(model_of(**STUDENT)), atol=1e-6)
    assert not any(torch.allclose(value, fresh[name], atol=1e-3) for name, value in learned(objective).items())
    # Adam does not see the size of a gradient: all losses a thousand times as large move nothing otherwise.
    found = []
    for name, factor in (("small", 1e3), ("huge", 1e6)):
        losses = tuple(loss.model_copy(update={"weight": factor}) for loss in LOSSES)
        found.append(learned(train(tmp_path / name, losses=losses, clip_norm=1e-3)[1]))
    assert close(*found, atol=1e-4)


def test_without_scores_the_last_weights_are_kept_and_patience_stops_nothing(tmp_path):
    states = []

    def score(module):
        states.append({name: value.detach().clone() for name, value in module.state_dict().items()})
        return {}

    student, _, result = train(tmp_path, score=score, epochs=3, patience=1)
    assert len(states) == 3
    assert same(state(student), states[-1])
    assert not same(states[0], states[-1])
    assert not student.classifier.training
    assert (result.best_epoch, result.steps) == (2, 9)
    assert math.isnan(result.best_score)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["mean"] for line in lines if "epoch" in line] == [None] * 3


def test_a_teacher_is_asked_about_the_whole_text_where_the_student_sees_gaps():
    losses = (HiddenStatesLoss(),)
    student, teacher, encoded = model_of(**TEACHER), model_of(**TEACHER), texts()
    objective = imitation(losses, student, teacher, encoded)
    batch = encoded.batch(np.arange(6))
    gaps = type(batch)(batch.input_ids.clone().fill_(3), batch.attention_mask, batch.index)
    whole, gappy = (float(objective(student.classifier, one)["hidden_states"].detach()) for one in (batch, gaps))
    assert whole < 1e-6 < gappy
