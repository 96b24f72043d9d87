"""RunNotifier: reports when the built-in VM's CPU runs and when it stands still.

While the CPU stands still, nothing stores into the guest's memory. A watcher of stores therefore does not
poll all the time. It polls at the end of a run and, while a long run lasts, by a timer that it sets when the
run begins.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class RunWatcher(Protocol):
    """Receives the beginning and the end of every run, on the machine's thread."""

    def run_began(self) -> None:
        """Note that the CPU is about to run.

        If the CPU runs already, `RunNotifier.watch` makes this call, on its caller's thread. It must be quick
        and must not call the `RunNotifier`.
        """
        ...

    def run_ended(self, *, halted: bool) -> None:
        """Note that the CPU has stopped: everything it stored is in memory.

        One such call may still come after the watcher was removed. The guest waits for its return, so it must
        not wait for the machine.

        Args:
            halted: The guest executed `hlt`. Otherwise the CPU was stopped from outside, or the guest has
                ended.
        """
        ...


class RunNotifier:
    """Passes the runs of one CPU on to watchers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: tuple[RunWatcher, ...] = ()
        self._running = False

    def watch(self, watcher: RunWatcher) -> Callable[[], None]:
        """Report runs to a watcher from now on.

        Every store after this call belongs to a run of which the watcher receives the beginning, at once if
        the CPU runs already, and will receive the end.

        Returns:
            A function that removes the watcher; harmless when called twice. One end may still be on its way.
        """
        with self._lock:
            self._watchers += (watcher,)
            if self._running:
                watcher.run_began()

        def remove() -> None:
            with self._lock:
                self._watchers = tuple(other for other in self._watchers if other is not watcher)

        return remove

    def begin(self) -> None:
        """Report that the CPU is about to run. The CPU's owner calls this."""
        with self._lock:
            self._running = True
            for watcher in self._watchers:
                watcher.run_began()

    def end(self, *, halted: bool) -> None:
        """Report that the CPU has stopped. The CPU's owner calls this."""
        with self._lock:
            self._running = False
            watchers = self._watchers
        # Outside the lock: a watcher takes locks of its own here, and another thread may remove it meanwhile.
        for watcher in watchers:
            watcher.run_ended(halted=halted)
