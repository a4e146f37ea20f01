"""A timer of the kernel's that wakes an event loop to some microseconds.

Event loops round what they are told to the millisecond (libuv's timers and epoll's timeout both do), and a request
that is sent up to a millisecond late is counted as if the service had been slow. Linux's timerfd is a file that
becomes readable at a moment; Python has it from 3.13 on.
"""

import ctypes
import os
from contextlib import suppress

CLOCK_MONOTONIC, ABSOLUTE = 1, 1
FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
NANOSECONDS = 1_000_000_000


class _Moment(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Moment), ("value", _Moment))


class Alarm:
    """One moment of `time.monotonic` at a time; `fd` is readable from then on until `clear`."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(CLOCK_MONOTONIC, FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, moment: float) -> None:
        """Wake at `moment`; at once where that has passed."""
        whole = max(1, int(moment * NANOSECONDS))
        setting = _Setting(_Moment(0, 0), _Moment(*divmod(whole, NANOSECONDS)))
        if self._libc.timerfd_settime(self.fd, ABSOLUTE, ctypes.byref(setting), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def clear(self) -> None:
        """Take note of a moment that has come."""
        # Set anew since, it may not have come yet.
        with suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        """Give the file back."""
        os.close(self.fd)
