"""The one training loop. Whatever differs between training, distilling and quantizing lies in the objective."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from polyfold.artifact import CHECKPOINTS, write_atomically
from polyfold.console import Bar, note, progress_bar
from polyfold.data.batches import (
    BatchSpec,
    EncodedDocuments,
    plan_epoch,
    steps_per_epoch,
)
from polyfold.errors import MissingExtra
from polyfold.model.backbone import token_embedding
from polyfold.model.classifier import Classifier
from polyfold.model.first_token import reads_first_token
from polyfold.system import hardware
from polyfold.train.checkpoint import Progress, begun_precision, load_checkpoint, save_checkpoint
from polyfold.train.objectives import Objective
from polyfold.train.precision import Precision, choose_precision
from polyfold.train.steps import Noise, Stepper, sparse_gradients

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


LOG_STEPS = 10
"""Losses are logged at every so many steps."""


class FitSpec(BaseModel):
    """How long, how fast and how carefully to train.

    `head_dropout` zeroes parts of the sentence vector, `token_dropout` makes a share of the tokens unknown.
    `precision: auto` is bf16 where the hardware has it and the model is large enough to gain, else fp32. An
    `embedding_learning_rate` of 0 freezes the token embeddings. `patience` stops after so many epochs without a
    better mean macro-F1 on dev.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=3, ge=0)
    learning_rate: float = Field(default=1e-4, gt=0)
    head_learning_rate: float | None = Field(default=None, gt=0)
    embedding_learning_rate: float | None = Field(default=None, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0, le=1)
    decay: Literal["linear", "cosine", "none"] = "linear"
    clip_norm: float = Field(default=1.0, gt=0)
    head_dropout: float = Field(default=0.1, ge=0, lt=1)
    token_dropout: float = Field(default=0.0, ge=0, lt=1)
    batch: BatchSpec = BatchSpec()
    patience: int | None = Field(default=None, ge=1)
    precision: Literal["auto"] | Precision = "auto"
    checkpoint_minutes: float = Field(default=3.0, ge=0)
    tensorboard: bool = False


@dataclass(frozen=True)
class FitContext:
    """What a run needs beside the model: its folder, its seed, its name, and how dev is scored."""

    folder: Path
    seed: int
    label: str
    evaluate: Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class FitResult:
    """The best epoch's dev score (mean macro-F1, nan where there are no tasks), and what was logged on the way."""

    best_score: float
    best_epoch: int
    steps: int
    history: list[dict[str, Any]]


def fit(
    model: Classifier, train: EncodedDocuments, objective: Objective, spec: FitSpec, weights: np.ndarray | None,
    context: FitContext,
) -> FitResult:  # fmt: skip
    """Train in place and leave the model with the weights of its best epoch on dev (mean macro-F1).

    Where there are no dev scores, because there are no tasks, it is left with its last weights.
    """
    if spec.epochs == 0:
        return FitResult(float("nan"), -1, 0, [])
    torch.manual_seed(context.seed)
    model.dropout.p = spec.head_dropout
    # Accelerate remembers one precision for the whole process, but each stage of a run has its own.
    AcceleratorState._reset_state()
    precision = _precision(spec, model, context)
    accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    # The model is not wrapped: all processes start from the same weights and sum their gradients by hand. A
    # wrapper's own broadcasts wait for ever where a step has fewer batches than there are processes.
    model.to(accelerator.device)
    objective.modules.to(accelerator.device)
    # Fused: one pass over a table of tens of millions of rows instead of several.
    optimizer = torch.optim.AdamW(_groups(model, objective.modules, spec), lr=spec.learning_rate, fused=True)
    if accelerator.scaler is not None:
        optimizer = accelerator.prepare(optimizer)
    run = _Run(accelerator, model, optimizer, train, objective, spec, weights, context)
    run.progress = Progress(precision=precision)
    with sparse_gradients(model, accelerator.device):
        run.train()
    accelerator.wait_for_everyone()
    scored = run.progress.best_score if run.best else float("nan")
    return FitResult(scored, run.progress.best_epoch, run.global_step, run.progress.history)


class _Run:
    """The state of one call of `fit`."""

    def __init__(  # noqa: PLR0913, PLR0917  (it is built in one place, from fit's own arguments)
        self, accelerator: Accelerator, model: Classifier, optimizer: torch.optim.Optimizer,
        train: EncodedDocuments, objective: Objective, spec: FitSpec, weights: np.ndarray | None,
        context: FitContext,
    ) -> None:  # fmt: skip
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.data = train
        self.objective = objective
        self.spec = spec
        self.weights = weights
        self.context = context
        noise = Noise(spec.token_dropout, train.unknown_id)
        self.stepper = Stepper(accelerator, model, optimizer, objective, spec.clip_norm, noise)
        self.base_rates = [group["lr"] for group in optimizer.param_groups]
        self.per_epoch = steps_per_epoch(len(train), spec.batch)
        self.checkpoints = context.folder / CHECKPOINTS
        self.log = context.folder / "metrics.jsonl"
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.saved_at = time.monotonic()
        self.shown = 0
        self.board: SummaryWriter | None = None

    @property
    def global_step(self) -> int:
        return self.progress.epoch * self.per_epoch + self.progress.step

    def train(self) -> None:
        """All epochs, from wherever a killed run left off."""
        found = load_checkpoint(self.checkpoints, self.model, self.objective.modules, self.optimizer)
        if found is not None:
            self.progress, self.best = found
            note(f"{self.context.label}: resuming at epoch {self.progress.epoch + 1}, step {self.progress.step}")
        self._truncate_log()
        if self.spec.tensorboard and self.accelerator.is_main_process:
            self.board = _open_board(self.context.folder / "tensorboard", self.global_step)
        total = self.spec.epochs * self.per_epoch
        with progress_bar(self.context.label, total) as bar:
            self.shown = self.global_step
            bar.jump(self.shown)
            while self.progress.epoch < self.spec.epochs and not self._out_of_patience():
                self._epoch(bar)
        if self.board is not None:
            self.board.close()
        if self.best:
            self.model.load_state_dict(self.best)
        self.model.eval()

    def _epoch(self, bar: Bar) -> None:
        self.model.train()
        plan = self._plan()
        for step in plan[self.progress.step :]:
            self._set_rates()
            totals = self.stepper.step([self.data.batch(indices) for indices in step])
            self.progress = replace(self.progress, step=self.progress.step + 1)
            logged, due = self.global_step % LOG_STEPS == 0, self._checkpoint_due()
            # A GPU is looked at seldom, since that waits for all its work.
            if logged or due or self.progress.step == len(plan) or self.accelerator.device.type == "cpu":
                losses = self.stepper.read(totals, self.global_step)
                bar.advance(self.global_step - self.shown, " ".join(f"{n} {v:.3f}" for n, v in losses.items()))
                self.shown = self.global_step
                if logged:
                    self._write_log({"losses": losses, "learning_rate": self.optimizer.param_groups[0]["lr"]})
            if due:
                self._save()
        self._finish_epoch()

    def _plan(self) -> list[list[np.ndarray]]:
        """The epoch's steps. On a GPU passes are never ragged: it would wait for the lengths at every one."""
        on_cpu = self.accelerator.device.type == "cpu"
        ragged = on_cpu and reads_first_token(self.model, self.objective.wanted)
        lengths, seed = self.data.encoding.lengths, self.context.seed
        return plan_epoch(lengths, self.weights, self.spec.batch, seed, self.progress.epoch, ragged)

    def _checkpoint_due(self) -> bool:
        return (time.monotonic() - self.saved_at) / 60 >= self.spec.checkpoint_minutes

    def _set_rates(self) -> None:
        factor = learning_rate_factor(self.global_step, self.spec.epochs * self.per_epoch, self.spec)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor

    def _finish_epoch(self) -> None:
        scores = dict(self.context.evaluate(self.model))
        # Without tasks nothing can be scored: the last weights are kept, and there is nothing to stop early by.
        mean = float(np.mean(list(scores.values()))) if scores else None
        better = mean is not None and mean > self.progress.best_score
        epoch = self.progress.epoch
        if better:
            # Cloned: the state dict shares memory with the parameters that go on training.
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        entry = {"epoch": epoch + 1, "dev_macro_f1": scores, "mean": mean}
        self._write_log(entry)
        self.progress = replace(
            self.progress,
            epoch=epoch + 1,
            step=0,
            best_score=mean if mean is not None and better else self.progress.best_score,
            best_epoch=epoch if better or mean is None else self.progress.best_epoch,
            epochs_without_gain=0 if better or mean is None else self.progress.epochs_without_gain + 1,
            history=[*self.progress.history, entry],
        )
        shown = ", ".join(f"{name} {100 * value:.1f}" for name, value in scores.items())
        dev = f", dev macro-F1 {shown}" if scores else ""
        note(f"{self.context.label}: epoch {epoch + 1}/{self.spec.epochs}{dev}")
        self._save()

    def _out_of_patience(self) -> bool:
        return self.spec.patience is not None and self.progress.epochs_without_gain >= self.spec.patience

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            projections = self.objective.modules
            save_checkpoint(self.checkpoints, self.progress, self.model, projections, self.optimizer, self.best)
        self.saved_at = time.monotonic()

    def _write_log(self, entry: Mapping[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        with self.log.open("a", encoding="utf8") as file:
            file.write(json.dumps({"step": self.global_step, **entry}) + "\n")
        if self.board is not None:
            for group in ("losses", "dev_macro_f1"):
                for name, value in entry.get(group, {}).items():
                    self.board.add_scalar(f"{group}/{name}", value, self.global_step)

    def _truncate_log(self) -> None:
        """Forget what a killed run logged after its last checkpoint: it will be logged again."""
        if not self.log.exists() or not self.accelerator.is_main_process:
            return
        kept = [line for line in self.log.read_bytes().splitlines() if self._logged_before(line)]
        write_atomically(self.log, b"".join(line + b"\n" for line in kept))

    def _logged_before(self, line: bytes) -> bool:
        """Whether a line tells of a step and an epoch that the checkpoint has finished; a torn one does not."""
        try:
            entry = json.loads(line)
        except ValueError:
            return False
        # A checkpoint after an epoch's last step has its step count, but not yet its dev scores.
        return bool(entry["step"] <= self.global_step and entry.get("epoch", 0) <= self.progress.epoch)


def learning_rate_factor(step: int, total: int, spec: FitSpec) -> float:
    """Linear warm-up over a share of all steps, then decay to zero (or none)."""
    warm = spec.warmup * total
    if step < warm:
        # The last step of a warm-up that is no whole number of steps would go beyond 1.
        return min(1.0, (step + 1) / max(1.0, warm))
    left = 1.0 - (step - warm) / max(1.0, total - warm)
    match spec.decay:
        case "linear":
            return left
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
        case "none":
            return 1.0


def _groups(model: Classifier, projections: nn.Module, spec: FitSpec) -> list[dict[str, Any]]:
    """Parameter groups: embeddings, what is new (heads, projections) and the rest, each with its rate.

    No decay on vectors (bias, norms).
    """
    table = token_embedding(model.encoder).weight
    if spec.embedding_learning_rate == 0.0:
        table.requires_grad_(False)
    new = {id(parameter) for parameter in chain(model.heads.parameters(), projections.parameters())}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in chain(model.parameters(), projections.parameters()):
        if not parameter.requires_grad:
            continue
        rate = spec.learning_rate
        if parameter is table and spec.embedding_learning_rate is not None:
            rate = spec.embedding_learning_rate
        elif id(parameter) in new and spec.head_learning_rate is not None:
            rate = spec.head_learning_rate
        # Decay on the table would shrink the rows of pieces that a batch does not even hold.
        decay = spec.weight_decay if parameter.ndim > 1 and parameter is not table else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": found, "lr": rate, "weight_decay": decay} for (rate, decay), found in groups.items()]


def _precision(spec: FitSpec, model: nn.Module, context: FitContext) -> Precision:
    """The precision to train in: a resumed run goes on in the one that it was begun in."""
    begun = begun_precision(context.folder / CHECKPOINTS) if spec.precision == "auto" else None
    return begun or choose_precision(spec.precision, model, hardware().instructions)


def _open_board(folder: Path, step: int) -> "SummaryWriter":
    """A TensorBoard writer that hides what a killed run logged after its last checkpoint."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise MissingExtra("tensorboard", "train") from None
    return SummaryWriter(str(folder), purge_step=step)
