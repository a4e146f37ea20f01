"""Toy encoders of every family, as small as a test asks for, without any tokenizer."""

import torch

from polyfold.model.backbone import Backbone, Transformer, use_backbone
from polyfold.model.use_multilingual import UseConfig, UseMultilingual
from polyfold.text import TokenizerSpec

VOCABULARY = 60
FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "modernbert")
EMBEDDED = "use-multilingual"


def toy_backbone(family, layers=2, width=32, heads=4, seed=0):
    """An encoder of any family with random weights; its tokenizer is never opened."""
    from transformers import AutoConfig, AutoModel

    spec = TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=1)
    torch.manual_seed(seed)
    if family == EMBEDDED:
        sizes = {"embedding_width": 16, "branch_width": 8, "sentence_width": width, "dense_width": 24}
        return use_backbone(UseMultilingual(UseConfig(vocab_size=VOCABULARY, **sizes)).eval(), spec)
    # Weights ten times the usual: with those, a random encoder says nearly the same of every text.
    common = {
        "vocab_size": VOCABULARY, "max_position_embeddings": 40, "pad_token_id": 1, "initializer_range": 0.2,
    }  # fmt: skip
    names = ("dim", "n_layers", "n_heads", "hidden_dim") if family == "distilbert" else (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"
    )  # fmt: skip
    sizes = dict(zip(names, (width, layers, heads, 48), strict=True))
    ends = (
        {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
        if family == "modernbert"
        else {}
    )
    config = AutoConfig.for_model(family, **common, **sizes, **ends)
    options = {} if family in ("distilbert", "modernbert") else {"add_pooling_layer": False}
    encoder = AutoModel.from_config(config, **options).eval()
    return Backbone(family, Transformer(encoder), width, config.to_dict(), spec, 32)
