"""A recipe run, its data looked at, its report drawn again, its folder cleaned."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from polyfold.cli.app import Changes, OutDir, RecipePath, app
from polyfold.console import note, stderr

data_app = typer.Typer(help="Look at the data before training on it.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@app.command(epilog="Example: polyfold run recipes/demo.yaml --set seed=1 --out runs/seed1")
def run(
    recipe: RecipePath,
    changes: Changes = None,
    out: OutDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show which stages would run, and stop.")] = False,
) -> None:
    """Train, distil, compress, export and measure; resumes where an earlier run was interrupted."""
    from polyfold.pipeline import plan
    from polyfold.pipeline import run as run_pipeline
    from polyfold.recipe import load_recipe

    loaded = load_recipe(recipe, changes or [])
    root = out or Path("runs") / loaded.name
    if dry_run:
        from polyfold.estimate import render_plan

        stderr().print(render_plan(plan(loaded, recipe.parent), loaded, root))
        return
    report = run_pipeline(loaded, recipe.parent, root)
    note(f"\nreport: {root / 'report.html'} (also report.md and report.json)")
    if report.broken_gates:
        from polyfold.measure.gates import sentence

        for gate in report.broken_gates:
            stderr().print(f"gate broken: {sentence(gate)}", style="red", markup=False)
        raise typer.Exit(1)


@data_app.command("check", epilog="Example: polyfold data check recipes/demo.yaml --json check.json")
def data_check(
    recipe: RecipePath,
    changes: Changes = None,
    out: OutDir = None,
    json_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--json", help="Write the counts as JSON too.", metavar="FILE"),
    ] = None,
) -> None:
    """Count labels by task and language, lengths, duplicates, empties and leaks."""
    from rich.console import Console

    from polyfold.artifact import write_atomically
    from polyfold.data.check import check, render
    from polyfold.data.prepare import load_dataset, load_preparation, prepare
    from polyfold.recipe import load_recipe
    from polyfold.teaching import token_lengths

    loaded = load_recipe(recipe, changes or [])
    root = out or Path("runs") / loaded.name
    artifact = prepare(loaded.data, recipe.parent, root, loaded.seed)
    data = load_dataset(artifact)
    splits = {name: data.split(name).texts for name in ("train", "dev", "test")}
    lengths = token_lengths(loaded, splits, recipe.parent)
    found = check(data, load_preparation(artifact), lengths)
    Console().print(render(found))
    if json_file is not None:
        write_atomically(json_file, found.model_dump_json(indent=2).encode())


@app.command(epilog="Example: polyfold report runs/demo")
def report(folder: Annotated[Path, typer.Argument(help="A run's folder.", metavar="DIR")]) -> None:
    """Draw report.md and report.html again from report.json, and print the tables."""
    from rich.console import Console
    from rich.markdown import Markdown

    from polyfold.measure.report import load_report, write_report

    write_report(load_report(folder), folder)
    Console().print(Markdown((folder / "report.md").read_text(encoding="utf8")))
    note(f"report: {folder / 'report.html'}")


@app.command(epilog="Example: polyfold clean runs/demo --keep-recipe recipes/demo.yaml --yes")
def clean(
    folder: Annotated[Path, typer.Argument(help="A run's folder.", metavar="DIR")],
    keep_recipe: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--keep-recipe", help="Keep the stages that this recipe uses.", metavar="RECIPE"),
    ] = None,
    changes: Changes = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it only say what would go.")] = False,
) -> None:
    """Delete unfinished and unused stage folders and teacher caches; finished stages of --keep-recipe stay."""
    from polyfold.estimate import stale_folders

    kept = set()
    if keep_recipe is not None:
        from polyfold.pipeline import plan
        from polyfold.recipe import load_recipe

        chart = plan(load_recipe(keep_recipe, changes or []), keep_recipe.parent)
        kept = {stage.folder(folder).name for stage in chart.stages()}
    import shutil

    stale = stale_folders(folder, kept)
    for path, size_mb in stale:
        note(f"{'deleting' if yes else 'would delete'} {path} ({size_mb:,.1f} MB)")
        if yes:
            shutil.rmtree(path)
    if stale and not yes:
        note("nothing was deleted; add --yes to do it")
    if not stale:
        note("nothing to delete")
