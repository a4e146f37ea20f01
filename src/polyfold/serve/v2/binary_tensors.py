"""Tensors as bytes: the binary tensor data extension of the Open Inference Protocol, read without trust.

Elements stand in little-endian order, row after row, without padding; an element of BYTES is its length in four
bytes and then itself. Over HTTP the bytes follow the JSON, whose length a header gives, and each input says how
many are its own. A length is the client's word: it is held against what is there before anything is read by it.

Source: Triton Inference Server, docs/protocol/extension_binary_data.md; gRPC's raw contents have the same form.
"""

import re
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from polyfold.serve.refusals import Refusal

HEADER = "inference-header-content-length"
"""The header with the JSON's length in bytes, where tensors follow it."""

_LENGTH = struct.Struct("<I")
_DECIMAL = re.compile(r"[0-9]{1,19}", re.ASCII)


def bad(problem: str, hint: str | None = None) -> Refusal:
    """The answer to a request that is not in the protocol's form."""
    return Refusal(400, "bad_request", problem, hint=hint)


def split_body(body: bytes, json_length: str | None) -> tuple[bytes, "Tail"]:
    """The JSON and the tensors behind it; without the header all is JSON."""
    if json_length is None:
        return body, Tail(memoryview(b""))
    if _DECIMAL.fullmatch(json_length) is None:
        raise bad(f"the header {HEADER} is no number of bytes", hint="it gives the length of the JSON")
    length = int(json_length)
    if length > len(body):
        raise bad(f"the header {HEADER} says {length} bytes, and the whole body has {len(body)}")
    return body[:length], Tail(memoryview(body)[length:])


class Tail:
    """The bytes behind the JSON, handed out input by input."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._taken = 0

    def take(self, name: str, size: int) -> memoryview:
        """The next input's bytes."""
        left = len(self._data) - self._taken
        if size > left:
            raise bad(f"input '{name}' says that {size} bytes are its own, and {left} are left")
        self._taken += size
        return self._data[self._taken - size : self._taken]

    def check_empty(self) -> None:
        """Refuse bytes that no input claims."""
        left = len(self._data) - self._taken
        if left:
            raise bad(f"{left} bytes at the end belong to no input", hint="see binary_data_size of each input")


def encode_elements(elements: Sequence[bytes]) -> bytes:
    """Elements of BYTES, each behind its length."""
    return b"".join(part for one in elements for part in (_LENGTH.pack(len(one)), one))


def decode_elements(data: memoryview, count: int, name: str) -> list[bytes]:
    """Exactly `count` elements of BYTES that fill `data`."""
    # Four bytes is the least that an element has: a count that cannot be true is refused before anything is read.
    if count * _LENGTH.size > len(data):
        raise bad(f"'{name}' has {len(data)} bytes, too few for {count} elements")
    found = list(_elements(data, count, name))
    used = sum(map(len, found)) + count * _LENGTH.size
    if used != len(data):
        raise bad(f"'{name}' has {len(data)} bytes, and its {count} elements are {used}")
    return found


def _elements(data: memoryview, count: int, name: str) -> Iterator[bytes]:
    place = 0
    for number in range(count):
        if place + _LENGTH.size > len(data):
            raise bad(f"'{name}' ends before the length of element {number}")
        (length,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        if length > len(data) - place:
            left = len(data) - place
            raise bad(f"element {number} of '{name}' says that it has {length} bytes, and {left} are left")
        yield bytes(data[place : place + length])
        place += length


def decode_int64(data: memoryview, count: int, name: str) -> np.ndarray:
    """Exactly `count` elements of INT64: int64 [count]."""
    if count * 8 != len(data):
        raise bad(f"'{name}' has {len(data)} bytes, and its shape wants {count * 8}", hint="INT64 has 8 each")
    return np.frombuffer(data, dtype="<i8").astype(np.int64, copy=False)


def encode_float32(values: np.ndarray) -> bytes:
    """Elements of FP32."""
    return values.astype("<f4", copy=False).tobytes()
