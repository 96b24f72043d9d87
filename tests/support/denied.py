"""Runs a program for which a system call fails, as under a container's filter or an older kernel.

`python denied.py WHAT PROGRAM ARGUMENT...`, where WHAT is one of `DENIALS`. Children inherit the filter.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from typing import Final, NamedTuple


class Denial(NamedTuple):
    """A system call that fails.

    Args:
        number: Number of the call on x86-64 (asm/unistd_64.h).
        errno: Error number with which it fails.
        second_argument: If not None, only calls with this second argument fail.
        third_argument: The same for the third argument.
    """

    number: int
    errno: int
    second_argument: int | None = None
    third_argument: int | None = None


DENIALS: Final = {
    "userfaultfd": Denial(323, errno.EPERM),
    "ptrace": Denial(101, errno.EPERM),
    "pidfd_getfd": Denial(438, errno.EPERM),
    "process_vm_readv": Denial(310, errno.EPERM),
    # _IOWR('f', 16, struct pm_scan_arg) of linux/fs.h; kernels without it return ENOTTY.
    "PAGEMAP_SCAN": Denial(16, errno.ENOTTY, 0xC0606610),
    # openat(2) with O_RDWR | O_CLOEXEC and no other flag opens devices.
    "devices": Denial(257, errno.EACCES, third_argument=os.O_RDWR | os.O_CLOEXEC),
}

# Operation codes of a step (linux/bpf_common.h, linux/filter.h).
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
# Offsets in struct seccomp_data, and return values (linux/seccomp.h).
_AT_NUMBER, _AT_ARCHITECTURE, _AT_SECOND_ARGUMENT, _AT_THIRD_ARGUMENT = 0, 4, 24, 32
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_X86_64: Final = 0xC000003E
# linux/prctl.h
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_MODE_FILTER: Final = 2


class _Step(ctypes.Structure):
    """struct sock_filter of linux/filter.h."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Step)))


def deny(denial: Denial) -> None:
    """Make the call fail in this process and its children until they end.

    Raises:
        OSError: the kernel refuses the filter.
    """
    tests = [(_AT_ARCHITECTURE, _X86_64), (_AT_NUMBER, denial.number)]
    if denial.second_argument is not None:
        tests.append((_AT_SECOND_ARGUMENT, denial.second_argument))
    if denial.third_argument is not None:
        tests.append((_AT_THIRD_ARGUMENT, denial.third_argument))
    steps: list[_Step] = []
    for left, (at, value) in zip(range(len(tests), 0, -1), tests, strict=True):
        # If the value differs, jump past the other tests and the failure.
        steps += [_Step(_LOAD, 0, 0, at), _Step(_JUMP_IF_EQUAL, 0, 2 * left - 1, value)]
    steps += [_Step(_RETURN, 0, 0, _FAIL | denial.errno), _Step(_RETURN, 0, 0, _ALLOW)]
    program = _Program(len(steps), (_Step * len(steps))(*steps))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    deny(DENIALS[sys.argv[1]])
    os.execvp(sys.argv[2], sys.argv[2:])
