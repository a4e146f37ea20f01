"""The file of keys: read, watched while the service runs, and rewritten by `polyfold key`."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml
from pydantic import ValidationError

from polyfold.artifact import write_atomically
from polyfold.errors import InputError
from polyfold.serve.access.keys import PREFIX, KeyRing, Keys

Level = Literal["info", "warning", "error"]
Tell = Callable[[Level, str, str], None]
"""Told how grave it is, what happened (a word for machines) and what to say: nothing of it is secret."""

LOOK_EVERY_S = 1.0
MAX_BYTES = 2**20
_OWNER_ONLY = 0o600

_State: TypeAlias = tuple[int, int, int, int]


def read_keys(path: Path) -> Keys:
    """All keys of a YAML or JSON file; InputError says what does not fit, and never quotes the file."""
    try:
        return _checked(_content(path), path)
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", file=path, hint="polyfold key new makes it"
        ) from None


def write_keys(path: Path, keys: Keys) -> None:
    """Put all keys into the file at once; a new file is its owner's alone, an old one keeps owner and permissions.

    A service whose own file became root's, since root added a key, would not read it any more.
    """
    before = path.stat() if path.exists() else None
    kept = keys.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(kept, indent=2) if path.suffix == ".json" else yaml.safe_dump(kept, sort_keys=False)
    write_atomically(path, text.encode())
    path.chmod(_OWNER_ONLY if before is None else before.st_mode & 0o777)
    if before is not None:
        with contextlib.suppress(PermissionError):
            os.chown(path, before.st_uid, before.st_gid)


class KeyFile:
    """The keys now in force; the file is looked at once a second, so that keys change without a restart.

    A new file that is broken changes nothing: the keys read before stay, it is told once and counted in `broken`,
    and the next good one is taken. So does a file that has gone: deleting it locks nobody out; an empty list does.
    """

    def __init__(self, path: Path, tell: Tell, now: float) -> None:
        """Reads the file; InputError where it is broken. `now` is on the monotonic clock, in seconds."""
        self.path = path
        self.broken = 0
        self._tell = tell
        self._looked = now
        self._said = ""
        self._state = self._look()
        self._ring = KeyRing.of(read_keys(path).keys)
        self._warn_if_wide()

    def current(self, now: float) -> KeyRing:
        """The keys in force: those of a file that changed a second ago or earlier."""
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._refresh()
        return self._ring

    def _refresh(self) -> None:
        # The state before reading: who writes while we read changes it, and is read again.
        state = self._look()
        if state is not None and state == self._state:
            return
        try:
            self._ring = KeyRing.of(_checked(_content(self.path), self.path).keys)
        except OSError as error:
            # It may be so for a moment only (too many open files, say): it is tried again each second.
            self._state = None
            self._tell_broken(f"cannot be read: {error.strerror}")
        except InputError as error:
            self._state = state
            self._tell_broken(f"key '{error.key}': {error.problem}" if error.key else error.problem)
        else:
            self._state, self._said = state, ""
            self._tell("info", "keys_loaded", f"{len(self._ring.entries)} keys are in force")
            self._warn_if_wide()

    def _tell_broken(self, problem: str) -> None:
        if problem != self._said:
            self._said = problem
            self.broken += 1
            kept = f"the {len(self._ring.entries)} keys read before stay in force"
            self._tell("error", "keys_broken", f"{self.path.name}: {problem}; {kept}")

    def _look(self) -> _State | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        # With the time of the last change of owner or permissions, which may be what made it readable.
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _warn_if_wide(self) -> None:
        with contextlib.suppress(OSError):
            mode = self.path.stat().st_mode & 0o777
            # Read by its group is how Kubernetes mounts a secret for a user that is not root.
            if mode & 0o027:
                what = "write, and so give themselves a key," if mode & 0o022 else "read"
                hint = f"chmod {_OWNER_ONLY:o} {self.path.name}"
                self._tell(
                    "warning", "keys_exposed", f"others may {what} the file of keys (mode {mode:o}): {hint}"
                )


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _checked(content: bytes, path: Path) -> Keys:
    if len(content) > MAX_BYTES:
        raise InputError(f"is larger than {MAX_BYTES} bytes", file=path, hint="a key takes about 200")
    try:
        return Keys.model_validate(_parsed(content, path))
    except ValidationError as error:
        first = error.errors()[0]
        # A key of the mapping is quoted, unless someone wrote an API key there.
        places = ["..." if str(part).startswith(PREFIX) else str(part) for part in first["loc"]]
        hint = "`polyfold key new` writes entries of the right form"
        raise InputError(first["msg"], file=path, key=".".join(places) or None, hint=hint) from None


def _parsed(content: bytes, path: Path) -> Any:
    # libyaml where PyYAML has it: requests wait while it parses.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = content.decode()
        return json.loads(text) if text.lstrip().startswith("{") else yaml.load(text, Loader=loader)
    except UnicodeDecodeError:
        raise InputError("is not UTF-8", file=path) from None
    except json.JSONDecodeError as error:
        raise InputError(f"is not valid JSON, line {error.lineno}", file=path) from None
    except yaml.MarkedYAMLError as error:
        # Without the error's own words: they quote the line, and with it what stands there.
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"is not valid YAML{line}", file=path) from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise InputError("is not valid YAML", file=path) from None
