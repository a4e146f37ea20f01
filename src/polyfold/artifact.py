"""A finished folder: what every stage reads and writes.

A stage's folder is named by the hash of its spec, its parents, the digests of the files it read and the version
of its code. `manifest.json` is written last and atomically: a folder with one is finished and reused, a folder
without one is redone (or resumed from its last checkpoint).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from polyfold import __version__
from polyfold.errors import InputError
from polyfold.tasks import Task
from polyfold.text import TokenizerSpec

MANIFEST = "manifest.json"
CONFIG = "config.json"
CHECKPOINTS = "checkpoints"

Runtime = Literal["torch", "onnxruntime", "openvino"]


class Manifest(BaseModel):
    """What a finished folder says of itself; `files` holds the SHA-256 of everything in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    polyfold_version: str
    stage: str
    name: str
    key: str
    stage_version: int
    spec: dict[str, Any]
    parents: tuple[str, ...]
    inputs: dict[str, str]
    files: dict[str, str]
    info: dict[str, Any]


class ModelConfig(BaseModel):
    """The part of a model folder's `config.json` that Polyfold reads: enough to predict without torch.

    `family` names the backbone's kind (a transformers `model_type` or `use-multilingual`); `weights` is
    "random" where no trained weights were to be had, and then nothing is ever scored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    runtime: Runtime
    precision: str
    weights: Literal["trained", "random"]
    file: str
    tokenizer: TokenizerSpec
    max_length: int
    parameters: int
    trunk_parameters: int


@dataclass(frozen=True)
class Artifact:
    """A finished stage's folder and its manifest."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: Path | str) -> "Artifact":
        """Read a finished folder's manifest; InputError where there is none or it is damaged."""
        folder = Path(path)
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        except FileNotFoundError:
            raise InputError(
                "not a finished artifact: it has no manifest.json",
                file=folder,
                hint="give a folder that `polyfold run` made, or run it again to finish this one",
            ) from None
        except ValidationError as error:
            raise InputError(f"damaged manifest: {error.errors()[0]['msg']}", file=folder / MANIFEST) from None
        return Artifact(folder, manifest)

    def verify(self) -> None:
        """Compare every file with its checksum; InputError names the first that differs."""
        for name, digest in self.manifest.files.items():
            path = self.path / name
            if not path.exists():
                raise InputError("file is missing", file=path, hint="run the stage again")
            if digest_file(path) != digest:
                raise InputError(
                    "file does not match its checksum", file=path, hint="delete the folder, run again"
                )

    def config(self) -> tuple[ModelConfig, tuple[Task, ...]]:
        """The model's configuration and tasks, from `config.json`."""
        return read_config(self.path)

    @property
    def size_mb(self) -> float:
        """Bytes on disk of the files listed in the manifest, over 1e6."""
        return sum((self.path / name).stat().st_size for name in self.manifest.files) / 1e6


@dataclass(frozen=True)
class Stage:
    """A stage about to run: all that decides its result, and so its folder's name.

    `parents` are the keys of the stages it builds on, so a whole plan is known before anything has run.
    """

    kind: str
    name: str
    version: int
    spec: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    inputs: Mapping[str, str] | None = None

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits over everything that decides the result."""
        parts = [self.kind, self.version, dict(self.spec), list(self.parents), dict(self.inputs or {})]
        return digest_json(parts)[:16]

    def folder(self, root: Path) -> Path:
        """Where the result lies, finished or not."""
        return root / f"{self.name}-{self.key}"

    def finished(self, root: Path) -> Artifact | None:
        """The finished artifact, if an earlier run left it."""
        folder = self.folder(root)
        return Artifact.open(folder) if (folder / MANIFEST).exists() else None

    def run(self, root: Path, build: Callable[[Path], Mapping[str, Any]]) -> Artifact:
        """Reuse the finished folder or let `build(folder)` fill it; what it returns is kept as `info`.

        `build` may find the remains of a killed run in the folder (its checkpoints) and go on from there.
        """
        done = self.finished(root)
        if done is not None:
            return done
        folder = self.folder(root)
        folder.mkdir(parents=True, exist_ok=True)
        info = dict(build(folder))
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return self.finish(folder, info)

    def finish(self, folder: Path, info: Mapping[str, Any]) -> Artifact:
        """Write the manifest over what lies in the folder: the last act of a stage."""
        for draft in folder.rglob(".*.tmp"):
            draft.unlink()  # a killed run left it in the middle of a write
        files = {str(path.relative_to(folder)): digest_file(path) for path in _files(folder)}
        manifest = Manifest(
            polyfold_version=__version__,
            stage=self.kind,
            name=self.name,
            key=self.key,
            stage_version=self.version,
            spec=dict(self.spec),
            parents=self.parents,
            inputs=dict(self.inputs or {}),
            files=files,
            info=dict(info),
        )
        write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2).encode())
        return Artifact(folder, manifest)


def read_config(folder: Path) -> tuple[ModelConfig, tuple[Task, ...]]:
    """The `polyfold` and `tasks` blocks of a model folder's `config.json`."""
    path = folder / CONFIG
    try:
        content = json.loads(path.read_bytes())
        return ModelConfig(**content["polyfold"]), tuple(Task(**task) for task in content["tasks"])
    except FileNotFoundError:
        raise InputError(
            "no config.json here", file=folder, hint="give a model folder that Polyfold wrote"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not a Polyfold model's configuration: {error}", file=path) from None


def write_config(folder: Path, config: ModelConfig, tasks: Iterable[Task], extra: Mapping[str, Any]) -> None:
    """Write `config.json`: the backbone's own keys (`extra`) with our two blocks beside them."""
    content = {
        **extra,
        "tasks": [task.model_dump(mode="json") for task in tasks],
        "polyfold": config.model_dump(mode="json"),
    }
    write_atomically(folder / CONFIG, json.dumps(content, indent=2, ensure_ascii=False).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, flush to disk, rename: a reader sees the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def digest_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    # The model card names figures that later stages measure, so it is written into finished folders.
    skipped = {MANIFEST, "README.md"}
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in skipped)
