"""Video RAM of the built-in VM as an address space: memory of this process with guest-physical addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vramtap.errors import VramtapError
from vramtap.machine.layout import VRAM_BASE, VRAM_BYTES
from vramtap.machine.watch import MachineEvents
from vramtap.memory.extent import Extent
from vramtap.memory.own import OwnSpace
from vramtap.pages import PAGE_SIZE

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vramtap.machine.cpu import Cpu
    from vramtap.machine.memory import GuestMemory
    from vramtap.machine.run_notifier import RunNotifier


class PausableMachine(Protocol):
    """What a tracker needs of the built-in VM. `machine.machine.Machine` provides it."""

    memory: GuestMemory
    runs: RunNotifier
    """Reports when the CPU runs and when it stands still."""

    @property
    def cpu(self) -> Cpu:
        """The CPU. Only `kick` may be called outside `paused`."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Keep the CPU stopped inside the `with` block.

        Any thread but the machine's own may enter, and several at a time.

        Raises:
            TargetGone: the machine has ended.
        """
        ...


class GuestSpace(OwnSpace):
    """Memory of the built-in VM, at its addresses in this process.

    Args:
        machine: The VM.
    """

    def __init__(self, machine: PausableMachine) -> None:
        super().__init__(keep=machine.memory)
        self.name = "machine"
        self.machine = machine

    @property
    def events(self) -> MachineEvents:
        """Runs of the CPU and stores by devices."""
        return MachineEvents(self.machine)

    def frame_of(self, address: int) -> int:
        """Return the guest-physical address of an address of this process inside the video RAM.

        Raises:
            VramtapError: the address is not inside the video RAM.
        """
        offset = address - self.machine.memory.vram.ctypes.data
        if not 0 <= offset < VRAM_BYTES:
            raise VramtapError("guest frame", f"{address:#x}", "is not in the built-in VM's video RAM")
        return VRAM_BASE + offset


def vram_extent(machine: PausableMachine) -> Extent:
    """Return the extent of all video RAM of a VM."""
    return Extent(GuestSpace(machine), machine.memory.vram.ctypes.data, VRAM_BYTES // PAGE_SIZE)


def guest_space(extent: Extent) -> tuple[GuestSpace, int]:
    """Return the VM's address space behind an extent, and the guest-physical address where the extent begins.

    Raises:
        VramtapError: the extent is not memory of the built-in VM.
    """
    if not isinstance(extent.space, GuestSpace):
        raise VramtapError(
            "guest frames", str(extent), "not memory of the built-in VM", "use it with demo: targets"
        )
    return extent.space, extent.space.frame_of(extent.address)
