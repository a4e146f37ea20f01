"""API keys: how one is made, what is kept of it, and whose a given one is.

What is kept is a key's SHA-256. A slow hash (bcrypt, Argon2) is for passwords, which people choose and others
guess; a key here is 256 random bits, which nobody guesses however fast the hash is (NIST SP 800-63B, 5.1.2.2, asks
for a slow hash below 112 bits only). A slow one would also let anyone without a key keep the processor busy. What
does not have a key's form is refused before it is hashed.
"""

import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

Role = Literal["predict", "admin", "metrics"]
"""What a key opens: answers; loading, unloading and routing of models; /metrics."""

Compare = Callable[[bytes, bytes], bool]

PREFIX = "pf_"
_KEY = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}", re.ASCII)
ID_DIGITS = 8


def new_key() -> str:
    """A key of 256 random bits: the prefix, by which scanners for leaked secrets can find it, and base64url."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_key(key: str) -> str:
    """What is kept of a key: its SHA-256, hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Allowance(_Spec):
    """How much one caller may ask for; what is not given is not limited.

    A rate holds on average, and up to `burst` requests (`burst_texts` texts) may come at once: by default those of
    one second. `texts_per_day` counts in windows of 24 hours that begin with the first text.
    """

    requests_per_second: float | None = Field(default=None, gt=0.0, le=1e6)
    burst: int | None = Field(default=None, ge=1)
    texts_per_second: float | None = Field(default=None, gt=0.0, le=1e9)
    burst_texts: int | None = Field(default=None, ge=1)
    texts_per_day: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _bursts_have_rates(self) -> Self:
        if self.burst is not None and self.requests_per_second is None:
            raise ValueError("burst is the size of requests_per_second's bucket: give that too")
        if self.burst_texts is not None and self.texts_per_second is None:
            raise ValueError("burst_texts is the size of texts_per_second's bucket: give that too")
        return self

    @property
    def requests_at_once(self) -> int:
        """The size of the bucket of requests."""
        return self.burst or max(1, math.ceil(self.requests_per_second or 0))

    @property
    def texts_at_once(self) -> int:
        """The size of the bucket of texts."""
        return self.burst_texts or max(1, math.ceil(self.texts_per_second or 0))


class KeyEntry(_Spec):
    """One key: whose it is (`name`, which logs and metrics show), its hash, what it opens and until when."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    roles: tuple[Role, ...] = Field(default=("predict",), min_length=1)
    allowance: Allowance = Allowance()
    expires: AwareDatetime | None = None

    @field_validator("sha256", mode="before")
    @classmethod
    def _is_no_key(cls, given: object) -> object:
        # The likeliest mistake, and one whose message must not quote what was given.
        if isinstance(given, str) and given.startswith(PREFIX):
            raise ValueError(
                "this is a key, not its SHA-256, and no secret any more: make another with polyfold key new"
            )
        return given

    @property
    def id(self) -> str:
        """The first digits of the hash: tells keys of one name apart, and helps nobody to guess one."""
        return self.sha256[:ID_DIGITS]


class Keys(_Spec):
    """All keys of a service. At most a thousand, since each request is compared with every one (0.1 us each).

    Several keys may have one name, so that a new one can be handed out before the old one goes. They are one
    caller: they share its allowance, and what is left of it.
    """

    keys: tuple[KeyEntry, ...] = Field(max_length=1000)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        allowances: dict[str, Allowance] = {}
        hashes: set[str] = set()
        for entry in self.keys:
            if allowances.setdefault(entry.name, entry.allowance) != entry.allowance:
                raise ValueError(f"keys named '{entry.name}' are one caller, but their allowances differ")
            if entry.sha256 in hashes:
                raise ValueError(f"the key with id {entry.id} stands there twice")
            hashes.add(entry.sha256)
        return self


@dataclass(frozen=True)
class KeyRing:
    """Keys made ready to be compared with. `guarded` are the roles that some key has."""

    entries: tuple[tuple[bytes, KeyEntry], ...]
    guarded: frozenset[Role]

    @staticmethod
    def of(keys: Iterable[KeyEntry]) -> "KeyRing":
        """The ring of these keys."""
        entries = tuple((bytes.fromhex(entry.sha256), entry) for entry in keys)
        return KeyRing(entries, frozenset(role for _, entry in entries for role in entry.roles))

    def find(self, key: str, compare: Compare = hmac.compare_digest) -> KeyEntry | None:
        """The entry of this key. Every entry is compared, in constant time, whichever fits: time tells nothing."""
        if _KEY.fullmatch(key) is None:
            return None
        digest = hashlib.sha256(key.encode()).digest()
        found = None
        for kept, entry in self.entries:
            if compare(kept, digest):
                found = entry
        return found
