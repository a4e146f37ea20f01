"""What can be cut out of an encoder, what each piece is worth, and the cutting itself, whatever the family.

Three moves make a pruning step. `groups` lists the removable units; `gates` multiplies every unit by a number, so
that the gradient of that number is the unit's first-order importance (Molchanov et al., "Importance Estimation
for Neural Network Pruning", 2019; for heads: Michel et al., "Are Sixteen Heads Really Better than One?", 2019) and
zero masks it; `cut` returns the dense model that computes what the masked one does.

Targets by family:

- transformers: `layers`, `heads` and `feed_forward` (a group a layer), `width`, `embedding_rank`;
- the embedded encoder: see `structure_convolutional`.

`width` is masked by its own rule, because a LayerNorm mixes all units: under a gate its mean and variance are
weighed by the gates, so a masked unit no longer counts in them. `embedding_rank` has as units the principal
directions of the token table, the strongest first, weighed by `piece_weights` (how often each piece occurs).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from polyfold.errors import InputError
from polyfold.model import structure_convolutional, structure_transformer, use_multilingual
from polyfold.model.backbone import Backbone
from polyfold.model.classifier import Classifier, Model
from polyfold.model.quantized import is_quantized
from polyfold.model.units import Cost, Gates, Group, Keep, check_keep, ones


class Side(Protocol):
    """What a kind of encoder must offer (`structure_transformer`, `structure_convolutional`)."""

    def groups(self, backbone: Backbone, seq: int) -> tuple[Group, ...]:
        """The groups of `structure.groups`."""

    def hook(
        self, classifier: Classifier, gates: Gates, piece_weights: Float[Tensor, "vocab"] | None
    ) -> Sequence[RemovableHandle]:
        """Hooks that multiply each unit by its gate."""

    def cut(self, model: Model, keep: Keep, piece_weights: Float[Tensor, "vocab"] | None) -> Model:
        """The dense model of checked sets."""

    def cost(self, backbone: Backbone, seq: int, keep: Keep) -> Cost:
        """The figures of `structure.cost`."""


def groups(backbone: Backbone, seq: int) -> tuple[Group, ...]:
    """All groups of units of an encoder; FLOPs are those of a document of `seq` tokens."""
    return _side(backbone.module).groups(backbone, seq)


@contextmanager
def gates(
    classifier: Classifier, chosen: Sequence[Group], piece_weights: Float[Tensor, "vocab"] | None = None
) -> Iterator[Gates]:
    """Within the context every unit of the chosen groups is multiplied by its gate, at first one.

    Yields the gates: leaves that need a gradient, on the classifier's device. After `loss.backward()` a unit's
    Taylor importance is `gate.grad.abs()` summed over batches; `gate.data[unit] = 0` masks it.
    """
    values = ones(chosen, next(classifier.parameters()))
    handles = _side(classifier.encoder).hook(classifier, values, piece_weights)
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()


def cut(model: Model, keep: Keep, piece_weights: Float[Tensor, "vocab"] | None = None) -> Model:
    """A new dense model with the kept units only; the given one is left as it is.

    Groups that `keep` does not name stay whole, and the sets of layers that go do not matter. InputError where a
    set is empty or names units that are not there, and where the model is quantized. The token table is
    factorized only if `keep` names `embedding_rank`, even where it keeps every direction.
    """
    if is_quantized(model.classifier):
        raise InputError("a quantized model cannot be pruned", hint="prune first and quantize what is left")
    side = _side(model.backbone.module)
    return side.cut(model, check_keep(side.groups(model.backbone, 1), keep), piece_weights)


def cost(backbone: Backbone, seq: int, keep: Keep) -> Cost:
    """What the encoder (without task heads) would cost at `seq` tokens after that cut, without cutting.

    Exact where the groups' marginal figures are not: `cost(backbone, seq, {})` is the encoder as it stands. The
    sets are taken as they are: a search asks often.
    """
    return _side(backbone.module).cost(backbone, seq, keep)


def _side(module: nn.Module) -> Side:
    return (
        structure_convolutional if isinstance(module, use_multilingual.UseMultilingual) else structure_transformer
    )
