"""A toy whose sizes a GPU's kernels take: heads of 8, sides that are multiples of 16."""

import torch

from polyfold.model.backbone import Backbone, Transformer
from polyfold.model.classifier import new_classifier
from toys import TOY_TASKS
from toys_families import VOCAB

GPU_WIDTH, GPU_LENGTH = 32, 32


def gpu_model(family="xlm-roberta", seed=0, layers=2):
    """A classifier over an encoder of width 32, uneven enough that every difference shows."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        family, vocab_size=VOCAB, hidden_size=GPU_WIDTH, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=GPU_LENGTH + 2, pad_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = AutoModel.from_config(config, add_pooling_layer=False)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    backbone = Backbone(family, Transformer(encoder), GPU_WIDTH, encoder.config.to_dict(), None, GPU_LENGTH)
    model = new_classifier(backbone, TOY_TASKS, GPU_LENGTH, seed)
    model.classifier.eval()
    return model
