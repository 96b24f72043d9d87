"""ABI structs and ioctl numbers of KVM on x86-64.

Each docstring names the C type, in linux/kvm.h or asm/kvm.h. A test compiles a C probe and compares every
size, offset and number with it.
"""

from __future__ import annotations

import ctypes
from typing import ClassVar, Final

_u64 = ctypes.c_uint64
_u32 = ctypes.c_uint32
_u16 = ctypes.c_uint16
_u8 = ctypes.c_uint8


class KvmUserspaceMemoryRegion(ctypes.Structure):
    """`struct kvm_userspace_memory_region`."""

    _fields_: ClassVar = [
        ("slot", _u32),
        ("flags", _u32),
        ("guest_phys_addr", _u64),
        ("memory_size", _u64),
        ("userspace_addr", _u64),
    ]


class KvmDirtyLog(ctypes.Structure):
    """`struct kvm_dirty_log`."""

    _fields_: ClassVar = [("slot", _u32), ("padding1", _u32), ("dirty_bitmap", _u64)]


class KvmClearDirtyLog(ctypes.Structure):
    """`struct kvm_clear_dirty_log`."""

    _fields_: ClassVar = [
        ("slot", _u32),
        ("num_pages", _u32),
        ("first_page", _u64),
        ("dirty_bitmap", _u64),
    ]


class KvmEnableCap(ctypes.Structure):
    """`struct kvm_enable_cap`."""

    _fields_: ClassVar = [("cap", _u32), ("flags", _u32), ("args", _u64 * 4), ("pad", _u8 * 64)]


class KvmDirtyGfn(ctypes.Structure):
    """`struct kvm_dirty_gfn`: one entry of a dirty ring."""

    _fields_: ClassVar = [("flags", _u32), ("slot", _u32), ("offset", _u64)]


class KvmSignalMask(ctypes.Structure):
    """`struct kvm_signal_mask`, followed by the kernel's sigset of eight bytes, which the C struct lacks."""

    _fields_: ClassVar = [("len", _u32), ("sigset", _u8 * 8)]


class KvmRegs(ctypes.Structure):
    """`struct kvm_regs`."""

    _fields_: ClassVar = [
        (name, _u64)
        for name in (
            *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
            *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
        )
    ]


class KvmSegment(ctypes.Structure):
    """`struct kvm_segment`."""

    _fields_: ClassVar = [
        ("base", _u64),
        ("limit", _u32),
        ("selector", _u16),
        *((name, _u8) for name in ("type", "present", "dpl", "db", "s", "l", "g", "avl")),
        ("unusable", _u8),
        ("padding", _u8),
    ]


class KvmDtable(ctypes.Structure):
    """`struct kvm_dtable`."""

    _fields_: ClassVar = [("base", _u64), ("limit", _u16), ("padding", _u16 * 3)]


class KvmSregs(ctypes.Structure):
    """`struct kvm_sregs`."""

    _fields_: ClassVar = [
        *((name, KvmSegment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        ("gdt", KvmDtable),
        ("idt", KvmDtable),
        *((name, _u64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", _u64 * 4),
    ]


class KvmCpuidEntry2(ctypes.Structure):
    """`struct kvm_cpuid_entry2`."""

    _fields_: ClassVar = [
        *((name, _u32) for name in ("function", "index", "flags", "eax", "ebx", "ecx", "edx")),
        ("padding", _u32 * 3),
    ]


CPUID_ENTRIES: Final = 256
"""Most entries that KVM_GET_SUPPORTED_CPUID returns (KVM_MAX_CPUID_ENTRIES, 256)."""


class KvmCpuid2(ctypes.Structure):
    """`struct kvm_cpuid2`, followed by its entries, which the C struct lacks."""

    _fields_: ClassVar = [("nent", _u32), ("padding", _u32), ("entries", KvmCpuidEntry2 * CPUID_ENTRIES)]


class ExitIo(ctypes.Structure):
    """`kvm_run.io`."""

    _fields_: ClassVar = [
        ("direction", _u8),
        ("size", _u8),
        ("port", _u16),
        ("count", _u32),
        ("data_offset", _u64),
    ]


class ExitMmio(ctypes.Structure):
    """`kvm_run.mmio`."""

    _fields_: ClassVar = [("phys_addr", _u64), ("data", _u8 * 8), ("len", _u32), ("is_write", _u8)]


class ExitFailEntry(ctypes.Structure):
    """`kvm_run.fail_entry`."""

    _fields_: ClassVar = [("hardware_entry_failure_reason", _u64), ("cpu", _u32)]


class ExitInternal(ctypes.Structure):
    """`kvm_run.internal`."""

    _fields_: ClassVar = [("suberror", _u32), ("ndata", _u32), ("data", _u64 * 16)]


class ExitUnion(ctypes.Union):
    """The members of the union in `struct kvm_run` that vramtap uses."""

    _fields_: ClassVar = [
        ("io", ExitIo),
        ("mmio", ExitMmio),
        ("fail_entry", ExitFailEntry),
        ("internal", ExitInternal),
        ("padding", _u8 * 256),
    ]


class KvmRun(ctypes.Structure):
    """`struct kvm_run` up to the end of its union of exits."""

    _fields_: ClassVar = [
        ("request_interrupt_window", _u8),
        ("immediate_exit", _u8),
        ("padding1", _u8 * 6),
        ("exit_reason", _u32),
        ("ready_for_interrupt_injection", _u8),
        ("if_flag", _u8),
        ("flags", _u16),
        ("cr8", _u64),
        ("apic_base", _u64),
        ("exit", ExitUnion),
    ]


_NONE, _WRITE, _READ = 0, 1, 2
_KVMIO: Final = 0xAE


def _io(direction: int, number: int, size_bytes: int = 0) -> int:
    """`_IOC` (asm-generic/ioctl.h): direction in bits 30-31, size 16-29, type 8-15, number 0-7."""
    return direction << 30 | size_bytes << 16 | _KVMIO << 8 | number


_FLEXIBLE_CPUID: Final = KvmCpuid2.entries.offset
_FLEXIBLE_MASK: Final = KvmSignalMask.sigset.offset

KVM_GET_API_VERSION: Final = _io(_NONE, 0x00)
KVM_CREATE_VM: Final = _io(_NONE, 0x01)
KVM_CHECK_EXTENSION: Final = _io(_NONE, 0x03)
KVM_GET_VCPU_MMAP_SIZE: Final = _io(_NONE, 0x04)
KVM_GET_SUPPORTED_CPUID: Final = _io(_READ | _WRITE, 0x05, _FLEXIBLE_CPUID)
KVM_CREATE_VCPU: Final = _io(_NONE, 0x41)
KVM_GET_DIRTY_LOG: Final = _io(_WRITE, 0x42, ctypes.sizeof(KvmDirtyLog))
KVM_SET_USER_MEMORY_REGION: Final = _io(_WRITE, 0x46, ctypes.sizeof(KvmUserspaceMemoryRegion))
KVM_SET_TSS_ADDR: Final = _io(_NONE, 0x47)
KVM_RUN: Final = _io(_NONE, 0x80)
KVM_GET_REGS: Final = _io(_READ, 0x81, ctypes.sizeof(KvmRegs))
KVM_SET_REGS: Final = _io(_WRITE, 0x82, ctypes.sizeof(KvmRegs))
KVM_GET_SREGS: Final = _io(_READ, 0x83, ctypes.sizeof(KvmSregs))
KVM_SET_SREGS: Final = _io(_WRITE, 0x84, ctypes.sizeof(KvmSregs))
KVM_SET_SIGNAL_MASK: Final = _io(_WRITE, 0x8B, _FLEXIBLE_MASK)
KVM_SET_CPUID2: Final = _io(_WRITE, 0x90, _FLEXIBLE_CPUID)
KVM_ENABLE_CAP: Final = _io(_WRITE, 0xA3, ctypes.sizeof(KvmEnableCap))
KVM_CLEAR_DIRTY_LOG: Final = _io(_READ | _WRITE, 0xC0, ctypes.sizeof(KvmClearDirtyLog))
KVM_RESET_DIRTY_RINGS: Final = _io(_NONE, 0xC7)

KVM_API_VERSION: Final = 12

KVM_CAP_USER_MEMORY: Final = 3
KVM_CAP_IMMEDIATE_EXIT: Final = 136
KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: Final = 168
KVM_CAP_DIRTY_LOG_RING: Final = 192

KVM_MEM_LOG_DIRTY_PAGES: Final = 1 << 0
KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: Final = 1 << 0
KVM_DIRTY_LOG_PAGE_OFFSET: Final = 64
"""Page offset of the dirty ring in the vCPU's mapping."""
KVM_DIRTY_GFN_F_DIRTY: Final = 1 << 0
KVM_DIRTY_GFN_F_RESET: Final = 1 << 1

KVM_EXIT_IO_IN: Final = 0
KVM_EXIT_IO_OUT: Final = 1

KVM_EXIT_IO: Final = 2
KVM_EXIT_HLT: Final = 5
KVM_EXIT_MMIO: Final = 6
KVM_EXIT_SHUTDOWN: Final = 8
KVM_EXIT_FAIL_ENTRY: Final = 9
KVM_EXIT_INTR: Final = 10
KVM_EXIT_INTERNAL_ERROR: Final = 17
KVM_EXIT_DIRTY_RING_FULL: Final = 31
