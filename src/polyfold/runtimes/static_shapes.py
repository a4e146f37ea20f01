"""Single texts on models compiled for fixed lengths.

A compiled model that takes any shape works out every layer's shape and kernel anew when the shape changes, and
with texts one by one it always does: that took 0.4 ms of a small student's 0.55 and half of MiniLM-L6's time. So
a text is padded to the next of a few lengths, each with a model of its own. Such a model takes a quarter of a
second to compile: that is done beside the work, when a length is met, and until then the other model answers. It
is put to use only if it answers as the other one does: OpenVINO 2026.4 computes something else from some int8
convolutions once their shapes are fixed.
"""

from collections.abc import Callable, Mapping
from threading import Lock, Thread

import numpy as np

Ladders = tuple[tuple[int, ...], ...]

LADDERS: Ladders = ((8, 16, 24, 32, 48, 64, 96, 128), (16, 32, 64, 128), (32, 128), (64,))
"""Sets of lengths to pad to. On 26 tokens the first pads by a seventh, the last, which holds 95 of 100 texts, to
more than twice as much; for MiniLM-L6 that is still less than new shapes cost."""

BYTES_A_PARAMETER = 3.2
"""What one more compiled int8 model takes in memory for every weight of its layers: they are not shared."""

LANE_LADDERS: Ladders = (*LADDERS[:2], (32, 64), (64,))
"""The same for lanes, whose lone texts should not take both streams: most are short."""

MOST_BYTES = 40e6
"""Memory for all of a session's models of fixed lengths: one of MiniLM-L6's size. Where not even one fits, a text
takes so long that working out shapes is a small part of it."""

FARTHEST = 0.1
"""Logits may differ by this share of the largest: a rounding step in int8 was 0.03, what is wrong differs by 1."""

Run = Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]]


def lengths_for(
    parameters: int, longest: int, ladders: Ladders = LADDERS, most_bytes: float = MOST_BYTES
) -> tuple[int, ...]:
    """The lengths that memory allows for a model of so many parameters, none longer than it reads."""
    for ladder in ladders:
        chosen = tuple(length for length in ladder if length <= longest)
        if len(chosen) * parameters * BYTES_A_PARAMETER <= most_bytes:
            return chosen
    return ()


class SingleTexts:
    """One text at a time, by padded length.

    `compile_for` makes the model of one of `lengths` and is called in another thread; `reference` answers right,
    at any length, and may be called from there. Threads may share this if they may share what it makes.
    """

    def __init__(self, compile_for: Callable[[int], Run], reference: Run, lengths: tuple[int, ...]) -> None:
        self._compile_for = compile_for
        self._reference = reference
        self._lengths = lengths
        self._ready: dict[int, Run] = {}
        self._compiling: Thread | None = None
        self._asking = Lock()
        self._joining = Lock()
        self._failed = False

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Mapping[str, np.ndarray] | None:
        """Logits by task of one text, [1, labels], or None while there is no model of its length."""
        length = self.length_of(input_ids.shape[1])
        if length is None:
            return None
        input_ids, attention_mask = padded(input_ids, length), padded(attention_mask, length)
        found = self._ready.get(length)
        if found is None:
            with self._asking:
                self._ask_for(length, input_ids.copy(), attention_mask.copy())
            return None
        return found(input_ids, attention_mask)

    def length_of(self, width: int) -> int | None:
        """What a text of so many tokens is padded to, by whoever answers it: shapes that are met are kept."""
        return next((length for length in self._lengths if length >= width), None)

    def wait(self) -> None:
        """Until nothing is being compiled any more: before timing. Threads may wait together."""
        while (compiling := self._compiling) is not None and compiling.is_alive():
            # Python 3.11 fails where two threads join a third at once.
            with self._joining:
                compiling.join()

    def _ask_for(self, length: int, input_ids: np.ndarray, attention_mask: np.ndarray) -> None:
        # One at a time: the machine has other work to do, and a text that finds none will ask again.
        if self._failed or (self._compiling is not None and self._compiling.is_alive()):
            return
        arguments = (length, input_ids, attention_mask)
        compiling = Thread(target=self._compile, args=arguments, name=f"compile-1x{length}")
        # Known only once it runs: another thread may wait for it at any moment.
        compiling.start()
        self._compiling = compiling

    def _compile(self, length: int, input_ids: np.ndarray, attention_mask: np.ndarray) -> None:
        try:
            made = self._compile_for(length)
        except RuntimeError:
            # What cannot be fixed to one shape is still run as it is.
            self._failed = True
            return
        half = attention_mask.copy()
        half[:, (int(attention_mask.sum()) + 1) // 2 :] = 0
        for mask in (attention_mask, half):
            right, found = self._reference(input_ids, mask), made(input_ids, mask)
            if not all(_alike(found[name], values) for name, values in right.items()):
                self._failed = True
                return
        self._ready[length] = made


def padded(rows: np.ndarray, length: int) -> np.ndarray:
    """Zeros behind the texts: the mask hides what is there, so any token will do."""
    if rows.shape[1] == length:
        return rows
    # np.pad takes ten times as long.
    wide = np.zeros((len(rows), length), dtype=rows.dtype)
    wide[:, : rows.shape[1]] = rows
    return wide


def _alike(found: np.ndarray, right: np.ndarray) -> bool:
    return bool(np.abs(found - right).max() <= FARTHEST * max(1.0, np.abs(right).max()))
