"""IdleWatch: a thread that asks one cheap question at a fixed rate and ends at the first yes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_INTERVAL_S: Final = 0.024
"""Between two questions. A wake-up of a process that has nothing else to do costs about 50 us of CPU before a
line of ours runs, an idle scan of 16 MiB on cold caches 30-50 us more: 42 a second are 3.5 to 4.5 ms of CPU,
and a write waits 12 ms on average. The same question from the event loop costs twice as much (measured)."""


class IdleWatch:
    """Asks until it is told yes, once; then calls back and ends.

    Why a thread, beside an event loop that could set a timer: what is paid for is not the question but
    waking up. The loop's turn with its timers and its poll doubles the cost, and this is all that
    happens while nothing happens.

    Args:
        question: Whether something was written; called in the thread, and must not raise.
        answer: Called in the thread at the first yes, unless cancelled before.
        interval_s: Between two questions.

    Raises:
        RuntimeError: no thread can be started.
    """

    fd: Final = None
    """It calls back."""

    def __init__(
        self,
        question: Callable[[], bool],
        answer: Callable[[], None],
        interval_s: float = IDLE_INTERVAL_S,
    ) -> None:
        self._question = question
        self._answer = answer
        self._interval_s = interval_s
        # A bare lock, not an Event: waiting for it with a timeout is one call into the kernel.
        self._cancelled = threading.Lock()
        self._cancelled.acquire()
        self._thread = threading.Thread(target=self._run, name="vramtap-idle", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        cancelled, interval_s, question = self._cancelled.acquire, self._interval_s, self._question
        while not cancelled(timeout=interval_s):
            if question():
                self._answer()
                return

    def cancel(self) -> None:
        """End it and wait until it has ended; a yes may still have been called back before. Once only."""
        self._cancelled.release()
        self._thread.join()
