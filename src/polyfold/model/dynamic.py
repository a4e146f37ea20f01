"""Activations quantized at run time, as ONNX's DynamicQuantizeLinear does it."""

from typing import Any

import torch
from nncf.torch.layer_utils import StatefulModuleInterface
from torch import Tensor, nn

LEVELS = 255


class DynamicQuantizer(nn.Module, StatefulModuleInterface):
    """Puts a tensor on the uint8 grid of its own smallest and largest value, zero among them.

    ONNX's DynamicQuantizeLinear-11: scale = (max(x, 0) - min(x, 0)) / 255, zero point = round(-min / scale). One
    grid a tensor, so a document's answer hangs, by a rounding step, on the documents it shares a batch with.
    """

    def forward(self, values: Tensor) -> Tensor:
        """`values` on its grid, still as floats."""
        low = values.amin().clamp(max=0.0)
        scale = (values.amax().clamp(min=0.0) - low) / LEVELS
        # A tensor of zeros stays one.
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero_point = torch.round(-low / scale).clamp(0, LEVELS)
        return ((torch.round(values / scale) + zero_point).clamp(0, LEVELS) - zero_point) * scale

    def get_config(self) -> dict[str, Any]:
        """Nothing is kept: all of it is found at run time."""
        return {}

    @classmethod
    def from_config(cls, state: dict[str, Any]) -> "DynamicQuantizer":
        """A new one; `state` is what `get_config` gave."""
        assert not state
        return cls()
