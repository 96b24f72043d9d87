"""The screen of an embedded machine that runs in this process."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from vramtap.display.bochs import Dispi
from vramtap.errors import TargetGone
from vramtap.linux.timerfd import Timerfd
from vramtap.machine.layout import VRAM_BYTES
from vramtap.targets.machine.input import MachineInput

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

    from vramtap.display.mode import Mode
    from vramtap.keyboard.events import Input
    from vramtap.machine.machine import Machine

BLANK: Final = (400, 720)
"""Rows and columns of the black screen that is shown while the guest has set no linear mode: the size of a
PC's text screen before anything is written."""
SILENT_S: Final = 5.0
"""A guest that runs so long without halting or using a port is said to hang, once."""

log = logging.getLogger(__name__)


class MachineTarget:
    """A machine of the caller's own, who starts and ends it.

    Args:
        machine: May be tapped more than once at a time.
        url: What messages call it.
    """

    def __init__(self, machine: Machine, url: str = "machine") -> None:
        self.url = url
        self.extent = machine.extent
        self.input: Input | None = MachineInput(machine.ps2)
        self.tolerates_injection = True
        self.announces_mode = True
        self.on_activity: Callable[[], None] = lambda: None
        self._machine = machine
        self._hooks: _Hooks | None = None
        self._silence: _Silence | None = None

    async def __aenter__(self) -> Self:
        """Attach; see `Target`."""
        self._silence = _Silence(self._machine, self.url)
        self._hooks = _Hooks(self._machine, lambda: self.on_activity())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach; the machine goes on."""
        if self._hooks is not None:
            self._hooks.detach()
        if self._silence is not None:
            await self._silence.close()

    async def mode(self) -> Mode | None:
        """What the display's registers say; see `Target`."""
        if self._machine.ended is not None:
            raise TargetGone("run", self.url, self._machine.ended)
        return Dispi.from_words(self._machine.dispi.words()).mode(VRAM_BYTES)

    async def snapshot(self) -> NDArray[np.uint32]:
        """A black screen; the machine draws no modes but linear ones. See `Target`."""
        return np.zeros(BLANK, np.uint32)

    async def gone(self) -> str:
        """Wait until the guest has ended; see `Target`."""
        if self._hooks is None:
            return f"{self.url} was never attached"
        await self._hooks.ended.wait()
        return self._machine.ended or "the machine has ended"


class _Hooks:
    """What the machine's thread tells a tap's loop.

    A machine has one hook of each kind. Whoever taps it puts theirs before the one it finds, and on leaving
    takes it out if it is still the first; one that is not stays and only hands on.
    """

    def __init__(self, machine: Machine, on_activity: Callable[[], None]) -> None:
        self.ended = asyncio.Event()
        self._machine = machine
        self._on_activity = on_activity
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._attached = True
        self._told = False
        self._before = machine.on_mode, machine.on_end
        self._mine = self._mode, self._end
        machine.on_mode, machine.on_end = self._mine
        if machine.ended is not None:
            self.ended.set()

    def detach(self) -> None:
        with self._lock:
            self._attached = False
        if self._machine.on_mode == self._mine[0]:
            self._machine.on_mode = self._before[0]
        if self._machine.on_end == self._mine[1]:
            self._machine.on_end = self._before[1]

    def _mode(self) -> None:
        # A guest may write its registers a million times a second; the loop is asked to look once.
        with self._lock:
            if self._attached and not self._told:
                self._told = True
                self._loop.call_soon_threadsafe(self._activity)
        self._before[0]()

    def _activity(self) -> None:
        with self._lock:
            self._told = False
            attached = self._attached
        if attached:
            self._on_activity()

    def _end(self) -> None:
        with self._lock:
            if self._attached:
                self._loop.call_soon_threadsafe(self.ended.set)
        self._before[1]()


class _Silence:
    """Says once that a guest runs without a word.

    The kernel's timer measures its runs, so that a guest that halts wakes nobody.

    Args:
        machine: Whose guest.
        url: What messages call it.

    Raises:
        KernelError: no descriptor is left.
    """

    def __init__(self, machine: Machine, url: str) -> None:
        self._machine = machine
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._measures = False
        self._progress = 0
        self._saying: asyncio.Task[None] | None = None
        self._timer = Timerfd(blocking=False)
        self._loop.add_reader(self._timer.fileno(), self._expired)
        self._unwatch_runs = machine.runs.watch(self)

    def run_began(self) -> None:
        # A run that follows one that was stopped from outside continues it.
        with self._lock:
            if not self._measures:
                self._measures = True
                self._progress = self._machine.progress
                self._timer.repeat(SILENT_S)

    def run_ended(self, *, halted: bool) -> None:
        with self._lock:
            if halted and self._measures and self._timer.fileno() >= 0:
                self._measures = False
                self._timer.stop()

    def _expired(self) -> None:
        with self._lock:
            if self._timer.fileno() < 0:
                return
            # Zero if the guest has halted since the loop was told.
            expired, before = self._timer.take(), self._progress
            self._progress = self._machine.progress
        if expired and self._progress == before:
            self._leave()
            self._saying = asyncio.create_task(self._say())

    async def _say(self) -> None:
        try:
            at = await asyncio.to_thread(self._machine.registers)
        except TargetGone:
            # It has ended meanwhile: that is said instead.
            return
        log.warning(
            "%s: the guest has neither halted nor used a port for %g s; it is at rip %#x",
            self._url,
            SILENT_S,
            at.rip,
            extra={"target": self._url},
        )

    def _leave(self) -> None:
        self._unwatch_runs()
        with self._lock:
            if self._timer.fileno() >= 0:
                self._loop.remove_reader(self._timer.fileno())
                self._timer.close()

    async def close(self) -> None:
        """Listen no more."""
        self._leave()
        if self._saying is not None:
            self._saying.cancel()
            await asyncio.wait([self._saying])
