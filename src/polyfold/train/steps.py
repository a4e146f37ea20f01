"""One optimizer step: the gradients of all its batches, added up, clipped and applied."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from polyfold.batch import Batch
from polyfold.data.batches import drop_tokens
from polyfold.errors import InputError
from polyfold.model.backbone import token_embedding
from polyfold.model.classifier import Classifier
from polyfold.train.objectives import Objective


@dataclass(frozen=True)
class Noise:
    """A share of the tokens that the student reads as unknown; `unknown_id` is None where no token means that."""

    share: float
    unknown_id: int | None

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its noise."""
        return (
            batch if not self.share or self.unknown_id is None else drop_tokens(batch, self.share, self.unknown_id)
        )


@dataclass
class Stepper:
    """What a step needs, and the norms of the gradients since they were looked at last."""

    accelerator: Accelerator
    model: Classifier
    optimizer: torch.optim.Optimizer
    objective: Objective
    clip_norm: float
    noise: Noise
    norms: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        trained = chain(self.model.parameters(), self.objective.modules.parameters())
        self.parameters = [parameter for parameter in trained if parameter.requires_grad]

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """One step over all its batches; the losses, divided by the whole step's pair counts.

        Every process knows the whole step, so the counts need no communication. Gradients are summed and not
        averaged, so an uneven number of batches per process changes nothing.
        """
        device = self.accelerator.device
        counts: dict[str, float] = {}
        for batch in batches:
            for name, count in self.objective.counts(batch).items():
                counts[name] = counts.get(name, 0.0) + count
        totals = dict.fromkeys(counts, torch.zeros((), dtype=torch.float64, device=device))
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.optimizer.zero_grad(set_to_none=True)
        # Opened once a step and not once a batch: until it is left, autocast keeps the weights it has rounded.
        with self.accelerator.autocast():
            for batch in batches[rank::world]:
                sums = self.objective(self.model, self.noise(batch).to(device))
                terms = {name: value / max(1.0, counts[name]) for name, value in sums.items()}
                with torch.autocast(device.type, enabled=False):
                    self.accelerator.backward(torch.stack(list(terms.values())).sum())
                for name, value in terms.items():
                    totals[name] = totals[name] + value.detach()
        self._densify()
        if world > 1:
            self._sum_gradients()
            totals = self._summed(totals)
        self.norms.append(self._clip())
        self.optimizer.step()
        return totals

    def read(self, totals: Mapping[str, Tensor], step: int) -> dict[str, float]:
        """The losses of a step as numbers. On a GPU that waits for all its work.

        InputError where a gradient has not been finite since they were read last.
        """
        norms, self.norms = torch.stack(self.norms), []
        # fp16's loss scaler meets infinities on purpose and skips those steps by itself.
        broken = [] if self.accelerator.scaler is not None else (~norms.isfinite()).nonzero().flatten().tolist()
        if broken:
            raise InputError(
                f"training diverged at step {step + 1 - len(norms) + broken[0]}: the gradient is not finite",
                key="fit.learning_rate",
                hint="lower the learning rate or use precision: fp32; delete the run's folder before trying again",
            )
        return dict(zip(totals, torch.stack(list(totals.values())).tolist(), strict=True)) if totals else {}

    def _clip(self) -> Tensor:
        """Scale the gradients down to the greatest norm allowed; returns the norm they had."""
        self.accelerator.unscale_gradients()
        norm = nn.utils.get_total_norm([one.grad for one in self.parameters if one.grad is not None])
        # A gradient within the norm would be multiplied by one. To ask costs nothing here, and on a GPU a wait.
        if norm.device.type != "cpu" or not bool(norm + 1e-6 <= self.clip_norm):
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        return norm

    def _densify(self) -> None:
        """Turn sparse gradients into what the optimizer takes."""
        for parameter in self.parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce().to_dense()

    def _sum_gradients(self) -> None:
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = self.accelerator.reduce(parameter.grad, reduction="sum")

    def _summed(self, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = self.accelerator.reduce(torch.stack(list(totals.values())), reduction="sum")
        return dict(zip(totals, values.unbind(), strict=True))


@contextmanager
def sparse_gradients(model: Classifier, device: torch.device) -> Iterator[None]:
    """Within it, a pass gives gradients for those rows of the token table alone that it looked up.

    A dense gradient is a whole table of zeros, written and added up anew at each of a step's passes. On a GPU that
    is cheap, and sparse sums would not be the same at each run.
    """
    table = token_embedding(model.encoder)
    before = table.sparse
    table.sparse = device.type == "cpu"
    try:
        yield
    finally:
        table.sparse = before
