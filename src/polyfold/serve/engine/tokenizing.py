"""Texts to token ids on their way to the queue: what comes in one turn of the event loop is tokenized together.

A text alone takes 50 us, in a call of four 30 us each, in one of thirty-two 14, and three times that where other
work has emptied the caches. So while every lane is at work, more are waited for, for a moment. Requests of many
characters go to a thread of their own, so that the event loop is not kept by them.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from polyfold.serve.engine.under_way import Request
from polyfold.text import Encoding

INLINE_CHARACTERS = 4000
"""What a request may have to be tokenized on the event loop itself: that takes about half a millisecond."""

GATHER_S = 0.002
"""How long texts are gathered while no lane would take them: a tenth to a half of what a batch takes."""

Ids = Mapping[str, tuple[np.ndarray, bool]]
"""By text its token ids, int64 [seq], and whether its end was cut off."""

Admit = Callable[[Sequence[tuple[Request, Sequence[str], Ids]]], None]


class Tokenizing:
    """Made and asked on one event loop.

    `known` says whether a text needs no ids, since it is under way already; `busy` whether nobody would take them
    now. `admit` takes requests whose texts have theirs, `fail` those that cannot be tokenized, whatever the
    reason, and `tell` documents and seconds.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Encoding],
        known: Callable[[str], bool],
        busy: Callable[[], bool],
        admit: Admit,
        fail: Callable[[Request, Exception], None],
        tell: Callable[[int, float], None],
        clock: Callable[[], float],
    ) -> None:
        self._encode = encode
        self._known = known
        self._busy = busy
        self._admit = admit
        self._fail = fail
        self._tell = tell
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._arrived: list[tuple[Request, Sequence[str]]] = []
        self._thread = ThreadPoolExecutor(1, "tokenize")

    def add(self, request: Request, texts: Sequence[str]) -> None:
        """Tokenize a request's texts, soon."""
        if sum(map(len, texts)) > INLINE_CHARACTERS:
            # All of them: what is under way now may be answered, and forgotten, by the time they are tokenized.
            distinct = list(dict.fromkeys(texts))
            encoded = self._loop.run_in_executor(self._thread, self._ids, distinct)
            encoded.add_done_callback(partial(self._encoded, request, texts))
            return
        if not self._arrived:
            if self._busy():
                self._loop.call_later(GATHER_S, self.flush)
            else:
                self._loop.call_soon(self.flush)
        self._arrived.append((request, texts))

    def flush(self) -> None:
        """Tokenize what has come; where it was flushed already, nothing."""
        if self._arrived:
            self._encode_arrived()

    def stop(self) -> None:
        """After what the thread is at."""
        self._thread.shutdown()

    def _encode_arrived(self) -> None:
        """Everything of this turn in one call; where that fails, every request for itself."""
        arrived, self._arrived = [one for one in self._arrived if not one[0].future.done()], []
        fresh = [
            text for text in dict.fromkeys(text for _, texts in arrived for text in texts) if not self._known(text)
        ]
        try:
            ids, seconds = self._ids(fresh) if fresh else ({}, 0.0)
        except Exception as error:  # noqa: BLE001  (whatever it is, no request must wait for it in vain)
            if len(arrived) == 1:
                self._fail(arrived[0][0], error)
                return
            for one in arrived:
                self._arrived = [one]
                self._encode_arrived()
            return
        for request, _ in arrived:
            request.tokenize_s = seconds
        self._admit([(request, texts, ids) for request, texts in arrived])

    def _encoded(self, request: Request, texts: Sequence[str], done: "asyncio.Future[tuple[Ids, float]]") -> None:
        """Tokenized in the other thread; meanwhile the request may have been given up."""
        if request.future.done():
            return
        error = done.exception()
        if isinstance(error, Exception):
            self._fail(request, error)
            return
        ids, request.tokenize_s = done.result()
        self._admit([(request, texts, ids)])

    def _ids(self, texts: Sequence[str]) -> tuple[Ids, float]:
        started = self._clock()
        encoding = self._encode(texts)
        seconds = self._clock() - started
        self._tell(len(texts), seconds)
        return dict(zip(texts, zip(encoding.ids, encoding.truncated.tolist(), strict=True), strict=True)), seconds
