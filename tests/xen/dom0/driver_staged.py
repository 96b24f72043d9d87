"""The boot-sector guest with other sizes, created and started in separate steps."""

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
MAIN_MEMORY_MIB: Final = 16
"""Memory of the guest in addition to its video memory."""
SPARE_DISPLAYS: Final = {True: 2, False: 3}
"""Display number of the spare guest's own VNC server, by whether paging is hardware-assisted."""


class StagedGuest(BootSectorGuest):
    """A boot-sector guest with little memory and an empty CD drive.

    Args:
        name: The domain's name.
        hap: Hardware-assisted paging; otherwise shadow paging.
        videoram_mib: The size of the video memory, MiB. The driver maps at most 16 MiB of it.
        vnc_display: See `BootSectorGuest`.
        paused: Create the domain paused; `start` starts it.
        on_reboot: See `BootSectorGuest`.
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
        self._memory_mib = videoram_mib + MAIN_MEMORY_MIB
        self._paused = paused
        # QEMU locks a disk that it can write, so each guest needs its own copy.
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
        """Unmap everything, destroy the domain if it still exists, and delete its disk."""
        super().destroy()
        self._directory.cleanup()

    def start(self) -> None:
        """Start a domain that was created paused, and attach to it."""
        xl("unpause", str(self.domid))
        self._attach()

    def shrink(self) -> None:
        """Set a small mode, the same as in the tests of the screen."""
        self.set_mode(400, 300, 32)
