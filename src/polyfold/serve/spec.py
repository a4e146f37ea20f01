"""What `polyfold serve` may be told, as frozen values with the defaults of a small machine."""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from polyfold.errors import InputError
from polyfold.runtimes.opening import RuntimeChoice

_SOURCE = re.compile(
    r"^(?:(?P<name>[A-Za-z0-9._-]+)(?:@(?P<version>[A-Za-z0-9._-]+))?=)?(?P<folders>.+)$", re.DOTALL
)

LOOPBACK = "127.0.0.1"


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Limits(_Spec):
    """What one client may ask for, and what all of them together may let wait.

    `queue_tokens` bounds the tokens that wait for a model: what does not fit is refused at once, since it would
    only be answered too late. `deadline_ms` is a request's time unless it says less or more, up to
    `max_deadline_ms`. A connection that sends nothing for `idle_timeout_s`, or a body that is not there after
    `body_timeout_s`, is closed.
    """

    max_body_bytes: int = Field(default=4 * 2**20, ge=1)
    max_texts: int = Field(default=1024, ge=1)
    max_characters: int = Field(default=20_000, ge=1)
    queue_tokens: int = Field(default=200_000, ge=1)
    deadline_ms: int = Field(default=10_000, ge=1)
    max_deadline_ms: int = Field(default=60_000, ge=1)
    body_timeout_s: float = Field(default=10.0, gt=0.0)
    idle_timeout_s: float = Field(default=30.0, gt=0.0)
    connections: int = Field(default=20_000, ge=1)


class Batching(_Spec):
    """How texts that wait together are cut into batches.

    A batch holds at most `token_budget` tokens, padding included, and is meant to take no longer than `batch_ms`
    at the speed measured so far. A text that finds the model idle is computed at once. While some lane is at work,
    another begins a small batch only after `max_wait_ms`: under load, batches of a few texts take half the time a
    text of batches of one.
    """

    token_budget: int = Field(default=1024, ge=1)
    batch_ms: float = Field(default=40.0, gt=0.0)
    max_wait_ms: float = Field(default=5.0, ge=0.0)


class ModelSource(_Spec):
    """Where one version of a model lies: the first folder is preferred, the others stand in where it fails.

    The folders hold the same model for different runtimes; their tasks and labels must be the same.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=64)
    version: str = Field(default="1", pattern=r"^[A-Za-z0-9._-]+$", max_length=64)
    folders: tuple[Path, ...] = Field(min_length=1)

    @staticmethod
    def parse(given: str) -> "ModelSource":
        """`[NAME[@VERSION]=]FOLDER[,FOLDER...]`; without a name, the first folder's up to a dot or dash."""
        found = _SOURCE.match(given)
        folders = tuple(Path(one) for one in (found["folders"] if found else "").split(",") if one)
        if found is None or not folders:
            raise InputError(f"'{given}' names no model folder", hint="write NAME@VERSION=FOLDER, or just FOLDER")
        name = found["name"] or re.split(r"[.-]", folders[0].resolve().name)[0] or "model"
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
            raise InputError(f"'{given}' gives no usable name", hint="write NAME=FOLDER; letters, digits, . _ -")
        return ModelSource(name=name, version=found["version"] or "1", folders=folders)


class ServeSpec(_Spec):
    """All of `polyfold serve`. `hosts` are more names that it may be asked under, as the header Host has them."""

    models: tuple[ModelSource, ...]
    repository: Path | None = None
    host: str = LOOPBACK
    hosts: tuple[str, ...] = ()
    port: int = Field(default=8080, ge=0, le=65535)
    grpc_port: int | None = Field(default=None, ge=0, le=65535)
    limits: Limits = Limits()
    batching: Batching = Batching()
    runtime: RuntimeChoice | None = None
    threads: int | None = Field(default=None, ge=1)
    bf16: bool = False
    cache_dir: Path | None = None
    keys: Path | None = None
    log_file: Path | None = None
    log_format: Literal["text", "json"] | None = None
    report: Path | None = None
    drain_seconds: float = Field(default=30.0, ge=0.0)
    traces: str | None = None
