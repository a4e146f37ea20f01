"""How many operations a document takes and how many bytes of weights a batch: counted in the graph that runs.

OpenVINO reads ONNX and its own format alike, of any family, pruned or not, and works out every shape; so what is
counted is what is computed. Matrix products, convolutions and attention are counted (a multiply-add is two
operations); norms, activations and softmax are left out, so a floor stays below what is possible.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polyfold.artifact import CONFIG, read_config
from polyfold.benchmark.results import Operations
from polyfold.errors import InputError, MissingExtra
from polyfold.system import telemetry_off

LENGTHS = (8, 16, 32)
"""Three lengths decide the three coefficients: attention is the one part that grows with the square."""

PASSED_ON = frozenset(
    {"Convert", "Multiply", "Subtract", "Add", "Reshape", "Transpose", "FakeQuantize", "FakeConvert", "Gather"}
)
"""What may stand between a stored table and the lookup in it."""


def count_operations(folder: Path) -> Operations:
    """Counted in the graph; of a torch folder from its configuration. InputError where neither can be read."""
    config, _ = read_config(folder)
    if config.runtime == "torch":
        return _of_configuration(folder)
    return _of_graph(folder / config.file)


def _of_graph(path: Path) -> Operations:
    if importlib.util.find_spec("openvino") is None:
        raise MissingExtra("openvino", "openvino")
    telemetry_off()
    from openvino import Core, PartialShape

    try:
        model = Core().read_model(path)
        counts = []
        for tokens in LENGTHS:
            model.reshape({port: PartialShape([1, tokens]) for port in model.inputs})
            counts.append(sum(_operations_of(node) for node in model.get_ops()))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"its operations cannot be counted: {reason}", file=path) from None
    fixed, token, pair = _coefficients(counts)
    return Operations(fixed=fixed, token=token, pair=pair, weight_bytes=_weight_bytes(model), source="graph")


def _of_configuration(folder: Path) -> Operations:
    """A torch folder's, for which torch is there anyway; its weights are read as fp32."""
    import torch

    from polyfold.model.backbone import rebuild

    config, tasks = read_config(folder)
    settings = json.loads((folder / CONFIG).read_bytes())
    # Without memory: only the shapes count.
    with torch.device("meta"):
        encoder = rebuild(config.family, settings)
    width = settings.get("sentence_width") or settings.get("hidden_size") or settings.get("dim") or 0
    heads = 2 * int(width) * sum(len(task.labels) for task in tasks)
    return encoder_operations(encoder, config.trunk_parameters, heads)


def encoder_operations(encoder: Any, trunk_parameters: int, heads: int = 0) -> Operations:
    """Of a backbone's module in fp32, with so many operations a document on top of it."""
    from polyfold.model.flops import encoder_cost

    fixed, token, pair = _coefficients([encoder_cost(encoder, 1, tokens).flops for tokens in LENGTHS])
    return Operations(
        fixed=fixed + heads, token=token, pair=pair, weight_bytes=4 * trunk_parameters, source="configuration"
    )


def _coefficients(counts: list[int]) -> tuple[float, float, float]:
    """Of a + b n + c n², from its values at LENGTHS; whole numbers, up to rounding."""
    powers = np.vander(np.asarray(LENGTHS, dtype=np.float64), 3, increasing=True)
    fixed, token, pair = np.linalg.solve(powers, np.asarray(counts, dtype=np.float64)).round(3).tolist()
    # Adding nought makes a negative nought positive.
    return max(fixed, 0.0) + 0.0, max(token, 0.0) + 0.0, max(pair, 0.0) + 0.0


def _operations_of(node: Any) -> int:
    """Operations of one node of the graph, 0 for what is not counted."""
    count = COUNTED.get(node.get_type_name())
    return count(node) if count is not None else 0


def _shape(port: Any) -> tuple[int, ...]:
    return tuple(int(side) for side in port.get_shape())


def _product(node: Any) -> int:
    left = _shape(node.input(0))
    inner = left[-2] if len(left) > 1 and node.get_attributes().get("transpose_a") else left[-1]
    return 2 * int(np.prod(_shape(node.output(0)))) * inner


def _convolution(node: Any) -> int:
    # Weights are [out, in, window...]: each output sums over all but the first.
    return 2 * int(np.prod(_shape(node.output(0)))) * int(np.prod(_shape(node.input(1))[1:]))


def _group_convolution(node: Any) -> int:
    # Weights are [groups, out, in, window...].
    return 2 * int(np.prod(_shape(node.output(0)))) * int(np.prod(_shape(node.input(1))[2:]))


def _attention(node: Any) -> int:
    """Queries [..., n, e] by keys [..., m, e], and the result by values [..., m, v]."""
    queries, keys, values = (_shape(node.input(place)) for place in range(3))
    return 2 * int(np.prod(queries[:-1])) * keys[-2] * (queries[-1] + values[-1])


COUNTED: Mapping[str, Callable[[Any], int]] = {
    "MatMul": _product,
    "Convolution": _convolution,
    "GroupConvolution": _group_convolution,
    "ScaledDotProductAttention": _attention,
}


def _weight_bytes(model: Any) -> int:
    """Bytes of all constants but the tables that are looked up in."""
    nodes = model.get_ops()
    tables: set[str] = set()
    for node in nodes:
        if node.get_type_name() == "Gather":
            tables |= _constants_behind(node.input_value(0).get_node())
    constants = [node for node in nodes if node.get_type_name() == "Constant"]
    return sum(node.get_byte_size() for node in constants if node.get_friendly_name() not in tables)


def _constants_behind(node: Any) -> set[str]:
    """Names of the constants that a lookup reads, through what stands between."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one.get_type_name() == "Constant":
            found.add(one.get_friendly_name())
        elif one.get_type_name() in PASSED_ON:
            waiting += [value.get_node() for value in one.input_values()]
    return found
