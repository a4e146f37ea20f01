"""Questions asked of finished runs: compare, ablate, extend."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from polyfold.cli.app import Changes, MaybeNumber, MaybePath, MaybeText, OutDir, RecipePath, app, print_markdown
from polyfold.console import note, stderr
from polyfold.errors import InputError


@app.command(
    epilog="Examples: polyfold compare runs/demo/teacher-* runs/demo/teacher.trim_vocabulary.int8_qat-* "
    "--data recipes/demo.yaml --flips flips.csv;  polyfold compare OLD NEW texts.csv --text comment"
)
def compare(
    first: Annotated[Path, typer.Argument(help="A model folder: before.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="A model folder: after.", metavar="B")],
    source: Annotated[
        MaybePath,
        typer.Argument(help="A CSV, JSONL, Parquet or text file of texts, without labels.", metavar="[FILE]"),
    ] = None,
    data: Annotated[
        MaybePath, typer.Option("--data", help="Use this recipe's labelled documents.", metavar="RECIPE")
    ] = None,
    changes: Changes = None,
    split: Annotated[Literal["train", "dev", "test"], typer.Option(help="Which documents of --data.")] = "test",
    text: Annotated[str, typer.Option(help="The column of FILE with the texts.")] = "text",
    language: Annotated[MaybeText, typer.Option(help="The column of FILE with the languages.")] = None,
    id_column: Annotated[MaybeText, typer.Option("--id", help="The column of FILE with ids.")] = None,
    json_file: Annotated[
        MaybePath, typer.Option("--json", help="Write everything as JSON.", metavar="FILE")
    ] = None,
    out: Annotated[
        MaybePath, typer.Option("--out", help="Write comparison.json, .md and .html here.", metavar="DIR")
    ] = None,
    flips: Annotated[
        MaybePath,
        typer.Option("--flips", help="List flipped documents by id: CSV, JSONL or Parquet.", metavar="FILE"),
    ] = None,
    include_text: Annotated[bool, typer.Option("--include-text", help="Put the texts into --flips.")] = False,
) -> None:
    """Show what changed between two models: texts flipped and macro-F1, by task and language, with intervals."""
    from polyfold.measure.compare_views import comparison_markdown
    from polyfold.study.compare import Outputs, compare_folders, file_texts, recipe_texts

    if (source is None) == (data is None):
        raise InputError("give either a FILE of texts or --data RECIPE", hint="see polyfold compare --help")
    if source is not None:
        texts = file_texts(source, text, language, id_column)
    else:
        assert data is not None
        texts = recipe_texts(data, changes or [], split)
    found = compare_folders(first, second, texts, Outputs(json_file, out, flips, include_text))
    print_markdown(comparison_markdown(found))


@app.command(epilog="Example: polyfold ablate recipes/demo.yaml --seeds 0,1,2 --out runs/demo")
def ablate(
    recipe: RecipePath,
    seeds: Annotated[
        MaybeText,
        typer.Option(help="Seeds of the students [default: the recipe's and the next two].", metavar="N,N,..."),
    ] = None,
    each: Annotated[
        Literal["without", "alone"],
        typer.Option(help="Leave each distillation loss out, or take each alone beside the labels."),
    ] = "without",
    reseed_teacher: Annotated[
        bool, typer.Option("--reseed-teacher", help="Train teachers anew for every seed, too.")
    ] = False,
    changes: Changes = None,
    out: OutDir = None,
) -> None:
    """Tell where distillation helped: each student again without it and without each of its losses, over seeds."""
    from polyfold.recipe import load_recipe
    from polyfold.study.ablate import AblationSpec
    from polyfold.study.ablate import ablate as run_ablation
    from polyfold.study.ablate_views import HTML, ablation_markdown, write_ablation

    loaded = load_recipe(recipe, changes or [])
    root = out or Path("runs") / loaded.name
    chosen = _seeds(seeds) if seeds is not None else tuple(range(loaded.seed, loaded.seed + 3))
    found = run_ablation(loaded, recipe.parent, root, AblationSpec(chosen, each, reseed_teacher))
    write_ablation(found, root)
    print_markdown(ablation_markdown(found))
    note(f"report: {root / HTML} (also ablation.md and ablation.json)")


@app.command(epilog="Example: polyfold extend runs/demo/small-0123456789abcdef recipes/more.yaml --tolerance 0.5")
def extend(
    model: Annotated[Path, typer.Argument(help="A finished model folder, not quantized.", metavar="MODEL")],
    recipe: RecipePath,
    tolerance: Annotated[
        MaybeNumber,
        typer.Option(
            help="Percent of dev documents an old task may decide otherwise [default: the recipe's].",
            min=0,
            max=100,
        ),
    ] = None,
    changes: Changes = None,
    out: OutDir = None,
) -> None:
    """Add the recipe's new tasks or languages to a model; exit code 1 if its old answers changed too much."""
    from polyfold.measure.markdown import draw
    from polyfold.recipe import load_recipe
    from polyfold.study.extend import extend_folder, kept_table

    loaded = load_recipe(recipe, changes or [])
    found = extend_folder(model, loaded, recipe.parent, out or Path("runs") / loaded.name, tolerance)
    print_markdown("\n".join(draw(kept_table(found))))
    note(f"model: {found.artifact.path} (new tasks: {', '.join(found.new_tasks) or 'none'})")
    if found.broken:
        broken = f"more than {found.tolerance:g} % of the answers changed: {', '.join(found.broken)}"
        stderr().print(f"{broken}; try more documents, a heavier `keep`, or `freeze`", style="red", markup=False)
        raise typer.Exit(1)


def _seeds(given: str) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in given.split(","))
    except ValueError:
        raise InputError(f"'--seeds {given}' is not of the form 0,1,2") from None
