"""Which layers int8 hurts: each is quantized alone, and the worst stay in floating point until a budget holds."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from polyfold.artifact import write_atomically
from polyfold.compress.grids import Grids
from polyfold.console import note
from polyfold.data.batches import EncodedDocuments
from polyfold.errors import InputError
from polyfold.model.classifier import Model
from polyfold.model.placement import is_kept
from polyfold.tasks import Task
from polyfold.train.evaluate import macro_f1, predict_logits

TABLE, PLOT = "sensitivity.json", "sensitivity.svg"

Logits = Mapping[str, np.ndarray]


class Sensitivity(BaseModel):
    """Measure what each layer loses by itself, on a sample of `documents` dev documents.

    With a budget, the layers that change the answers most stay in floating point, one after the other, until all
    the rest together loses no more than `loss_budget_percent` of the mean macro-F1, and changes the answers by no
    more than `kl_budget` nats of KL divergence a document and task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int = Field(default=512, ge=1)
    loss_budget_percent: float | None = Field(default=None, ge=0.0)
    kl_budget: float | None = Field(default=None, ge=0.0)


@dataclass(frozen=True)
class Loss:
    """What changes: mean KL divergence in nats, and the relative loss of mean macro-F1 (None without labels)."""

    kl: float
    macro_f1_loss_percent: float | None

    def within(self, spec: Sensitivity) -> bool:
        """Whether this keeps every budget that is given."""
        kl_holds = spec.kl_budget is None or self.kl <= spec.kl_budget
        if spec.loss_budget_percent is None:
            return kl_holds
        assert self.macro_f1_loss_percent is not None
        return kl_holds and self.macro_f1_loss_percent <= spec.loss_budget_percent

    def figures(self) -> dict[str, float | None]:
        """As JSON has it."""
        return {"kl": self.kl, "macro_f1_loss_percent": self.macro_f1_loss_percent}


@dataclass(frozen=True)
class Findings:
    """The loss of each layer alone, what stays in floating point, and the loss of all the rest together."""

    layers: Mapping[str, Loss]
    keep: tuple[str, ...]
    together: Loss

    def figures(self) -> dict[str, Any]:
        """As JSON has it, the most sensitive layers first."""
        ordered = sorted(self.layers.items(), key=lambda item: -item[1].kl)
        return {
            "layers": {name: loss.figures() for name, loss in ordered},
            "kept": list(self.keep),
            "together": self.together.figures(),
        }

    def write(self, folder: Path) -> None:
        """The table and its plot."""
        write_atomically(folder / TABLE, json.dumps(self.figures(), indent=2).encode())
        write_atomically(folder / PLOT, plot(self).encode())


def measure_sensitivity(
    grids: Grids, model: Model, dev: EncodedDocuments, spec: Sensitivity, keep: Sequence[str], label: str
) -> Findings:
    """Quantize each layer alone, then all but the fewest that the budget asks to leave out.

    `model` is the float model. Layers of `keep` stay as they are in any case.
    """
    exact = predict_logits(model.classifier, model.tasks, dev, f"{label}, in floating point")
    if spec.loss_budget_percent is not None and not macro_f1(model.tasks, dev.documents, exact):
        raise InputError(
            "a budget in macro-F1 needs labelled dev documents, and there are none",
            key="sensitivity.loss_budget_percent",
            hint="give kl_budget, which needs no labels",
        )

    def loss(kept: Sequence[str], doing: str) -> Loss:
        logits = predict_logits(grids.quantized(kept), model.tasks, dev, f"{label}, {doing}")
        return loss_between(model.tasks, dev, exact, logits)

    layers = [name for name in grids.layers if not is_kept(name, keep)]
    alone = {name: loss([one for one in grids.layers if one != name], f"only {name}") for name in layers}
    worst_first = sorted(layers, key=lambda name: -alone[name].kl)
    chosen = list(keep)
    together = loss(chosen, "all layers")
    for name in worst_first:
        if together.within(spec):
            break
        chosen.append(name)
        note(f"{label}: {name} stays in floating point")
        together = loss(chosen, f"{len(chosen)} layers kept")
    if not [name for name in layers if not is_kept(name, chosen)]:
        raise InputError(
            "no layer can be quantized within this budget: every one would have to stay in floating point",
            key="sensitivity",
            hint=f"the least sensitive layer alone costs {alone[worst_first[-1]].kl:.2e} nats; allow more, "
            "or leave the quantization step out",
        )
    return Findings(alone, tuple(chosen), together)


def loss_between(tasks: Sequence[Task], dev: EncodedDocuments, exact: Logits, found: Logits) -> Loss:
    """The loss of one set of answers against another on the same documents."""
    kl = float(np.mean([_divergence(task, exact[task.name], found[task.name]) for task in tasks]))
    before, after = (macro_f1(tasks, dev.documents, logits) for logits in (exact, found))
    mean = float(np.mean(list(before.values()))) if before else 0.0
    percent = 100.0 * (1.0 - float(np.mean(list(after.values()))) / mean) if mean > 0.0 else None
    return Loss(kl, percent if before else None)


def _divergence(task: Task, exact: np.ndarray, found: np.ndarray) -> float:
    """KL(exact || found) a document, in nats: over the labels, or summed over a Bernoulli distribution a label."""
    p, q = exact.astype(np.float64), found.astype(np.float64)
    if task.multi_label:
        # A Bernoulli distribution is a softmax over (logit, 0).
        p, q = (np.stack([values, np.zeros_like(values)], axis=-1) for values in (p, q))
    p = p - np.logaddexp.reduce(p, axis=-1, keepdims=True)
    q = q - np.logaddexp.reduce(q, axis=-1, keepdims=True)
    return float((np.exp(p) * (p - q)).sum() / len(exact))


def plot(findings: Findings) -> str:
    """A bar a layer, its length the KL divergence; layers left in floating point are hollow. SVG, no script."""
    ordered = sorted(findings.layers.items(), key=lambda item: -item[1].kl)
    longest = max((loss.kl for _, loss in ordered), default=0.0) or 1.0
    row, names, bars = 18, 360, 360
    lines = []
    for number, (name, loss) in enumerate(ordered):
        y, length = number * row, bars * max(loss.kl, 0.0) / longest
        fill = "none" if is_kept(name, findings.keep) else "#3b7dd8"
        lines.append(f'<text x="{names - 8}" y="{y + 13}" text-anchor="end">{html.escape(name)}</text>')
        lines.append(
            f'<rect x="{names}" y="{y + 3}" width="{length:.1f}" height="12" fill="{fill}" stroke="#3b7dd8"/>'
        )
        lines.append(f'<text x="{names + length + 6:.1f}" y="{y + 13}">{loss.kl:.2e}</text>')
    size = f'width="{names + bars + 90}" height="{len(ordered) * row + 6}"'
    style = 'font-family="sans-serif" font-size="11" fill="#444"'
    title = "<title>KL divergence in nats with only this layer in int8; hollow: left in floating point</title>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{title}\n' + "\n".join(lines) + "\n</svg>\n"
