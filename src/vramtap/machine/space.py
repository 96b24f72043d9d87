"""The machine's video RAM as an address space: this process's memory, and guest frames too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vramtap.errors import VramtapError
from vramtap.machine.layout import VRAM_BASE, VRAM_BYTES
from vramtap.memory.extent import Extent
from vramtap.memory.own import OwnSpace
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vramtap.machine.cpu import Cpu
    from vramtap.machine.memory import GuestMemory
    from vramtap.machine.run_notifier import RunNotifier


class Stoppable(Protocol):
    """What a tracker needs of the machine; `machine.machine.Machine` is it."""

    memory: GuestMemory
    runs: RunNotifier
    """When the CPU runs, and when it stands still."""

    @property
    def cpu(self) -> Cpu:
        """To be touched inside `paused` only, `kick` excepted."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """While inside, the CPU is stopped.

        May be entered from any thread but the machine's own, and more than once at a time.

        Raises:
            TargetGone: the machine has ended.
        """
        ...


class GuestSpace(OwnSpace):
    """The machine's memory at its addresses in this process.

    Args:
        machine: Whose memory it is.
    """

    def __init__(self, machine: Stoppable) -> None:
        super().__init__(keep=machine.memory)
        self.name = "machine"
        self.machine = machine

    def frame_of(self, address: int) -> int:
        """The guest-physical address of an address of this process inside the video RAM.

        Raises:
            VramtapError: it is not inside.
        """
        offset = address - self.machine.memory.vram.ctypes.data
        if not 0 <= offset < VRAM_BYTES:
            raise VramtapError("guest frame", f"{address:#x}", "is not in the machine's video RAM")
        return VRAM_BASE + offset


def vram_extent(machine: Stoppable) -> Extent:
    """All of a machine's video RAM."""
    return Extent(GuestSpace(machine), machine.memory.vram.ctypes.data, VRAM_BYTES // PAGE_SIZE)


def guest_space(extent: Extent) -> tuple[GuestSpace, int]:
    """The machine behind an extent, and the guest-physical address it begins at.

    Raises:
        VramtapError: no machine of ours is behind it.
    """
    if not isinstance(extent.space, GuestSpace):
        raise VramtapError(
            "guest frames", str(extent), "not memory of the embedded machine", "use it with demo: targets"
        )
    return extent.space, extent.space.frame_of(extent.address)
