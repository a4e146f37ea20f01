"""Linear layers in int8 or fp8 on a GPU's tensor cores: weights scaled by output channel, activations by token.

Both are quantized symmetrically by their largest magnitudes, activations when they come: no calibration, and
nothing of a document depends on the others in its batch (Dettmers et al., "LLM.int8()", 2022, section 2.1,
vector-wise quantization). Integer products are exact. On a processor torch computes the same, slowly, and that is
how this is tested.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from polyfold.errors import InputError

EightBit = Literal["int8", "fp8"]

LARGEST = {"int8": 127.0, "fp8": 448.0}
"""The largest magnitude that is used: 127 of int8, 448 of e4m3."""

NEEDED = {"int8": (8, 0), "fp8": (8, 9)}
"""The GPU generation whose tensor cores know the type: Ampere (torch.compile's kernels want it), Ada or Hopper."""

BLOCK = {"int8": 8, "fp8": 16}
"""Both sides of a weight must be multiples of this."""

ROWS = 32
"""CUDA's integer product wants more than 16 rows; fewer are filled up to this many."""


def scaled(values: Float[Tensor, "rows columns"], kind: EightBit) -> tuple[Tensor, Float[Tensor, "rows 1"]]:
    """Values on their row's own 8-bit grid, and the scale of each row in fp32."""
    wide = values.float()
    tiny = torch.finfo(torch.float32).tiny
    scale = (wide.abs().amax(dim=1, keepdim=True) / LARGEST[kind]).clamp_min(tiny)
    if kind == "int8":
        return (wide / scale).round().clamp(-127, 127).to(torch.int8), scale
    return (wide / scale).clamp(-LARGEST[kind], LARGEST[kind]).to(torch.float8_e4m3fn), scale


class EightBitLinear(nn.Module):
    """A linear layer whose weight is stored in 8 bits and multiplied in 8 bits; it answers in its input's type."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, kind: EightBit) -> None:
        super().__init__()
        self.kind = kind
        weight, scale = scaled(linear.weight.detach(), kind)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.reshape(1, -1))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, inputs: Float[Tensor, "rows into"]) -> Float[Tensor, "rows out"]:
        """The product, as `nn.Linear` gives it up to rounding."""
        rows, scale = scaled(inputs, self.kind)
        if self.kind == "int8":
            return self._integers(rows, scale, inputs.dtype)
        # Scaled by row and column, the kernel answers in bfloat16 only.
        fused = self.bias if self.bias is not None and self.bias.dtype == torch.bfloat16 else None
        product = torch._scaled_mm(
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale, bias=fused, out_dtype=torch.bfloat16
        ).to(inputs.dtype)
        return product if self.bias is None or fused is not None else product + self.bias

    def _integers(self, rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        count = len(rows)
        if count < ROWS and rows.is_cuda:
            rows = functional.pad(rows, (0, 0, 0, ROWS - count))
        product = torch._int_mm(rows, self.weight.t())[:count].float() * scale * self.scale
        return (product if self.bias is None else product + self.bias).to(dtype)


def check_capability(kind: EightBit, capability: tuple[int, int]) -> None:
    """InputError where a GPU of this compute capability has no tensor cores for the type."""
    if capability < NEEDED[kind]:
        found, wanted = (".".join(map(str, one)) for one in (capability, NEEDED[kind]))
        raise InputError(
            f"this GPU (compute capability {found}) does not compute in {kind}",
            hint=f"{kind} needs {wanted} or newer; use bf16",
        )


def to_eight_bits(module: nn.Module, kind: EightBit) -> int:
    """Replace, in place, every linear layer below `module` whose sizes allow it; returns how many it was."""
    replaced = 0
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.Linear) and not (part.in_features % BLOCK[kind] or part.out_features % BLOCK[kind]):
            module.set_submodule(name, EightBitLinear(part, kind))
            replaced += 1
    return replaced
