"""Log lines on their way to a file or to standard error, by one thread of their own.

A service outlives its log: a full disk, a closed pipe, a directory that was removed or a reader that sleeps cost
lines, which are counted, and never a request. Whoever writes a line only puts it in a queue of bounded length. The
thread gathers for a moment and writes pieces of at most `PIPE_BUF` bytes, each after asking whether there is room:
so much never blocks on a pipe that has some (POSIX, write(2)), not even on standard error, which we share and must
not switch to non-blocking.
"""

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from polyfold.errors import InputError

CAPACITY = 10_000
"""Lines that may wait; with lines of 0.3 to 2 kB, at most 20 MB."""

GATHER_S = 0.05
_PIECE_BYTES = 4096
_ROOM_MS = 100
_STDERR = 2
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_MODE = 0o640


class LogWriter:
    """Takes lines from any thread; `write` neither raises nor waits."""

    def __init__(self, path: Path | None, say_lost: Callable[[int], bytes], capacity: int = CAPACITY) -> None:
        """`path` None is standard error; `say_lost` makes the line that tells how many were lost before it.

        InputError where the file cannot be opened now. A pipe that nobody reads yet is no mistake.
        """
        self._path = path
        self._say_lost = say_lost
        self._capacity = capacity
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._told = 0
        self._losing = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._abandoned = False
        self._reopen = False
        self._torn = False
        self._fd: int | None = _STDERR
        if path is not None:
            self._fd, problem = _opened(path)
            if problem not in (0, errno.ENXIO):
                hint = "its folder must exist, and be writable for the service"
                raise InputError(f"no log can be written: {os.strerror(problem)}", file=path, hint=hint)
        self._thread = threading.Thread(target=self._run, name="polyfold-log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that were never written."""
        return self._lost

    def write(self, line: bytes) -> None:
        """Queue one line, with its line end; where too many wait, or after `stop`, it is lost."""
        if len(self._lines) >= self._capacity or self._stopping.is_set():
            self._lose(1)
            return
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def reopen(self) -> None:
        """Open the file anew now (SIGHUP); that one was moved away is noticed anyway, at the next line."""
        self._reopen = True
        self._wake.set()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Write what waits, and end; what could not be written in this time is lost."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self._abandoned = True
        # One that waits for room looks up now, and counts what is left.
        self._thread.join(2 * _ROOM_MS / 1000)

    def _run(self) -> None:
        last = False
        while not last and not self._abandoned:
            self._wake.wait()
            self._wake.clear()
            # More lines come while this waits: one write for all, and fewer turns taken from other threads.
            last = self._stopping.wait(GATHER_S)
            self._renew()
            while self._lines and not self._abandoned:
                missing, lost = self._put(self._piece()), self._lost
                self._lose(missing)
                if not missing and lost > self._told and not self._put(self._say_lost(lost - self._told)):
                    self._told = lost
        self._lose(len(self._lines))
        self._close()

    def _piece(self) -> bytes:
        """The next lines, as many as surely fit a pipe that has room."""
        piece = self._lines.popleft()
        while self._lines and len(piece) + len(self._lines[0]) < _PIECE_BYTES:
            piece += self._lines.popleft()
        return piece

    def _put(self, piece: bytes) -> int:
        """Write it; how many of its lines could not be, or not wholly."""
        # Half a line may stand there, from when the disk was full: it ends here.
        rest = b"\n" + piece if self._torn else piece
        while rest and self._fd is not None and self._has_room(self._fd):
            try:
                written = os.write(self._fd, rest[:_PIECE_BYTES])
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno == errno.EPIPE:
                    self._close()
                break
            self._torn = not rest[:written].endswith(b"\n")
            rest = rest[written:]
        return rest.lstrip(b"\n").count(b"\n")

    def _has_room(self, fd: int) -> bool:
        """Waits for room, until told to stop waiting. A broken pipe has some: writing to it then says so."""
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while not self._abandoned:
            if poll.poll(_ROOM_MS):
                return True
        return False

    def _renew(self) -> None:
        """Opens the file again where it was moved away, removed, or could not be opened before."""
        if self._path is None:
            return
        if self._fd is not None and (self._reopen or not _same(self._fd, self._path)):
            self._close()
        self._reopen = False
        if self._fd is None:
            self._fd, _ = _opened(self._path)
            self._torn = False

    def _close(self) -> None:
        if self._fd is not None and self._path is not None:
            os.close(self._fd)
            self._fd = None

    def _lose(self, lines: int) -> None:
        if lines:
            with self._losing:
                self._lost += lines


def _opened(path: Path) -> tuple[int | None, int]:
    """The file open for appending, or None and the number of the error."""
    try:
        return os.open(path, _FLAGS, _MODE), 0
    except OSError as error:
        return None, error.errno or errno.EIO


def _same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False
