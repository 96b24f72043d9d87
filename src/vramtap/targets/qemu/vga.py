"""QEMU's standard VGA, asked through a monitor: where its BARs are, its registers, its picture."""

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

    from vramtap.targets.qemu.qmp import Commands

SCREENDUMP_ATTEMPTS: Final = 4
"""Pictures taken until two in a row agree: one may tear, and a guest that draws on is caught next time."""
ANSWER_CHARS: Final = 4096
"""Of an answer to a line of the human monitor that is searched; what we ask for takes two lines."""
_FDSETS: Final = (1 << 16, 1 << 31)
"""Numbers of the sets that files are lent in: past those that QEMU gives others, and no more than an int."""
_PPM_BYTES: Final = MAX_PIXELS * 3 + 64

_BOCHS_VGA: Final = (0x1234, 0x1111)
_OTHERS: Final = {
    0x1AF4: "virtio-gpu keeps its scanouts in QEMU's heap",
    0x1B36: "QXL draws by commands",
    0x1013: "Cirrus has no DISPI registers",
    0x15AD: "VMware SVGA has registers of its own",
}


class QemuVga:
    """The display device of QEMU's `-vga std` (`-device VGA`, `bochs-display`); the guest does not notice.

    Args:
        monitor: Ready for commands.
        url: Of the target, for messages.
        remedy: What to do about a guest with another display device.
    """

    def __init__(self, monitor: Commands, url: str, remedy: str = "start QEMU with -vga std") -> None:
        self._monitor = monitor
        self._url = url
        self._remedy = remedy
        self.vram_bar = -1
        """Guest-physical address of the video RAM when last looked for; -1: not placed."""
        self.mmio_bar = -1
        """Guest-physical address of the registers when last looked for; -1: not placed."""

    async def find(self) -> int:
        """Look for it in `query-pci`, and note where its BARs are now: the guest may place them elsewhere.

        Returns:
            Bytes of its video RAM: hostile, as are the addresses, but of up to 64 bits; -1 if QEMU says
            nothing of the kind.

        Raises:
            NotTappable: the guest has another display device, or none.
            VramtapError: as `Monitor.execute`.
        """
        others = []
        for device in display_devices(await self._monitor.execute("query-pci")):
            if (device.vendor, device.device) != _BOCHS_VGA:
                others.append(_OTHERS.get(device.vendor, f"PCI {device.vendor:04x}:{device.device:04x}"))
            elif 0 in device.addresses and 2 in device.addresses:
                self.vram_bar, self.mmio_bar = device.addresses[0], device.addresses[2]
                return device.sizes[0]
        what = "; ".join(others)[:ANSWER_CHARS] or "no PCI display device"
        raise NotTappable("attach", self._url, f"no linear framebuffer: {what}", self._remedy)

    async def mode(self, extent_bytes: int) -> Mode | None:
        """Read the DISPI registers; see `Target.mode`.

        Args:
            extent_bytes: Of the video RAM, which bounds the answer.

        Raises:
            NotTappable: as `find`.
            VramtapError: as `Monitor.execute`.
        """
        if self.mmio_bar < 0:
            await self.find()
            if self.mmio_bar < 0:
                return None
        dump = await self._monitor.hmp(f"xp /{bochs.COUNT}hx {self.mmio_bar + bochs.MMIO_OFFSET:#x}")
        words = [int(word, 16) for word in re.findall(r"0x([0-9a-f]{4})\b", dump[:ANSWER_CHARS])]
        registers = bochs.Dispi.from_words(words) if len(words) == bochs.COUNT else None
        if registers is None or not registers.present:
            # In reset the BAR is gone; firmware may place it elsewhere. Asked anew next time.
            await self.find()
            return None
        return registers.mode(extent_bytes)

    async def snapshot(self) -> NDArray[np.uint32]:
        """QEMU's screendump, taken again until two agree; see `Target.snapshot`.

        Raises:
            VramtapError: as `Monitor.execute`, or what QEMU wrote is no picture.
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
        """A memory file for QEMU to write: it may run as another user, in another mount namespace.

        It is lent for one picture at a time: a tap that is killed leaves what QEMU was lent with QEMU. Not
        for each screendump, though: QEMU closes what is taken back only while the guest is not stopped
        (monitor_fdset_cleanup).

        Yields:
            Who runs the commands, two descriptors of it, for reading and for writing, and what QEMU calls
            it. QEMU picks from a set by access mode, so what it is lent must be open for writing only.
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
    # QEMU writes through the open file it was lent, from where that one stands.
    os.ftruncate(writable, 0)
    os.lseek(writable, 0, os.SEEK_SET)
    await monitor.execute("screendump", {"filename": path})
    return os.pread(readable, min(os.fstat(readable).st_size, _PPM_BYTES), 0)
