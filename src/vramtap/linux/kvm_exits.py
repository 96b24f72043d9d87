"""Why KVM_RUN returned, as typed objects."""

from __future__ import annotations

from dataclasses import dataclass

from vramtap.errors import VramtapError
from vramtap.linux import kvm_abi as abi


@dataclass(frozen=True, slots=True)
class Io:
    """The guest uses a port: KVM_EXIT_IO.

    Args:
        port: Which.
        size: Bytes an access: 1, 2 or 4.
        count: How many accesses, one after the other: more than one for `rep ins` and `rep outs`.
        outward: `out`: `data` holds what the guest writes; else `data` is where the answer goes.
        data: `size * count` bytes of the vCPU's mapping, valid until the next run. The access is not
            complete, and the registers are not what they will be, until the next run has begun.
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
    """The guest touched an address that no slot holds: KVM_EXIT_MMIO.

    Args:
        address: Guest-physical.
        size: Bytes, 1 to 8.
        is_write: A store.
    """

    address: int
    size: int
    is_write: bool


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The guest ended in a triple fault: KVM_EXIT_SHUTDOWN."""


@dataclass(frozen=True, slots=True)
class DirtyRingFull:
    """The dirty ring has to be reaped and reset before the guest may go on: KVM_EXIT_DIRTY_RING_FULL."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A signal, or `immediate_exit`: KVM_RUN failed with EINTR. What the last exit left open is completed."""


@dataclass(frozen=True, slots=True)
class InternalError:
    """KVM cannot go on with the guest: KVM_EXIT_INTERNAL_ERROR.

    Args:
        suberror: `KVM_INTERNAL_ERROR_*`; 1 is an instruction that KVM could not emulate.
        data: What comes with it.
    """

    suberror: int
    data: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FailEntry:
    """The processor refused the guest's state: KVM_EXIT_FAIL_ENTRY.

    Args:
        reason: As the hardware gives it.
    """

    reason: int


@dataclass(frozen=True, slots=True)
class Other:
    """Any exit reason this module does not know.

    Args:
        reason: `KVM_EXIT_*`.
    """

    reason: int


VmExit = Io | Halt | Mmio | Shutdown | DirtyRingFull | Interrupted | InternalError | FailEntry | Other


def decode(run: abi.KvmRun, mapping: memoryview) -> VmExit:
    """The exit that a vCPU's mapping describes.

    Kernel: Documentation/virt/kvm/api.rst, "The kvm_run structure".

    Args:
        run: The head of the mapping.
        mapping: All of it.

    Raises:
        VramtapError: port data is said to lie outside of the mapping.
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
