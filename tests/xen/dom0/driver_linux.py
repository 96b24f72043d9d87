"""A Linux guest driven from dom0: Debian's kernel on vesafb, a shell on its screen and its serial line."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from xen.dom0 import driver_domain
from xen.dom0.driver_domain import GUESTS, wait_for
from xen.dom0.driver_errors import DriverError
from xen.dom0.driver_maps import PAGE, ForeignFrames

__all__ = ["LinuxGuest"]

BOOT_TIMEOUT_S: Final = 240.0
COMMAND_TIMEOUT_S: Final = 60.0
LFB: Final = 0xF000_0000
"""Where hvmloader places the standard VGA's first BAR when it is the only large one."""
KERNEL_LINE: Final = (
    # The BIOS's mode 0x144: 1024x768x32. vesafb takes what the boot loader has set.
    "vga=0x344 console=tty0 quiet loglevel=3 vt.global_cursor_default=0 consoleblank=0 "
    # What an emulated guest needs not spend its boot on: calibration, probing, mitigations.
    "noapic nolapic_timer tsc=reliable clocksource=tsc no_timer_check xen_nopv nokaslr nopti mitigations=off "
    "audit=0 apparmor=0 cryptomgr.notests raid=noautodetect nowatchdog rcupdate.rcu_expedited=1"
)
_MOST_ANSWERED: Final = 1 << 20


class LinuxGuest:
    """An HVM domain with Debian's kernel, and the init of the QEMU laboratory's guest.

    Its first terminal shows a shell that obeys the keyboard; its serial line one that obeys `run`.

    Args:
        name: The domain's name.
        hap: Hardware-assisted paging; otherwise shadow paging.
        memory_mib: Its memory.
        vnc_display: As `BootSectorGuest` takes it.
        extra: More words for the kernel's command line.

    Attributes:
        domid: The domain's id.
        width: 1024 pixels.
        height: 768 pixels.
        pitch: 4,096 bytes.
    """

    width: Final = 1024
    height: Final = 768
    pitch: Final = 4096

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
        self._vram: ForeignFrames | None = None
        self._received = b""
        self._tokens = 0
        self._values = {
            "name": name,
            "hap": int(hap),
            "memory": memory_mib,
            "kernel": GUESTS / "vmlinuz",
            "ramdisk": GUESTS / "linux.cpio",
            "extra": f"{KERNEL_LINE} {extra}".strip(),
            "vnc": int(vnc_display is not None),
            "display": vnc_display or 0,
            "serial": self._serial_path,
        }

    def __enter__(self) -> LinuxGuest:
        try:
            # Paused, so that nothing it says is said before the socket is connected.
            self.domid = driver_domain.create("linux.cfg", self._values, paused=True)
            self._serial = socket.socket(socket.AF_UNIX)
            self._serial.settimeout(BOOT_TIMEOUT_S)
            self._serial.connect(str(self._serial_path))
            driver_domain.xl("unpause", str(self.domid))
            self._until(b"READY", BOOT_TIMEOUT_S)
            self._vram = ForeignFrames(self.domid, self.lfb_gfn, self.height * self.pitch // PAGE)
        except BaseException:
            self.destroy()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    def destroy(self) -> None:
        """Unmap its memory, then destroy the domain if it is still there."""
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
    def lfb_gfn(self) -> int:
        """The guest frame number of the video memory's first page."""
        return LFB // PAGE

    def read_vram(self, offset: int = 0, size: int | None = None) -> bytes:
        """A copy of the frame's memory, from this process's own mapping."""
        if self._vram is None:
            raise DriverError(f"domain {self.domid} ({self.name}): not attached")
        return self._vram.read(offset, size)

    def run(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a shell command by the serial line.

        Returns:
            What it wrote, standard error included.

        Raises:
            DriverError: it fails, or there is no answer in time.
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
        """What came before `mark`; the mark is dropped."""
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
                    f"the last it said: {tail!r}"
                ) from None
            if not more:
                raise DriverError(f"domain {self.domid} ({self.name}): its serial line has ended")
            self._received += more
            if len(self._received) > _MOST_ANSWERED:
                raise DriverError(f"domain {self.domid} ({self.name}): says too much on its serial line")
        before, _, self._received = self._received.partition(mark)
        return before

    def wait_for_screen(self, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        """Wait until anything but black is in the frame.

        Raises:
            DriverError: nothing is by then.
        """
        wait_for(
            f"domain {self.domid} ({self.name}): a picture",
            lambda: True if any(self.read_vram()) else None,
            timeout_s,
            0.2,
        )
