"""Which precision `auto` is: what the hardware has, where the model is large enough to gain."""

import pytest
import torch

from polyfold.errors import InputError
from polyfold.model.use_multilingual import UseConfig, UseMultilingual
from polyfold.train.precision import choose_precision, typical_side
from toys_families import WIDTH, family_model

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def stack(width):
    return torch.nn.Sequential(torch.nn.Embedding(9, 4), *(torch.nn.Linear(width, 4 * width) for _ in range(2)))


@on_cpu
@pytest.mark.parametrize(
    ("width", "instructions", "expected"),
    [
        (256, ("avx512f", "avx512_bf16"), "bf16"),
        (256, ("amx_bf16",), "bf16"),
        (128, ("amx_bf16",), "bf16"),
        (127, ("amx_bf16",), "fp32"),
        (256, ("avx2", "avx512f", "avx512_vnni"), "fp32"),
        (256, (), "fp32"),
    ],
)
def test_auto_is_bf16_where_the_processor_has_it_and_matrices_are_wide(width, instructions, expected):
    assert choose_precision("auto", stack(width), instructions) == expected


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_what_was_asked_for_is_taken(asked):
    for instructions in ((), ("avx512_bf16",)):
        assert choose_precision(asked, stack(256), instructions) == asked


@on_cpu
def test_fp16_without_a_gpu_is_refused():
    with pytest.raises(InputError, match=r"fit\.precision.*needs a GPU(.|\n)*bf16"):
        choose_precision("fp16", stack(256), ("avx512_bf16",))


@on_cpu
def test_a_quantized_model_is_trained_in_fp32(monkeypatch):
    assert choose_precision("auto", stack(256), ("amx_bf16",)) == "bf16"
    monkeypatch.setattr("polyfold.train.precision.is_quantized", lambda model: True)
    assert choose_precision("auto", stack(256), ("amx_bf16",)) == "fp32"


def test_the_typical_side_is_that_of_the_matrices_a_token_goes_through():
    assert typical_side(stack(64)) == 64
    assert typical_side(torch.nn.Embedding(1000, 1000)) == 0
    assert 8 < typical_side(family_model("bert").classifier.encoder) <= WIDTH
    # The published sizes of the embedded encoder: branches of 256 under a projection of 512 x 768.
    assert 256 < typical_side(UseMultilingual(UseConfig(vocab_size=9))) < 512
