"""A pruned transformer is saved, loaded, exported, trimmed, quantized and trained as any other model."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from polyfold.compress.grids import prepare_grids
from polyfold.errors import InputError
from polyfold.export import to_onnx
from polyfold.model import backbone, pruned, structure
from polyfold.model.backbone import (
    embedding_rows,
    prefer_plain_attention,
    replace_embedding,
    resized,
    token_embedding,
)
from polyfold.model.classifier import load_model, save_model
from polyfold.model.internals import with_internals
from polyfold.model.layout import LAYOUTS, PREFIX
from toys_families import (
    FAMILIES,
    HEAD_SIZE,
    HEADS,
    LAYERS,
    NEURONS,
    VOCAB,
    WIDTH,
    family_model,
    logits,
    toy_batch,
)

UNEVEN = {
    ("layers", None): np.array([1, 2]),
    ("heads", 1): np.array([0, 3]),
    ("feed_forward", 2): np.arange(1, NEURONS),
    ("width", None): np.arange(3, WIDTH),
    ("embedding_rank", None): np.arange(7),
}
EVEN = {
    "fewer layers": {("layers", None): np.array([0, 2])},
    "equal feed-forward sizes": {("feed_forward", layer): np.arange(layer, 7 + layer) for layer in range(LAYERS)},
    "a width of whole heads": {
        ("width", None): np.arange(WIDTH - 4),
        **{("heads", layer): np.array([0, 1, 3]) for layer in range(LAYERS)},
    },
}
LOADER = """
import json, sys
ids, mask, stock, uneven = json.load(sys.stdin)
sys.modules["polyfold"] = None
import torch
from transformers import AutoModel

def load(folder):
    model, told = AutoModel.from_pretrained(folder, output_loading_info=True)
    states = model.eval()(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state
    names = {key: sorted(told[key]) for key in ("missing_keys", "unexpected_keys")}
    return {"class": type(model).__name__, "pooled": states[:, 0].tolist(), **names}

found = {folder: load(folder) for folder in stock}
del sys.modules["polyfold"]
from polyfold.model.pruned import register
register()
register()
json.dump(found | {folder: load(folder) for folder in uneven}, sys.stdout)
"""


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    """Models whose sizes their family can state, by the folder they are saved in."""
    saved = {}
    for family in FAMILIES:
        for keep in EVEN.values():
            folder = tmp_path_factory.mktemp("even")
            model = structure.cut(family_model(family, folder), keep)
            save_model(model, folder / "saved", folder)
            saved[folder / "saved"] = model
    return saved


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Models with other sizes, by the folder they are saved in."""
    saved = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp("uneven")
        model = structure.cut(family_model(family, folder), UNEVEN)
        save_model(model, folder / "saved", folder)
        saved[folder / "saved"] = model
    return saved


@pytest.fixture(scope="module")
def elsewhere(even, uneven):
    """What `AutoModel` makes of the folders in a process of its own, which at first has no Polyfold."""
    batch = [tensor.tolist() for tensor in toy_batch()]
    asked = json.dumps([*batch, list(map(str, even)), list(map(str, uneven))])
    command = [sys.executable, "-c", LOADER]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_loaded(found, model):
    with torch.no_grad():
        pooled = model.classifier.eval()(*toy_batch()).pooled
    assert torch.allclose(torch.tensor(found["pooled"]), pooled, atol=1e-5)
    # A pooling layer is what `AutoModel` adds to a BERT by itself.
    assert all(key.startswith("pooler.") for key in found["missing_keys"])
    assert all(key.startswith("heads.") for key in found["unexpected_keys"])


def test_every_family_that_can_be_loaded_can_be_pruned():
    assert set(LAYOUTS) == set(backbone.FAMILIES)


def test_sizes_that_a_family_can_state_are_saved_as_the_family_and_load_without_polyfold(even, elsewhere):
    assert len(even) == len(FAMILIES) * len(EVEN)
    for folder, model in even.items():
        assert model.backbone.family in FAMILIES
        assert not set(model.backbone.config) & set(pruned.FIELDS)
        assert torch.equal(logits(load_model(folder)), logits(model))
        assert not elsewhere[str(folder)]["class"].startswith("Pruned")
        check_loaded(elsewhere[str(folder)], model)


def test_uneven_sizes_are_saved_as_our_class_which_loads_once_it_is_registered(uneven, elsewhere):
    assert [model.backbone.family for model in uneven.values()] == [PREFIX + family for family in FAMILIES]
    for folder, model in uneven.items():
        config = json.loads((folder / "config.json").read_bytes())
        assert config["layer_heads"] == [2, HEADS]
        assert config["layer_feed_forward"] == [NEURONS, NEURONS - 1]
        assert (config["embedding_rank"], config["model_type"]) == (7, model.backbone.family)
        again = load_model(folder)
        assert torch.equal(logits(again), logits(model))
        assert again.backbone.width == WIDTH - 3
        assert (again.parameters, again.trunk_parameters) == (model.parameters, model.trunk_parameters)
        whole = sum(parameter.numel() for parameter in model.classifier.encoder.parameters())
        assert model.trunk_parameters == whole - VOCAB * 7
        assert elsewhere[str(folder)]["class"].startswith("Pruned")
        check_loaded(elsewhere[str(folder)], model)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_keys_of_our_class_are_the_familys_but_for_the_tables_second_matrix(family):
    full = family_model(family)
    stock = set(structure.cut(full, EVEN["fewer layers"]).classifier.encoder.encoder.state_dict())
    found = set(structure.cut(full, UNEVEN).classifier.encoder.encoder.state_dict())
    tables = {name for name in found if ".table." in name or ".projection." in name}
    assert len(tables) == 2
    # The layer that is now the first has a norm that ModernBERT's own first layer lacks.
    extra = {"layers.0.attn_norm.weight"} if family == "modernbert" else set()
    assert found - tables == (stock | extra) - {next(iter(tables)).split("_embeddings.")[0] + "_embeddings.weight"}


def test_cutting_unevenness_away_brings_the_stock_family_back():
    keep = {("heads", 0): np.array([1, 2]), ("feed_forward", 1): np.arange(4)}
    uneven = structure.cut(family_model("xlm-roberta"), keep)
    even = structure.cut(uneven, {("layers", None): np.array([2])})
    assert (uneven.backbone.family, even.backbone.family) == ("polyfold-xlm-roberta", "xlm-roberta")
    assert even.backbone.config["num_attention_heads"] == HEADS
    assert torch.allclose(
        logits(even), logits(structure.cut(family_model("xlm-roberta"), {("layers", None): [2]}))
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_computes_the_same_with_fused_and_with_plain_attention(family):
    model = structure.cut(family_model(family), UNEVEN)
    encoder = model.classifier.encoder.encoder
    assert encoder.config._attn_implementation == "sdpa"
    fused = logits(model)
    prefer_plain_attention(model.classifier.encoder)
    assert encoder.config._attn_implementation == "eager"
    assert torch.allclose(logits(model), fused, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_exported_with_the_same_logits(family):
    model = structure.cut(family_model(family), UNEVEN)
    expected = logits(model)
    session = onnxruntime.InferenceSession(to_onnx(model).SerializeToString())
    ids, mask = (tensor.numpy() for tensor in toy_batch())
    found = session.run(None, {"input_ids": ids, "attention_mask": mask})
    assert np.concatenate(found, axis=1) == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vocabulary_of_a_factorized_model_can_be_trimmed(family, tmp_path):
    model = structure.cut(family_model(family, tmp_path), UNEVEN)
    before = logits(model)
    ids, mask = toy_batch()
    rows = torch.unique(torch.cat([ids.reshape(-1), torch.tensor([0, 1, 2, 3])]))
    encoder = model.classifier.encoder
    replace_embedding(encoder, token_embedding(encoder).weight.detach()[rows], 1)
    assert token_embedding(encoder).num_embeddings == len(rows) < VOCAB
    small = replace(model, backbone=resized(model.backbone, model.backbone.tokenizer))
    with torch.no_grad():
        after = torch.cat(list(small.classifier(torch.searchsorted(rows, ids), mask).logits.values()), dim=1)
    assert torch.allclose(after, before, atol=1e-6)
    save_model(small, tmp_path / "saved", tmp_path)
    again = load_model(tmp_path / "saved")
    assert token_embedding(again.classifier.encoder).weight.shape == (len(rows), 7)
    assert again.parameters == small.parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_a_pruned_model_is_trained(family):
    model = structure.cut(family_model(family), UNEVEN)
    optimizer = torch.optim.Adam(model.classifier.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        found = model.classifier(*toy_batch()).logits
        loss = sum(values.square().mean() for values in found.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in model.classifier.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_factorized_table_multiplied_out_is_what_the_layers_read(family):
    full = family_model(family)
    table = token_embedding(full.classifier.encoder).weight
    assert torch.equal(embedding_rows(full.classifier.encoder), table)
    cut = structure.cut(full, {("embedding_rank", None): np.arange(WIDTH)})
    assert token_embedding(cut.classifier.encoder).weight.shape == (VOCAB, WIDTH)
    assert torch.allclose(embedding_rows(cut.classifier.encoder), table, atol=1e-5)
    narrow = structure.cut(cut, {("width", None): np.arange(4, WIDTH)})
    assert torch.allclose(embedding_rows(narrow.classifier.encoder), table[:, 4:], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_layerwise_losses_see_each_layers_own_heads(family):
    model = structure.cut(family_model(family), UNEVEN)
    wanted = frozenset({"hidden_states", "queries", "keys", "values"})
    found = with_internals(model.classifier, *toy_batch(), wanted).internals
    assert found.heads == (2, HEADS)
    for parts in (found.queries, found.keys, found.values):
        assert [part.shape[-1] for part in parts] == [2 * HEAD_SIZE, HEADS * HEAD_SIZE]
    assert {state.shape[-1] for state in found.hidden_states} == {WIDTH - 3}


@pytest.mark.parametrize("family", ["xlm-roberta", "modernbert"])
def test_a_pruned_model_is_quantized_saved_and_exported_and_then_pruned_no_more(family, tmp_path):
    model = structure.cut(family_model(family, tmp_path), UNEVEN)
    samples = [toy_batch(seed) for seed in range(6)]
    quantized = replace(model, classifier=prepare_grids(model.classifier, samples).quantized())
    found, expected = logits(quantized), logits(model)
    assert 0 < (found - expected).abs().mean() < 0.2 * expected.abs().mean()
    save_model(quantized, tmp_path / "saved", tmp_path)
    assert torch.equal(logits(load_model(tmp_path / "saved")), found)
    session = onnxruntime.InferenceSession(to_onnx(quantized).SerializeToString())
    ids, mask = (tensor.numpy() for tensor in toy_batch())
    exported = session.run(None, {"input_ids": ids, "attention_mask": mask})
    assert np.concatenate(exported, axis=1) == pytest.approx(found.numpy(), abs=0.02)
    with pytest.raises(InputError, match="quantized model cannot be pruned"):
        structure.cut(quantized, {("heads", 0): np.array([0])})


def test_a_configuration_without_its_sizes_is_refused():
    config = pruned.PrunedBertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(InputError, match="lacks its sizes"):
        pruned.PrunedBert(config)
    config = pruned.PrunedBertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=1, layer_heads=[1], layer_feed_forward=[3, 3],
        head_size=4,
    )  # fmt: skip
    with pytest.raises(InputError, match="1 layer_heads and 2 layer_feed_forward for 2 layers"):
        pruned.PrunedBert(config)
