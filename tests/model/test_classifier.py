"""A saved classifier is the same classifier, and a saved transformer is one that transformers itself reads."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

from polyfold.artifact import read_config
from polyfold.errors import InputError
from polyfold.model.classifier import WEIGHTS_FILE, Model, load_model, new_classifier, save_model
from polyfold.text import open_tokenizer, pad
from toys_torch import HUB_FOLDERS, MAX_LENGTH, TASKS, toy_documents, toy_model

TEXTS = toy_documents(12, 1).texts


def tensors(folder, model, texts=TEXTS):
    ids = open_tokenizer(folder, model.backbone.tokenizer).encode(texts, model.max_length).ids
    return tuple(torch.from_numpy(array) for array in pad(ids, model.backbone.tokenizer.pad_id))


def logits(folder, model, texts=TEXTS):
    with torch.no_grad():
        return model.classifier.eval()(*tensors(folder, model, texts)).logits


def make(kind, load, folder) -> tuple[Model, object]:
    """A toy classifier with fitted tasks, and the folder that holds its tokenizer."""
    if kind == "use-multilingual":
        model, source = toy_model(folder / "source"), folder / "source"
    else:
        loaded = load(kind)
        model, source = new_classifier(loaded.backbone, TASKS, MAX_LENGTH, 3), loaded.folder
    fitted = [task.model_copy(update={"temperature": 1.7}) for task in TASKS[:2]]
    fitted.append(TASKS[2].model_copy(update={"thresholds": (0.1, 0.2, 0.3, 0.4)}))
    return model.with_tasks(fitted), source


@pytest.mark.parametrize("kind", ["use-multilingual", *HUB_FOLDERS])
def test_a_saved_model_comes_back_with_bit_identical_logits(kind, load, tmp_path):
    model, source = make(kind, load, tmp_path)
    save_model(model, tmp_path / "saved", source)
    again = load_model(tmp_path / "saved")
    expected = logits(source, model)
    for name, values in logits(tmp_path / "saved", again).items():
        assert torch.equal(values, expected[name]), name
    assert again.tasks == model.tasks
    assert again.max_length == model.max_length
    assert again.backbone.tokenizer == model.backbone.tokenizer
    assert (again.parameters, again.trunk_parameters) == (model.parameters, model.trunk_parameters)
    # Saved again, it is the same file for file.
    save_model(again, tmp_path / "twice", tmp_path / "saved")
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "twice").iterdir())
    assert len(names) == 3
    for name in (WEIGHTS_FILE, model.backbone.tokenizer.file):
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


@pytest.mark.parametrize("kind", HUB_FOLDERS)
def test_transformers_reads_the_encoder_of_a_saved_model_unchanged(kind, load, tmp_path):
    model, source = make(kind, load, tmp_path)
    save_model(model, tmp_path / "saved", source)
    theirs, told = AutoModel.from_pretrained(tmp_path / "saved", add_pooling_layer=False, output_loading_info=True)
    assert not told["missing_keys"]
    assert all(key.startswith("heads.") for key in told["unexpected_keys"])
    own = model.classifier.encoder.encoder.state_dict()
    assert set(theirs.state_dict()) == set(own)
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, own[name]), name


def test_the_configuration_holds_the_backbones_keys_the_tasks_and_what_serving_needs(load, tmp_path):
    model, source = make("xlm-roberta", load, tmp_path)
    save_model(model, tmp_path / "saved", source)
    content = json.loads((tmp_path / "saved" / "config.json").read_bytes())
    assert content["model_type"] == "xlm-roberta"
    assert content["hidden_size"] == 32
    assert [task["name"] for task in content["tasks"]] == ["domain", "sentiment", "topics"]
    assert content["tasks"][2]["thresholds"] == [0.1, 0.2, 0.3, 0.4]
    config, tasks = read_config(tmp_path / "saved")
    assert tasks == model.tasks
    assert (config.runtime, config.precision, config.weights, config.max_length) == (
        "torch",
        "fp32",
        "trained",
        24,
    )
    assert config.parameters == sum(parameter.numel() for parameter in model.classifier.parameters())
    assert config.parameters - config.trunk_parameters == 157 * 32 + 32 * 9 + 9


@pytest.mark.parametrize("kind", ["use-multilingual", "xlm-roberta", "bert"])
def test_a_batch_and_its_documents_one_by_one_have_the_same_logits(kind, load, tmp_path):
    model, source = make(kind, load, tmp_path)
    together = logits(source, model)
    for row, text in enumerate(TEXTS):
        for name, values in logits(source, model, [text]).items():
            assert torch.allclose(values[0], together[name][row], atol=1e-5)


def test_a_head_is_added_or_dropped_without_touching_the_others(load, tmp_path):
    loaded = load("bert")
    all_three = new_classifier(loaded.backbone, TASKS, MAX_LENGTH, 0)
    first = new_classifier(loaded.backbone, TASKS[:1], MAX_LENGTH, 0)
    first.classifier.heads["domain"].load_state_dict(all_three.classifier.heads["domain"].state_dict())
    expected = logits(loaded.folder, all_three)
    found = logits(loaded.folder, first)
    assert set(found) == {"domain"}
    assert torch.equal(found["domain"], expected["domain"])


def test_fresh_heads_depend_on_the_seed_alone(tmp_path):
    torch.manual_seed(0)
    backbone = toy_model(tmp_path, seed=0).backbone
    before = torch.get_rng_state()
    first = new_classifier(backbone, TASKS, MAX_LENGTH, 5).classifier.heads.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    again = new_classifier(backbone, TASKS, MAX_LENGTH, 5).classifier.heads.state_dict()
    other = new_classifier(backbone, TASKS, MAX_LENGTH, 6).classifier.heads.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_dropout_acts_in_training_only(tmp_path):
    model = toy_model(tmp_path)
    batch = tensors(tmp_path, model)
    torch.manual_seed(0)
    with torch.no_grad():
        quiet = [model.classifier.eval()(*batch).logits["domain"] for _ in range(2)]
        noisy = [model.classifier.train()(*batch).logits["domain"] for _ in range(2)]
    assert torch.equal(*quiet)
    assert not torch.equal(*noisy)


def test_folders_that_hold_no_torch_model_are_refused(load, tmp_path):
    model, source = make("bert", load, tmp_path)
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(tmp_path)
    folder = tmp_path / "saved"
    save_model(model, folder, source)
    content = json.loads((folder / "config.json").read_bytes())
    content["polyfold"]["runtime"] = "onnxruntime"
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="'onnxruntime' export holds no torch weights"):
        load_model(folder)


def test_random_weights_stay_marked_through_saving(load, tmp_path):
    loaded = load("bert")
    from dataclasses import replace

    model = new_classifier(replace(loaded.backbone, weights="random"), TASKS, MAX_LENGTH, 0)
    save_model(model, tmp_path / "saved", loaded.folder)
    assert read_config(tmp_path / "saved")[0].weights == "random"
    assert load_model(tmp_path / "saved").backbone.weights == "random"


def test_token_ids_beyond_the_table_are_never_made(load):
    for kind in HUB_FOLDERS:
        loaded = load(kind)
        tokenizer = open_tokenizer(loaded.folder, loaded.backbone.tokenizer)
        ids = np.concatenate(tokenizer.encode([*TEXTS, "xyz 荷物 €"], 100).ids)
        assert ids.max() < tokenizer.vocabulary_size <= loaded.backbone.config["vocab_size"]
