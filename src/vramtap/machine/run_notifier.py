"""Runs: who wants to know when a machine's CPU runs and when it stands still.

While the CPU stands still nothing stores into the guest's memory. So whoever looks for stores need not ask
again and again: the end of a run is the moment to ask, and where a run lasts long, a timer that the
beginning has set.
"""

from __future__ import annotations

import threading
from typing import Protocol


class RunWatcher(Protocol):
    """Told of every run, on the machine's thread."""

    def begins(self) -> None:
        """The CPU is about to run, or runs already: then told by whoever called `RunNotifier.watch`.

        Must be quick, and not call `RunNotifier`.
        """
        ...

    def ended(self, halted: bool) -> None:
        """The CPU has stopped: everything it stored lies in memory.

        It may come once, late, after `RunNotifier.unwatch` has returned, and may be overtaken by nothing else
        of the same machine. It delays the guest, and must not wait for the machine.

        Args:
            halted: By `hlt`; otherwise it was stopped from outside, or has ended.
        """
        ...


class RunNotifier:
    """The runs of one CPU."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watchers: tuple[RunWatcher, ...] = ()
        self._running = False

    @property
    def running(self) -> bool:
        """Whether a run is under way: the CPU is not halted, stopped or ended."""
        return self._running

    def watch(self, watcher: RunWatcher) -> None:
        """Tell this watcher from here on.

        Whatever is stored from now on is stored in a run of which the watcher is told the beginning, here if
        it is under way, and will be told the end.
        """
        with self._lock:
            self._watchers += (watcher,)
            if self._running:
                watcher.begins()

    def unwatch(self, watcher: RunWatcher) -> None:
        """Tell it no more beginnings; one end may be on its way. Harmless twice."""
        with self._lock:
            self._watchers = tuple(other for other in self._watchers if other is not watcher)

    def begin(self) -> None:
        """The CPU is about to run; called by whose CPU it is."""
        with self._lock:
            self._running = True
            for watcher in self._watchers:
                watcher.begins()

    def end(self, halted: bool) -> None:
        """The CPU has stopped; called by whose CPU it is."""
        with self._lock:
            self._running = False
            watchers = self._watchers
        # Outside the lock: who asks a log here takes locks of its own, and may be asked to leave meanwhile.
        for watcher in watchers:
            watcher.ended(halted)
