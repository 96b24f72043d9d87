"""KVM descriptors: errors of closed descriptors, argument checks, and remedies in messages."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.testbed.nobody import as_nobody
from vramtap.errors import KernelError, NotFound, Refused, Unsupported, VramtapError
from vramtap.linux import kvm_abi as abi
from vramtap.linux.kvm import Kvm, Vcpu, Vm

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable
    from pathlib import Path

BITMAP = np.zeros(8, dtype=np.uint8)


def closed() -> int:
    """Return the number of a closed descriptor."""
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    return fd


def refused(call: Callable[[], object], number: int = errno.EBADF) -> KernelError:
    with pytest.raises(KernelError) as caught:
        call()
    assert caught.value.errno == number
    return caught.value


def test_closed_device_gives_ebadf() -> None:
    kvm = Kvm(closed())
    for call in (kvm.api_version, kvm.supported_cpuid, kvm.create_vm):
        refused(call)
    error = refused(lambda: kvm.check_extension(abi.KVM_CAP_DIRTY_LOG_RING))
    assert "KVM_CHECK_EXTENSION /dev/kvm: EBADF" in str(error)


def test_closed_vm_gives_ebadf() -> None:
    vm = Vm(closed(), 4096)
    calls: list[Callable[[], object]] = [
        vm.create_vcpu,
        vm.enable_manual_protect,
        vm.reset_dirty_rings,
        lambda: vm.set_tss_address(0x1000),
        lambda: vm.enable_dirty_rings(1024),
        lambda: vm.set_memory(0, 0, 0, 4096),
    ]
    for call in calls:
        refused(call)


def test_dirty_log_of_unknown_slot_is_refused() -> None:
    vm = Vm(closed(), 4096)
    with pytest.raises(ValueError, match="slot 3"):
        vm.dirty_log(3)
    with pytest.raises(ValueError, match="slot 3"):
        vm.clear_dirty_log(3, 0, BITMAP)


@pytest.mark.parametrize(("first", "size"), [(1, 8), (-64, 8), (128, 8), (0, 7), (0, 0)])
def test_clear_refuses_partial_granules_and_pages_outside_slot(
    monkeypatch: pytest.MonkeyPatch, first: int, size: int
) -> None:
    vm = Vm(closed(), 4096)
    monkeypatch.setattr(vm, "_pages", {0: 100})
    with pytest.raises(ValueError, match="granules"):
        vm.clear_dirty_log(0, first, np.zeros(size, dtype=np.uint8))


@pytest.mark.parametrize(("bits", "pages"), [(64, 64), (128, 100), (192, 100)])
def test_clear_is_limited_to_end_of_slot(monkeypatch: pytest.MonkeyPatch, bits: int, pages: int) -> None:
    vm = Vm(closed(), 4096)
    monkeypatch.setattr(vm, "_pages", {0: 100})
    error = refused(lambda: vm.clear_dirty_log(0, 0, np.zeros(bits // 8, dtype=np.uint8)))
    assert f"pages 0+{pages}" in error.object


def test_vcpu_that_cannot_be_mapped_closes_its_descriptor() -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    error = refused(lambda: Vcpu(fd, 4096), errno.ENODEV)
    assert error.operation == "mmap"
    with pytest.raises(OSError, match=str(errno.EBADF)):
        os.close(fd)


def test_closed_vcpu_gives_ebadf(tmp_path: Path) -> None:
    # The test needs a mappable file only; its ioctls fail.
    path = tmp_path / "vcpu"
    path.write_bytes(bytes(8192))
    vcpu = Vcpu(os.open(path, os.O_RDWR), 4096)
    refused(vcpu.regs, errno.ENOTTY)
    vcpu.close()
    calls: list[Callable[[], object]] = [
        vcpu.run,
        vcpu.regs,
        vcpu.sregs,
        lambda: vcpu.set_regs(abi.KvmRegs()),
        lambda: vcpu.set_sregs(abi.KvmSregs()),
        lambda: vcpu.set_cpuid(abi.KvmCpuid2()),
        lambda: vcpu.set_signal_mask([1, 64]),
    ]
    for call in calls:
        refused(call)
    vcpu.close()


def test_signal_mask_has_layout_of_kernel_sigset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "vcpu"
    path.write_bytes(bytes(4096))
    seen = []

    def ioctl(fd: int, request: int, argument: ctypes.Structure) -> int:
        seen.append((request, bytes(argument)))
        return 0

    with Vcpu(os.open(path, os.O_RDWR), 4096) as vcpu:
        monkeypatch.setattr("fcntl.ioctl", ioctl)
        vcpu.set_signal_mask([1, 3, 64])
    assert seen == [(abi.KVM_SET_SIGNAL_MASK, b"\x08\0\0\0" + bytes([0b101, 0, 0, 0, 0, 0, 0, 0x80]))]


def test_interrupted_reset_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([errno.EINTR, errno.EINTR, 0])

    def ioctl(fd: int, request: int, argument: int) -> int:
        number = next(answers)
        if number:
            raise OSError(number, "")
        return 0

    monkeypatch.setattr("fcntl.ioctl", ioctl)
    Vm(closed(), 4096).reset_dirty_rings()
    assert next(answers, None) is None


def test_missing_device_error_names_kernel_modules(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"open .*/kvm: ENOENT \(load kvm_intel or kvm_amd"):
        Kvm.open(str(tmp_path / "kvm"))


def test_permission_error_names_kvm_group() -> None:
    refused = pytest.raises(Refused, match=r"open /dev/kvm: EACCES \(add the user to group kvm")
    with as_nobody(), refused:
        Kvm.open()


def test_eperm_error_names_container(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: str, flags: int) -> int:
        raise PermissionError(errno.EPERM, path)

    monkeypatch.setattr("os.open", deny)
    with pytest.raises(Refused, match=r"EPERM \(allow the container"):
        Kvm.open()


def test_other_device_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"KVM_GET_API_VERSION /dev/null: ENOTTY"):
        Kvm.open("/dev/null")


def test_other_api_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.ioctl", lambda *arguments: 11)
    with pytest.raises(VramtapError, match="version 11, not 12"):
        Kvm.open("/dev/null")
