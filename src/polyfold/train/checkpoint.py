"""Checkpoints: everything a killed run needs to end as if it had never been killed. Safetensors and JSON only."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polyfold.artifact import write_atomically
from polyfold.train.precision import Precision

PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """Where a run stands: finished epochs, finished steps of the current epoch, and what was best so far.

    `precision` is what it was begun in, so that it ends in the same wherever it is resumed.
    """

    epoch: int = 0
    step: int = 0
    best_score: float = float("-inf")
    best_epoch: int = -1
    epochs_without_gain: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    precision: Precision = "fp32"


def save_checkpoint(
    folder: Path,
    progress: Progress,
    model: nn.Module,
    projections: nn.Module,
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, Tensor],
) -> None:
    """Write a new checkpoint beside the old one, then remove the old: one is complete at every moment."""
    name = f"epoch{progress.epoch:04d}-step{progress.step:07d}"
    draft, target = folder / f"{name}.tmp", folder / name
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name, module in (("model", model), ("projections", projections)):
        state = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(state, draft / f"{name}.safetensors")
    save_file(_optimizer_tensors(optimizer), draft / "optimizer.safetensors")
    save_file({key: value.contiguous() for key, value in best.items()}, draft / "best.safetensors")
    save_file(_generators(), draft / "generators.safetensors")
    write_atomically(draft / PROGRESS, json.dumps(asdict(progress)).encode())
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    for other in folder.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)


def load_checkpoint(
    folder: Path, model: nn.Module, projections: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor]] | None:
    """Restore model, projections, optimizer and random generators; None where there is nothing to resume."""
    source = _newest(folder)
    if source is None:
        return None
    model.load_state_dict(load_file(source / "model.safetensors"))
    projections.load_state_dict(load_file(source / "projections.safetensors"))
    _restore_optimizer(optimizer, load_file(source / "optimizer.safetensors"))
    generators = load_file(source / "generators.safetensors")
    torch.set_rng_state(generators["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda{index}" in generators:
            torch.cuda.set_rng_state(generators[f"cuda{index}"], index)
    progress = Progress(**json.loads((source / PROGRESS).read_bytes()))
    return progress, load_file(source / "best.safetensors")


def begun_precision(folder: Path) -> Precision | None:
    """The precision of the run that left a checkpoint here; None where there is none."""
    source = _newest(folder)
    return None if source is None else json.loads((source / PROGRESS).read_bytes())["precision"]


def _newest(folder: Path) -> Path | None:
    complete = sorted(path for path in folder.glob("epoch*") if not path.name.endswith(".tmp"))
    return complete[-1] if complete else None


def _generators() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | {f"cuda{index}": torch.cuda.get_rng_state(index) for index in range(torch.cuda.device_count())}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts, one flat key a tensor: `<parameter>.<name>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{parameter}.{name}": torch.as_tensor(value).contiguous()
        for parameter, values in state.items()
        for name, value in values.items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
