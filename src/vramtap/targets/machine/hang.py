"""HangWarning: logs once that a guest runs on and on without halting or using a port."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from vramtap.errors import TargetGone
from vramtap.linux.timerfd import Timerfd

if TYPE_CHECKING:
    from vramtap.machine.machine import Machine

log: logging.Logger = logging.getLogger(__name__)


class HangWarning:
    """Warns once if a guest runs for some time and neither halts nor uses a port.

    A kernel timer measures the runs, so a guest that halts in time costs no wake-up. Use it on the event
    loop.

    Args:
        machine: The VM.
        url: Name of the target in the log.
        after_s: Time without a halt or a port access, seconds.

    Raises:
        KernelError: no descriptor is left.
    """

    def __init__(self, machine: Machine, url: str, after_s: float) -> None:
        self._machine = machine
        self._url = url
        self._after_s = after_s
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._measuring = False
        self._progress = 0
        self._logging: asyncio.Task[None] | None = None
        self._timer = Timerfd(blocking=False)
        self._loop.add_reader(self._timer.fileno(), self._on_timer)
        self._unwatch_runs = machine.runs.watch(self)

    def run_began(self) -> None:
        """Start the timer; see `RunWatcher`."""
        # A run that follows a stop from outside continues the run before it.
        with self._lock:
            if not self._measuring:
                self._measuring = True
                self._progress = self._machine.progress
                self._timer.repeat(self._after_s)

    def run_ended(self, *, halted: bool) -> None:
        """Stop the timer if the guest has halted; see `RunWatcher`."""
        with self._lock:
            if halted and self._measuring and self._timer.fileno() >= 0:
                self._measuring = False
                self._timer.stop()

    async def close(self) -> None:
        """Stop measuring."""
        self._stop()
        if self._logging is not None:
            self._logging.cancel()
            await asyncio.wait([self._logging])

    def _on_timer(self) -> None:
        with self._lock:
            if self._timer.fileno() < 0:
                return
            # 0 if the guest has halted since the timer became readable.
            expired, before = self._timer.take(), self._progress
            self._progress = self._machine.progress
        if expired and self._progress == before:
            self._stop()
            self._logging = asyncio.create_task(self._log_hang())

    async def _log_hang(self) -> None:
        try:
            at = await asyncio.to_thread(self._machine.registers)
        except TargetGone:
            # The guest has ended meanwhile, and the target reports that.
            return
        log.warning(
            "%s: the guest has neither halted nor used a port for %g s; it is at rip %#x",
            self._url,
            self._after_s,
            at.rip,
            extra={"target": self._url},
        )

    def _stop(self) -> None:
        self._unwatch_runs()
        with self._lock:
            if self._timer.fileno() >= 0:
                self._loop.remove_reader(self._timer.fileno())
                self._timer.close()
