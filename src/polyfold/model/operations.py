"""What a forward pass does, operation by operation: quantizers are placed by it.

Operations carry the names that NNCF's function hooks know them by, and the path of the module they ran in.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# These change no value (padding adds zeros, which every range holds), so a quantizer may stand before them.
MOVES = frozenset(
    {
        *("dropout", "reshape", "view", "transpose", "permute", "contiguous", "pad", "to", "float", "type_as"),
        *("expand", "clone", "unsqueeze", "squeeze", "flatten", "unflatten", "swapaxes", "swapdims"),
    }
)


@dataclass(frozen=True)
class Operation:
    """One call: `inputs` and `outputs` are tensor numbers, `parameters` names by port; other ports are None."""

    name: str
    kind: str
    module: str
    inputs: tuple[int | None, ...]
    parameters: Mapping[int, str]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """All operations in order; `shapes` and `floating` by tensor number, `returned` those the model hands out."""

    operations: tuple[Operation, ...]
    shapes: tuple[tuple[int, ...], ...]
    floating: tuple[bool, ...]
    returned: frozenset[int]
    producers: Mapping[int, Operation] = field(repr=False)
    consumers: Mapping[int, tuple[tuple[Operation, int], ...]] = field(repr=False)

    def root(self, tensor: int) -> int:
        """The earliest tensor with the same values: before dropout, padding and changes of shape."""
        maker = self.producers.get(tensor)
        while maker is not None and maker.kind in MOVES and maker.inputs[0] is not None:
            tensor = maker.inputs[0]
            maker = self.producers.get(tensor)
        return tensor

    def readers(self, tensor: int) -> Iterator[tuple[Operation | None, int]]:
        """(operation, port) of all that compute with this tensor's values; None for the caller of the model."""
        if tensor in self.returned:
            yield None, 0
        for operation, port in self.consumers.get(tensor, ()):
            if operation.kind in MOVES and port == 0:
                for output in operation.outputs:
                    yield from self.readers(output)
            else:
                yield operation, port

    def ancestors(self) -> list[int]:
        """For each tensor a bit set of the tensors it was computed from, itself among them.

        The bit after the last tensor's says that some parameter had a part in it.
        """
        learned = 1 << len(self.shapes)
        found = [1 << number for number in range(len(self.shapes))]
        for operation in self.operations:
            union = learned if operation.parameters else 0
            for number in operation.inputs:
                union |= found[number] if number is not None else 0
            for output in operation.outputs:
                found[output] |= union
        return found
