"""Learning from the inside of a teacher: its attention, hidden states and sentence vector; no labels needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyfold.batch import Batch, Internals, Outputs, Taught
from polyfold.losses.hidden import EmbeddingLoss, HiddenStatesLoss, state_angle_sum, state_error_sum
from polyfold.losses.relations import (
    AttentionLoss,
    RelationLoss,
    relation_divergence_sum,
    scaled_products,
    score_error_sum,
)
from polyfold.losses.sentence import SentenceLoss, cosine_sum, similarity_error_sum
from polyfold.losses.spec import ImitationLoss, LossSpec, named, wanted_of
from polyfold.model.first_token import training_outputs
from polyfold.model.internals import shape_of
from polyfold.train.sides import Sides, check_losses, check_taskless, mapped_layers
from polyfold.train.teachers import Teacher


class Imitation:
    """The weighted imitation losses of an objective, with their learned projections."""

    def __init__(self, losses: Sequence[LossSpec], sides: Sides) -> None:
        """`losses` may hold others, which are passed over."""
        check_losses(losses, sides.student, sides.teacher, sides.same_tokenizer)
        self.wanted = wanted_of(losses)
        self.losses = {
            name: loss for name, loss in named(losses).items() if isinstance(loss, ImitationLoss) and loss.weight
        }
        self.modules = nn.ModuleDict()
        if self.losses:
            self._student, self._teacher = shape_of(sides.student), shape_of(sides.teacher)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(sides.seed)
                self._project()

    def counts(self, batch: Batch) -> dict[str, float]:
        """What each loss's sum is divided by: positions, documents, or pairs of documents."""
        documents, positions = float(len(batch)), float(batch.attention_mask.sum())
        counts: dict[str, float] = {}
        for name, loss in self.losses.items():
            counts[name] = documents if isinstance(loss, SentenceLoss) else positions
            if isinstance(loss, SentenceLoss) and loss.similarity:
                counts[_pairs(name)] = documents * (documents - 1)
        return counts

    def sums(self, outputs: Outputs, taught: Taught, batch: Batch) -> dict[str, Tensor]:
        """Each loss summed over this batch, times its weight."""
        device = outputs.pooled.device
        mask = batch.attention_mask.bool()
        sums: dict[str, Tensor] = {}
        # In full precision whatever the model runs in: a softmax of products in bf16 is too coarse to imitate.
        with torch.autocast(device.type, enabled=False):
            for name, loss in self.losses.items():
                if isinstance(loss, SentenceLoss):
                    sums |= self._sentence(name, loss, outputs, taught)
                else:
                    assert outputs.internals is not None
                    assert taught.internals is not None
                    sums[name] = loss.weight * self._layerwise(
                        name, loss, outputs.internals, taught.internals, mask
                    )
        return sums

    def _sentence(self, name: str, loss: SentenceLoss, outputs: Outputs, taught: Taught) -> dict[str, Tensor]:
        assert taught.pooled is not None
        own = _full(outputs.pooled)
        other = _full(taught.pooled).to(own.device)
        sums = {name: loss.weight * cosine_sum(self._projected(name, own, other), other)}
        if loss.similarity:
            sums[_pairs(name)] = loss.weight * loss.similarity * similarity_error_sum(own, other)
        return sums

    def _layerwise(
        self, name: str, loss: AttentionLoss | RelationLoss | HiddenStatesLoss | EmbeddingLoss, own: Internals,
        other: Internals, mask: Tensor,
    ) -> Tensor:  # fmt: skip
        terms: list[Tensor] = []
        for mine, theirs in self._pairs(loss):
            match loss:
                case HiddenStatesLoss() | EmbeddingLoss():
                    target = _full(other.hidden_states[theirs + 1]).to(mask.device)
                    states = self._projected(name, _full(own.hidden_states[mine + 1]), target)
                    cosine = isinstance(loss, HiddenStatesLoss) and loss.distance == "cosine"
                    terms.append((state_angle_sum if cosine else state_error_sum)(states, target, mask))
                case AttentionLoss():
                    compare = score_error_sum if loss.compare == "scores" else relation_divergence_sum
                    student, teacher = _layer(own, mine), _layer(other, theirs, mask.device)
                    terms.append(compare(student.attention(), teacher.attention(), mask))
                    if loss.value_relations:
                        related = student.relation("values"), teacher.relation("values")
                        terms.append(loss.value_relations * relation_divergence_sum(*related, mask))
                case RelationLoss():
                    student, teacher = _layer(own, mine), _layer(other, theirs, mask.device)
                    for part, weight in loss.parts.items():
                        related = (
                            student.relation(part, loss.relation_heads),
                            teacher.relation(part, loss.relation_heads),
                        )
                        terms.append(weight * relation_divergence_sum(*related, mask))
        return torch.stack(terms).sum()

    def _pairs(self, loss: ImitationLoss) -> tuple[tuple[int, int], ...]:
        return mapped_layers(loss, self._student, self._teacher)

    def _project(self) -> None:
        """One projection for each pair of widths that differ in a loss: TinyBERT's W_h serves all layers alike."""
        for name, loss in self.losses.items():
            if isinstance(loss, SentenceLoss):
                widths = [(self._student.pooled, self._teacher.pooled)]
            elif isinstance(loss, HiddenStatesLoss | EmbeddingLoss):
                widths = [
                    (self._student.hidden[mine + 1], self._teacher.hidden[theirs + 1])
                    for mine, theirs in self._pairs(loss)
                ]
            else:
                continue
            for width, target in widths:
                if width != target:
                    layer = nn.Linear(width, target, bias=False)
                    # Orthogonal: at first it changes no angle, or as few as a narrower side allows.
                    nn.init.orthogonal_(layer.weight)
                    self.modules[_key(name, width, target)] = layer

    def _projected(self, name: str, states: Tensor, target: Tensor) -> Tensor:
        width, wide = states.shape[-1], target.shape[-1]
        if width == wide:
            return states
        projected: Tensor = self.modules[_key(name, width, wide)](states)
        return projected


class ImitationObjective:
    """Task-agnostic distillation: imitation losses alone, over texts without labels and a model without heads."""

    def __init__(self, losses: Sequence[LossSpec], sides: Sides, teacher: Teacher) -> None:
        """`teacher` answers with what `wanted_of(losses)` names."""
        check_taskless(losses)
        self.imitation = Imitation(losses, sides)
        self.teacher = teacher

    @property
    def modules(self) -> nn.ModuleDict:
        """The learned projections."""
        return self.imitation.modules

    @property
    def wanted(self) -> frozenset[str]:
        """What the losses read of the student's inside."""
        return self.imitation.wanted

    def counts(self, batch: Batch) -> Mapping[str, float]:
        """Positions, documents or pairs of each loss in this batch."""
        return self.imitation.counts(batch)

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Each loss summed over this batch, times its weight."""
        outputs = training_outputs(model, batch.input_ids, batch.attention_mask, self.wanted)
        return self.imitation.sums(outputs, self.teacher(batch), batch)


@dataclass(frozen=True)
class _Layer:
    """One layer's queries, keys and values, in full precision."""

    parts: Mapping[str, Tensor]
    heads: int

    def attention(self) -> Tensor:
        return scaled_products(self.parts["queries"], self.parts["keys"], self.heads)

    def relation(self, part: str, heads: int | None = None) -> Tensor:
        values = self.parts[part]
        return scaled_products(values, values, heads or self.heads)


def _layer(internals: Internals, number: int, device: torch.device | None = None) -> _Layer:
    caught = {"queries": internals.queries, "keys": internals.keys, "values": internals.values}
    parts = {name: _full(layers[number]).to(device) for name, layers in caught.items() if layers}
    return _Layer(parts, internals.heads[number])


def _full(values: Tensor) -> Tensor:
    """Half precision to single; what is finer stays as it is."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _key(name: str, width: int, target: int) -> str:
    return f"{name}_{width}_{target}"


def _pairs(name: str) -> str:
    return f"{name}_similarity"
