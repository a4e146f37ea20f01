"""Which number format a model is trained in, where the recipe leaves that open."""

from collections.abc import Collection
from typing import Literal

import torch
from torch import nn

from polyfold.errors import InputError
from polyfold.model.quantized import is_quantized

Precision = Literal["fp32", "bf16", "fp16"]

BF16_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16"})
"""Processors without them compute bf16 in fp32 and convert on top."""

LEAST_SIDE = 128.0
"""From this size of matrices on bf16 pays on a processor that has it.

Forward and backward over 16 x 25 tokens on one core with AVX-512 BF16: transformers of width 64 are 1.3 times as
fast (and slower at 12 x 12), of 128 1.7, of 256 2.4, of 384 2.7, of 768 3.0 times; the embedded encoder, with
branches of 256, 1.4 times, one with branches of 128 1.2, of 64 0.9 times.
"""


def choose_precision(
    asked: Literal["auto"] | Precision, model: nn.Module, instructions: Collection[str]
) -> Precision:
    """What was asked for; for `auto` bf16 where the hardware has it and the model is large enough to gain.

    It hangs on the hardware and the model's shape alone and on no measurement, which would choose now this, now
    that. Fake quantizers are trained in fp32 on a processor: bf16 rounds as coarsely as their own grids.
    """
    if asked == "fp16" and not torch.cuda.is_available():
        raise InputError("fp16 needs a GPU", key="fit.precision", hint="give fp32, bf16 or auto")
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    able = not BF16_INSTRUCTIONS.isdisjoint(instructions)
    return "bf16" if able and typical_side(model) >= LEAST_SIDE and not is_quantized(model) else "fp32"


def typical_side(model: nn.Module) -> float:
    """The smaller side of a weight matrix, as the mean over all multiply-adds of a token; 0 without matrices."""
    weights = [one.weight for one in model.modules() if isinstance(one, nn.Linear | nn.Conv1d)]
    total = sum(weight.numel() for weight in weights)
    # A convolution is a matrix product with its inputs' channels times its taps on one side.
    sides = sum(weight.numel() * min(len(weight), weight[0].numel()) for weight in weights)
    return sides / total if total else 0.0
