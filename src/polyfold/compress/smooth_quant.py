"""SmoothQuant: outliers of activations moved into the weights that read them, where int8 can hold them.

Xiao et al., "SmoothQuant: accurate and efficient post-training quantization for large language models", 2023,
Eq. 3 and 4: Y = (X diag(s)^-1)(diag(s) W), s_j = max|X_j|^alpha / max|W_j|^(1 - alpha). Ours, not NNCF's: its
scaled graph of the embedded encoder gave other results in OpenVINO than in ONNX Runtime.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from polyfold.compress.calibration import Samples, watch
from polyfold.errors import InputError
from polyfold.model.operations import Operation, Trace
from polyfold.model.placement import Hook
from polyfold.model.quantized import add_hook

CHANNELWISE = frozenset({"mul", "div", "truediv", "__mul__", "__truediv__", "sum", "mean"})
"""Operations that may stand between a LayerNorm and its readers: each channel of theirs comes from one alone."""

SMALLEST = 1e-5


class SmoothQuant(BaseModel):
    """`alpha` is how much of the difficulty moves from activations to weights: 0 none, 1 all of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(default=0.5, ge=0.0, le=1.0)


@dataclass(frozen=True)
class _Group:
    """Linear layers that read one LayerNorm; `folded` where nothing else reads it."""

    norm: Operation
    linears: tuple[Operation, ...]
    folded: bool


def smooth(module: nn.Module, found: Trace, samples: Samples, spec: SmoothQuant) -> frozenset[str]:
    """Scale LayerNorms and the linear layers after them, in place; the function stays the same.

    The division by s goes into the LayerNorm's own weight and bias where the linear layers are all that reads it.
    After a LayerNorm whose output is also a residual (BERT's are) it becomes a multiplication before the layers;
    returned are the names of those operations, whose inputs need quantizers of their own.
    """
    groups = _groups(found)
    if not groups:
        raise InputError(
            "no linear layer here reads a LayerNorm, so SmoothQuant has nothing to move outliers into",
            key="smooth_quant",
            hint="leave smooth_quant out for this model",
        )
    largest = _largest_inputs(module, [group.linears[0] for group in groups], samples)
    parameters = dict(module.named_parameters())
    scaled: set[str] = set()
    for group in groups:
        weights = [parameters[one.parameters[1]] for one in group.linears]
        scale = smoothing_scale(largest[group.linears[0].name], [w.detach() for w in weights], spec.alpha)
        with torch.no_grad():
            for weight in weights:
                weight.mul_(scale)
            for port in (2, 3) if group.folded else ():
                if port in group.norm.parameters:
                    parameters[group.norm.parameters[port]].div_(scale)
        if not group.folded:
            for one in group.linears:
                add_hook(module, Hook("pre", one.name, 0), _multiplication(1.0 / scale))
                scaled.add(one.name)
    return frozenset(scaled)


def smoothing_scale(
    largest_input: Float[Tensor, "hidden"], weights: list[Float[Tensor, "out hidden"]], alpha: float
) -> Float[Tensor, "hidden"]:
    """Eq. 4, with one s for all layers that share an input; a channel that is always zero keeps 1."""
    largest_weight = torch.stack([weight.abs().amax(dim=0) for weight in weights]).amax(dim=0)
    scale = largest_input.pow(alpha) / largest_weight.pow(1.0 - alpha)
    usable = (largest_input > 0) & (largest_weight > 0)
    return torch.where(usable, scale, torch.ones_like(scale)).clamp(min=SMALLEST)


def _multiplication(factor: Float[Tensor, "hidden"]) -> nn.Module:
    from nncf.torch.quantization.layers import SQMultiply

    part: Any = SQMultiply(tuple(factor.shape))
    part.scale = factor.detach().clone()
    return part.requires_grad_(False)


def _groups(found: Trace) -> list[_Group]:
    directly: dict[str, list[Operation]] = {}
    norms: dict[str, Operation] = {}
    groups = []
    for operation in found.operations:
        if operation.kind != "linear" or 1 not in operation.parameters or operation.inputs[0] is None:
            continue
        norm, direct = _norm_before(found, operation)
        if norm is None:
            continue
        if direct:
            norms[norm.name] = norm
            directly.setdefault(norm.name, []).append(operation)
        else:
            groups.append(_Group(norm, (operation,), folded=True))
    for name, linears in directly.items():
        own = {one.name for one in linears}
        readers = found.readers(norms[name].outputs[0])
        folded = all(one is not None and one.name in own for one, _ in readers)
        groups.append(_Group(norms[name], tuple(linears), folded))
    return groups


def _norm_before(found: Trace, linear: Operation) -> tuple[Operation | None, bool]:
    """The LayerNorm that a linear layer reads, and whether it reads it directly.

    Between them may stand operations that treat each channel by itself, such as the mean over tokens; then nobody
    else may read what lies between.
    """
    assert linear.inputs[0] is not None
    tensor = found.root(linear.inputs[0])
    maker = found.producers.get(tensor)
    width = found.shapes[tensor][-1]
    direct = True
    while maker is not None and maker.kind in CHANNELWISE:
        direct = False
        ends = [found.shapes[one][-1:] for one in maker.inputs if one is not None]
        wide = [one for one in maker.inputs if one is not None and found.shapes[one][-1:] == (width,)]
        if len(wide) != 1 or not set(ends) <= {(width,), (1,), ()} or len(list(found.readers(tensor))) != 1:
            return None, False
        tensor = found.root(wide[0])
        maker = found.producers.get(tensor)
    if maker is None or maker.kind != "layer_norm" or 2 not in maker.parameters:
        return None, False
    if not direct and len(list(found.readers(tensor))) != 1:
        return None, False
    return maker, direct


def _largest_inputs(module: nn.Module, linears: list[Operation], samples: Samples) -> Mapping[str, Tensor]:
    """Greatest magnitude of each input channel of the given operations, by their names."""
    found: dict[str, Tensor] = {}

    def look_at(name: str) -> Callable[[Tensor], None]:
        def look(values: Tensor) -> None:
            seen = values.abs().flatten(0, -2).amax(dim=0)
            found[name] = torch.maximum(found[name], seen) if name in found else seen

        return look

    watch(module, {Hook("pre", one.name, 0): look_at(one.name) for one in linears}, samples)
    return found
