"""Driver of the Linux guest: Debian's kernel on vesafb, with shells on its screen and serial line."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from xen.dom0 import driver_domain
from xen.dom0.driver_domain import GUESTS
from xen.dom0.driver_errors import DriverError
from xen.dom0.driver_loader import Loader
from xen.dom0.driver_maps import PAGE, ForeignFrames

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["LinuxGuest"]

BOOT_TIMEOUT_S: Final = 240.0
COMMAND_TIMEOUT_S: Final = 100.0
KERNEL_LINE: Final = (
    "console=tty0 quiet loglevel=3 vt.global_cursor_default=0 consoleblank=0 "
    # With ACPI the clock is the HPET, and each read of it causes an exit: 22 s to the shell under nested
    # emulation, not 6 s. Screen, keyboard and serial line work without ACPI and PCI.
    "acpi=off pci=off noapic nolapic_timer xen_nopv "
    # Skip calibration, self-tests and mitigations, to boot faster.
    "tsc=reliable no_timer_check nokaslr nopti mitigations=off audit=0 apparmor=0 cryptomgr.notests "
    "nowatchdog rcupdate.rcu_expedited=1"
)
FONT_COLUMNS, FONT_ROWS = 8, 16
"""Pixels of a character in the kernel's font."""
_VRAM_BYTES: Final = 16 << 20
_TEXT_PAGES: Final = 2
_MOST_ANSWERED: Final = 1 << 20


class LinuxGuest:
    """An HVM domain with Debian's kernel, and the init of the QEMU testbed's guest.

    It waits on the BIOS's text screen until `boot`. Then its first terminal shows a shell for the keyboard,
    and its serial line has a shell for `run`.

    Args:
        name: The domain's name.
        hap: Hardware-assisted paging; otherwise shadow paging.
        memory_mib: The size of its memory, MiB.
        vnc_display: See `BootSectorGuest`.
        extra: More words for the kernel's command line.

    Attributes:
        domid: The domain's id.
    """

    def __init__(
        self,
        name: str = "linux",
        *,
        hap: bool = True,
        memory_mib: int = 128,
        vnc_display: int | None = None,
        extra: str = "",
    ) -> None:
        self.name = name
        self.domid = -1
        self._directory = tempfile.TemporaryDirectory(prefix="linux-guest-")
        self._serial_path = Path(self._directory.name) / "serial"
        self._serial: socket.socket | None = None
        self._loader: Loader | None = None
        self._vram: ForeignFrames | None = None
        self._command_line = f"{KERNEL_LINE} {extra}".strip()
        self._received = b""
        self._tokens = 0
        self._values = {
            "name": name,
            "hap": int(hap),
            "memory": memory_mib,
            "disk": GUESTS / "linux.img",
            "vnc": int(vnc_display is not None),
            "display": vnc_display or 0,
            "serial": self._serial_path,
        }

    def __enter__(self) -> LinuxGuest:
        try:
            self.domid = driver_domain.create("linux.cfg", self._values)
            self._serial = socket.socket(socket.AF_UNIX)
            self._serial.connect(str(self._serial_path))
            self._loader = Loader(self.domid, _VRAM_BYTES)
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def boot(self) -> None:
        """Boot Linux, and wait for the shell on its serial line.

        Raises:
            DriverError: The time is up.
        """
        self._loaded.boot(GUESTS / "linux.kernel", GUESTS / "linux.cpio", self._command_line)
        self._until(b"READY\n", BOOT_TIMEOUT_S)
        self._vram = ForeignFrames(self.domid, self._loaded.lfb // PAGE, self._frame_pages + _TEXT_PAGES)

    def destroy(self) -> None:
        """Unmap the guest's memory, then destroy the domain if it still exists."""
        if self._loader is not None:
            self._loader.close()
            self._loader = None
        if self._vram is not None:
            self._vram.close()
            self._vram = None
        if self._serial is not None:
            self._serial.close()
            self._serial = None
        if self.domid >= 0:
            driver_domain.destroy(self.domid)
            self.domid = -1
        self._directory.cleanup()

    @property
    def _loaded(self) -> Loader:
        if self._loader is None:
            raise DriverError(f"domain {self.domid} ({self.name}): not running")
        return self._loader

    @property
    def width(self) -> int:
        """Width of the screen, pixels of 32 bits."""
        return self._loaded.width

    @property
    def height(self) -> int:
        """Height of the screen, pixels."""
        return self._loaded.height

    @property
    def pitch(self) -> int:
        """Stride of a row, bytes."""
        return self._loaded.pitch

    @property
    def _frame_pages(self) -> int:
        return -(-self.height * self.pitch // PAGE)

    def read_vram(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return a copy of the frame's memory, from this process's own mapping."""
        if self._vram is None:
            raise DriverError(f"domain {self.domid} ({self.name}): not attached")
        return self._vram.read(offset, size)

    def picture(self) -> npt.NDArray[np.uint32]:
        """Return the screen from this process's own mapping: 0x00RRGGBB, shape (height, width)."""
        frame = self.read_vram(0, self.height * self.pitch)
        rows = np.frombuffer(frame, np.uint32).reshape(self.height, self.pitch // 4)
        return np.bitwise_and(rows[:, : self.width], np.uint32(0xFFFFFF))

    def text(self) -> list[str]:
        """Return the rows of the first terminal, as wide as the screen, read from Linux (vcs(4))."""
        # Through video memory that is not shown: each byte on the serial line is an exit to the device model.
        self.run(f"dd if=/dev/vcs1 of=/dev/fb0 bs={PAGE} seek={self._frame_pages} 2>/dev/null")
        columns, rows = self.width // FONT_COLUMNS, self.height // FONT_ROWS
        said = self.read_vram(self._frame_pages * PAGE, columns * rows).decode("latin-1")
        return [said[at : at + columns] for at in range(0, len(said), columns)]

    def run(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a shell command through the serial line.

        Returns:
            Its output, including standard error.

        Raises:
            DriverError: The command fails, or the time is up.
        """
        if self._serial is None:
            raise DriverError(f"domain {self.domid} ({self.name}): not running")
        if "\n" in command:
            raise ValueError("one line only")
        self._tokens += 1
        token = f"t{self._tokens}"
        self._serial.sendall(f"{token} {command}\n".encode())
        self._until(f"{token} begin\n".encode(), timeout_s)
        said = self._until(f"\n{token} ".encode(), timeout_s)
        status = int(self._until(b"\n", timeout_s))
        text = said.decode(errors="replace")
        if status:
            raise DriverError(f"{self.name}: {command}: exit status {status}: {text.strip()}")
        return text

    def _until(self, mark: bytes, timeout_s: float) -> bytes:
        """Receive up to `mark`, and return what came before it."""
        serial = self._serial
        assert serial is not None
        deadline = time.monotonic() + timeout_s
        while mark not in self._received:
            serial.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                more = serial.recv(65536)
            except TimeoutError:
                tail = self._received[-200:].decode(errors="replace")
                raise DriverError(
                    f"domain {self.domid} ({self.name}): {mark!r} did not come in {timeout_s:.0f} s; "
                    f"the last output: {tail!r}"
                ) from None
            if not more:
                raise DriverError(f"domain {self.domid} ({self.name}): its serial line has ended")
            self._received += more
            if len(self._received) > _MOST_ANSWERED:
                raise DriverError(f"domain {self.domid} ({self.name}): says too much on its serial line")
        before, _, self._received = self._received.partition(mark)
        return before
