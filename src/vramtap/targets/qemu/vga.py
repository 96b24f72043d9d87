"""`QemuVga`: QEMU's standard VGA seen through a monitor: its BARs, its registers, its picture."""

from __future__ import annotations

import contextlib
import os
import random
import re
from typing import TYPE_CHECKING, Final

from vramtap.display import bochs
from vramtap.display.mode import MAX_PIXELS, Mode
from vramtap.errors import NotTappable
from vramtap.linux.calls import error_for
from vramtap.targets.qemu.pci import display_devices
from vramtap.targets.qemu.ppm import parse_ppm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.targets.qemu.commands import Commands

SCREENDUMP_ATTEMPTS: Final = 4
"""Most screendumps for one picture. vramtap repeats them until two in a row are equal, because one may be
torn. If the guest keeps drawing, the next picture will show it."""
ANSWER_CHARS: Final = 4096
"""Length of the part of a human monitor's answer that is searched. vramtap needs two lines."""
_FDSETS: Final = (1 << 16, 1 << 31)
"""Range for the numbers of lent descriptor sets: above those that QEMU chooses, and within an int."""
_PPM_BYTES: Final = MAX_PIXELS * 3 + 64

_BOCHS_VGA: Final = (0x1234, 0x1111)
_OTHER_VENDORS: Final = {
    0x1AF4: "virtio-gpu keeps its scanouts in QEMU's heap",
    0x1B36: "QXL draws by commands",
    0x1013: "Cirrus has no DISPI registers",
    0x15AD: "VMware SVGA has registers of its own",
}


class QemuVga:
    """The display device of QEMU's `-vga std` (`-device VGA`, `bochs-display`). The guest notices nothing.

    Args:
        monitor: Runs the commands.
        url: What messages call the target.
        remedy: What messages advise if the guest has another display device.
    """

    def __init__(self, monitor: Commands, url: str, remedy: str = "start QEMU with -vga std") -> None:
        self._monitor = monitor
        self._url = url
        self._remedy = remedy
        self.vram_bar: int = -1
        """Guest-physical address of the video RAM at the last `read_bars`; -1 if it was not placed."""
        self.mmio_bar: int = -1
        """Guest-physical address of the registers at the last `read_bars`; -1 if they were not placed."""

    async def read_bars(self) -> int:
        """Read from `query-pci` where the guest has placed the BARs; it may move them at any time.

        Returns:
            Size of the video RAM in bytes; -1 if QEMU gives no valid number. Like the addresses it is at
            most 64 bits and otherwise untrusted.

        Raises:
            NotTappable: the guest has another display device, or none.
            VramtapError: as `Monitor.execute`.
        """
        others = []
        for device in display_devices(await self._monitor.execute("query-pci")):
            if (device.vendor, device.device) != _BOCHS_VGA:
                name = f"PCI {device.vendor:04x}:{device.device:04x}"
                others.append(_OTHER_VENDORS.get(device.vendor, name))
            elif 0 in device.addresses and 2 in device.addresses:
                self.vram_bar, self.mmio_bar = device.addresses[0], device.addresses[2]
                return device.sizes[0]
        what = "; ".join(others)[:ANSWER_CHARS] or "no PCI display device"
        raise NotTappable("attach", self._url, f"no linear framebuffer: {what}", self._remedy)

    async def mode(self, extent_bytes: int) -> Mode | None:
        """Read the DISPI registers; see `Target.mode`.

        Args:
            extent_bytes: Size of the video RAM, which bounds the mode.

        Raises:
            NotTappable: as `read_bars`.
            VramtapError: as `Monitor.execute`.
        """
        if self.mmio_bar < 0:
            await self.read_bars()
            if self.mmio_bar < 0:
                return None
        dump = await self._monitor.hmp(f"xp /{bochs.COUNT}hx {self.mmio_bar + bochs.MMIO_OFFSET:#x}")
        words = [int(word, 16) for word in re.findall(r"0x([0-9a-f]{4})\b", dump[:ANSWER_CHARS])]
        registers = bochs.Dispi.from_words(words) if len(words) == bochs.COUNT else None
        if registers is None or not registers.present:
            # After a reset the BAR is not placed, and firmware may place it elsewhere.
            await self.read_bars()
            return None
        return registers.mode(extent_bytes)

    async def snapshot(self) -> NDArray[np.uint32]:
        """Return QEMU's screendump, repeated until two are equal; see `Target.snapshot`.

        Raises:
            VramtapError: as `Monitor.execute`, or QEMU did not write a picture.
        """
        async with self._lent_file() as (monitor, readable, writable, path):
            last = await _screendump(monitor, readable, writable, path)
            for _ in range(SCREENDUMP_ATTEMPTS - 1):
                again = await _screendump(monitor, readable, writable, path)
                if again == last:
                    break
                last = again
        return parse_ppm(last, f"screendump of {self._url}")

    @contextlib.asynccontextmanager
    async def _lent_file(self) -> AsyncIterator[tuple[Commands, int, int, str]]:
        """Lend QEMU a memory file to write to, because QEMU may have another user or mount namespace.

        The file is lent for one picture at a time, because QEMU keeps what a killed tap has lent. It is not
        lent for each screendump, because QEMU closes a returned file only while the guest is not stopped
        (monitor_fdset_cleanup).

        Yields:
            The object that runs the commands, a descriptor for reading, one for writing, and QEMU's path of
            the file. QEMU picks a descriptor from a set by its access mode, so only the one for writing is
            lent.
        """
        with contextlib.ExitStack() as close:
            try:
                readable = os.memfd_create("vramtap-screendump", os.MFD_CLOEXEC)
                close.callback(os.close, readable)
                writable = os.open(f"/proc/self/fd/{readable}", os.O_WRONLY | os.O_CLOEXEC)
                close.callback(os.close, writable)
            except OSError as error:
                raise error_for("memfd_create", self._url, error.errno or 0) from error
            fdset = random.randrange(*_FDSETS)
            async with self._monitor.batch() as monitor:
                try:
                    await monitor.add_fd(writable, fdset)
                    yield monitor, readable, writable, f"/dev/fdset/{fdset}"
                finally:
                    await monitor.remove_fd(fdset)


async def _screendump(monitor: Commands, readable: int, writable: int, path: str) -> bytes:
    # QEMU writes through the open file it was lent, at that file's position.
    os.ftruncate(writable, 0)
    os.lseek(writable, 0, os.SEEK_SET)
    await monitor.execute("screendump", {"filename": path})
    return os.pread(readable, min(os.fstat(readable).st_size, _PPM_BYTES), 0)
