"""Exits of KVM_RUN as typed objects."""

from __future__ import annotations

from dataclasses import dataclass

from vramtap.errors import VramtapError
from vramtap.linux import kvm_abi as abi


@dataclass(frozen=True, slots=True)
class Io:
    """The guest accesses a port: KVM_EXIT_IO.

    Args:
        port: Number of the port.
        size: Bytes per access: 1, 2 or 4.
        count: Number of consecutive accesses; more than one for `rep ins` and `rep outs`.
        outward: True for `out`: `data` holds what the guest writes. False for `in`: the caller writes the
            answer to `data`.
        data: `size * count` bytes of the vCPU's mapping, valid until the next run. KVM completes the access
            and updates the registers at the beginning of the next run.
    """

    port: int
    size: int
    count: int
    outward: bool
    data: memoryview


@dataclass(frozen=True, slots=True)
class Halt:
    """The guest executed `hlt`: KVM_EXIT_HLT."""


@dataclass(frozen=True, slots=True)
class Mmio:
    """The guest accessed an address outside every memory slot: KVM_EXIT_MMIO.

    Args:
        address: Guest-physical address.
        size: Bytes, 1 to 8.
        is_write: True for a store, False for a load.
    """

    address: int
    size: int
    is_write: bool


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The guest ended in a triple fault: KVM_EXIT_SHUTDOWN."""


@dataclass(frozen=True, slots=True)
class DirtyRingFull:
    """The dirty ring is full; reap and reset it before the next run: KVM_EXIT_DIRTY_RING_FULL."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """KVM_RUN failed with EINTR, after a signal or `immediate_exit`. KVM has completed the last exit."""


@dataclass(frozen=True, slots=True)
class InternalError:
    """KVM cannot continue the guest: KVM_EXIT_INTERNAL_ERROR.

    Args:
        suberror: `KVM_INTERNAL_ERROR_*`; 1 means an instruction that KVM could not emulate.
        data: Data of the suberror.
    """

    suberror: int
    data: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FailEntry:
    """The processor refused the guest's state: KVM_EXIT_FAIL_ENTRY.

    Args:
        reason: Reason code of the hardware.
    """

    reason: int


@dataclass(frozen=True, slots=True)
class Other:
    """An exit reason that this module does not know.

    Args:
        reason: `KVM_EXIT_*`.
    """

    reason: int


VmExit = Io | Halt | Mmio | Shutdown | DirtyRingFull | Interrupted | InternalError | FailEntry | Other


def decode(run: abi.KvmRun, mapping: memoryview) -> VmExit:
    """Return the exit that a vCPU's mapping describes.

    Kernel: Documentation/virt/kvm/api.rst, "The kvm_run structure".

    Args:
        run: The head of the mapping.
        mapping: The whole mapping.

    Raises:
        VramtapError: The offset of port data lies outside the mapping.
    """
    reason = run.exit_reason
    if reason == abi.KVM_EXIT_IO:
        return _io(run.exit.io, mapping)
    if reason == abi.KVM_EXIT_HLT:
        return Halt()
    if reason == abi.KVM_EXIT_DIRTY_RING_FULL:
        return DirtyRingFull()
    if reason == abi.KVM_EXIT_INTR:
        return Interrupted()
    if reason == abi.KVM_EXIT_MMIO:
        mmio = run.exit.mmio
        return Mmio(mmio.phys_addr, mmio.len, bool(mmio.is_write))
    if reason == abi.KVM_EXIT_SHUTDOWN:
        return Shutdown()
    if reason == abi.KVM_EXIT_INTERNAL_ERROR:
        internal = run.exit.internal
        return InternalError(internal.suberror, tuple(internal.data[: min(internal.ndata, 16)]))
    if reason == abi.KVM_EXIT_FAIL_ENTRY:
        return FailEntry(run.exit.fail_entry.hardware_entry_failure_reason)
    return Other(reason)


def _io(io: abi.ExitIo, mapping: memoryview) -> Io:
    end = io.data_offset + io.size * io.count
    if end > len(mapping):
        raise VramtapError("KVM_EXIT_IO", f"port {io.port:#x}", f"data ends at {end} of {len(mapping)} bytes")
    outward = io.direction == abi.KVM_EXIT_IO_OUT
    return Io(io.port, io.size, io.count, outward, mapping[io.data_offset : end])
