"""`polyfold predict`: a file of texts, labelled."""

import math
from pathlib import Path
from typing import Annotated, Optional

import typer

from polyfold.cli.app import DeviceOption, MaybeCount, MaybePath, RuntimeOption, app
from polyfold.console import note
from polyfold.errors import InputError


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
    runtime: RuntimeOption = None,
    device: DeviceOption = "cpu",
    threads: Annotated[MaybeCount, typer.Option(help="Processor threads.")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="OpenVINO, GPUs: bfloat16 for what is not int8.")] = False,
    cache_dir: Annotated[
        MaybePath,
        typer.Option(
            "--cache-dir", help="Where compiled models are kept [default: the user's cache].", metavar="DIR"
        ),
    ] = None,
) -> None:
    """Label a file of texts, in input order, with flat memory."""
    from pydantic import ValidationError

    from polyfold.bulk import BulkSpec, predict_file
    from polyfold.predictor import Predictor
    from polyfold.system import cache_folder

    settings = {
        "text": text,
        "id": id_column,
        "source_format": source_format,
        "target_format": target_format,
        "tasks": tuple(tasks) if tasks else None,
        "thresholds": parse_thresholds(thresholds or []),
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
    predictor = Predictor.open(
        model,
        runtime=runtime,
        threads=threads,
        bf16=bf16,
        cache_dir=cache_dir or cache_folder("compiled"),
        device=device,
    )
    if predictor.choice is not None:
        note(predictor.choice.note)
    summary = predict_file(
        predictor, "-" if source == "-" else Path(source), "-" if out == "-" else Path(out), spec
    )
    note(
        f"{summary.documents:,} documents in {summary.seconds:.1f} s "
        f"({summary.documents_per_second:,.0f} a second); {summary.truncated:,} were too long and were cut"
    )


def parse_thresholds(given: list[str]) -> dict[str, dict[str, float] | float]:
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
