"""How many floating-point operations a model needs for one document, from its configuration alone."""

import json
from collections.abc import Sequence

import torch
from torch import nn

from polyfold.artifact import CONFIG, Artifact
from polyfold.errors import InputError
from polyfold.model.backbone import rebuild
from polyfold.model.flops import encoder_cost

TOKENS = 128


def mflops_of(artifacts: Sequence[Artifact]) -> float | None:
    """Millions of operations of all these models for one document of 128 tokens; None where one is not known.

    An export is what its configuration says it was made from: whatever precision it computes in, the products
    are the same. Heads are counted with the encoder.
    """
    every = [_operations(artifact) for artifact in artifacts]
    known = [one for one in every if one is not None]
    return sum(known) / 1e6 if known and len(known) == len(every) else None


def encoder_mflops(encoder: nn.Module) -> float | None:
    """The same for an encoder without heads."""
    try:
        return encoder_cost(encoder, 1, TOKENS).flops / 1e6
    except InputError:
        return None  # of a family whose matrices we do not know


def _operations(artifact: Artifact) -> float | None:
    config, tasks = artifact.config()
    settings = json.loads((artifact.path / CONFIG).read_bytes())
    # Without memory: only the shapes count.
    with torch.device("meta"):
        encoder = rebuild(config.family, settings)
    mflops = encoder_mflops(encoder)
    width = settings.get("sentence_width") or settings.get("hidden_size") or settings.get("dim")
    if mflops is None or width is None:
        return None
    return mflops * 1e6 + 2 * int(width) * sum(len(task.labels) for task in tasks)
