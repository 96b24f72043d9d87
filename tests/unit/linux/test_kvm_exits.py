"""Decoding of KVM exits: each gives the right object, and no data outside the mapping."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.errors import VramtapError
from vramtap.linux import kvm_abi as abi
from vramtap.linux import kvm_exits as exits

MAPPING = memoryview(bytearray(range(256)) * 32)


def run_of(reason: int) -> abi.KvmRun:
    return abi.KvmRun(exit_reason=reason)


def io_of(direction: int, size: int, count: int, offset: int) -> abi.KvmRun:
    run = run_of(abi.KVM_EXIT_IO)
    run.exit.io = abi.ExitIo(direction=direction, size=size, port=0x1CE, count=count, data_offset=offset)
    return run


def test_port_writes_of_rep_outs_contain_all_bytes() -> None:
    io = exits.decode(io_of(abi.KVM_EXIT_IO_OUT, 2, 3, 4096), MAPPING)
    assert isinstance(io, exits.Io)
    assert (io.port, io.size, io.count, io.outward) == (0x1CE, 2, 3, True)
    assert bytes(io.data) == bytes(range(6))


def test_port_read_answer_is_written_to_mapping() -> None:
    mapping = memoryview(bytearray(8192))
    io = exits.decode(io_of(abi.KVM_EXIT_IO_IN, 4, 1, 4096), mapping)
    assert isinstance(io, exits.Io)
    assert not io.outward
    io.data[:] = b"\x01\x02\x03\x04"
    assert bytes(mapping[4096:4100]) == b"\x01\x02\x03\x04"


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_port_data_outside_mapping_is_refused(size: int, count: int, offset: int) -> None:
    run = io_of(abi.KVM_EXIT_IO_OUT, size, count, offset)
    if offset + size * count > len(MAPPING):
        with pytest.raises(VramtapError, match="port 0x1ce"):
            exits.decode(run, MAPPING)
    else:
        io = exits.decode(run, MAPPING)
        assert isinstance(io, exits.Io)
        assert len(io.data) == size * count


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (abi.KVM_EXIT_HLT, exits.Halt()),
        (abi.KVM_EXIT_SHUTDOWN, exits.Shutdown()),
        (abi.KVM_EXIT_DIRTY_RING_FULL, exits.DirtyRingFull()),
        (abi.KVM_EXIT_INTR, exits.Interrupted()),
        (37, exits.Other(37)),
    ],
)
def test_exits_without_data(reason: int, expected: exits.VmExit) -> None:
    assert exits.decode(run_of(reason), MAPPING) == expected


def test_mmio_exit_has_address_and_size() -> None:
    run = run_of(abi.KVM_EXIT_MMIO)
    run.exit.mmio = abi.ExitMmio(phys_addr=0x9000_0000, len=8, is_write=1)
    assert exits.decode(run, MAPPING) == exits.Mmio(0x9000_0000, 8, is_write=True)


def test_error_exits_have_codes_and_bounded_data() -> None:
    run = run_of(abi.KVM_EXIT_INTERNAL_ERROR)
    run.exit.internal = abi.ExitInternal(suberror=1, ndata=2)
    run.exit.internal.data[:3] = (7, 8, 9)
    assert exits.decode(run, MAPPING) == exits.InternalError(1, (7, 8))
    run.exit.internal.ndata = 2**32 - 1
    error = exits.decode(run, MAPPING)
    assert isinstance(error, exits.InternalError)
    assert len(error.data) == 16
    run = run_of(abi.KVM_EXIT_FAIL_ENTRY)
    run.exit.fail_entry = abi.ExitFailEntry(hardware_entry_failure_reason=0x8000_0021, cpu=1)
    assert exits.decode(run, MAPPING) == exits.FailEntry(0x8000_0021)
