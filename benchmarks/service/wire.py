"""HTTP/1.1 as the load generator needs it: requests as bytes made beforehand, answers cut out of what comes in.

Two cores are shared by server and load generator, so each microsecond here is taken from what is measured. The
generator speaks to servers on this machine alone, whose answers all carry a length.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import orjson

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
GOODBYE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
HEAD_END = b"\r\n\r\n"
MOST_HEAD = 65_536


class Broken(Exception):
    """What came in is no answer that this client could have asked for."""


class Answer(NamedTuple):
    """One answer of a server; `end` is where the next begins."""

    status: int
    head: bytes
    body: bytes
    end: int


def request_of(
    texts: Sequence[str], port: int, *, probabilities: bool = False, key: str | None = None, single: bool = False
) -> bytes:
    """`POST /predict` for these texts; `single` asks for one as `text`."""
    content: dict[str, object] = {"text": texts[0]} if single else {"texts": list(texts)}
    if probabilities:
        content["probabilities"] = True
    body = orjson.dumps(content)
    admission = f"x-api-key: {key}\r\n" if key else ""
    head = (
        f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"{admission}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def next_answer(data: bytes, start: int) -> Answer | None:
    """The answer that begins at `start`, None while it is not whole; Broken where it is none."""
    head_end = data.find(HEAD_END, start)
    if head_end < 0:
        if len(data) - start > MOST_HEAD:
            raise Broken("a head without end")
        return None
    head = data[start:head_end]
    if not head.startswith(b"HTTP/1.") or not head[9:12].isdigit():
        raise Broken("not HTTP")
    found = LENGTH.search(head)
    if found is None:
        raise Broken("an answer without a length")
    body_start = head_end + 4
    end = body_start + int(found[1])
    if len(data) < end:
        return None
    return Answer(int(head[9:12]), head, data[body_start:end], end)


def retry_after_s(head: bytes) -> float | None:
    """Seconds that a refused client is told to wait."""
    found = RETRY_AFTER.search(head)
    return float(found[1]) if found else None


def says_goodbye(head: bytes) -> bool:
    """Whether the server closes the connection after this answer."""
    return GOODBYE.search(head) is not None
