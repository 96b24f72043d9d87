"""ABI structs and ioctl numbers of the kernel interfaces that vramtap uses.

Each docstring names the C type and its uapi header. A test compiles a C probe and compares every size,
offset and number with it.
"""

from __future__ import annotations

import ctypes
from typing import ClassVar, Final

_u64 = ctypes.c_uint64
_u32 = ctypes.c_uint32


class UffdioApi(ctypes.Structure):
    """`struct uffdio_api` (linux/userfaultfd.h)."""

    _fields_: ClassVar = [("api", _u64), ("features", _u64), ("ioctls", _u64)]


class UffdioRange(ctypes.Structure):
    """`struct uffdio_range` (linux/userfaultfd.h)."""

    _fields_: ClassVar = [("start", _u64), ("len", _u64)]


class UffdioRegister(ctypes.Structure):
    """`struct uffdio_register` (linux/userfaultfd.h)."""

    _fields_: ClassVar = [("range", UffdioRange), ("mode", _u64), ("ioctls", _u64)]


class UffdioWriteprotect(ctypes.Structure):
    """`struct uffdio_writeprotect` (linux/userfaultfd.h)."""

    _fields_: ClassVar = [("range", UffdioRange), ("mode", _u64)]


class UffdMsg(ctypes.Structure):
    """`struct uffd_msg` (linux/userfaultfd.h), with the `arg` of a page fault."""

    _fields_: ClassVar = [
        ("event", ctypes.c_uint8),
        ("reserved1", ctypes.c_uint8),
        ("reserved2", ctypes.c_uint16),
        ("reserved3", _u32),
        ("flags", _u64),
        ("address", _u64),
        ("ptid", _u32),
        ("pad", _u32),
    ]


class PageRegion(ctypes.Structure):
    """`struct page_region` (linux/fs.h)."""

    _fields_: ClassVar = [("start", _u64), ("end", _u64), ("categories", _u64)]


class PmScanArg(ctypes.Structure):
    """`struct pm_scan_arg` (linux/fs.h)."""

    _fields_: ClassVar = [
        ("size", _u64),
        ("flags", _u64),
        ("start", _u64),
        ("end", _u64),
        ("walk_end", _u64),
        ("vec", _u64),
        ("vec_len", _u64),
        ("max_pages", _u64),
        ("category_inverted", _u64),
        ("category_mask", _u64),
        ("category_anyof_mask", _u64),
        ("return_mask", _u64),
    ]


class ProcmapQuery(ctypes.Structure):
    """`struct procmap_query` (linux/fs.h, since 6.11)."""

    _fields_: ClassVar = [
        ("size", _u64),
        ("query_flags", _u64),
        ("query_addr", _u64),
        ("vma_start", _u64),
        ("vma_end", _u64),
        ("vma_flags", _u64),
        ("vma_page_size", _u64),
        ("vma_offset", _u64),
        ("inode", _u64),
        ("dev_major", _u32),
        ("dev_minor", _u32),
        ("vma_name_size", _u32),
        ("build_id_size", _u32),
        ("vma_name_addr", _u64),
        ("build_id_addr", _u64),
    ]


class UserRegs(ctypes.Structure):
    """`struct user_regs_struct` of x86-64 (sys/user.h)."""

    _fields_: ClassVar = [
        (name, _u64)
        for name in (
            *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi"),
            *(
                "rdi",
                "orig_rax",
                "rip",
                "cs",
                "eflags",
                "rsp",
                "ss",
                "fs_base",
                "gs_base",
                "ds",
                "es",
                "fs",
                "gs",
            ),
        )
    ]


class RseqConfiguration(ctypes.Structure):
    """`struct ptrace_rseq_configuration` (linux/ptrace.h, since 5.13)."""

    _fields_: ClassVar = [
        ("rseq_abi_pointer", _u64),
        ("rseq_abi_size", _u32),
        ("signature", _u32),
        ("flags", _u32),
        ("pad", _u32),
    ]


class RseqArea(ctypes.Structure):
    """The first members of `struct rseq` (linux/rseq.h)."""

    _fields_: ClassVar = [("cpu_id_start", _u32), ("cpu_id", _u32), ("rseq_cs", _u64)]


class RseqSequence(ctypes.Structure):
    """`struct rseq_cs` (linux/rseq.h)."""

    _fields_: ClassVar = [
        ("version", _u32),
        ("flags", _u32),
        ("start_ip", _u64),
        ("post_commit_offset", _u64),
        ("abort_ip", _u64),
    ]


_WRITE, _READ = 1, 2


def _ioc(direction: int, kind: int, number: int, struct: type[ctypes.Structure]) -> int:
    """`_IOC` (asm-generic/ioctl.h): direction in bits 30-31, size 16-29, type 8-15, number 0-7."""
    return direction << 30 | ctypes.sizeof(struct) << 16 | kind << 8 | number


UFFDIO_API: Final = _ioc(_READ | _WRITE, 0xAA, 0x3F, UffdioApi)
UFFDIO_REGISTER: Final = _ioc(_READ | _WRITE, 0xAA, 0x00, UffdioRegister)
UFFDIO_UNREGISTER: Final = _ioc(_READ, 0xAA, 0x01, UffdioRange)
UFFDIO_WAKE: Final = _ioc(_READ, 0xAA, 0x02, UffdioRange)
UFFDIO_WRITEPROTECT: Final = _ioc(_READ | _WRITE, 0xAA, 0x06, UffdioWriteprotect)
PAGEMAP_SCAN: Final = _ioc(_READ | _WRITE, ord("f"), 16, PmScanArg)
PROCMAP_QUERY: Final = _ioc(_READ | _WRITE, ord("f"), 17, ProcmapQuery)

UFFD_API: Final = 0xAA
UFFD_USER_MODE_ONLY: Final = 1
UFFD_FEATURE_PAGEFAULT_FLAG_WP: Final = 1 << 0
UFFD_FEATURE_EVENT_REMAP: Final = 1 << 2
UFFD_FEATURE_EVENT_REMOVE: Final = 1 << 3
UFFD_FEATURE_EVENT_UNMAP: Final = 1 << 6
UFFD_FEATURE_WP_HUGETLBFS_SHMEM: Final = 1 << 12
UFFD_FEATURE_WP_UNPOPULATED: Final = 1 << 13
UFFD_FEATURE_WP_ASYNC: Final = 1 << 15
UFFDIO_REGISTER_MODE_WP: Final = 1 << 1
UFFDIO_WRITEPROTECT_MODE_WP: Final = 1 << 0
UFFD_EVENT_PAGEFAULT: Final = 0x12
UFFD_EVENT_REMAP: Final = 0x14

PAGE_IS_WPALLOWED: Final = 1 << 0
PAGE_IS_WRITTEN: Final = 1 << 1
PM_SCAN_WP_MATCHING: Final = 1 << 0
PM_SCAN_CHECK_WPASYNC: Final = 1 << 1

PROCMAP_QUERY_VMA_READABLE: Final = 0x01
PROCMAP_QUERY_VMA_WRITABLE: Final = 0x02

SYS_CLOSE: Final = 3
SYS_USERFAULTFD: Final = 323
SYS_PIDFD_OPEN: Final = 434
SYS_PIDFD_GETFD: Final = 438
