"""Who may come in, to what, and how often: API keys, roles, rates and quotas.

Without a file of keys everyone may ask for answers and nobody may change which models are loaded. With one, all
but the probes, the page and the documents needs a key. The clock of rates, quotas and looks at the file is the
monotonic one, and comes as an argument. Only when a key expires is read off the wall clock, since that is a date:
a clock that jumps ahead shuts keys out before their time until it is put right, one that jumps back lets them in
for longer; nothing else moves with it.

All of it is for one thread, the event loop's.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from polyfold.serve.access.key_file import KeyFile, Tell
from polyfold.serve.access.keys import Allowance, Role
from polyfold.serve.access.rates import Meter
from polyfold.serve.refusals import Refusal

OPEN_PATHS = (
    "/",
    "/live",
    "/health",
    "/docs",
    "/openapi.json",
    "/v2/health/live",
    "/v2/health/ready",
)
OPEN_FOLDERS = ("/static/", "/docs/")
ADMIN_FOLDERS = ("/v2/repository",)

CHALLENGE = 'Bearer realm="polyfold"'
"""What the header WWW-Authenticate of a 401 says (RFC 9110, 11.6.1)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, by the name that logs and metrics show."""

    name: str
    admin: bool = False
    allowance: Allowance | None = None


ANONYMOUS = Caller("anonymous")


def role_of(path: str) -> Role | None:
    """The role that a path asks for; None for what is open to everyone. What is not known is not open."""
    if path in OPEN_PATHS or path.startswith(OPEN_FOLDERS):
        return None
    if path.startswith(ADMIN_FOLDERS):
        return "admin"
    return "metrics" if path == "/metrics" else "predict"


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key in a request's headers (names in lower case): `Authorization: Bearer KEY`, or else `x-api-key`."""
    found = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1")
        if name == b"x-api-key":
            found = value.strip().decode("latin-1")
    return found


class Gatekeeper:
    """Asked once a request for a caller (`admit`), and once its texts are counted, for permission (`spend`)."""

    def __init__(self, keys: KeyFile | None = None, wall: Callable[[], float] = time.time) -> None:
        """`wall` tells seconds since 1970, for the dates on which keys expire."""
        self._keys = keys
        self._wall = wall
        self._meters: dict[str, Meter] = {}

    @staticmethod
    def open(path: Path | None, tell: Tell) -> "Gatekeeper":
        """With the keys of this file; InputError where it is broken."""
        return Gatekeeper(None if path is None else KeyFile(path, tell, time.monotonic()))

    @property
    def broken_reads(self) -> int:
        """How often a new file of keys could not be used."""
        return 0 if self._keys is None else self._keys.broken

    def admit(self, key: str | None, now: float, role: Role = "predict") -> Caller:
        """Who holds this key; Refusal where it opens nothing (401), or not what is asked for (403)."""
        ring = None if self._keys is None else self._keys.current(now)
        if ring is None and role == "admin":
            hint = "start the service with --keys FILE, and give a key the role admin"
            raise Refusal(403, "forbidden", "without a file of keys, nobody may change models", hint=hint)
        if ring is None or (role == "metrics" and role not in ring.guarded):
            return ANONYMOUS
        if key is None:
            hint = "send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
            raise Refusal(401, "unauthorized", "this service asks for an API key", hint=hint)
        entry = ring.find(key)
        if entry is None:
            raise Refusal(401, "unauthorized", "this API key is not known", hint="ask the operator for one")
        if entry.expires is not None and self._wall() >= entry.expires.timestamp():
            raise Refusal(401, "unauthorized", "this API key has expired", hint="ask the operator for a new one")
        if role not in entry.roles:
            hint = f"its roles are: {', '.join(entry.roles)}"
            raise Refusal(403, "forbidden", f"this needs a key with the role {role}", hint=hint)
        return Caller(entry.name, "admin" in entry.roles, entry.allowance)

    def spend(self, caller: Caller, texts: int, now: float) -> None:
        """Count a request of so many texts; Refusal 429 says when to come again, 413 what never fits."""
        if caller.allowance is not None:
            meter = self._meters.get(caller.name)
            if meter is None:
                meter = self._meters[caller.name] = Meter()
            meter.spend(caller.allowance, texts, now)

    def give_back(self, caller: Caller, texts: int, spent: float) -> None:
        """Texts spent at the moment `spent` got no answer: they no longer count against the quota of the day."""
        meter = self._meters.get(caller.name)
        if meter is not None:
            meter.give_back(texts, spent)
