"""timerfd: a timer that one thread sets and another waits for, without a wake-up before it expires."""

from __future__ import annotations

import ctypes
import math
import os
import time
from typing import Final

from vramtap.linux.calls import error_for
from vramtap.linux.descriptor import Descriptor

_NANOSECONDS: Final = 1_000_000_000
_COUNTER_BYTES: Final = 8
# PyDLL keeps the GIL. CDLL would release it around a call that takes less than 1 us, and to get it back
# from a thread that computes takes up to 5 ms (sys.getswitchinterval).
_LIBC: Final = ctypes.PyDLL(None, use_errno=True)
_Itimerspec: Final = ctypes.c_int64 * 4
"""`struct itimerspec` (linux/time.h): interval, then first expiry, each in seconds and nanoseconds."""


class Timerfd(Descriptor):
    """A timer on the monotonic clock. It is readable after it has expired, until `take` or a new setting.

    Kernel: timerfd_create(2), since 2.6.25; no privilege.
    Cost: about 1 us to set or to stop, two thirds of it in Python.

    Any thread may set it while another waits in `take`.

    Args:
        blocking: Whether `take` waits.

    Raises:
        KernelError: The process has no free descriptor.
    """

    def __init__(self, *, blocking: bool) -> None:
        flags = os.O_CLOEXEC | (0 if blocking else os.O_NONBLOCK)
        fd = int(_LIBC.timerfd_create(time.CLOCK_MONOTONIC, flags))
        if fd < 0:
            raise error_for("timerfd_create", "this process", ctypes.get_errno())
        super().__init__(fd)

    def repeat(self, interval_s: float) -> None:
        """Expire every `interval_s` seconds, for the first time after one interval.

        Raises:
            ValueError: The interval is not finite and positive.
            KernelError: The timer is closed.
        """
        if not math.isfinite(interval_s) or interval_s <= 0:
            raise ValueError(f"timer interval of {interval_s} s is not finite and positive")
        after = divmod(max(1, round(interval_s * _NANOSECONDS)), _NANOSECONDS)
        self._set(*after, *after)

    def expire(self) -> None:
        """Expire now, once.

        Raises:
            KernelError: The timer is closed.
        """
        self._set(0, 0, 0, 1)

    def stop(self) -> None:
        """Stop the timer and forget that it has expired.

        Raises:
            KernelError: The timer is closed.
        """
        self._set(0, 0, 0, 0)

    def _set(self, *interval_and_first: int) -> None:
        new = _Itimerspec(*interval_and_first)
        if _LIBC.timerfd_settime(self._fd, 0, ctypes.byref(new), None):
            raise error_for("timerfd_settime", f"fd {self._fd}", ctypes.get_errno())

    def take(self) -> int:
        """Return how often the timer has expired since it was set or since the last call.

        Returns:
            At least 1 for a blocking timer; 0 is possible otherwise.

        Raises:
            KernelError: The timer is closed.
        """
        try:
            return int.from_bytes(os.read(self._fd, _COUNTER_BYTES), "little")
        except BlockingIOError:
            return 0
        except OSError as error:
            raise error_for("read", f"timerfd {self._fd}", error.errno or 0) from error
