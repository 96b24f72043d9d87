"""MachineWatch: an IdleWatch for the embedded machine, that sleeps while the guest does.

Facts. The machine's memory is this process's own, so a write cannot be held until Python answers: the writer
may hold the interpreter's lock. But only the CPU and the devices it talks to store there, and the CPU tells
when it runs (`machine.runs`). Most runs of a guest with nothing to do end by `hlt` within microseconds.

Consequences. At the end of a run one question to the log, on the thread that is awake anyway, tells whether
something was stored, and no store escapes it. Only a run that lasts must be asked about from outside, and
nobody has to be woken to find out that one does not: the kernel's timer is set when a run begins and stopped
when it ends.

Decision. The end of each run asks; a thread waits for the timer, without a timeout, and asks as often as
`IdleWatch` would while a run lasts. The watch is entered first and the question asked once after: a store
before that is in the answer, a later one is made in a run whose end, or duration, is seen. Devices store
during a run, but are listened to by themselves, since a screen that is cleared is worth a look at once.

With the guest halted and no timer of its own nothing wakes; with one, nothing but the machine's thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from vramtap.linux.timerfd import Timerfd
from vramtap.trackers.poller import IDLE_INTERVAL_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.machine.space import GuestSpace


class MachineWatch:
    """Asks when there may be something to tell, until it is told yes, once; then calls back.

    Args:
        space: The machine's.
        question: Whether something was written. Called in the caller's thread, the machine's and one of its
            own, never in two at a time; must not raise, nor stop the machine.
        answer: Called once at the first yes, in one of these threads, unless cancelled before; must neither
            raise nor wait.
        interval_s: Between two questions while the CPU runs without a stop.

    Raises:
        RuntimeError: no thread can be started.
        KernelError: no descriptor is left.
    """

    fd: Final = None
    """It calls back."""

    def __init__(
        self,
        space: GuestSpace,
        question: Callable[[], bool],
        answer: Callable[[], None],
        interval_s: float = IDLE_INTERVAL_S,
    ) -> None:
        self._question = question
        self._answer = answer
        self._interval_s = interval_s
        self._memory = space.machine.memory
        self._runs = space.machine.runs
        self._asking = threading.Lock()
        self._over = False
        self._timer = Timerfd(blocking=True)
        self._thread = threading.Thread(target=self._follow_long_runs, name="vramtap-idle", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._timer.close()
            raise
        self._devices = self._memory.follow_devices(self._ask)
        self._runs.watch(self)
        self._ask()

    def cancel(self) -> None:
        """End it and wait until it has ended; a yes may still have been called back before. Once only."""
        self._runs.unwatch(self)
        self._memory.unfollow(self._devices)
        with self._asking:
            self._over = True
        self._timer.expire()
        self._thread.join()
        self._timer.close()

    def begins(self) -> None:
        """The CPU runs; see `RunWatcher`."""
        if not self._over:
            self._timer.repeat(self._interval_s)

    def ended(self, halted: bool) -> None:
        """The CPU has stopped; see `RunWatcher`."""
        with self._asking:
            if not self._over:
                self._timer.stop()
                self._ask_locked()

    def _ask(self) -> None:
        with self._asking:
            self._ask_locked()

    def _ask_locked(self) -> None:
        if not self._over and self._question():
            self._over = True
            self._answer()

    def _follow_long_runs(self) -> None:
        while not self._over:
            self._timer.take()
            self._ask()
