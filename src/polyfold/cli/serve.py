"""`polyfold serve`: models behind one address."""

from typing import Annotated, Any, Optional

import typer

from polyfold.cli.app import MaybeCount, MaybePath, MaybeText, RuntimeOption, app
from polyfold.errors import InputError


@app.command(
    epilog="Examples: polyfold serve runs/demo/teacher.trim_vocabulary.int8_qat.openvino-*;  "
    "polyfold serve feedback@2=MODEL,FALLBACK sentiment=OTHER --keys keys.yaml --host 0.0.0.0"
)
def serve(
    models: Annotated[
        Optional[list[str]],  # noqa: UP045  (typer reads the annotation itself)
        typer.Argument(
            help="Model folders, under a name and version if you like; after a comma, the same model for another "
            "runtime, which stands in where the first does not work.",
            metavar="[NAME[@VERSION]=]FOLDER[,FOLDER]...",
        ),
    ] = None,
    repository: Annotated[
        MaybePath,
        typer.Option(help="Where models may be loaded from while running: NAME/VERSION below.", metavar="DIR"),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 8080,
    grpc_port: Annotated[MaybeCount, typer.Option(help="Also the v2 protocol over gRPC, at this port.")] = None,
    keys: Annotated[
        MaybePath, typer.Option(help="The file of API keys that `polyfold key new` writes.", metavar="FILE")
    ] = None,
    log_file: Annotated[
        MaybePath, typer.Option(help="Where the log goes [default: standard error].", metavar="FILE")
    ] = None,
    report: Annotated[
        MaybePath,
        typer.Option(help="The report to measure drift against [default: the model's].", metavar="REPORT.json"),
    ] = None,
    traces: Annotated[
        MaybeText, typer.Option(help="An OpenTelemetry collector (OTLP over HTTP).", metavar="URL")
    ] = None,
    runtime: RuntimeOption = None,
    threads: Annotated[MaybeCount, typer.Option(help="Processor threads.", min=1)] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="OpenVINO: bfloat16 for what is not int8.")] = False,
    cache_dir: Annotated[
        MaybePath,
        typer.Option(help="Where compiled models are kept [default: the user's cache].", metavar="DIR"),
    ] = None,
    max_body_bytes: Annotated[int, typer.Option(help="Of a request's body.", min=1)] = 4_194_304,
    max_texts: Annotated[int, typer.Option(help="In a request.", min=1)] = 1024,
    max_characters: Annotated[int, typer.Option(help="Of a text.", min=1)] = 20_000,
    queue_tokens: Annotated[
        int, typer.Option(help="That may wait for a model; more is refused.", min=1)
    ] = 200_000,
    deadline_ms: Annotated[int, typer.Option(help="Of a request that names none.", min=1)] = 10_000,
    max_deadline_ms: Annotated[int, typer.Option(help="That a request may name.", min=1)] = 60_000,
    body_timeout: Annotated[float, typer.Option(help="Seconds for a request's body to come.", min=0.001)] = 10.0,
    idle_timeout: Annotated[float, typer.Option(help="Seconds a client may do nothing.", min=0.001)] = 30.0,
    connections: Annotated[int, typer.Option(help="Open at once.", min=1)] = 20_000,
    token_budget: Annotated[int, typer.Option(help="Tokens a batch, padding included.", min=1)] = 1024,
    batch_ms: Annotated[float, typer.Option(help="How long a batch may take.", min=0.1)] = 20.0,
    max_wait_ms: Annotated[float, typer.Option(help="How long it waits for more texts.", min=0.0)] = 0.0,
    drain: Annotated[float, typer.Option(help="Seconds for what is under way, when stopped.", min=0.0)] = 30.0,
) -> None:
    """Serve models over HTTP: /predict, /v2, metrics, docs and a page to try them on."""
    from polyfold.serve.server import serve as run
    from polyfold.serve.spec import ModelSource
    from polyfold.system import cache_folder

    settings: dict[str, Any] = {
        "models": tuple(ModelSource.parse(one) for one in models or ()),
        "repository": repository,
        "host": host,
        "port": port,
        "grpc_port": grpc_port,
        "keys": keys,
        "log_file": log_file,
        "report": report,
        "traces": traces,
        "runtime": runtime,
        "threads": threads,
        "bf16": bf16,
        "cache_dir": cache_dir or cache_folder("compiled"),
        "drain_seconds": drain,
        "limits": {
            "max_body_bytes": max_body_bytes,
            "max_texts": max_texts,
            "max_characters": max_characters,
            "queue_tokens": queue_tokens,
            "deadline_ms": deadline_ms,
            "max_deadline_ms": max_deadline_ms,
            "body_timeout_s": body_timeout,
            "idle_timeout_s": idle_timeout,
            "connections": connections,
        },
        "batching": {"token_budget": token_budget, "batch_ms": batch_ms, "max_wait_ms": max_wait_ms},
    }
    run(_spec(settings))


def _spec(settings: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from polyfold.serve.spec import ServeSpec

    if not settings["models"] and settings["repository"] is None:
        raise InputError(
            "no model is named", hint="give a model folder, or --repository to load them while running"
        )
    named = [(one.name, one.version) for one in settings["models"]]
    for name, version in named:
        if named.count((name, version)) > 1:
            raise InputError(
                f"two models are called {name}@{version}",
                hint="give them names: NAME=FOLDER or NAME@VERSION=FOLDER",
            )
    try:
        return ServeSpec.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{first['input']!r} cannot be used: {first['msg']}", key=where) from None
