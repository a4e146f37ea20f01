"""FLOPs and parameters that are worked out from sizes are those that torch counts while a model runs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from polyfold.model import structure
from polyfold.model.backbone import prefer_plain_attention, use_backbone
from polyfold.model.classifier import new_classifier
from polyfold.model.flops import encoder_cost, model_cost
from polyfold.model.use_multilingual import UseConfig, UseMultilingual
from polyfold.tasks import Task
from toys_families import FAMILIES, HEADS, LAYERS, NEURONS, WIDTH, family_model


def counted(module, batch, seq):
    """What torch's own counter sees while the module runs once, its attention spelled out."""
    ids = torch.ones(batch, seq, dtype=torch.int64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(ids, torch.ones_like(ids))
    return counter.get_total_flops()


def check(model, batch, seq):
    prefer_plain_attention(model.classifier.encoder)
    found = model_cost(model, batch, seq)
    assert found.flops == counted(model.classifier, batch, seq)
    assert found.parameters == sum(parameter.numel() for parameter in model.classifier.parameters())
    encoder = encoder_cost(model.classifier.encoder, batch, seq)
    assert encoder.flops == counted(model.classifier.encoder, batch, seq)
    assert encoder.parameters == sum(parameter.numel() for parameter in model.classifier.encoder.parameters())


@pytest.mark.parametrize(("batch", "seq"), [(1, 1), (2, 7), (3, 24)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stock_transformer_costs_what_torch_counts(family, batch, seq):
    check(family_model(family), batch, seq)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_transformer_costs_what_torch_counts(family):
    keep = {
        ("layers", None): np.array([0, 2]),
        ("heads", 0): np.array([1]),
        ("feed_forward", 2): np.arange(NEURONS - 3),
        ("width", None): np.arange(WIDTH - 5),
        ("embedding_rank", None): np.arange(6),
    }
    model = structure.cut(family_model(family), keep)
    assert (len(model.backbone.config["layer_heads"]), HEADS, LAYERS) == (2, 4, 3)
    check(model, 2, 9)


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.fixed_dictionaries(
        {
            "embedding_width": st.integers(1, 9), "branch_widths": st.tuples(*[st.integers(1, 6)] * 3),
            "sentence_width": st.integers(1, 9), "dense_widths": st.tuples(*[st.integers(1, 9)] * 4),
            "embedding_rank": st.none() | st.integers(1, 5),
        }
    ),
    batch=st.integers(1, 3),
    seq=st.integers(1, 9),
)  # fmt: skip
def test_an_embedded_encoder_of_any_sizes_costs_what_torch_counts(sizes, batch, seq):
    backbone = use_backbone(UseMultilingual(UseConfig(vocab_size=30, **sizes)), None)
    check(new_classifier(backbone, (Task(name="one", labels=("a", "b", "c")),), 16, 0), batch, seq)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_stock_sequence_classifier_costs_what_torch_counts(family):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from polyfold.model.backbone import Transformer
    from polyfold.model.stock import strip

    config = AutoConfig.for_model(family, **_small(family), num_labels=5)
    trunk, _ = strip(AutoModelForSequenceClassification.from_config(config).eval(), 5)
    module = Transformer(trunk)
    prefer_plain_attention(module)
    found = encoder_cost(module, 2, 6)
    assert found.flops == counted(module, 2, 6)
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())


def _small(family):
    names = ("dim", "n_layers", "n_heads", "hidden_dim")
    if family != "distilbert":
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {**dict(zip(names, (12, 2, 3, 20), strict=True)), "vocab_size": 40, "pad_token_id": 0}
