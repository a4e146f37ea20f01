"""`polyfold serve`: models behind one address."""

from typing import Annotated, Any, Optional

import typer

from polyfold.cli.app import MaybeCount, MaybeNumber, MaybePath, MaybeText, RuntimeOption, app
from polyfold.errors import InputError


def _own(help_text: str) -> Any:
    """An option whose default is the service's own; the help text names it, and a test that it is right."""
    return typer.Option(help=help_text, show_default=False)


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
    hosts: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--allow-host",
            help="Another name that it may be asked under: a proxy's, say (repeatable).",
            metavar="NAME",
        ),
    ] = None,
    grpc_port: Annotated[MaybeCount, typer.Option(help="Also the v2 protocol over gRPC, at this port.")] = None,
    keys: Annotated[
        MaybePath, typer.Option(help="The file of API keys that `polyfold key new` writes.", metavar="FILE")
    ] = None,
    log_file: Annotated[
        MaybePath, typer.Option(help="Where the log goes [default: standard error].", metavar="FILE")
    ] = None,
    log_format: Annotated[
        MaybeText, typer.Option(help="text or json [default: text on a terminal, else json].", metavar="FORMAT")
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
    max_body_bytes: Annotated[MaybeCount, _own("Bytes of a request's body [default: 4194304].")] = None,
    max_texts: Annotated[MaybeCount, _own("Texts of a request [default: 1024].")] = None,
    max_characters: Annotated[MaybeCount, _own("Characters of a text [default: 20000].")] = None,
    queue_tokens: Annotated[
        MaybeCount, _own("Tokens that may wait for a model; more is refused [default: 200000].")
    ] = None,
    deadline_ms: Annotated[MaybeCount, _own("Time for a request that names none [default: 10000].")] = None,
    max_deadline_ms: Annotated[MaybeCount, _own("Time that a request may name [default: 60000].")] = None,
    body_timeout: Annotated[MaybeNumber, _own("Seconds for a body to come [default: 10].")] = None,
    idle_timeout: Annotated[MaybeNumber, _own("Seconds a client may do nothing [default: 30].")] = None,
    connections: Annotated[MaybeCount, _own("Connections open at once [default: 20000].")] = None,
    token_budget: Annotated[MaybeCount, _own("Tokens a batch, padding included [default: 1024].")] = None,
    batch_ms: Annotated[MaybeNumber, _own("How long a batch may take [default: 40].")] = None,
    max_wait_ms: Annotated[MaybeNumber, _own("How long a small batch waits for more texts [default: 5].")] = None,
    drain: Annotated[MaybeNumber, _own("Seconds for what is under way, when stopped [default: 30].")] = None,
) -> None:
    """Serve models over HTTP: /predict, /v2, metrics, docs and a page to try them on."""
    from polyfold.serve.server import serve as run
    from polyfold.serve.spec import ModelSource
    from polyfold.system import cache_folder

    settings: dict[str, Any] = {
        "models": tuple(ModelSource.parse(one) for one in models or ()),
        "repository": repository,
        "host": host,
        "hosts": tuple(hosts or ()),
        "port": port,
        "grpc_port": grpc_port,
        "keys": keys,
        "log_file": log_file,
        "log_format": log_format,
        "report": report,
        "traces": traces,
        "runtime": runtime,
        "threads": threads,
        "bf16": bf16,
        "cache_dir": cache_dir or cache_folder("compiled"),
        **_given({"drain_seconds": drain}),
        "limits": _given(
            {
                "max_body_bytes": max_body_bytes,
                "max_texts": max_texts,
                "max_characters": max_characters,
                "queue_tokens": queue_tokens,
                "deadline_ms": deadline_ms,
                "max_deadline_ms": max_deadline_ms,
                "body_timeout_s": body_timeout,
                "idle_timeout_s": idle_timeout,
                "connections": connections,
            }
        ),
        "batching": _given({"token_budget": token_budget, "batch_ms": batch_ms, "max_wait_ms": max_wait_ms}),
    }
    run(_spec(settings))


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what the command line leaves to the service's own defaults."""
    return {name: value for name, value in settings.items() if value is not None}


def _spec(settings: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from polyfold.serve.spec import ServeSpec

    if not settings["models"] and settings["repository"] is None:
        raise InputError(
            "no model is named", hint="give a model folder, or --repository to load them while running"
        )
    if settings["repository"] is not None and not settings["repository"].is_dir():
        raise InputError("it is no folder", file=settings["repository"], key="--repository")
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
