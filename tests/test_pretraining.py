"""Backbones that a recipe distils for itself: planned, made in turn, and stood on by teachers and students."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from polyfold.artifact import Artifact
from polyfold.errors import InputError
from polyfold.losses.sentence import SentenceLoss
from polyfold.model.classifier import load_model
from polyfold.model.student import BackboneInit, ConvolutionalInit, TransformerInit
from polyfold.pipeline import plan, run
from polyfold.pretraining import grounded, plan_backbones
from polyfold.recipe import load_recipe
from polyfold.teaching import token_lengths
from polyfold.train.backbones import BackboneSpec
from toys_pipeline import write_toy_project

FIT = {"epochs": 1, "learning_rate": 2e-3, "batch": {"documents_per_step": 12}, "checkpoint_minutes": 0.0}
BACKBONES = [
    {
        "name": "large",
        "init": {"kind": "transformer", "layers": 2, "width": 24, "heads": 2},
        "teacher": "toy-bert",
        "texts": "train",
        "fit": FIT,
    },
    {
        "name": "small",
        "init": {"kind": "backbone", "name": "large", "layers": [1]},
        "teacher": "large",
        "losses": [{"kind": "hidden_states", "layers": "last"}],
        "texts": "train",
        "fit": FIT,
    },
]
STUDENTS = [{"name": "student", "init": {"kind": "backbone", "name": "small"}, "fit": FIT}]


def project(folder, **changes):
    blocks = {
        "backbones": BACKBONES,
        "teacher": {"backbone": "large", "fit": FIT},
        "students": STUDENTS,
        "compress": [],
        "compress_teacher": False,
        "export": [],
        "measure": {"baseline": None, "memory": False},
        **changes,
    }
    return write_toy_project(folder, **blocks)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose student stands on a backbone that stands on another; its plan and its folder."""
    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe(project(folder))
    run(recipe, folder, folder / "out")
    return plan(recipe, folder), folder / "out"


def test_every_backbone_is_a_finished_stage_and_what_stands_on_it_is_its_child(finished):
    chart, out = finished
    large, small = chart.backbones.stages["large"], chart.backbones.stages["small"]
    assert [Artifact.open(stage.folder(out)).manifest.stage for stage in (large, small)] == ["backbone"] * 2
    assert large.key in small.parents
    assert large.key in chart.teachers.stages[0].parents
    assert small.key in chart.lines[0].start.parents


def test_the_student_has_the_shape_of_the_backbone_it_starts_from(finished):
    chart, out = finished
    sizes = {}
    for name, stage in (*chart.backbones.stages.items(), ("student", chart.lines[0].start)):
        model = load_model(stage.folder(out))
        sizes[name] = (model.backbone.config["num_hidden_layers"], model.backbone.config["hidden_size"])
    assert sizes == {"large": (2, 24), "small": (1, 24), "student": (1, 24)}


def test_a_distilled_backbone_loads_with_transformers_alone(finished):
    chart, out = finished
    code = (
        "import sys, torch; sys.modules['polyfold'] = None\n"
        "from transformers import AutoModel\n"
        "model = AutoModel.from_pretrained(sys.argv[1], add_pooling_layer=False).eval()\n"
        "states = model(input_ids=torch.arange(2, 8)[None]).last_hidden_state\n"
        "print(states[0, 0].tolist())"
    )
    folder = chart.backbones.stages["small"].folder(out)
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, timeout=120
    )
    ids = torch.arange(2, 8)[None]
    with torch.no_grad():
        own = load_model(folder).classifier(ids, torch.ones_like(ids)).pooled[0]
    assert np.allclose(json.loads(found.stdout.splitlines()[-1]), own.numpy(), atol=1e-5)


def test_a_changed_backbone_changes_the_key_of_all_that_stands_on_it_and_no_other(tmp_path):
    first = plan(load_recipe(project(tmp_path)), tmp_path)
    changed = [BACKBONES[0], {**BACKBONES[1], "losses": [{"kind": "sentence"}]}]
    second = plan(load_recipe(project(tmp_path, backbones=changed)), tmp_path)
    assert first.backbones.stages["large"].key == second.backbones.stages["large"].key
    assert first.teachers.keys == second.teachers.keys
    assert first.backbones.stages["small"].key != second.backbones.stages["small"].key
    assert first.lines[0].start.key != second.lines[0].start.key


@pytest.mark.parametrize(
    ("backbones", "problem"),
    [
        ([BACKBONES[1], BACKBONES[0]], "must come before it"),
        ([BACKBONES[0], BACKBONES[0]], "is taken"),
        ([{**BACKBONES[0], "name": "use-multilingual"}], "is taken"),
        ([{**BACKBONES[0], "teacher": "large"}], "must come before it"),
    ],
)
def test_names_that_cannot_be_are_refused_when_the_recipe_is_read(backbones, problem, tmp_path):
    with pytest.raises(InputError, match=problem):
        load_recipe(project(tmp_path, backbones=backbones))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"losses": [{"kind": "labels"}]}, "no tasks"),
        ({"losses": [{"kind": "sentence", "weight": 0.0}]}, "nothing to learn"),
        ({"texts": "unlabelled"}, "there are none"),
        ({"init": {"kind": "backbone", "name": "toy-bert", "layers": [5]}}, "layer"),
        ({"losses": [{"kind": "relations", "relation_heads": 5}]}, "do not divide"),
    ],
)
def test_a_backbone_that_cannot_learn_is_refused_before_training(change, problem, tmp_path):
    recipe = load_recipe(project(tmp_path, backbones=[{**BACKBONES[0], **change}], students=[]))
    with pytest.raises(InputError, match=problem):
        run(recipe, tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("teacher-*"))


def test_texts_are_cut_by_the_tokenizer_of_the_encoder_at_the_bottom(tmp_path):
    through = load_recipe(project(tmp_path))
    direct = load_recipe(project(tmp_path, teacher={"backbone": "toy-bert", "fit": FIT}))
    texts = {"train": ["the invoice is wrong", "das Paket kam an"]}
    found = [token_lengths(recipe, texts, tmp_path)["train"] for recipe in (through, direct)]
    assert np.array_equal(*found)
    assert found[0].min() > 2


def test_names_of_backbones_made_here_become_their_folders_and_others_stay(tmp_path):
    spec = BackboneSpec(name="b", init=BackboneInit(name="a"), teacher="c", losses=(SentenceLoss(),))
    found = grounded(spec, {"a": tmp_path})
    assert (found.init.name, found.teacher) == (str(tmp_path), "c")
    other = BackboneSpec(name="b", init=TransformerInit(), teacher="a")
    assert grounded(other, {"a": tmp_path}).teacher == str(tmp_path)


def test_the_family_of_a_backbone_is_known_before_it_is_made(tmp_path):
    own = [*BACKBONES, {**BACKBONES[0], "name": "wide", "init": ConvolutionalInit().model_dump()}]
    chart = plan_backbones(load_recipe(project(tmp_path, backbones=own)), tmp_path, "")
    assert {name: chart.family(name) for name in ("large", "small", "wide", "toy-bert")} == {
        "large": "bert", "small": "bert", "wide": "use-multilingual", "toy-bert": "bert",
    }  # fmt: skip
