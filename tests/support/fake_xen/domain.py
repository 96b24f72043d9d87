"""A domain as libxl creates it: in the hypervisor, in xenstore, and with a device model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Self

from support.fake_qmp import LoneQmp, Refusal
from support.fake_xen.host import VRAM_FRAME, FakeXen
from vramtap.display import bochs
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

UUID: Final = "6f1e6a2c-9d1c-4d4b-8a5e-0123456789ab"
MMIO: Final = 0xF1000000
LINEAR: Final = (0xB0C5, 64, 32, 32, 0x41, 0, 64, 32, 0, 0, 1)


class FakeDomain:
    """A fake domain; as a context manager it runs, with its device model.

    Args:
        xen: The fake Xen host.
        run_dir: Directory of its monitor's socket.
        domid: Domain id.
        pages: Pages of video RAM.
        uuid: UUID of the domain; empty for none.
        name: Name of the domain.
        pid: Process id of its device model; by default this process.
    """

    def __init__(
        self,
        xen: FakeXen,
        run_dir: Path,
        domid: int = 3,
        *,
        pages: int = 16,
        uuid: str = UUID,
        name: str = "debian",
        pid: int | None = None,
    ) -> None:
        self.xen, self.domid, self.pages = xen, domid, pages
        self.frame, self.words, self.vendor = VRAM_FRAME, list(LINEAR), 0x1234
        self.bar: int | None = None
        """A wrong address of the video RAM for `query-pci` to report; None for the right one."""
        self.commands: list[str] = []
        self.lives = False
        place = f"/local/domain/{domid}"
        self._values = {f"{place}/name": name, f"{place}/image/device-model-pid": str(pid or os.getpid())}
        if uuid:
            self._values[f"{place}/vm"] = f"/vm/{uuid}"
        self._model = LoneQmp(run_dir / f"qmp-libxl-{domid}", self._answer)

    def __enter__(self) -> Self:
        self._model.__enter__()
        self.xen.create(self.domid, pages=self.pages)
        for path, value in self._values.items():
            self.xen.store(path, value)
        self.lives = True
        self.serve()
        self.xen.fire("@introduceDomain")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.lives:
            self.destroy()
        self._model.__exit__(kind, error, trace)

    def serve(self) -> None:
        """Let the device model report in xenstore that it serves."""
        self.xen.store(f"/local/domain/0/device-model/{self.domid}/state", "running")

    def shut_down(self, reason: int) -> None:
        """Let the guest shut down, before the toolstack reacts."""
        self.xen.shut_down(self.domid, reason)
        self.xen.fire("@releaseDomain")

    def destroy(self) -> None:
        """Let the toolstack destroy the domain."""
        self.lives = False
        self.xen.destroy(self.domid)
        self.xen.remove(f"/local/domain/{self.domid}")
        self.xen.remove(f"/local/domain/0/device-model/{self.domid}")
        self.xen.fire("@releaseDomain")

    def place(self, frame: int) -> None:
        """Let the guest place its video RAM at a frame; 0 removes it."""
        self.frame = frame
        self.xen.place(self.domid, frame)

    def _answer(self, command: str, arguments: dict[str, Any]) -> object:
        self.commands.append(command)
        if command == "query-pci":
            address = self.frame * PAGE_SIZE or -1 if self.bar is None else self.bar
            regions = [
                {"bar": 0, "address": address, "size": self.pages * PAGE_SIZE},
                {"bar": 2, "address": MMIO, "size": PAGE_SIZE},
            ]
            ident = {"vendor": self.vendor, "device": 0x1111}
            return [{"devices": [{"id": ident, "class_info": {"class": 0x300}, "regions": regions}]}]
        if command == "human-monitor-command":
            assert arguments["command-line"] == f"xp /{bochs.COUNT}hx {MMIO + bochs.MMIO_OFFSET:#x}"
            return f"{MMIO:x}: {' '.join(f'0x{word:04x}' for word in self.words)}\r\n"
        if command == "query-mice":
            return []
        if command in ("input-send-event", "remove-fd", "add-fd"):
            return {}
        return Refusal(f"{command} is unknown")
