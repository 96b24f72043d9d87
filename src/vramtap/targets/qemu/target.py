"""Target `qemu:SOCKET`: a running QEMU guest, found and asked through its QMP monitor."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Final, Self

from vramtap.concurrency import Observers
from vramtap.errors import NotTappable, Refused
from vramtap.linux.procfs import MapsQuery
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE
from vramtap.targets.qemu.input import QemuInput
from vramtap.targets.qemu.qmp import Monitor
from vramtap.targets.qemu.vga import ANSWER_CHARS, QemuVga

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.mode import Mode
    from vramtap.keyboard.events import Input

PLACE_TIMEOUT_S: Final = 10.0
"""How long a guest that has just started may take to place its VGA's BARs; firmware does it in under 2 s."""
PLACE_RETRY_S: Final = 0.05
"""Between two looks for the BARs meanwhile: QEMU sends no event when the guest places one."""
EXIT_GRACE_S: Final = 1.0
"""How long QEMU may take to exit once it has closed its monitor: giving back its memory takes a while."""
MAX_VRAM_BYTES: Final = 1 << 30
"""Video RAM followed at most; QEMU's own limit for `-vga std` is 256 MiB (hw/display/vga.c, vgamem_mb)."""
_USER_SPACE_END: Final = 1 << 56
"""Past every user address of x86-64, with five levels of page tables (Documentation/arch/x86/x86_64/mm)."""

log = logging.getLogger(__name__)


class QemuTarget:
    """The screen of a QEMU guest with `-vga std` (or `-device VGA`, `bochs-display`).

    Pixels are read out of QEMU's memory; geometry comes from the DISPI registers, input goes through
    the monitor, and in modes without a linear framebuffer (text, planar, 8 bits a pixel) the picture is
    QEMU's own screendump. The guest and QEMU need no preparation but a free QMP socket.

    Args:
        path: Of the QMP socket.
    """

    def __init__(self, path: str) -> None:
        self.url = f"qemu:{path}"
        self.monitor = Monitor(path)
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = True
        # No event tells that the guest has written a register; they can only be read.
        self.announces_mode = False
        self._activity: Observers[Callable[[], None]] = Observers()
        self._space: ProcessSpace | None = None
        self._vga = QemuVga(self.monitor, self.url)
        self._end = ""

    async def __aenter__(self) -> Self:
        """Attach; see `Target`."""
        try:
            await self.monitor.connect()
            if not self.monitor.pid:
                reason = "QEMU runs in a pid namespace not seen from here"
                raise Refused("connect", self.url, reason, "run vramtap outside of it")
            self.monitor.watch(self._event)
            await self.monitor.remove_lost_fds()
            self._space = ProcessSpace(self.monitor.pid)
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
        """Detach: close the monitor and let go of the process."""
        await self._release()

    async def _release(self) -> None:
        try:
            await self.monitor.close()
        finally:
            if self._space is not None:
                self._space.close()

    def _event(self, name: str) -> None:
        log.info("%s: %s", self.url, name, extra={"target": self.url, "event": name})
        if name == "SHUTDOWN":
            self._end = f"QEMU (pid {self.monitor.pid}) shut down"
        if name in ("RESET", "STOP", "RESUME"):
            self._activity.notify()

    async def _find_vram(self) -> tuple[int, int]:
        """The host virtual address of the video RAM and its size in bytes."""
        size = await self._vga.find()
        try:
            async with asyncio.timeout(PLACE_TIMEOUT_S):
                while True:
                    found = await self._vram_by_block()
                    if found is not None:
                        break
                    await asyncio.sleep(PLACE_RETRY_S)
        except TimeoutError as error:
            raise NotTappable(
                "attach",
                self.url,
                f"video RAM not found within {PLACE_TIMEOUT_S:g} s",
                "is the guest running?",
            ) from error
        if not 0 < size <= MAX_VRAM_BYTES or size % PAGE_SIZE or found % PAGE_SIZE:
            raise NotTappable("attach", self.url, f"video RAM of {size} bytes at {found:#x}")
        if found + size > _USER_SPACE_END:
            raise NotTappable("attach", self.url, f"video RAM at {found:#x}, where no memory can be")
        return found, size

    async def _vram_by_block(self) -> int | None:
        """Where the VRAM is in QEMU, or None while the guest has not placed its BAR."""
        if self._vga.vram_bar >= 0:
            answer = await self.monitor.hmp(f"gpa2hva {self._vga.vram_bar:#x}")
            match = re.search(r"\(([^()]*)\) is 0x([0-9a-f]{1,16})\b", answer[:ANSWER_CHARS])
            if match and "vram" in match[1]:
                return int(match[2], 16)
        # A guest that has not run yet, or is in reset, has placed nothing; since QEMU 8 its list of RAM
        # blocks has a column that knows.
        heading, *blocks = (await self.monitor.hmp("info ramblock")).splitlines() or [""]
        if heading.rstrip().endswith("HVA"):
            for block in blocks:
                name, address = block[:ANSWER_CHARS].split()[:1], block[-18:].strip()
                if name and name[0].endswith("vga.vram") and re.fullmatch(r"0x[0-9a-f]{1,16}", address):
                    return int(address, 16)
        await self._vga.find()
        return None

    def _check_mapped(self) -> None:
        maps = MapsQuery(self.monitor.pid)
        try:
            if not maps.mapped(self.extent.address, self.extent.end):
                raise NotTappable("attach", self.url, f"{self.extent} is not mapped there")
        finally:
            maps.close()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after a reset, a stop and a resume of the guest; see `Target`."""
        return self._activity.add(callback)

    async def mode(self) -> Mode | None:
        """Read the DISPI registers through the monitor; the guest does not notice. See `Target`."""
        return await self._vga.mode(self.extent.size_bytes)

    async def snapshot(self) -> NDArray[np.uint32]:
        """QEMU's screendump, taken again until two agree; see `Target`."""
        return await self._vga.snapshot()

    async def gone(self) -> str:
        """Wait until QEMU exits or its monitor is lost; see `Target`."""
        loop = asyncio.get_running_loop()
        exited = asyncio.Event()
        if self._space is None:
            return f"{self.url} was never attached"
        descriptor = self._space.pidfd.fileno()
        loop.add_reader(descriptor, exited.set)
        waiters = [asyncio.create_task(exited.wait()), asyncio.create_task(self.monitor.ended())]
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            # The monitor closes a moment before the process is gone: give the better answer a chance.
            await asyncio.wait(waiters[:1], timeout=EXIT_GRACE_S)
        finally:
            loop.remove_reader(descriptor)
            for waiter in waiters:
                waiter.cancel()
        if self._end:
            return self._end
        what = "exited" if exited.is_set() else "closed its monitor"
        return f"QEMU (pid {self.monitor.pid}) {what}"
