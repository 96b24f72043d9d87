"""IdleWatch: a thread that polls at a fixed rate and ends when a poll returns True."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_INTERVAL_S: Final = 0.024
"""Time between two polls. To wake up a process that has nothing else to do costs about 50 us of CPU
before its first line runs. An idle scan of 16 MiB with cold caches costs 30-50 us more. So 42 polls a second
cost 3.5 to 4.5 ms of CPU, and a write waits 12 ms on average. The same poll from the event loop costs twice
as much (measured)."""


class IdleWatch:
    """Polls until a poll returns True; then calls back once and ends.

    Why a thread, although the event loop could set a timer: most of the cost is the wake-up, not the poll.
    The event loop's turn, with its timers and its own poll, doubles that cost.

    Args:
        poll: Returns whether something was written. The thread calls it; it must not raise.
        callback: The thread calls it once, when a poll returned True, unless `cancel` came first.
        interval_s: Time between two polls, seconds.

    Raises:
        RuntimeError: no thread can be started.
    """

    fd: Final = None
    """None: this watch calls back; see `memory.events.Waker`."""

    def __init__(
        self,
        poll: Callable[[], bool],
        callback: Callable[[], None],
        interval_s: float = IDLE_INTERVAL_S,
    ) -> None:
        self._poll = poll
        self._callback = callback
        self._interval_s = interval_s
        # A lock, not an Event: to wait for a lock with a timeout is a single system call.
        self._cancelled = threading.Lock()
        self._cancelled.acquire()
        self._thread = threading.Thread(target=self._run, name="vramtap-idle", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        cancelled, interval_s, poll = self._cancelled.acquire, self._interval_s, self._poll
        while not cancelled(timeout=interval_s):
            if poll():
                self._callback()
                return

    def cancel(self) -> None:
        """Stop polling and wait until the thread has ended; call it once only.

        The callback may have been called before.
        """
        self._cancelled.release()
        self._thread.join()
