"""The boot-sector guest in other sizes, and in stages: created, started, driven."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from xen.dom0 import driver_domain
from xen.dom0.driver import BootSectorGuest
from xen.dom0.driver_domain import GUESTS, TEMPLATES, xl

_MEMORY: Final = "memory = 64\nmaxmem = 64\n"
_DISK_END: Final = '" ]\nboot'
_CD: Final = '", "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=" ]\nboot'
MIB_BESIDE_VRAM: Final = 16
SPARE_DISPLAYS: Final = {True: 2, False: 3}
"""Of the VNC server of the spare guest's device model, by whether paging is hardware-assisted."""


class StagedGuest(BootSectorGuest):
    """A boot-sector guest with little memory and an empty CD drive.

    Args:
        name: The domain's name.
        hap: Hardware-assisted paging; otherwise shadow paging.
        videoram_mib: The size of the video memory; the driver maps 16 MiB of it at most.
        vnc_display: As `BootSectorGuest` takes it.
        paused: Stay paused until `start`.
        on_reboot: As `BootSectorGuest` takes it.
    """

    def __init__(
        self,
        name: str,
        *,
        hap: bool,
        videoram_mib: int = 16,
        vnc_display: int | None = None,
        paused: bool = False,
        on_reboot: str = "destroy",
    ) -> None:
        super().__init__(name, hap=hap, vnc_display=vnc_display, on_reboot=on_reboot)
        self._values["videoram"] = videoram_mib
        self._memory_mib = videoram_mib + MIB_BESIDE_VRAM
        self._paused = paused
        # QEMU locks a disk that it may write.
        self._directory = tempfile.TemporaryDirectory(prefix="staged-guest-")
        self._values["disk"] = shutil.copy2(GUESTS / "boot-sector.img", self._directory.name)

    def __enter__(self) -> StagedGuest:
        text = (TEMPLATES / "hvm.cfg").read_text()
        assert _MEMORY in text
        assert _DISK_END in text
        text = text.replace(_MEMORY, f"memory = {self._memory_mib}\nmaxmem = {self._memory_mib}\n")
        template = Path(self._directory.name) / "staged.cfg"
        template.write_text(text.replace(_DISK_END, _CD))
        try:
            self.domid = driver_domain.create(str(template), self._values, paused=self._paused)
            if not self._paused:
                self._attach()
        except BaseException:
            self.destroy()
            raise
        return self

    def destroy(self) -> None:
        """Unmap everything, then destroy the domain if it is still there, and its disk."""
        super().destroy()
        self._directory.cleanup()

    def start(self) -> None:
        """Let it run for the first time, and drive it."""
        xl("unpause", str(self.domid))
        self._attach()

    def shrink(self) -> None:
        """Show a small picture, of the size that the tests of the screen take."""
        self.set_mode(400, 300, 32)
