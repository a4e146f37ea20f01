"""Tensors of the Open Inference Protocol to what a model reads: texts, or documents as token ids.

The same for JSON, bytes behind JSON, and both forms of gRPC. Shapes, types, sizes and the contents themselves are
the client's word: what does not hold is a Refusal that names the tensor and the place, and never quotes a text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from polyfold.serve.refusals import Refusal
from polyfold.serve.spec import Limits
from polyfold.serve.v2.binary_tensors import bad, decode_elements, decode_int64

TEXT = "text"
IDS = "input_ids"
MASK = "attention_mask"

HALF_PAIR = re.compile("[\ud800-\udfff]")
"""What JSON can write and UTF-8 cannot."""


@dataclass(frozen=True)
class Given:
    """An input as it came: its elements one by one (`data`), or as bytes (`raw`)."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Sequence[Any] | None = None
    raw: memoryview | None = None


@dataclass(frozen=True)
class Reach:
    """What a model takes: token ids below `vocabulary_size`, and at most `max_length` of them."""

    vocabulary_size: int
    max_length: int


@dataclass(frozen=True)
class Rows:
    """Documents to classify: `texts`, or `ids` where the client has tokenized them itself."""

    texts: list[str] | None = None
    ids: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.texts if self.texts is not None else self.ids or ())


def read_rows(inputs: Sequence[Given], reach: Reach, limits: Limits) -> Rows:
    """The documents of a request."""
    by_name = {one.name: one for one in inputs}
    if len(by_name) < len(inputs):
        raise bad("an input is given twice")
    for one in inputs:
        if one.name not in (TEXT, IDS, MASK):
            raise bad(f"there is no input '{one.name[:64]}'", hint=f"give {TEXT}, or {IDS} and {MASK}")
    if set(by_name) == {TEXT}:
        return Rows(texts=_texts(by_name[TEXT], limits))
    if set(by_name) == {IDS, MASK}:
        return Rows(ids=_documents(by_name[IDS], by_name[MASK], reach, limits))
    raise bad(f"the inputs are {', '.join(by_name)}", hint=f"give {TEXT}, or {IDS} and {MASK}, and nothing else")


def _texts(given: Given, limits: Limits) -> list[str]:
    _check_type(given, "BYTES")
    if len(given.shape) not in (1, 2) or given.shape[1:] not in ((), (1,)):
        raise bad(f"the shape of '{TEXT}' is {_short(given.shape)}", hint="it is [n] or [n, 1]")
    count = given.shape[0]
    _check_count(count, limits)
    if given.raw is not None:
        texts = [_decoded(one, row) for row, one in enumerate(decode_elements(given.raw, count, TEXT))]
    else:
        elements = _elements(given)
        # Typed contents of gRPC are bytes, those of JSON are strings.
        texts = [_decoded(one, row) if isinstance(one, bytes) else one for row, one in enumerate(elements)]
    for row, text in enumerate(texts):
        if type(text) is not str:
            raise bad(f"{TEXT}[{row}] is no string")
        if not text.isascii() and HALF_PAIR.search(text):
            raise bad(f"{TEXT}[{row}] holds half of a surrogate pair, which is no character")
        if len(text) > limits.max_characters:
            raise Refusal(
                413,
                "body_too_large",
                f"{TEXT}[{row}] has {len(text):,} characters",
                hint=f"at most {limits.max_characters:,} are taken",
            )
    return texts


def _decoded(element: bytes, row: int) -> str:
    try:
        return element.decode("utf8")
    except UnicodeDecodeError:
        raise bad(f"{TEXT}[{row}] is not valid UTF-8") from None


def _documents(ids: Given, mask: Given, reach: Reach, limits: Limits) -> list[np.ndarray]:
    """Each document's ids without the padding, int64 [seq]."""
    for given in (ids, mask):
        _check_type(given, "INT64")
        if len(given.shape) != 2:
            raise bad(f"the shape of '{given.name}' is {_short(given.shape)}", hint="it is [n, seq]")
    if ids.shape != mask.shape:
        raise bad(
            f"the shapes of '{IDS}' and '{MASK}' differ: {_short(ids.shape)} and {_short(mask.shape)}",
            hint="both are [n, seq]",
        )
    count, width = ids.shape
    _check_count(count, limits)
    if not 1 <= width <= reach.max_length:
        hint = f"this model reads 1 to {reach.max_length} tokens a document, special tokens included"
        raise bad(f"'{IDS}' is {width} tokens wide", hint=hint)
    lengths = _lengths(_matrix(mask))
    values = _matrix(ids)
    wrong = (values < 0) | (values >= reach.vocabulary_size)
    wrong &= np.arange(width) < lengths[:, None]
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise bad(
            f"{IDS}[{row}][{column}] is not in the vocabulary",
            hint=f"this model's ids are 0 to {reach.vocabulary_size - 1}",
        )
    return [row[:length] for row, length in zip(values, lengths.tolist(), strict=True)]


def _lengths(mask: np.ndarray) -> np.ndarray:
    """Tokens a row by a mask of ones and then zeros: int64 [n]."""
    # A row that only falls, from 1, and holds nothing but 0 and 1.
    good = (mask[:, 0] == 1) & ((mask == 0) | (mask == 1)).all(axis=1) & (mask[:, 1:] <= mask[:, :-1]).all(axis=1)
    if not good.all():
        hint = "each row is ones for its tokens, at least one, and then zeros for the padding"
        raise bad(f"row {int(np.argmin(good))} of '{MASK}' is no mask", hint=hint)
    return np.asarray(mask.sum(axis=1))


def _matrix(given: Given) -> np.ndarray:
    """An INT64 tensor of two axes: int64 [n, seq]."""
    count = given.shape[0] * given.shape[1]
    if given.raw is not None:
        return decode_int64(given.raw, count, given.name).reshape(given.shape)
    elements = _elements(given)
    # numpy would take True for 1 and 1.0 for a float; JSON means neither of them by an INT64.
    if not set(map(type, elements)) <= {int}:
        raise bad(f"'{given.name}' holds something else than whole numbers")
    try:
        return np.array(elements, dtype=np.int64).reshape(given.shape)
    except OverflowError:
        raise bad(f"'{given.name}' holds a number that is no INT64") from None


def _elements(given: Given) -> Sequence[Any]:
    """The elements row after row, where they are nested or flat."""
    data, shape = given.data, given.shape
    if data is None:
        raise bad(f"input '{given.name}' has no data")
    if len(shape) == 2 and data and type(data[0]) is list:
        if len(data) != shape[0] or any(type(row) is not list or len(row) != shape[1] for row in data):
            raise bad(f"the data of '{given.name}' is not nested as its shape {_short(shape)} says")
        data = list(chain.from_iterable(data))
    count = shape[0] if len(shape) == 1 else shape[0] * shape[1]
    if len(data) != count:
        raise bad(f"'{given.name}' has {len(data)} elements, and its shape {_short(shape)} wants {count}")
    return data


def _check_type(given: Given, wanted: str) -> None:
    if given.datatype != wanted:
        raise bad(f"the datatype of '{given.name}' is {given.datatype[:64]}", hint=f"it is {wanted}")


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.max_texts:
        hint = f"send at most {limits.max_texts:,} at a time"
        raise Refusal(413, "too_many_texts", f"the request has {count:,} rows", hint=hint)


def _short(shape: tuple[int, ...]) -> str:
    return str(list(shape))
