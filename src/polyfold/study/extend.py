"""`polyfold extend`: a finished model learns a task or a language, and is held to what it answered before."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyfold.artifact import Artifact, Stage
from polyfold.data.prepare import load_dataset, prepare, training_key
from polyfold.measure.tables import Table
from polyfold.metrics import share_interval
from polyfold.recipe import Recipe
from polyfold.train import extend as extending
from polyfold.train.extend import check_extension, extend
from polyfold.workshop import perform

NAME = "extended"


@dataclass(frozen=True)
class Extended:
    """The finished artifact; by old task the dev documents looked at and those decided otherwise; the verdict."""

    artifact: Artifact
    new_tasks: tuple[str, ...]
    kept: Mapping[str, tuple[int, int]]
    tolerance: float

    @property
    def broken(self) -> tuple[str, ...]:
        """Old tasks that decide more documents otherwise than the tolerance allows."""
        return tuple(
            name for name, (documents, flipped) in self.kept.items() if 100 * flipped > self.tolerance * documents
        )


def extend_folder(
    folder: Path, recipe: Recipe, base: Path, root: Path, tolerance: float | None = None
) -> Extended:
    """Extend a model folder by the recipe's data, under `root`; resumed and reused as every stage is.

    The tolerance decides nothing but the verdict, so another one judges a finished artifact anew. A model that
    changed too much is kept, and its manifest says `within_tolerance: false`.
    """
    model = Artifact.open(folder)
    model.verify()
    spec = recipe.extend
    allowed = spec.tolerance if tolerance is None else tolerance
    data = load_dataset(prepare(recipe.data, base, root, recipe.seed))
    check_extension(spec, model, data)
    settings = {**spec.model_dump(mode="json", exclude={"tolerance"}), "seed": recipe.seed}
    parents = (training_key(recipe.data, base, recipe.seed), model.manifest.key)
    # The key of the model's own stage does not tell one training of it from another; its files do.
    stage = Stage("extend", NAME, extending.STAGE_VERSION, settings, parents, model.manifest.files)

    def build(target: Path) -> Mapping[str, Any]:
        done = extend(spec, model, data, target, root / "cache", recipe.seed)
        found = Extended(model, done.new_tasks, done.kept, allowed)
        return {
            "dev_macro_f1": done.result.best_score,
            "steps": done.result.steps,
            "new_tasks": list(done.new_tasks),
            "kept": {name: list(counts) for name, counts in done.kept.items()},
            **_verdict(found),
        }

    artifact = perform(stage, root, build)
    info = artifact.manifest.info
    kept = {name: (int(documents), int(flipped)) for name, (documents, flipped) in info["kept"].items()}
    found = Extended(artifact, tuple(info["new_tasks"]), kept, allowed)
    if info["tolerance_percent"] != allowed:
        artifact = stage.finish(artifact.path, {**info, **_verdict(found)})
    return Extended(artifact, found.new_tasks, kept, allowed)


def _verdict(found: Extended) -> dict[str, Any]:
    return {"tolerance_percent": found.tolerance, "within_tolerance": not found.broken}


def kept_table(found: Extended) -> Table:
    """What the old tasks decide otherwise than before."""
    rows = []
    for name, (documents, flipped) in found.kept.items():
        low, high = share_interval(flipped, documents)
        share = f"{100 * flipped / max(documents, 1):.2f} ({100 * low:.2f}–{100 * high:.2f})"
        rows.append((name, "CHANGED" if name in found.broken else "kept", f"{documents:,}", f"{flipped:,}", share))
    return Table(
        "Old tasks, before and after",
        ("task", "verdict", "dev documents", "flipped", "flipped %"),
        tuple(rows),
        note=f"Of documents in languages that the model knew; allowed: {found.tolerance:g} %. Wilson's interval.",
    )
