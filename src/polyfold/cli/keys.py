"""API keys for `polyfold serve --keys`: made, listed, revoked."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Optional

import typer

from polyfold.cli.app import MaybeCount, MaybeNumber, MaybeText, app
from polyfold.console import note
from polyfold.errors import InputError

key_app = typer.Typer(help="Make, list and revoke API keys for `polyfold serve --keys`.", no_args_is_help=True)
app.add_typer(key_app, name="key")

KeyFilePath = Annotated[Path, typer.Argument(help="The file of keys, YAML or JSON.", metavar="FILE")]
CallerName = Annotated[str, typer.Argument(help="Whose key it is, as logs and metrics show it.", metavar="NAME")]


@key_app.command("new", epilog="Example: polyfold key new keys.yaml shop --requests-per-second 50 --burst 100")
def new(
    file: KeyFilePath,
    name: CallerName,
    roles: Annotated[
        Optional[list[str]],  # noqa: UP045  (typer reads the annotation itself)
        typer.Option("--role", help="predict, admin or metrics (repeatable) [default: predict]."),
    ] = None,
    requests_per_second: Annotated[MaybeNumber, typer.Option(help="Requests a second, on average.")] = None,
    burst: Annotated[MaybeCount, typer.Option(help="Requests at once [default: those of a second].")] = None,
    texts_per_second: Annotated[MaybeNumber, typer.Option(help="Texts a second, on average.")] = None,
    burst_texts: Annotated[MaybeCount, typer.Option(help="Texts at once [default: those of a second].")] = None,
    texts_per_day: Annotated[MaybeCount, typer.Option(help="Texts in 24 hours.")] = None,
    expires_days: Annotated[
        MaybeNumber, typer.Option(min=0, max=36_500, help="Days until it expires [default: never].")
    ] = None,
) -> None:
    """Make a key, print it this once, and add its hash to FILE. Further keys of one NAME share its limits."""
    from pydantic import ValidationError

    from polyfold.serve.access.key_file import read_keys, write_keys
    from polyfold.serve.access.keys import Keys, digest_key, new_key

    entries = read_keys(file).keys if file.exists() else ()
    limits = {
        "requests_per_second": requests_per_second,
        "burst": burst,
        "texts_per_second": texts_per_second,
        "burst_texts": burst_texts,
        "texts_per_day": texts_per_day,
    }
    given = {limit: value for limit, value in limits.items() if value is not None}
    kin = next((entry for entry in entries if entry.name == name), None)
    key = new_key()
    entry = {
        "name": name,
        "sha256": digest_key(key),
        "roles": roles or (kin.roles if kin else ("predict",)),
        "allowance": given if given or kin is None else kin.allowance,
        "expires": datetime.now(UTC) + timedelta(days=expires_days) if expires_days is not None else None,
    }
    try:
        keys = Keys.model_validate({"keys": [*entries, entry]})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][2:])
        raise InputError(first["msg"], key=where or None, hint="see polyfold key new --help") from None
    write_keys(file, keys)
    typer.echo(key)
    note(f"this key is shown once; {file} holds its hash only (id {keys.keys[-1].id})")


@key_app.command("list", epilog="Example: polyfold key list keys.yaml")
def show(file: KeyFilePath) -> None:
    """List the keys of FILE: whose, which, what they open, their limits and until when."""
    from rich.console import Console
    from rich.table import Table

    from polyfold.serve.access.key_file import read_keys

    table = Table("name", "id", "roles", "limits", "expires", box=None)
    for entry in read_keys(file).keys:
        limits = entry.allowance.model_dump(exclude_none=True)
        said = ", ".join(f"{name} {value:,.15g}" for name, value in limits.items())
        table.add_row(entry.name, entry.id, ", ".join(entry.roles), said or "-", _until(entry.expires))
    Console().print(table)


@key_app.command("revoke", epilog="Example: polyfold key revoke keys.yaml shop --id 1f0c93a2")
def revoke(
    file: KeyFilePath,
    name: CallerName,
    key_id: Annotated[MaybeText, typer.Option("--id", help="Only this one of NAME's keys; see `list`.")] = None,
) -> None:
    """Take NAME's keys out of FILE; a running service refuses them within a second."""
    from polyfold.serve.access.key_file import read_keys, write_keys
    from polyfold.serve.access.keys import Keys

    entries = read_keys(file).keys
    gone = [entry for entry in entries if entry.name == name and key_id in (None, entry.id)]
    if not gone:
        raise InputError("there is no such key", file=file, hint=f"see polyfold key list {file}")
    write_keys(file, Keys(keys=tuple(entry for entry in entries if entry not in gone)))
    note(f"revoked {len(gone)} of {len(entries)} keys")


def _until(expires: datetime | None) -> str:
    if expires is None:
        return "never"
    expired = " (expired)" if expires.timestamp() <= time.time() else ""
    return f"{expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC{expired}"
