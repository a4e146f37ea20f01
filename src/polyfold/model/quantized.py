"""Fake quantization on a classifier: quantizers in NNCF's hooks, saved as JSON beside the weights, restored."""

import copy
import logging
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfold.errors import MissingExtra
from polyfold.model.placement import Hook, Placement, is_kept
from polyfold.system import telemetry_off

QUANTIZERS_FILE = "quantizers.json"
COMPILING_SECONDS = 180.0
"""No compilation of the helper takes longer; a lock that is older belongs to a process that died."""

HOOKS = "__nncf_hooks"
"""NNCF keeps its quantizers' parameters under this name in the state dict."""

FLOAT = "fp32"
"""The precision of a model without quantizers."""

OURS = ("nncf.*", "polyfold.model.*")
"""Where the modules that a quantizers' file names may come from."""


@dataclass(frozen=True)
class Range:
    """The values that a quantizer holds apart: what is smaller or larger is clipped."""

    low: float
    high: float


def hooked(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode that can carry quantizers; its hooks are still empty."""
    require_nncf()
    from nncf.torch.function_hook.wrapper import wrap_model

    return wrap_model(copy.deepcopy(module).eval())


def add_hook(module: nn.Module, hook: Hook, part: nn.Module) -> Any:
    """Put a module at a place of the forward pass; the result's `remove()` takes it out again."""
    from nncf.torch.function_hook.wrapper import register_post_function_hook, register_pre_function_hook

    register = register_pre_function_hook if hook.when == "pre" else register_post_function_hook
    return register(module, hook.operation, hook.port, part)


def insert_quantizers(
    module: nn.Module, placement: Placement, ranges: Mapping[tuple[Hook, str], Range] | None
) -> None:
    """Put fake quantizers into a hooked module: weights by output channel, activations by tensor.

    `ranges` are those of the activations, by tensor and grid; without them activations are quantized at run time.
    """
    parameters = dict(module.named_parameters())
    for weight in placement.weights:
        add_hook(module, weight.hook, _weight_quantizer(parameters[weight.parameter].detach()))
    for activation in placement.activations:
        if ranges is None:
            from polyfold.model.dynamic import DynamicQuantizer

            add_hook(module, activation.hook, DynamicQuantizer())
        else:
            limits = ranges[activation.tensor, activation.grid]
            add_hook(module, activation.hook, _activation_quantizer(limits, signed=activation.grid == "int8"))


def _weight_quantizer(weight: Float[Tensor, "out ..."]) -> nn.Module:
    """Symmetric int8 in [-127, 127], one scale an output channel."""
    from nncf.common.quantization.structs import QuantizationScheme
    from nncf.torch.quantization.layers import PTQuantizerSpec, SymmetricQuantizer

    shape = (weight.shape[0], *(1 for _ in weight.shape[1:]))
    spec = PTQuantizerSpec(8, QuantizationScheme.SYMMETRIC, True, True, False, shape, False)
    quantizer = SymmetricQuantizer(spec)
    largest = weight.abs().flatten(1).amax(dim=1)
    with torch.no_grad():
        # A channel of zeros stays one, whatever its scale.
        quantizer.scale.copy_(torch.where(largest == 0, torch.ones_like(largest), largest).reshape(shape))
    return quantizer


def _activation_quantizer(limits: Range, signed: bool) -> nn.Module:
    """Symmetric int8, or uint8 with a zero point; zero is always held exactly, since padding is made of it."""
    from nncf.common.quantization.structs import QuantizationScheme
    from nncf.torch.quantization.layers import AsymmetricQuantizer, PTQuantizerSpec, SymmetricQuantizer

    low, high = min(limits.low, 0.0), max(limits.high, 0.0)
    smallest = float(np.finfo(np.float32).eps)
    mode = QuantizationScheme.SYMMETRIC if signed else QuantizationScheme.ASYMMETRIC
    spec = PTQuantizerSpec(8, mode, True if signed else None, False, False, (1,), False)
    with torch.no_grad():
        if signed:
            symmetric = SymmetricQuantizer(spec)
            symmetric.scale.fill_(max(-low, high, smallest))
            return symmetric
        asymmetric = AsymmetricQuantizer(spec)
        step = max(high - low, smallest) / 255
        # Moved by less than half a step, so that zero is on the grid: NNCF would stretch the range for that, by a
        # tenth where one side is short.
        asymmetric.input_low.fill_(-round(-low / step) * step)
        asymmetric.input_range.fill_(255 * step)
        return asymmetric


def embedding_tables(module: nn.Module, keep: Iterable[str] = ()) -> dict[str, nn.Embedding]:
    """The tables of token, position and type embeddings by the path of their module, but those of `keep`."""
    kept = tuple(keep)
    tables = {name: part for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
    return {name: part for name, part in tables.items() if not is_kept(name, kept)}


def snap_tables(module: nn.Module, keep: Iterable[str] = ()) -> None:
    """Put every embedding table on its int8 grid, in place.

    A fake quantizer would go over the whole table at every step, at many times the cost of all the rest.
    """
    with torch.no_grad():
        for part in embedding_tables(module, keep).values():
            part.weight.copy_(snap_rows(part.weight))


def snap_rows(table: Float[Tensor, "vocab hidden"]) -> Float[Tensor, "vocab hidden"]:
    """The table with every row on its own symmetric int8 grid: what `quantize_rows` stores, it stores exactly."""
    integers, scales = quantize_rows(table.detach().cpu().numpy())
    return torch.from_numpy(integers.astype(np.float32) * scales[:, None])


def quantize_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 with a scale a row: int8 [vocab, hidden] and float32 [vocab].

    A row's largest magnitude becomes 127, so quantizing a snapped table again finds the same grid.
    """
    scales = np.maximum(np.abs(table).max(axis=1), np.finfo(np.float32).tiny * 127) / np.float32(127)
    integers = np.rint(table / scales[:, None])
    return np.clip(integers, -127, 127).astype(np.int8), scales.astype(np.float32)


def is_quantized(module: nn.Module) -> bool:
    """Whether the module carries quantizers."""
    return precision_of(module) != FLOAT


def precision_of(module: nn.Module) -> str:
    """`fp32`; `int8`; `int8-dynamic`: activations quantized at run time; `int8-weights`: not quantized at all."""
    if not any(name.startswith(f"{HOOKS}.") and name.count(".") >= 3 for name, _ in module.named_modules()):
        return FLOAT
    from nncf.torch.quantization.layers import BaseQuantizer

    from polyfold.model.dynamic import DynamicQuantizer

    parts = list(module.modules())
    if any(isinstance(part, DynamicQuantizer) for part in parts):
        return "int8-dynamic"
    per_tensor = any(isinstance(part, BaseQuantizer) and not part.per_channel for part in parts)
    return "int8" if per_tensor else "int8-weights"


def quantizer_config(module: nn.Module) -> dict[str, Any]:
    """Where the quantizers sit and of what kind they are, as JSON-ready values."""
    require_nncf()
    from nncf.torch import get_config

    return dict(get_config(module))


def restore_quantizers(module: nn.Module, config: Mapping[str, Any]) -> Any:
    """Insert the quantizers that `quantizer_config` described; their ranges come with the state dict."""
    require_nncf()
    from nncf.torch import load_from_config

    return load_from_config(module, dict(config), allowed_modules=OURS)


def strip(module: nn.Module, example: tuple[Tensor, Tensor]) -> Any:
    """A copy whose quantizers are torch's own fake-quantize operations, which the ONNX exporter knows.

    Quantizers that work at run time are left out: the exported graph gets them in another form.
    """
    nncf = require_nncf()
    from nncf.torch.function_hook.wrapper import get_hook_storage

    from polyfold.model.dynamic import DynamicQuantizer

    found = copy.deepcopy(module)
    storage = get_hook_storage(found)
    for name in [name for name, part in storage.named_hooks() if isinstance(part, DynamicQuantizer)]:
        storage.delete_hook(name)
    with torch.no_grad():
        return nncf.strip(found, do_copy=False, example_input=example)


def require_nncf() -> Any:
    """NNCF, made quiet; MissingExtra where it is not installed."""
    telemetry_off()
    # NNCF compiles a small helper on first use and gives up after a minute, which a busy machine may need.
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "600")
    try:
        import nncf
    except ModuleNotFoundError:
        raise MissingExtra("nncf", "train") from None
    nncf.set_log_level(logging.ERROR)
    _remove_stale_lock()
    return nncf


def _remove_stale_lock() -> None:
    """Remove the lock of a process that died while compiling NNCF's helper: all after it would wait for it."""
    from nncf.torch.extensions import get_build_directory_for_extension

    lock = get_build_directory_for_extension("quantized_functions_cpu") / "lock"
    try:
        if time.time() - lock.stat().st_mtime > COMPILING_SECONDS:
            lock.unlink()
    except FileNotFoundError:
        return
