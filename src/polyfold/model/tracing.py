"""Writing down one forward pass, by the names that NNCF's function hooks know its operations by."""

from collections.abc import Sequence
from typing import Any

import torch
from nncf.torch.function_hook.hook_executor_mode import FunctionHookMode, OpMeta
from nncf.torch.function_hook.hook_storage import HookStorage
from torch import Tensor, nn

from polyfold.model.operations import Operation, Trace


def trace(module: nn.Module, example: tuple[Tensor, Tensor]) -> Trace:
    """Run `module` once on `example` and write down every operation; the module must hold no hooks yet."""
    recorder = _Recorder(module)
    with torch.no_grad(), recorder:
        # As NNCF's own wrapper does: `forward`, since the module itself stands on the stack already.
        returned = module.forward(*example)
    consumers: dict[int, list[tuple[Operation, int]]] = {}
    for operation in recorder.operations:
        for port, number in enumerate(operation.inputs):
            if number is not None:
                consumers.setdefault(number, []).append((operation, port))
    return Trace(
        operations=tuple(recorder.operations),
        shapes=tuple(tuple(tensor.shape) for tensor in recorder.tensors),
        floating=tuple(tensor.is_floating_point() for tensor in recorder.tensors),
        returned=frozenset(recorder.number(tensor) for tensor in _returned(returned)),
        producers={output: operation for operation in recorder.operations for output in operation.outputs},
        consumers={number: tuple(some) for number, some in consumers.items()},
    )


def _returned(outputs: Any) -> list[Tensor]:
    """The tensors of the classifier's Outputs."""
    return [*outputs.logits.values(), outputs.pooled]


class _Recorder(FunctionHookMode):
    """NNCF's hook mode, with nothing hooked, writing down what passes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, HookStorage())
        self.operations: list[Operation] = []
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}
        self._paths = {id(part): name for name, part in module.named_modules()}
        self._parameters = {id(one): name for name, one in module.named_parameters()}
        self._ports: Sequence[Any] = ()

    def number(self, tensor: Tensor) -> int:
        """The tensor's number; tensors are kept, so that no identity is given twice."""
        if id(tensor) not in self._numbers:
            self._renumber(tensor)
        return self._numbers[id(tensor)]

    def _renumber(self, tensor: Tensor) -> int:
        self._numbers[id(tensor)] = len(self.tensors)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def execute_pre_hooks(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], op_meta: OpMeta
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Note what goes in, port by port, as NNCF counts ports: the tensors of a list one by one."""
        self._ports = [part for value in (*args, *kwargs.values()) for part in _parts(value)]
        return args, kwargs

    def execute_post_hooks(self, outputs: Any, op_meta: OpMeta) -> Any:
        """Note what comes out; a tensor changed in place is a new one."""
        known = {
            port: self._parameters[id(one)] for port, one in enumerate(self._ports) if self._is_parameter(one)
        }
        inputs = tuple(
            self.number(one) if isinstance(one, Tensor) and port not in known else None
            for port, one in enumerate(self._ports)
        )
        made = tuple(self._renumber(one) for one in _parts(outputs) if isinstance(one, Tensor))
        if not made:
            return outputs  # a shape or a dtype was asked for
        path = self._paths.get(id(self.module_call_stack[-1]), "")
        self.operations.append(Operation(op_meta.op_name, op_meta.func.__name__, path, inputs, known, made))
        return outputs

    def _is_parameter(self, value: Any) -> bool:
        return isinstance(value, Tensor) and id(value) in self._parameters


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, list | tuple) and all(isinstance(one, Tensor) for one in value):
        return value
    return (value,)
