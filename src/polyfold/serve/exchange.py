"""One request over HTTP from its arrival to the end of its answer: routes fill it in, logs and metrics read it."""

import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from random import getrandbits
from typing import Any

from polyfold.serve.access.gatekeeper import ANONYMOUS, Caller
from polyfold.serve.engine.answers import Timing

_USABLE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_KEY = "polyfold.exchange"

UNMATCHED = "unmatched"
"""The route of a request that no route took."""

CLIENT_GONE = 499
"""The status that logs and metrics show of a request whose client left before its answer (as nginx has it)."""


@dataclass(slots=True)
class Exchange:
    """`route` is the path's pattern, of which there are few; `path` is what the client wrote.

    `code` is that of the refusal, if it was refused. `seconds` run until the answer was handed to the connection.
    """

    request_id: str
    method: str
    path: str
    started: float
    route: str = UNMATCHED
    caller: Caller = ANONYMOUS
    model: str | None = None
    version: str | None = None
    texts: int = 0
    failed_texts: int = 0
    tokens: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    status: int = CLIENT_GONE
    code: str | None = None
    seconds: float = 0.0
    timing: Timing | None = None
    trace_id: str | None = None


def begin(scope: MutableMapping[str, Any], request_id: bytes | None, started: float) -> Exchange:
    """The exchange of an ASGI scope, put where `exchange_of` finds it; the client's id is kept if it is one."""
    usable = request_id is not None and _USABLE_ID.fullmatch(request_id) is not None
    own = request_id.decode() if usable and request_id is not None else f"{getrandbits(96):024x}"
    exchange = scope[_KEY] = Exchange(own, scope["method"], scope["path"], started)
    return exchange


def exchange_of(scope: MutableMapping[str, Any]) -> Exchange:
    """What `begin` made of this scope."""
    exchange: Exchange = scope[_KEY]
    return exchange
