"""Fake quantization on a classifier: put there by NNCF, saved as JSON beside the weights, restored from it."""

import copy
import logging
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from polyfold.errors import MissingExtra
from polyfold.system import telemetry_off

QUANTIZERS_FILE = "quantizers.json"
COMPILING_SECONDS = 180.0
"""No compilation of the helper takes longer; a lock that is older belongs to a process that died."""

HOOKS = "__nncf_hooks"
"""NNCF keeps its quantizers' parameters under this name in the state dict."""


def quantize(
    module: nn.Module, samples: Iterable[tuple[Tensor, Tensor]], count: int, keep: Sequence[str] = ()
) -> Any:
    """Insert fake quantizers (per-channel int8 weights, uint8 activations), ranges set from `samples`.

    Layers named in `keep` stay in floating point. Embedding tables get no quantizer: they are put on their int8
    grid here, and stay exact while they are not trained.

    Without SmoothQuant: on the embedded encoder it doubled the quantization error (0.16 against 0.07 in the
    largest logit), and OpenVINO 2026.4 computed other results from the scaled graph than ONNX Runtime did.
    """
    nncf = _nncf()
    off = nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
    # A fake quantizer would go over the whole table at every step, at many times the cost of all the rest.
    ignored = nncf.IgnoredScope(types=["embedding"], patterns=[f".*/{name}/.*" for name in keep], validate=False)
    module = copy.deepcopy(module).eval()
    with torch.no_grad():
        for table in (part.weight for part in module.modules() if isinstance(part, nn.Embedding)):
            table.copy_(snap_rows(table))
    # NNCF draws its bars on standard output, which is for results.
    with redirect_stdout(sys.stderr):
        return nncf.quantize(
            module,
            nncf.Dataset(list(samples)),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=count,
            fast_bias_correction=True,
            ignored_scope=ignored,
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=off),
        )


def snap_rows(table: Float[Tensor, "vocab hidden"]) -> Float[Tensor, "vocab hidden"]:
    """The table with every row on its own symmetric int8 grid: what `quantize_rows` stores, it stores exactly."""
    integers, scales = quantize_rows(table.numpy())
    return torch.from_numpy(integers.astype(np.float32) * scales[:, None])


def quantize_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 with a scale a row: int8 [vocab, hidden] and float32 [vocab].

    A row's largest magnitude becomes 127, so quantizing a snapped table again finds the same grid.
    """
    scales = np.maximum(np.abs(table).max(axis=1), np.finfo(np.float32).tiny * 127) / np.float32(127)
    integers = np.rint(table / scales[:, None])
    return np.clip(integers, -127, 127).astype(np.int8), scales.astype(np.float32)


def quantizer_config(module: nn.Module) -> dict[str, Any]:
    """Where the quantizers sit and of what kind they are, as JSON-ready values."""
    _nncf()
    from nncf.torch import get_config

    return dict(get_config(module))


def restore_quantizers(module: nn.Module, config: Mapping[str, Any]) -> Any:
    """Insert the quantizers that `quantizer_config` described; their ranges come with the state dict."""
    _nncf()
    from nncf.torch import load_from_config

    return load_from_config(module, dict(config))


def strip(module: nn.Module, example: tuple[Tensor, Tensor]) -> Any:
    """A copy whose quantizers are torch's own fake-quantize operations, which the ONNX exporter knows."""
    with torch.no_grad():
        return _nncf().strip(module, do_copy=True, example_input=example)


def _nncf() -> Any:
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
