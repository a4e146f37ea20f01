"""Toys of every family over one vocabulary, to be quantized."""

import torch

from polyfold.model.backbone import use_backbone
from polyfold.model.classifier import new_classifier
from polyfold.model.use_multilingual import UseConfig, UseMultilingual
from toys import TOY_MAX_LENGTH, TOY_TASKS
from toys_families import FAMILIES, VOCAB, family_model, toy_batch

EMBEDDED = "use-multilingual"
EVERY_FAMILY = (*FAMILIES, EMBEDDED)
SAMPLES = [toy_batch(seed) for seed in range(4)]


def model_of(family):
    """A classifier of any family, random weights; the embedded encoder's is narrow."""
    if family != EMBEDDED:
        return family_model(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = UseConfig(vocab_size=VOCAB, embedding_width=16, branch_width=8, sentence_width=32, dense_width=24)
        encoder = UseMultilingual(config)
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if "norm" in name:
                    parameter.add_(0.3 * torch.randn_like(parameter))
    model = new_classifier(use_backbone(encoder.eval(), None), TOY_TASKS, TOY_MAX_LENGTH, 0)
    model.classifier.eval()
    return model


def outputs(module, seed=9):
    """All logits side by side, of one batch."""
    with torch.no_grad():
        return torch.cat(list(module.eval()(*toy_batch(seed)).logits.values()), dim=1)
