"""MachineTarget: the screen of a built-in VM that the caller runs in this process."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from vramtap.concurrency import Observers
from vramtap.display.bochs import Dispi
from vramtap.errors import TargetGone
from vramtap.machine.layout import VRAM_BYTES
from vramtap.targets.machine.hang import HangWarning
from vramtap.targets.machine.input import MachineInput

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

    from vramtap.display.mode import Mode
    from vramtap.keyboard.events import Input
    from vramtap.machine.machine import Machine
    from vramtap.memory.extent import Extent

BLANK: Final = (400, 720)
"""Height and width of the black screen shown until the guest sets a linear mode: a PC's text screen."""
HANG_AFTER_S: Final = 5.0
"""A guest that runs this long without halting or using a port is logged as hanging, once."""


class VmTarget:
    """What `MachineTarget` and `DemoTarget` share; see `Target`.

    Args:
        url: What messages call it.
        hang_after_s: See `HANG_AFTER_S`.
    """

    def __init__(self, url: str, hang_after_s: float = HANG_AFTER_S) -> None:
        self.url = url
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = True
        self.announces_mode = True
        self._activity: Observers[Callable[[], None]] = Observers()
        self._hang_after_s = hang_after_s
        self._machine: Machine | None = None
        self._hang_warning: HangWarning | None = None
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where the machine's thread reports to; None while detached. Locked, as is `_reporting`."""
        self._reporting = False
        self._ended = asyncio.Event()
        self._unwatch: list[Callable[[], None]] = []

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after the guest changed the mode; see `Target`."""
        return self._activity.add(callback)

    async def mode(self) -> Mode | None:
        """Return what the display's registers say; see `Target`."""
        machine = self._vm()
        if machine.ended is not None:
            raise TargetGone("run", self.url, machine.ended)
        return Dispi.from_words(machine.dispi.words()).mode(VRAM_BYTES)

    async def snapshot(self) -> NDArray[np.uint32]:
        """Return a black screen of shape `BLANK`: the VM shows linear modes only. See `Target`."""
        return np.zeros(BLANK, np.uint32)

    async def gone(self) -> str:
        """Wait until the guest has ended; see `Target`."""
        machine = self._vm()
        await self._ended.wait()
        return machine.ended or "the machine has ended"

    def _vm(self) -> Machine:
        if self._machine is None:
            raise RuntimeError(f"{self.url} is not attached: enter it first")
        return self._machine

    def _show(self, machine: Machine) -> None:
        """Take the screen, keyboard and mouse of this VM."""
        self._machine = machine
        self.extent = machine.extent
        self.input = MachineInput(machine.ps2)

    def _attach(self) -> None:
        """Listen to the VM's events."""
        machine = self._vm()
        self._hang_warning = HangWarning(machine, self.url, self._hang_after_s)
        self._loop = asyncio.get_running_loop()
        self._unwatch = [machine.watch_mode(self._on_mode), machine.watch_end(self._on_end)]

    async def _detach(self) -> None:
        # A call by the machine's thread may be on its way; it finds no loop.
        with self._lock:
            self._loop = None
        while self._unwatch:
            self._unwatch.pop()()
        if self._hang_warning is not None:
            await self._hang_warning.close()

    # On the machine's thread

    def _on_mode(self) -> None:
        # A guest may write its registers a million times a second. The loop gets one call until it has run
        # it.
        with self._lock:
            if self._loop is not None and not self._reporting:
                self._reporting = True
                self._loop.call_soon_threadsafe(self._report_activity)

    def _on_end(self) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._ended.set)

    # On the loop

    def _report_activity(self) -> None:
        with self._lock:
            self._reporting = False
            attached = self._loop is not None
        if attached:
            self._activity.notify()


class MachineTarget(VmTarget):
    """The screen of a VM that the caller starts and ends.

    Args:
        machine: The VM. Several taps may show it at a time.
        url: What messages call it.
        hang_after_s: See `HANG_AFTER_S`.
    """

    def __init__(self, machine: Machine, url: str = "machine", hang_after_s: float = HANG_AFTER_S) -> None:
        super().__init__(url, hang_after_s)
        self._show(machine)

    async def __aenter__(self) -> Self:
        """Attach; see `Target`."""
        self._attach()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach. The VM runs on."""
        await self._detach()
