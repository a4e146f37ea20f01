"""Where quantizers go: which tensors of a forward pass are put on which int8 grid, for the processor or TensorRT.

`cpu`: activations of linear layers and convolutions as uint8 with a zero point; the two factors of attention's
scores as symmetric int8, as OpenVINO's kernels take them; everything else in floating point.

`tensorrt`: symmetric int8 on both inputs of every matrix product, attention's two among them, and on both inputs
of every residual addition; nothing inside LayerNorm, GELU or softmax, so that their fusions stay whole.

Weights are symmetric int8 with a scale an output channel in both.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from polyfold.model.operations import MOVES, Operation, Trace

Layout = Literal["cpu", "tensorrt"]
Grid = Literal["uint8", "int8"]

WEIGHTED = frozenset({"linear", "conv1d"})
PRODUCTS = frozenset({"matmul", "__matmul__", "bmm"})
SUMS = frozenset({"add", "__add__", "add_", "__iadd__"})
SOFTMAX = frozenset({"softmax", "_softmax"})


@dataclass(frozen=True)
class Hook:
    """A place in NNCF's hook storage: before an operation's input, or after its output."""

    when: Literal["pre", "post"]
    operation: str
    port: int


@dataclass(frozen=True)
class Activation:
    """One quantizer of activations. `tensor` names the values it sees, and so the range it has to have."""

    hook: Hook
    tensor: Hook
    grid: Grid
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Weight:
    """One quantizer of a weight, by its parameter's name."""

    hook: Hook
    parameter: str
    layer: str


@dataclass(frozen=True)
class Placement:
    """All quantizers of one model."""

    weights: tuple[Weight, ...]
    activations: tuple[Activation, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of what is quantized, in the order it is computed."""
        names = [weight.layer for weight in self.weights]
        names += [name for one in self.activations for name in one.layers]
        return tuple(dict.fromkeys(names))

    def at_inputs(self, weights: Iterable[Weight]) -> "Placement":
        """The same weights, with activations quantized just before these layers and nowhere else."""
        hooks = [(Hook("pre", one.hook.operation, 0), one.layer) for one in weights]
        return Placement(self.weights, tuple(Activation(hook, hook, "uint8", (layer,)) for hook, layer in hooks))


@dataclass(frozen=True)
class _Wish:
    """One input of one operation that a layout wants quantized."""

    layer: str
    operation: Operation
    port: int
    grid: Grid


def place(found: Trace, layout: Layout, keep: Iterable[str] = (), apart: Collection[str] = ()) -> Placement:
    """Quantizers for every layer but those of `keep`.

    Operations named in `apart` get their inputs quantized by themselves, whoever else reads the same tensor: they
    scale them first (SmoothQuant).
    """
    kept = tuple(keep)
    wishes = [wish for wish in _wishes(found, layout) if not is_kept(wish.layer, kept)]
    weights = []
    names = layer_names(found)
    for operation in found.operations:
        name = names.get(operation.name, "")
        if operation.kind in WEIGHTED and 1 in operation.parameters and not is_kept(name, kept):
            weights.append(Weight(Hook("pre", operation.name, 1), operation.parameters[1], name))
    return Placement(tuple(weights), tuple(_activations(found, wishes, apart)))


def is_kept(layer: str, keep: Iterable[str]) -> bool:
    """Whether a layer is named by one of `keep`: in full, or by whole parts of its dotted path."""
    return any(f".{name}." in f".{layer}." for name in keep)


def layer_path(module: str, found: Trace) -> str:
    """A module's path as the keys on disk have it, where the encoder's parts stand without a prefix."""
    deep = any(one.module.startswith("encoder.encoder.") for one in found.operations)
    return module.removeprefix("encoder.encoder." if deep else "encoder.")


def layer_names(found: Trace) -> dict[str, str]:
    """A name for each operation that may be quantized: its module, and for products and sums a number there."""
    counts: dict[str, int] = {}
    names = {}
    for operation in found.operations:
        path = layer_path(operation.module, found)
        if operation.kind in WEIGHTED:
            names[operation.name] = path
        elif operation.kind in PRODUCTS | SUMS:
            kind = "matmul" if operation.kind in PRODUCTS else "add"
            number = counts.get(f"{path}.{kind}", 0)
            counts[f"{path}.{kind}"] = number + 1
            names[operation.name] = f"{path}.{kind}.{number}"
    return names


def _wishes(found: Trace, layout: Layout) -> list[_Wish]:
    names = layer_names(found)
    ancestors = found.ancestors()
    wishes = []
    for operation in found.operations:
        name = names.get(operation.name, "")
        if operation.kind in WEIGHTED and 1 in operation.parameters:
            wishes.append(_Wish(name, operation, 0, "uint8" if layout == "cpu" else "int8"))
        elif operation.kind in PRODUCTS and (layout == "tensorrt" or not _reads_softmax(found, operation)):
            wishes += [
                _Wish(name, operation, port, "int8") for port in (0, 1) if operation.inputs[port] is not None
            ]
        elif operation.kind in SUMS and layout == "tensorrt" and _is_residual(found, operation, ancestors):
            wishes += [_Wish(name, operation, port, "int8") for port in (0, 1)]
    return wishes


def _reads_softmax(found: Trace, operation: Operation) -> bool:
    """Whether a product is attention's second one, which OpenVINO computes faster in floating point."""
    makers = [found.producers.get(found.root(one)) for one in operation.inputs[:2] if one is not None]
    return any(maker is not None and maker.kind in SOFTMAX for maker in makers)


def _is_residual(found: Trace, operation: Operation, ancestors: list[int]) -> bool:
    """Whether a sum is x + f(x): one side was computed from the other, and that one by the model.

    The attention mask is a part of every score after the first layer's, but no parameter had a part in it.
    """
    left, right = (*operation.inputs, None, None)[:2]
    if left is None or right is None or not (found.floating[left] and found.floating[right]):
        return False
    learned = len(found.shapes)
    return any(
        ancestors[whole] >> found.root(part) & ancestors[part] >> learned & 1
        for whole, part in ((left, right), (right, left))
        if whole != part
    )


def _activations(found: Trace, wishes: list[_Wish], apart: Collection[str]) -> Iterable[Activation]:
    """One quantizer a tensor where all its readers want the same, else one before each reader that does."""
    wanted = {(wish.operation.name, wish.port): wish for wish in wishes if wish.operation.name not in apart}
    groups: dict[tuple[int, Grid], list[_Wish]] = {}
    for wish in wishes:
        number = wish.operation.inputs[wish.port]
        assert number is not None
        if wish.operation.name in apart:
            hook = Hook("pre", wish.operation.name, wish.port)
            yield Activation(hook, hook, wish.grid, (wish.layer,))
        else:
            groups.setdefault((found.root(number), wish.grid), []).append(wish)
    for (root, grid), group in groups.items():
        maker = found.producers[root]
        after = Hook("post", maker.name, maker.outputs.index(root))
        places: dict[Hook, list[str]] = {}
        for wish in group:
            hook = after if _alike(found, root, grid, wanted) else _before(found, wish, wanted)
            places.setdefault(hook, []).append(wish.layer)
        for hook, layers in places.items():
            yield Activation(hook, after, grid, tuple(dict.fromkeys(layers)))


def _alike(found: Trace, tensor: int, grid: Grid, wanted: Mapping[tuple[str, int], _Wish]) -> bool:
    """Whether all that read a tensor's values want them on this grid."""
    readers = [wanted.get((one.name, port)) if one is not None else None for one, port in found.readers(tensor)]
    return all(one is not None and one.grid == grid for one in readers)


def _before(found: Trace, wish: _Wish, wanted: Mapping[tuple[str, int], _Wish]) -> Hook:
    """The earliest place before one reader that no other sees; a convolution's padding comes after it."""
    operation, port = wish.operation, wish.port
    while True:
        tensor = operation.inputs[port]
        assert tensor is not None
        maker = found.producers.get(tensor)
        if maker is None or maker.kind not in MOVES or not _alike(found, tensor, wish.grid, wanted):
            return Hook("pre", operation.name, port)
        operation, port = maker, 0
