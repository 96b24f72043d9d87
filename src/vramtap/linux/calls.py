"""Raw system calls, and the translation of errno into vramtap's errors."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final, NoReturn

from vramtap.errors import KernelError, TargetGone, Unsupported, VramtapError

LIBC: Final = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

REMEDY_PTRACE: Final = (
    "needs ptrace rights: run as the target's user or with CAP_SYS_PTRACE; see vramtap doctor"
)

_REMEDIES: Final = {
    errno.EPERM: REMEDY_PTRACE,
    errno.EACCES: REMEDY_PTRACE,
    errno.EBUSY: "another userfaultfd holds this range: another tap, or a snapshot or postcopy of the guest",
    errno.ENOSYS: "this kernel does not have it; see vramtap doctor",
    errno.ENOTTY: "this kernel does not have it; see vramtap doctor",
}


def raise_errno(operation: str, obj: str, number: int) -> NoReturn:
    """Raise the error that an errno means.

    Args:
        operation: The call, as its manual page names it.
        obj: The object of the call.
        number: The errno.

    Raises:
        TargetGone: ESRCH: the process has ended.
        Unsupported: ENOSYS, ENOTTY: the kernel does not know the call.
        KernelError: Any other errno, with the usual remedy if there is one.
    """
    raise error_for(operation, obj, number)


def error_for(operation: str, obj: str, number: int) -> VramtapError:
    """Return the error that `raise_errno` raises."""
    if number == errno.ESRCH:
        return TargetGone(operation, obj, "the process has ended")
    kind = Unsupported if number in (errno.ENOSYS, errno.ENOTTY) else KernelError
    return kind(operation, obj, number, _REMEDIES.get(number, os.strerror(number)))


def syscall(name: str, obj: str, number: int, *args: int) -> int:
    """Make a raw system call.

    Args:
        name: Name of the call, for messages.
        obj: The object of the call, for messages.
        number: Number of the call on x86-64 (kernel: arch/x86/entry/syscalls/syscall_64.tbl).
        args: Arguments of the call, each an integer or an address.

    Returns:
        The result, never negative.

    Raises:
        VramtapError: The kernel refused; see `raise_errno`.
    """
    ctypes.set_errno(0)
    result = int(LIBC.syscall(ctypes.c_long(number), *(ctypes.c_ulong(a & (1 << 64) - 1) for a in args)))
    if result < 0:
        raise_errno(name, obj, ctypes.get_errno())
    return result
