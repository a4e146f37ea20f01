"""What layerwise distillation reads inside an encoder, caught by forward hooks while it runs as it always does.

Hooks, and not another forward pass: the model that is imitated is the model that is trained, exported and served,
whichever attention kernel it runs on. Attention probabilities are not caught (fused kernels never form them):
they follow from queries and keys, and so do MiniLM's and MiniLMv2's relations.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from polyfold.batch import Internals, Outputs
from polyfold.errors import InputError
from polyfold.model import use_multilingual
from polyfold.model.backbone import Backbone, Transformer
from polyfold.model.classifier import Classifier
from polyfold.model.layout import LAYOUTS, Layout, base_family, layers_of, layout_of, sizes_of
from polyfold.model.stock import plain_encoder

HIDDEN_STATES = "hidden_states"
ATTENTION = ("queries", "keys", "values")
POOLED = "pooled"


# Their queries and keys are rotated by position after the projections, where no hook sees them.
ROTARY = frozenset({"modernbert"})


@dataclass(frozen=True)
class Shape:
    """The sizes of what an encoder can show: of each hidden state (embeddings first) and of each layer's heads.

    `attention` are the widths of a layer's queries, keys and values with all heads side by side; a `rotary`
    encoder rotates queries and keys after they are caught, so its attention cannot be told from them.
    """

    hidden: tuple[int, ...]
    attention: tuple[int, ...]
    heads: tuple[int, ...]
    pooled: int
    rotary: bool = False

    @property
    def layers(self) -> int:
        """Layers above the embedding layer."""
        return len(self.hidden) - 1


def internals_available(backbone: Backbone) -> frozenset[str]:
    """Which of `hidden_states`, `queries`, `keys` and `values` this backbone can show."""
    if isinstance(backbone.module, use_multilingual.UseMultilingual):
        return frozenset({HIDDEN_STATES})
    if isinstance(backbone.module, Transformer) and _family(backbone.module) in LAYOUTS:
        return frozenset({HIDDEN_STATES, *ATTENTION})
    return frozenset()


def with_internals(
    classifier: nn.Module,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"],
    wanted: frozenset[str],
) -> Outputs:
    """Run the classifier once; `internals` holds what is wanted and nothing else.

    `wanted` may name `hidden_states`, `queries`, `keys`, `values`, and `pooled`, which every output has. With
    none of the former, no hook is set.
    """
    wanted = wanted - {POOLED}
    if not wanted:
        outputs: Outputs = classifier(input_ids, attention_mask)
        return outputs
    assert isinstance(classifier, Classifier)
    with _Catch(classifier.encoder, wanted) as catch:
        outputs = classifier(input_ids, attention_mask)
    return replace(outputs, internals=catch.internals())


def shape_of(backbone: Backbone) -> Shape:
    """Measured on one token, so that it holds for every family, and for layers pruned to different sizes."""
    module, wanted = backbone.module, internals_available(backbone)
    device = next(module.parameters()).device
    if device.type == "meta" and isinstance(module, Transformer):
        return _described(module)
    ids = torch.zeros((1, 1), dtype=torch.int64, device=device)
    was_training = module.training
    module.eval()
    with torch.no_grad(), _Catch(module, wanted) as catch:
        pooled = module(ids, torch.ones_like(ids))
    module.train(was_training)
    found = catch.internals()
    return Shape(
        hidden=tuple(state.shape[-1] for state in found.hidden_states),
        attention=tuple(values.shape[-1] for values in found.values),
        heads=found.heads,
        pooled=int(pooled.shape[-1]),
        rotary=isinstance(module, Transformer) and _family(module) in ROTARY,
    )


def _described(module: Transformer) -> Shape:
    """The same of an encoder without content, which cannot run: read off its matrices."""
    family = _family(module)
    if family not in LAYOUTS:
        return Shape((), (), (), int(module.encoder.config.hidden_size))  # type: ignore[union-attr, arg-type]
    sizes = sizes_of(plain_encoder(module.encoder), layout_of(family))
    widths = tuple(heads * sizes.head_size for heads in sizes.heads)
    return Shape(
        hidden=(sizes.width,) * (len(widths) + 1),
        attention=widths,
        heads=sizes.heads,
        pooled=sizes.width,
        rotary=family in ROTARY,
    )


class _Catch:
    """Forward hooks on one encoder for the length of a `with` block."""

    def __init__(self, encoder: nn.Module, wanted: frozenset[str]) -> None:
        self._encoder = encoder
        self._wanted = wanted
        self._found: dict[tuple[str, int], Tensor] = {}
        self._heads: dict[int, int] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "_Catch":
        if isinstance(self._encoder, use_multilingual.UseMultilingual):
            # The states of its positions are what the sentence vector is the mean of.
            self._keep(self._encoder.expansion, HIDDEN_STATES, 0)
            self._keep(self._encoder.feature_norm, HIDDEN_STATES, 1)
            unknown = self._wanted - {HIDDEN_STATES}
            if unknown:
                raise InputError(f"the embedded encoder has no attention, so no {', '.join(sorted(unknown))}")
            return self
        assert isinstance(self._encoder, Transformer)
        layout = LAYOUTS.get(_family(self._encoder))
        if layout is None:
            raise InputError(
                f"nothing is known of the layers of family '{_family(self._encoder)}'",
                hint=f"layerwise losses work with {', '.join(sorted(LAYOUTS))}",
            )
        self._hook_transformer(plain_encoder(self._encoder.encoder), layout)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def internals(self) -> Internals:
        """What was caught, layer by layer."""
        return Internals(
            hidden_states=self._all(HIDDEN_STATES),
            queries=self._all("queries"),
            keys=self._all("keys"),
            values=self._all("values"),
            heads=tuple(self._heads[layer] for layer in sorted(self._heads)),
        )

    def _hook_transformer(self, encoder: nn.Module, layout: Layout) -> None:
        layers = layers_of(encoder, layout)
        if HIDDEN_STATES in self._wanted:
            self._keep(encoder.get_submodule("embeddings"), HIDDEN_STATES, 0)
            for number, layer in enumerate(layers, start=1):
                self._keep(layer, HIDDEN_STATES, number)
            for path in layout.outer_norms[1:]:
                # It runs after the last layer, so it replaces that layer's state, as in transformers' own output.
                self._keep(encoder.get_submodule(path), HIDDEN_STATES, len(layers))
        if not self._wanted.intersection(ATTENTION):
            return
        paths = [path for path, (out, _) in layout.linears.items() if out.target == "heads"]
        for number, layer in enumerate(layers):
            width = int(getattr(layer.get_submodule(layout.attention), layout.head_size))
            if len(paths) == 1:
                self._add(layer.get_submodule(paths[0]), self._fused(number, width))
                continue
            for name, path in zip(ATTENTION, paths, strict=True):
                if name in self._wanted:
                    self._add(layer.get_submodule(path), self._one(name, number, width))

    def _one(self, name: str, number: int, width: int) -> Callable[[Tensor], None]:
        def keep(output: Tensor) -> None:
            self._found[name, number] = output
            self._heads[number] = output.shape[-1] // width

        return keep

    def _fused(self, number: int, width: int) -> Callable[[Tensor], None]:
        def keep(output: Tensor) -> None:
            for name, part in zip(ATTENTION, output.chunk(3, dim=-1), strict=True):
                if name in self._wanted:
                    self._one(name, number, width)(part)

        return keep

    def _keep(self, module: nn.Module, name: str, number: int) -> None:
        def keep(output: Tensor) -> None:
            self._found[name, number] = output

        self._add(module, keep)

    def _add(self, module: nn.Module, keep: Callable[[Tensor], None]) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            keep(output[0] if isinstance(output, tuple) else output)

        self._handles.append(module.register_forward_hook(hook))

    def _all(self, name: str) -> tuple[Tensor, ...]:
        numbers = sorted(number for found, number in self._found if found == name)
        return tuple(self._found[name, number] for number in numbers)


def _family(module: Transformer) -> str:
    return base_family(str(module.encoder.config.model_type))  # type: ignore[union-attr]
