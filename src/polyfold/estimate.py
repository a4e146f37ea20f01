"""What a run would do: which stages are finished, and a rough time and size for the others."""

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from polyfold.artifact import MANIFEST, Artifact, Stage
from polyfold.data.prepare import load_dataset
from polyfold.errors import InputError
from polyfold.pipeline import Plan
from polyfold.recipe import Recipe

STAGE_FOLDER = re.compile(r".+-(?P<key>[0-9a-f]{16})")
CACHE_FILE = re.compile(r"teacher-[0-9a-f]{16}\.(arrow|sha256)|\.teacher-.*\.tmp")

# Multiply-adds a token of the trunks we know, in millions; anything else is taken for an XLM-R base.
TRUNK_MEGA_MACS: Mapping[str, float] = {"use-multilingual": 1.7}
UNKNOWN_MEGA_MACS = 85.0
MEAN_TOKENS = 30.0
# Backward costs twice the forward pass; training was seen to reach about a quarter of the matrix speed below.
TRAINING_FACTOR = 3.0 * 4.0


def render_plan(plan: Plan, recipe: Recipe, root: Path) -> Table:
    """A table of all stages: reuse, resume or run, with estimated minutes and megabytes."""
    table = Table(title=f"{recipe.name} (hash {recipe.hash}) -> {root}")
    for column in ("stage", "kind", "folder", "what happens", "minutes", "MB"):
        table.add_column(column, justify="right" if column in ("minutes", "MB") else "left")
    documents = _training_documents(plan, recipe, root)
    speed = giga_macs_per_second()
    minutes = megabytes = 0.0
    for stage in plan.stages():
        done = stage.finished(root)
        folder = stage.folder(root)
        if done is not None:
            table.add_row(stage.name, stage.kind, folder.name, "reuse", "0", f"{done.size_mb:,.0f}")
            continue
        own_minutes, own_mb = _estimate(stage, documents, speed)
        minutes, megabytes = minutes + own_minutes, megabytes + own_mb
        action = "resume" if folder.exists() else "run"
        table.add_row(stage.name, stage.kind, folder.name, action, f"{own_minutes:,.1f}", f"{own_mb:,.0f}")
    table.caption = (
        f"about {minutes:,.0f} minutes and {megabytes:,.0f} MB to go; estimates, within a factor of two or three"
    )
    return table


def giga_macs_per_second() -> float:
    """This machine's fp32 matrix speed: the best of twenty products, since other work only ever slows one down."""
    left = np.ones((512, 512), dtype=np.float32)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - started)
    return float(512**3 / min(seconds) / 1e9)


def stale_folders(root: Path, kept: set[str]) -> list[tuple[Path, float]]:
    """Stage folders under `root` that no kept name protects (all of them, where none is given), with MB.

    Only what Polyfold made is listed: folders named as its stages are and without somebody else's manifest, and
    the teacher cache.
    """
    if not root.is_dir():
        return []
    found = []
    for path in sorted(root.iterdir()):
        if path.is_dir() and path.name not in kept and (_is_stage(path) or _is_cache(path)):
            found.append((path, sum(file.stat().st_size for file in _files(path)) / 1e6))
    return found


def _is_stage(path: Path) -> bool:
    """Whether this is a stage's folder: `name-key`, finished under that key or not finished at all."""
    named = STAGE_FOLDER.fullmatch(path.name)
    if named is None or path.is_symlink():
        return False
    if not (path / MANIFEST).exists():
        return True
    try:
        return Artifact.open(path).manifest.key == named["key"]
    except InputError:
        return False


def _is_cache(path: Path) -> bool:
    """Whether this folder holds cached teacher logits and nothing else."""
    names = [file.name for file in path.iterdir()]
    return path.name == "cache" and bool(names) and all(CACHE_FILE.fullmatch(name) for name in names)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _training_documents(plan: Plan, recipe: Recipe, root: Path) -> int:
    """Training documents: counted where the data is prepared, else the recipe's limit or a guess."""
    done: Artifact | None = plan.data.finished(root)
    if done is not None:
        return len(load_dataset(done).train)
    return recipe.data.limits.get("train", 10_000)


def _estimate(stage: Stage, documents: int, speed: float) -> tuple[float, float]:
    """Minutes and MB of one stage, from what it trains and on how much."""
    pruned = stage.kind == "prune"
    fit: Mapping[str, Any] = stage.spec.get("recover" if pruned else "fit") or {}
    epochs = float(fit.get("epochs", 0)) * (stage.spec["schedule"]["rounds"] if pruned else 1)
    # A pruning step looks at some documents and recovers on all of them.
    seen = documents if pruned else min(documents, stage.spec.get("documents") or documents)
    macs = epochs * seen * MEAN_TOKENS * _mega_macs(stage.spec) / 1e3
    training = macs * TRAINING_FACTOR / speed / 60
    match stage.kind:
        case "data":
            return 0.2, documents * 3e-4
        case "measure":
            return 3.0, 6.0
        case "import" | "mean":
            return 0.3, 0.0
        case "export":
            return 0.3, 40.0
        case "teacher" | "student":
            return training, 280.0
        case _:
            return max(0.3, training), 120.0


def _mega_macs(spec: Mapping[str, Any]) -> float:
    """Multiply-adds a token of the trunk that a stage trains, in millions, as far as its spec tells."""
    init: Mapping[str, Any] = spec.get("init") or {}
    match init.get("kind"):
        case "transformer":
            width = float(init["width"])
            return float(init["layers"]) * (4 * width + 2 * float(init["feed_forward"] or 4 * width)) * width / 1e6
        case "convolutional":
            branch, orders = float(init["branch_width"]), 2 + 3 + 5
            return (3 * float(init["embedding_width"]) * branch + 2 * orders * branch**2) / 1e6
    name = str(spec.get("backbone") or init.get("name") or "use-multilingual")
    return TRUNK_MEGA_MACS.get(name, UNKNOWN_MEGA_MACS)
