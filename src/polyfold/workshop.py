"""What every stage of a run may use, and how one is run or reused."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyfold.artifact import Artifact, Stage
from polyfold.console import note
from polyfold.data.dataset import Dataset
from polyfold.recipe import Recipe


@dataclass(frozen=True)
class Workshop:
    """What every stage of a run may use. Paths in the recipe start at `base`; all results go under `root`.

    `backbones` are the folders of those that the recipe distils itself, by name.
    """

    recipe: Recipe
    base: Path
    root: Path
    data: Dataset
    backbones: Mapping[str, Path] = field(default_factory=dict)

    def source(self, name: str) -> str:
        """What to load for a backbone's name: the folder of one made here, or the name as it is."""
        return str(self.backbones.get(name, name))

    @property
    def cache(self) -> Path:
        """Where teacher logits are kept."""
        return self.root / "cache"


def perform(stage: Stage, root: Path, build: Callable[[Path], Mapping[str, Any]]) -> Artifact:
    """Run or reuse a stage, and say which; seconds are kept for the next dry run's estimate."""
    done = stage.finished(root)
    if done is not None:
        done.verify()
        note(f"{stage.name}: finished earlier, reused")
        return done
    started = time.monotonic()

    def timed(folder: Path) -> Mapping[str, Any]:
        info = dict(build(folder))
        return {**info, "seconds": round(time.monotonic() - started, 1)}

    return stage.run(root, timed)
