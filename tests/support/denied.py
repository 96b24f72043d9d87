"""Runs a program to which the kernel denies something, as a container's filter or an older kernel would.

`python denied.py WHAT PROGRAM ARGUMENT...`, where WHAT is one of `DENIALS`. The filter goes to children too.
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
        number: Of the call on x86-64 (asm/unistd_64.h).
        errno: What it fails with.
        second_argument: Only calls with this second argument fail, if it is not None.
        third_argument: The same for the third.
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
    # _IOWR('f', 16, struct pm_scan_arg) of linux/fs.h; kernels that do not know it say ENOTTY.
    "PAGEMAP_SCAN": Denial(16, errno.ENOTTY, 0xC0606610),
    # openat(2) for reading and writing, of nothing new, is how a device is opened: O_RDWR | O_CLOEXEC.
    "devices": Denial(257, errno.EACCES, third_argument=os.O_RDWR | os.O_CLOEXEC),
}

# linux/bpf_common.h and linux/filter.h: what a step does.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
# linux/seccomp.h: where struct seccomp_data has what is loaded, and what is returned.
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
    """Let the call fail in this process and all its children, for good.

    Raises:
        OSError: the kernel takes no filter.
    """
    tests = [(_AT_ARCHITECTURE, _X86_64), (_AT_NUMBER, denial.number)]
    if denial.second_argument is not None:
        tests.append((_AT_SECOND_ARGUMENT, denial.second_argument))
    if denial.third_argument is not None:
        tests.append((_AT_THIRD_ARGUMENT, denial.third_argument))
    steps: list[_Step] = []
    for left, (at, value) in zip(range(len(tests), 0, -1), tests, strict=True):
        # Where it differs, past the rest of the tests and the failure.
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
