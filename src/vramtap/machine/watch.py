"""MachineWatch: waits for the first write of the built-in VM, and sleeps while its guest is halted.

Facts. The VM's memory belongs to this process. A write to it cannot be suspended until Python answers,
because the writing thread may hold the interpreter's lock. But only the CPU and the VM's devices store there,
and `machine.runs` reports when the CPU runs. Most runs of a guest with nothing to do end by `hlt` within
microseconds.

Consequences. One poll at the end of each run, on the thread that is awake anyway, finds out whether something
was stored, and no store escapes it. Only a long run needs polls from outside. And no thread has to wake up
for a short run: the watch sets a kernel timer when a run begins and stops it when the run ends.

Decision. The end of each run polls. While a run lasts, a thread that waits for the timer, without a timeout,
polls at the interval of other idle targets. The watch first registers and then polls once: this poll reports
earlier stores, and a later store belongs to a run whose end or duration the watch sees. A device store polls
at once, during the run, so that a cleared screen is shown immediately.

With the guest halted and no timer of its own set, nothing wakes up. With one set, only the machine's thread
does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from vramtap.linux.timerfd import Timerfd

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.machine.space import PausableMachine


IDLE_AFTER_S: Final = 0.03
"""Two polls of a tap. To set up and remove a watch costs 290 us, as much as three polls."""


class MachineEvents:
    """Runs of the CPU and stores by devices: together they accompany every write to a VM's memory.

    Args:
        machine: The VM.
    """

    idle_after_s: Final = IDLE_AFTER_S

    def __init__(self, machine: PausableMachine) -> None:
        self._machine = machine

    def watch(
        self, poll: Callable[[], bool], callback: Callable[[], None], interval_s: float
    ) -> MachineWatch:
        """Start a `MachineWatch`; see `WriteEvents.watch`."""
        return MachineWatch(self._machine, poll, callback, interval_s)


class MachineWatch:
    """Polls whenever the guest may have written, until a poll returns True; then calls back once.

    Args:
        machine: The VM.
        poll: Returns whether something was written. The caller's thread, the machine's thread and the watch's
            own thread call it, never two at a time. It must neither raise nor stop the machine.
        callback: Called once, by the thread whose poll returned True, unless `cancel` came first. It must
            neither raise nor wait.
        interval_s: Time between two polls while the CPU runs without a stop.

    Raises:
        RuntimeError: no thread can be started.
        KernelError: no descriptor is left.
    """

    fd: Final = None
    """None: this watch calls back; see `memory.events.Waker`."""

    def __init__(
        self,
        machine: PausableMachine,
        poll: Callable[[], bool],
        callback: Callable[[], None],
        interval_s: float,
    ) -> None:
        self._written = poll
        self._callback = callback
        self._interval_s = interval_s
        self._polling = threading.Lock()
        self._over = False
        self._timer = Timerfd(blocking=True)
        self._thread = threading.Thread(target=self._poll_long_runs, name="vramtap-idle", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._timer.close()
            raise
        self._devices = machine.memory.log_device_writes(self._poll)
        self._unwatch_runs = machine.runs.watch(self)
        self._poll()

    def cancel(self) -> None:
        """Stop polling and wait until the thread has ended; call it once only.

        The callback may have been called before.
        """
        self._unwatch_runs()
        self._devices.close()
        with self._polling:
            self._over = True
        self._timer.expire()
        self._thread.join()
        self._timer.close()

    def run_began(self) -> None:
        """Start the timer; see `RunWatcher`."""
        if not self._over:
            self._timer.repeat(self._interval_s)

    def run_ended(self, *, halted: bool) -> None:
        """Stop the timer and poll; see `RunWatcher`."""
        with self._polling:
            if not self._over:
                self._timer.stop()
                self._poll_locked()

    def _poll(self) -> None:
        with self._polling:
            self._poll_locked()

    def _poll_locked(self) -> None:
        if not self._over and self._written():
            self._over = True
            self._callback()

    def _poll_long_runs(self) -> None:
        while not self._over:
            self._timer.take()
            self._poll()
