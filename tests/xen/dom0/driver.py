"""Driver of the boot-sector guest: dom0 commands each write, and a model predicts the video memory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from xen.dom0 import driver_domain
from xen.dom0.driver_channel import BOOT_TIMEOUT_S, COMMAND_TIMEOUT_S, Channel
from xen.dom0.driver_domain import GUESTS, wait_for
from xen.dom0.driver_errors import DriverError
from xen.dom0.driver_maps import PAGE, ForeignFrames
from xen.dom0.driver_model import Model, Pages
from xen.dom0.driver_page import ALIAS, Operation, Paging, SharedPage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

__all__ = ["BootSectorGuest", "DriverError", "Paging", "Registers"]

PIT_HZ: Final = 1_193_182
_VBE_OK: Final = 0x4F


@dataclass(frozen=True)
class Registers:
    """The guest's control registers after its last control command."""

    cr0: int
    cr3: int
    cr4: int
    efer: int

    @property
    def write_protect(self) -> bool:
        """CR0.WP."""
        return bool(self.cr0 & 1 << 16)

    @property
    def paging(self) -> bool:
        """CR0.PG."""
        return bool(self.cr0 & 1 << 31)

    @property
    def pae(self) -> bool:
        """CR4.PAE."""
        return bool(self.cr4 & 1 << 5)

    @property
    def long_mode(self) -> bool:
        """EFER.LMA."""
        return bool(self.efer & 1 << 10)


class BootSectorGuest:
    """An HVM domain that writes its framebuffer only when dom0 commands it.

    Every method that writes returns the pages it wrote, counted from the start of the video memory. It also
    writes the same values into `model`. Offsets and strides are bytes and multiples of 4.

    Args:
        name: The domain's name.
        hap: Hardware-assisted paging; otherwise shadow paging, if the hypervisor has it.
        videoram_mib: The size of the video memory, MiB.
        vnc_display: Display number of the device model's own VNC server, which listens on 127.0.0.1, port
            5900 + this; None for no server.
        on_reboot: The action of `xl` when the guest resets: `restart` or `destroy`.
        write_protect: CR0.WP from the start. If it is clear (as in a boot loader), Xen's shadow paging
            misses single writes.
        disk: The guest's disk image. It stays unchanged.

    Attributes:
        domid: The domain's id.
        model: The expected content of the video memory.
    """

    def __init__(
        self,
        name: str = "boot-sector",
        *,
        hap: bool = True,
        videoram_mib: int = 16,
        vnc_display: int | None = None,
        on_reboot: str = "destroy",
        write_protect: bool = True,
        disk: Path = GUESTS / "boot-sector.img",
    ) -> None:
        self.name = name
        self._write_protect = write_protect
        self._vram_pages = videoram_mib * (1 << 20) // PAGE
        self._values = {
            "name": name,
            "hap": int(hap),
            "videoram": videoram_mib,
            "disk": disk,
            "vnc": int(vnc_display is not None),
            "display": vnc_display or 0,
            "on_reboot": on_reboot,
        }
        self._channel: Channel | None = None
        self._vram: ForeignFrames | None = None
        self._batching = False
        self.domid = -1
        self.model = Model(b"")

    def __enter__(self) -> BootSectorGuest:
        self.domid = driver_domain.create("hvm.cfg", self._values)
        try:
            self._attach()
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def destroy(self) -> None:
        """Unmap everything, then destroy the domain if it is still there."""
        self.detach()
        if self.domid >= 0:
            driver_domain.destroy(self.domid)
            self.domid = -1

    def detach(self) -> None:
        """Unmap the domain's memory and leave the domain alone."""
        for frames in (self._channel, self._vram):
            if frames is not None:
                frames.close()
        self._channel = self._vram = None

    def attach_rebooted(self) -> None:
        """Wait for the domain's successor after a reset with `on_reboot="restart"`, and drive that.

        Raises:
            DriverError: No successor appears, or it does not boot.
        """
        former = self.domid
        self.detach()

        def successor() -> int | None:
            domid = driver_domain.find(self.name)
            return domid if domid != former else None

        self.domid = wait_for(f"reboot of domain {former} ({self.name})", successor, BOOT_TIMEOUT_S, 0.1)
        self._attach()

    def _attach(self) -> None:
        self._channel = Channel(self.domid)
        if self.page.vbe_result != _VBE_OK:
            raise DriverError(f"domain {self.domid}: VBE mode 0x144: {self.page.vbe_result:#x}, not 0x4f")
        self._vram = ForeignFrames(self.domid, self.lfb_gfn, self._vram_pages)
        self.model = Model(self._vram.read())
        self.write_protect(self._write_protect)

    # State of the guest

    @property
    def _open(self) -> Channel:
        if self._channel is None:
            raise DriverError(f"domain {self.domid} ({self.name}): not attached")
        return self._channel

    @property
    def page(self) -> SharedPage:
        """The shared page, live.

        Raises:
            DriverError: The domain's memory is not mapped.
        """
        return self._open.page

    @property
    def lfb_gfn(self) -> int:
        """Guest frame number of the video memory's first page."""
        return self.page.lfb // PAGE

    @property
    def vram_pages(self) -> int:
        """Number of pages of the video memory."""
        return self._vram_pages

    @property
    def width(self) -> int:
        """Width of the mode, pixels."""
        return self.page.width

    @property
    def height(self) -> int:
        """Height of the mode, pixels."""
        return self.page.height

    @property
    def pitch(self) -> int:
        """Stride of a row, bytes."""
        return self.page.pitch

    @property
    def bpp(self) -> int:
        """Bits per pixel; 0 in text mode."""
        return self.page.bpp

    @property
    def frame_pages(self) -> int:
        """Number of pages of one frame at the start of the video memory."""
        return -(-self.height * self.pitch // PAGE)

    @property
    def scanout(self) -> int:
        """Offset of the shown frame in the video memory, bytes."""
        page = self.page
        return page.y_offset * page.pitch + page.x_offset * ((page.bpp + 7) // 8)

    @property
    def registers(self) -> Registers:
        """The control registers after the last control command."""
        page = self.page
        return Registers(page.cr0, page.cr3, page.cr4, page.efer)

    @property
    def mode(self) -> Paging:
        """Current paging mode."""
        return Paging(self.page.paging)

    def read_vram(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return a copy of the video memory, from this process's own mapping.

        Args:
            offset: Start, bytes.
            size: Length, bytes; None: to the end.

        Raises:
            DriverError: The domain's memory is not mapped.
        """
        if self._vram is None:
            raise DriverError(f"domain {self.domid} ({self.name}): not attached")
        return self._vram.read(offset, size)

    def frame(self) -> npt.NDArray[np.uint8]:
        """Return a copy of the shown frame: uint8, shape (height, bytes of a row without padding)."""
        page = self.page
        row = page.width * ((page.bpp + 7) // 8)
        start, pitch, height = self.scanout, page.pitch, page.height
        data = np.frombuffer(self.read_vram(start, (height - 1) * pitch + row), np.uint8)
        return np.stack([data[y * pitch : y * pitch + row] for y in range(height)])

    def check(self) -> None:
        """Compare the whole video memory with the model.

        Raises:
            DriverError: They differ; the message names the first difference.
        """
        difference = self.model.difference(self.read_vram())
        if difference:
            raise DriverError(f"domain {self.domid} ({self.name}): video memory: {difference}")

    # Commands

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Queue the commands given inside the `with` block, and wait for all of them at its end.

        Outside, each command costs a tick of the guest's clock (10 ms), because the guest sleeps in between.
        """
        self._batching = True
        try:
            yield
            self.finish()
        finally:
            self._batching = False

    def finish(self, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        """Wait until the guest has done all queued commands.

        Raises:
            DriverError: The time is up, the guest faulted, or it did not know a command.
        """
        self._open.finish(timeout_s)

    def fill(self, offset: int, dwords: int, value: int, *, alias: bool = False) -> Pages:
        """Write `value` to `dwords` dwords from `offset`; through the second mapping if `alias`."""
        self._command(Operation.FILL, offset, dwords, value, 0, ALIAS * alias)
        return self.model.fill(offset, dwords, value)

    def strided(self, offset: int, count: int, value: int, stride: int, *, alias: bool = False) -> Pages:
        """Write `count` single dwords, `stride` apart."""
        self._command(Operation.STRIDED, offset, count, value, stride, ALIAS * alias)
        return self.model.strided(offset, count, value, stride)

    def rect(self, offset: int, width: int, height: int, value: int, *, alias: bool = False) -> Pages:
        """Write a rectangle of `width` dwords and `height` rows of the current mode."""
        pitch = self.pitch
        self._command(Operation.RECT, offset, width | height << 16, value, pitch, ALIAS * alias)
        return self.model.rect(offset, width, height, value, pitch)

    def scatter(self, offset: int, count: int, span: int, seed: int, *, alias: bool = False) -> Pages:
        """Write `count` random dwords at random places of `span` dwords; `seed` is not 0."""
        self._command(Operation.SCATTER, offset, count, span, seed, ALIAS * alias)
        return self.model.scatter(offset, count, span, seed)

    def read(self, offset: int, dwords: int, *, alias: bool = False) -> int:
        """Let the guest read dwords, and return their sum modulo 2**32."""
        self._command(Operation.READ, offset, dwords, 0, 0, ALIAS * alias)
        self.finish()
        return self.page.result

    def paging(self, mode: Paging, *, alias: bool = False) -> None:
        """Change the paging mode; with `alias`, map the first 16 MiB of video memory a second time."""
        self._command(Operation.PAGING, mode, int(alias))

    def write_protect(self, on: bool) -> None:
        """Set or clear CR0.WP."""
        self._command(Operation.WRITE_PROTECT, int(on))

    def tick(self, hz: float) -> None:
        """Set how often a second the guest wakes up to poll for commands; 100 at first."""
        self._command(Operation.TICK, round(PIT_HZ / hz) & 0xFFFF)

    def spin(self, on: bool) -> None:
        """Poll for commands without sleeping. Commands start at once, but keep a processor busy."""
        self._command(Operation.SPIN, int(on))

    def set_mode(
        self, width: int, height: int, bpp: int, *, virtual_width: int = 0, keep: bool = False
    ) -> None:
        """Set a linear mode through the DISPI ports. The device model clears the frame unless `keep`."""
        self._command(Operation.MODE, width, height, bpp, virtual_width, int(keep))
        self._resync()

    def set_offset(self, x: int, y: int) -> None:
        """Show the part of the virtual screen that begins at `x`, `y`, pixels: a page flip."""
        self._command(Operation.OFFSET, x, y)

    def text_mode(self) -> None:
        """Set the BIOS's mode 3, 80x25 characters, which the device model draws."""
        self._command(Operation.TEXT_MODE)
        self._resync()

    def text(self, cell: int, cells: int, character: int, attribute: int = 7, *, step: int = 0) -> None:
        """Write `cells` characters at 0xB8000 from `cell`, each `step` further in the character set."""
        self._command(Operation.TEXT, cell, cells, character | attribute << 8, step)
        self._resync()

    def banked(self, offset: int, dwords: int, value: int) -> Pages:
        """Like `fill`, but through the bank window at 0xA0000: the device model does the writing."""
        self._command(Operation.BANKED, offset, dwords, value)
        return self.model.fill(offset, dwords, value)

    def reset(self) -> None:
        """Reset through the keyboard controller, without waiting."""
        self._command(Operation.RESET, wait=False)

    def power_off(self) -> None:
        """Power off through ACPI's register (soft-off), without waiting."""
        self._command(Operation.POWER_OFF, wait=False)

    def halt(self) -> None:
        """Halt forever with interrupts disabled, without waiting."""
        self._command(Operation.HALT, wait=False)

    def triple_fault(self) -> None:
        """Crash by a triple fault, without waiting."""
        self._command(Operation.TRIPLE_FAULT, wait=False)

    # Input

    def keys(self) -> bytes:
        """Return the last bytes from the keyboard, oldest first: scan codes of set 1, at most 256."""
        return self._open.keys()

    def mouse(self) -> bytes:
        """Return the last bytes from the PS/2 mouse, oldest first, at most 256."""
        return self._open.mouse()

    def _command(self, operation: Operation, *arguments: int, wait: bool = True) -> None:
        self._open.put(operation, *arguments)
        if wait and not self._batching:
            self.finish()

    def _resync(self) -> None:
        self.finish()
        self.model.resync(self.read_vram())
