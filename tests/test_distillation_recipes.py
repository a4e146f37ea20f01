"""The published methods of recipes/distillation are whole recipes: each loads, and each runs on a toy teacher."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from polyfold.cli import app
from polyfold.losses.hidden import EmbeddingLoss, HiddenStatesLoss
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.losses.relations import AttentionLoss, RelationLoss
from polyfold.recipe import load_recipe
from toys_pipeline import write_wordpiece

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes" / "distillation").glob("*.yaml"))
NAMES = {"distilbert", "tinybert", "lightmbert", "minilm", "minilmv2", "xtremedistil"}
SCORES = AttentionLoss(layers="uniform", compare="scores", value_relations=0.0)

# What each method learns on texts alone, stage by stage, and then with labels.
METHODS = {
    "distilbert": ([(HiddenStatesLoss(layers="last", distance="cosine"),)], {LabelLoss, LogitLoss}),
    "tinybert": (
        [(SCORES, HiddenStatesLoss(), EmbeddingLoss())],
        {LogitLoss, AttentionLoss, HiddenStatesLoss, EmbeddingLoss},
    ),
    "lightmbert": ([(SCORES, HiddenStatesLoss())], {LabelLoss}),
    "minilm": ([(AttentionLoss(),), (AttentionLoss(),)], {LabelLoss}),
    "minilmv2": ([(RelationLoss(relation_heads=48, teacher_layer=11),)], {LabelLoss, LogitLoss}),
    "xtremedistil": ([(HiddenStatesLoss(layers={5: 6}),)], {LabelLoss, LogitLoss}),
}


def toy_teacher(folder):
    """A BERT as deep as the recipes' teachers, with as many heads, and of the least width these allow."""
    from transformers import BertConfig, BertModel

    folder.mkdir()
    config = BertConfig(
        vocab_size=write_wordpiece(folder), hidden_size=48, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=32, max_position_embeddings=132,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def small(recipe, folder):
    """The recipe over the toy teacher and a few rows of the demo data, one epoch a stage, nothing compressed."""
    content = yaml.safe_load(recipe.read_text(encoding="utf8"))
    source = ROOT / "recipes" / "distillation" / content["data"]["path"]
    with source.open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    splits = [[row for row in rows if row["split"] == split] for split in ("train", "dev", "test")]
    # Evenly from the whole file: the first rows are translations of a few texts, all with the same labels.
    kept = [row for split in splits for row in split[:: len(split) // 30]]
    with (folder / "few.csv").open("w", encoding="utf8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    toy_teacher(folder / "toy")
    content["data"] |= {"path": "few.csv", "max_length": 24}
    published = {content["teacher"]["backbone"]}
    for stage in (content["teacher"], *content["backbones"], *content["students"]):
        stage["fit"] |= {"epochs": 1, "batch": {"documents_per_step": 30, "token_budget": 100_000}}
    for stage in content["backbones"]:
        if stage["init"]["kind"] == "transformer":
            # Another width than the teacher's, and one that 48 relation heads divide.
            stage["init"] |= {"width": 96, "feed_forward": 64}
        for place in (stage, stage["init"]):
            place |= {key: "toy" for key in ("teacher", "name") if key in place and place[key] in published}
    content["teacher"]["backbone"] = "toy"
    content |= {"compress": [], "export": [], "measure": {"baseline": None, "memory": False}}
    path = folder / recipe.name
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf8")
    return path


def test_every_method_named_has_a_recipe():
    assert {path.stem for path in RECIPES} == NAMES == set(METHODS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_methods_losses_are_those_of_its_paper(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    stages, student = METHODS[path.stem]
    assert [stage.losses for stage in recipe.backbones] == stages
    assert {type(loss) for loss in recipe.students[0].losses} == student
    assert recipe.students[0].init.name == recipe.backbones[-1].name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_methods_recipe_runs_from_texts_to_a_measured_student(path, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["run", str(small(path, tmp_path)), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = json.loads((out / "report.json").read_bytes())["rows"]
    assert {row["name"] for row in rows} >= {"teacher", path.stem}
    assert all(row["macro_f1"] for row in rows)
