"""A task's stock folder is what transformers' own pipeline loads, and it gives the scores that Polyfold gives."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file

from polyfold.errors import InputError
from polyfold.export_transformers import STOCK, TransformersExport, check_family, export_transformers
from polyfold.model.backbone import load_backbone, token_embedding
from polyfold.model.classifier import Model, load_model, new_classifier, save_model
from polyfold.model.structure import cut
from polyfold.model.student import TransformerInit, build_small
from polyfold.predictor import Predictor
from polyfold.tasks import Task
from polyfold.train.given import load_stock
from polyfold.train.teacher import GivenTeacher
from toys_torch import TASKS, toy_documents, toy_model, toy_use_backbone, write_hub_folder

KINDS = ("xlm-roberta", "roberta", "bert", "xtremedistil", "mminilm-v1", "distilbert", "small")
CALIBRATED = tuple(
    task.model_copy(update={"temperature": temperature, "thresholds": thresholds})
    for task, temperature, thresholds in zip(
        TASKS, (1.7, 0.6, 1.3), (None, None, (0.3, 0.5, 0.6, 0.7)), strict=True
    )
)
# Of every length up to the position table's end and beyond; one spells out a special token.
TEXTS = [*toy_documents(20, 3).texts, "", "unseen Wörter xyz! ☃", "waiter " * 60, "toll [SEP] great"]
CLASSIFY = """
import json, sys, warnings
warnings.simplefilter("ignore")
from transformers import pipeline
folders, texts = json.load(sys.stdin)
scores = {}
for folder in folders:
    classify = pipeline("text-classification", model=folder, device="cpu")
    found = [classify(text, top_k=None, truncation=True) for text in texts]
    scores[folder] = [{one["label"]: one["score"] for one in answer} for answer in found]
    batched = classify(texts, top_k=None, truncation=True, batch_size=8)
    assert [[one["label"] for one in answer] for answer in batched], folder
print(json.dumps([scores, [name for name in sys.modules if name.startswith("polyfold")]]))
"""


@dataclass(frozen=True)
class Exported:
    """A model, its folder as Polyfold saved it, the folder of its stock classes, and what exporting told."""

    model: Model
    saved: Path
    folder: Path
    told: dict

    def task(self, name):
        """The stock folder of one task."""
        return self.folder / "transformers" / name


def spread(model: Model, scale=1.0, seed=0) -> Model:
    """Larger heads: fresh ones give scores so alike that nothing could go wrong with them."""
    generator = torch.Generator().manual_seed(seed)
    for head in model.classifier.heads.values():
        with torch.no_grad():
            head.weight.copy_(scale * torch.randn(head.weight.shape, generator=generator))
            head.bias.copy_(scale * torch.randn(head.bias.shape, generator=generator))
    model.classifier.eval()
    return model


def backbone_of(root, saved, kind):
    """A toy encoder; `small` is one built over the embedded encoder's tokenizer, a SentencePiece model."""
    if kind == "small":
        teacher = toy_use_backbone(saved)
        rows = token_embedding(teacher.module).num_embeddings
        init = TransformerInit(layers=2, width=32, heads=4)
        return build_small(init, teacher, np.ones(rows), 30, 0)
    write_hub_folder(root / "hub", kind)
    return load_backbone("hub", saved, root)


def exported(root, kind, tasks=CALIBRATED):
    saved = root / "saved"
    saved.mkdir()
    model = spread(new_classifier(backbone_of(root, saved, kind), tasks, 30, 0))
    save_model(model, saved, saved)
    return Exported(model, saved, root / "export", export_transformers(model, saved, root / "export", TEXTS))


@pytest.fixture(scope="module")
def stocks(tmp_path_factory):
    """One model of every family and layout, saved and exported."""
    return {kind: exported(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(scope="module")
def classified(stocks):
    """Every folder's scores of every text by transformers' pipeline, in a process without Polyfold."""
    folders = [str(one.task(task.name)) for one in stocks.values() for task in TASKS]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLASSIFY],
        input=json.dumps([folders, TEXTS]), capture_output=True, text=True, check=False, cwd=folders[0],
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    scores, imported = json.loads(run.stdout.splitlines()[-1])
    assert imported == []
    assert len(scores) == len(KINDS) * len(TASKS)
    return scores


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_pipeline_gives_polyfolds_scores_without_polyfold(stocks, classified, kind):
    predictor = Predictor.open(stocks[kind].saved)
    for task in CALIBRATED:
        ours = task.probabilities(predictor.logits(TEXTS)[task.name])
        theirs = classified[str(stocks[kind].task(task.name))]
        assert ours.std() > 0.05
        for row, answer in enumerate(theirs):
            assert set(answer) == set(task.labels)
            np.testing.assert_allclose([answer[label] for label in task.labels], ours[row], atol=2e-6)
            # Softmax or a sigmoid each: what the scores add up to tells them apart.
            if not task.multi_label:
                assert sum(answer.values()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_export_says_how_far_apart_the_scores_are(stocks, kind):
    told = stocks[kind].told
    assert told["texts_compared"] == len(TEXTS)
    assert set(told["largest_score_difference"]) == {task.name for task in TASKS}
    assert all(0.0 <= apart < 2e-6 for apart in told["largest_score_difference"].values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_has_the_files_of_the_hub_and_says_its_labels(stocks, kind):
    for task in TASKS:
        folder = stocks[kind].task(task.name)
        assert {path.name for path in folder.iterdir()} == {
            "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md",
        }  # fmt: skip
        config = json.loads((folder / "config.json").read_bytes())
        assert config["id2label"] == {str(index): label for index, label in enumerate(task.labels)}
        assert config["label2id"] == {label: index for index, label in enumerate(task.labels)}
        assert config["problem_type"] == f"{task.kind}_classification"
        assert config["architectures"] == [STOCK[stocks[kind].model.backbone.family].architecture]
        card = (folder / "README.md").read_text(encoding="utf8")
        assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")
        assert all(label in card for label in task.labels)
    assert "| speed | 0.5000 |" in (stocks[kind].task("topics") / "README.md").read_text(encoding="utf8")


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "distilbert"])
def test_an_exported_task_can_be_given_back_as_a_teacher(stocks, tmp_path, kind):
    """The folder is read as any stock classifier is: the labels by their names, the logits as they were."""
    for number, task in enumerate(CALIBRATED):
        spec = GivenTeacher(name=str(stocks[kind].task(task.name)), task=task.name)
        (tmp_path / task.name).mkdir()
        shuffled = Task(name=task.name, kind=task.kind, labels=task.labels[::-1])
        model = load_stock(spec, shuffled, 30, tmp_path, tmp_path / task.name)
        ids = torch.arange(3, 19)[None] + number
        with torch.no_grad():
            again = model.classifier.eval()(ids, torch.ones_like(ids)).logits[task.name].flip(1)
            ours = stocks[kind].model.classifier(ids, torch.ones_like(ids)).logits[task.name]
        torch.testing.assert_close(again, ours / task.temperature, atol=1e-5, rtol=1e-5)


def test_a_linear_head_passes_tanh_with_fp32s_own_rounding():
    """The docstring's bound, for states as large as a base model's LayerNorm lets them be."""
    states = torch.linspace(-28, 28, 7 * 64).reshape(7, 64)
    weight, bias = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)), torch.arange(5.0)
    head = STOCK["bert"].head(weight, bias)
    found = torch.tanh(states @ head["bert.pooler.dense.weight"].T + head["bert.pooler.dense.bias"])
    found = found @ head["classifier.weight"].T + head["classifier.bias"]
    exact = states.double() @ weight.double().T + bias.double()
    # 1e-6 of the sum of magnitudes: (28 / 2^14)^2 / 3 for the tanh, and fp32's own sum over 64 products.
    bound = 1.2e-6 * (states.abs().double() @ weight.abs().double().T + 10)
    assert bool(((found - exact).abs() <= bound).all())


@settings(max_examples=30, deadline=None)
@given(
    states=arrays.arrays(np.float32, (3, 12), elements=st.floats(-100, 100, width=32)),
    weight=arrays.arrays(np.float32, (6, 12), elements=st.floats(-10, 10, width=32)),
)
def test_a_linear_head_passes_relu_without_any_rounding_of_its_own(states, weight):
    states, weight, bias = torch.from_numpy(states), torch.from_numpy(weight), torch.arange(6.0)
    head = STOCK["distilbert"].head(weight, bias)
    inner = states @ head["pre_classifier.weight"].T + head["pre_classifier.bias"]
    found = torch.relu(inner) @ head["classifier.weight"].T + head["classifier.bias"]
    assert torch.equal(found, inner[:, :6])
    assert torch.allclose(inner[:, :6], states @ weight.T + bias, atol=1e-2, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 500.0])
def test_weights_stay_within_half_precision(tmp_path, scale):
    """Servers load these folders in fp16, whose numbers end at 65,504."""
    write_hub_folder(tmp_path / "hub", "bert")
    model = spread(new_classifier(load_backbone("hub", tmp_path, tmp_path), CALIBRATED, 30, 0), scale)
    export_transformers(model, tmp_path, tmp_path / "export", [])
    for task in TASKS:
        weights = load_file(tmp_path / "export" / "transformers" / task.name / "model.safetensors")
        assert all(bool(value.half().isfinite().all()) for value in weights.values())
        assert bool((weights["bert.pooler.dense.weight"].half().diagonal() > 0).all())


def test_a_distilbert_head_without_room_for_the_labels_is_refused(tmp_path):
    many = TASKS[2].model_copy(update={"labels": tuple(f"l{number}" for number in range(17))})
    with pytest.raises(InputError, match=r"width 32 has no room for 17 labels(.|\n)*it holds 16"):
        exported(tmp_path, "distilbert", (many,))


def test_the_embedded_encoder_is_refused_with_the_reason(tmp_path):
    model = toy_model(tmp_path / "made")
    with pytest.raises(InputError, match=r"no class for convolutional encoders(.|\n)*bert, roberta, xlm-roberta"):
        export_transformers(model, tmp_path / "made", tmp_path / "export", [])
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("modernbert", "normalizes"),
        ("polyfold-modernbert", "normalizes"),
        ("stock", "stock classifier that it started from"),
    ],
)
def test_other_families_are_refused_with_their_reasons(family, reason):
    with pytest.raises(InputError, match=rf"student 'small' cannot be exported(.|\n)*{reason}"):
        check_family(family, "student 'small'")


def pruned(root, kind, keep):
    """A model cut unevenly: our own class holds it."""
    write_hub_folder(root / "hub", kind)
    (root / "saved").mkdir()
    model = spread(new_classifier(load_backbone("hub", root / "saved", root), CALIBRATED, 30, 0))
    return cut(model, {key: np.asarray(some) for key, some in keep.items()})


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "roberta", "distilbert"])
def test_layers_that_differ_in_size_are_filled_up_with_zeros_and_score_the_same(tmp_path, kind):
    keep = {
        ("feed_forward", 0): [1, 5, 7], ("feed_forward", 1): range(20), ("heads", 0): [2], ("heads", 1): [0, 1, 3],
        ("embedding_rank", None): range(24),
    }  # fmt: skip
    model = pruned(tmp_path, kind, keep)
    assert model.backbone.family == f"polyfold-{kind}"
    told = export_transformers(model, tmp_path / "saved", tmp_path / "export", TEXTS)
    assert max(told["largest_score_difference"].values()) < 5e-6
    config = json.loads((tmp_path / "export" / "transformers" / "topics" / "config.json").read_bytes())
    assert config["model_type"] == kind
    assert not set(config) & {"layer_heads", "layer_feed_forward", "embedding_rank", "head_size"}


def test_heads_that_do_not_fill_the_width_are_refused_with_a_width_that_would_do(tmp_path):
    model = pruned(tmp_path, "bert", {("width", None): range(28), ("heads", 0): [1]})
    with pytest.raises(InputError, match=r"heads of 8 in an encoder of width 28(.|\n)*multiple of 8, at least 32"):
        export_transformers(model, tmp_path / "saved", tmp_path / "export", TEXTS)


def test_a_quantized_model_is_refused(tmp_path):
    from toys_pipeline import quantized_toy, transformer_model

    model = quantized_toy(transformer_model(tmp_path / "made"))
    with pytest.raises(InputError, match=r"quantized(.|\n)*export the model that was quantized"):
        export_transformers(model, tmp_path / "made", tmp_path / "export", [])


def test_exporting_changes_nothing_of_the_model(stocks):
    for one in stocks.values():
        before = load_model(one.saved).classifier.state_dict()
        after = one.model.classifier.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())


def test_scores_that_differ_are_warned_of(tmp_path, capsys):
    """mBERT's JSON may know no special tokens; to transformers the one that pads is special wherever it stands."""
    write_hub_folder(tmp_path / "hub", "bert")
    model = spread(new_classifier(load_backbone("hub", tmp_path, tmp_path), CALIBRATED, 30, 0))
    content = json.loads((tmp_path / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "added_tokens": []}), encoding="utf8")
    told = export_transformers(model, tmp_path, tmp_path / "export", ["great waiter"])
    assert told["largest_score_difference"]["domain"] < 2e-6
    assert "lie up to" not in capsys.readouterr().err
    told = export_transformers(model, tmp_path, tmp_path / "again", ["great waiter", "great [PAD] awful"])
    assert told["largest_score_difference"]["domain"] > 1e-4
    assert "transformers' scores for 'domain' lie up to" in capsys.readouterr().err


def test_the_spec_is_a_kind_with_names():
    assert TransformersExport(only=("small",)).model_dump() == {"kind": "transformers", "only": ("small",)}
