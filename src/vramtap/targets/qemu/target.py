"""Target `qemu:SOCKET`: a running QEMU guest, tapped through its QMP monitor."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from vramtap.concurrency import Observers
from vramtap.errors import NotTappable, Refused
from vramtap.linux.procfs import MapsQuery
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE
from vramtap.targets.process_exit import ProcessExit
from vramtap.targets.qemu.input import QemuInput
from vramtap.targets.qemu.qmp import DEFAULT_TIMEOUTS, Monitor, MonitorTimeouts
from vramtap.targets.qemu.vga import ANSWER_CHARS, QemuVga

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.mode import Mode
    from vramtap.keyboard.events import Input

PLACE_RETRY_S: Final = 0.05
"""Time between two searches for the BARs of a guest that starts. QEMU sends no event when they are placed."""
MAX_VRAM_BYTES: Final = 1 << 30
"""Largest video RAM. QEMU's own limit for `-vga std` is 256 MiB (hw/display/vga.c, vgamem_mb)."""
_USER_SPACE_END: Final = 1 << 56
"""End of the user addresses of x86-64 with five levels of page tables (Documentation/arch/x86/x86_64/mm)."""

log: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuTimeouts:
    """Time limits of a tapped QEMU.

    Args:
        monitor: Of the QMP connection.
        place_s: For a guest that has just started to place its VGA's BARs, seconds. Firmware needs less
            than 2 s.
        exit_grace_s: For QEMU to exit after it has closed its monitor, seconds. It frees its memory first.
    """

    monitor: MonitorTimeouts = DEFAULT_TIMEOUTS
    place_s: float = 10.0
    exit_grace_s: float = 1.0


class QemuTarget:
    """The screen of a QEMU guest with `-vga std` (or `-device VGA`, `bochs-display`).

    vramtap reads the pixels from QEMU's memory and the mode from the DISPI registers, and sends input
    through the monitor. In modes without a linear framebuffer (text, planar, 8 bits a pixel) the picture is
    QEMU's own screendump. QEMU needs no preparation except a free QMP socket.

    Args:
        path: Path of the QMP socket.
        timeouts: Time limits.
    """

    def __init__(self, path: str, *, timeouts: QemuTimeouts | None = None) -> None:
        self.url: str = f"qemu:{path}"
        self._timeouts = timeouts or QemuTimeouts()
        self.monitor: Monitor = Monitor(path, timeouts=self._timeouts.monitor)
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = True
        # QEMU sends no event when the guest writes a register.
        self.announces_mode = False
        self._activity: Observers[Callable[[], None]] = Observers()
        self._space: ProcessSpace | None = None
        self._exit: ProcessExit | None = None
        self._vga = QemuVga(self.monitor, self.url)
        self._end = ""

    async def __aenter__(self) -> Self:
        """Attach; see `Target`."""
        try:
            await self.monitor.connect()
            if not self.monitor.pid:
                reason = "QEMU runs in a pid namespace that vramtap does not see"
                raise Refused("connect", self.url, reason, "run vramtap outside of the container")
            self.monitor.watch(self._on_event)
            await self.monitor.remove_lost_fds()
            self._space = ProcessSpace(self.monitor.pid)
            self._exit = ProcessExit(self._space.pidfd)
            address, size = await self._find_vram()
            self.extent = Extent(self._space, address, size // PAGE_SIZE)
            self._check_mapped()
            self.input = QemuInput(self.monitor)
        except BaseException:
            await self._release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the monitor and the process's memory; see `Target`."""
        await self._release()

    async def _release(self) -> None:
        try:
            await self.monitor.close()
        finally:
            if self._exit is not None:
                self._exit.close()
            if self._space is not None:
                self._space.close()

    def _on_event(self, name: str) -> None:
        log.info("%s: %s", self.url, name, extra={"target": self.url, "event": name})
        if name == "SHUTDOWN":
            self._end = f"QEMU (pid {self.monitor.pid}) shut down"
        if name in ("RESET", "STOP", "RESUME"):
            self._activity.notify()

    async def _find_vram(self) -> tuple[int, int]:
        """Return the address of the video RAM in QEMU's process, and its size in bytes."""
        size = await self._vga.read_bars()
        limit_s = self._timeouts.place_s
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    address = await self._vram_address()
                    if address is not None:
                        break
                    await asyncio.sleep(PLACE_RETRY_S)
        except TimeoutError as error:
            reason = f"video RAM not found within {limit_s:g} s"
            raise NotTappable("attach", self.url, reason, "is the guest running?") from error
        if not 0 < size <= MAX_VRAM_BYTES or size % PAGE_SIZE or address % PAGE_SIZE:
            raise NotTappable("attach", self.url, f"video RAM of {size} bytes at {address:#x}")
        if address + size > _USER_SPACE_END:
            raise NotTappable("attach", self.url, f"video RAM at {address:#x}, where no memory can be")
        return address, size

    async def _vram_address(self) -> int | None:
        """Return the address of the video RAM in QEMU's process; None while its BAR is not placed."""
        if self._vga.vram_bar >= 0:
            answer = await self.monitor.hmp(f"gpa2hva {self._vga.vram_bar:#x}")
            match = re.search(r"\(([^()]*)\) is 0x([0-9a-f]{1,16})\b", answer[:ANSWER_CHARS])
            if match and "vram" in match[1]:
                return int(match[2], 16)
        # A guest that has not run yet, or is in reset, has placed nothing. Since QEMU 8 the list of RAM
        # blocks has a column with the address.
        heading, *blocks = (await self.monitor.hmp("info ramblock")).splitlines() or [""]
        if heading.rstrip().endswith("HVA"):
            for block in blocks:
                name, address = block[:ANSWER_CHARS].split()[:1], block[-18:].strip()
                if name and name[0].endswith("vga.vram") and re.fullmatch(r"0x[0-9a-f]{1,16}", address):
                    return int(address, 16)
        await self._vga.read_bars()
        return None

    def _check_mapped(self) -> None:
        maps = MapsQuery(self.monitor.pid)
        try:
            if not maps.mapped(self.extent.address, self.extent.end):
                raise NotTappable("attach", self.url, f"{self.extent} is not mapped in QEMU")
        finally:
            maps.close()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after a reset, a stop and a resume of the guest; see `Target`."""
        return self._activity.add(callback)

    async def mode(self) -> Mode | None:
        """Read the DISPI registers through the monitor; the guest notices nothing. See `Target`."""
        return await self._vga.mode(self.extent.size_bytes)

    async def snapshot(self) -> NDArray[np.uint32]:
        """Return QEMU's screendump, repeated until two are equal; see `Target`."""
        return await self._vga.snapshot()

    async def gone(self) -> str:
        """Wait until QEMU exits or its monitor is lost; see `Target`."""
        if self._exit is None:
            return f"{self.url} was never attached"
        exited = await self._exit.wait_or_lost(self.monitor.ended(), grace_s=self._timeouts.exit_grace_s)
        if self._end:
            return self._end
        return f"QEMU (pid {self.monitor.pid}) {'exited' if exited else 'closed its monitor'}"
