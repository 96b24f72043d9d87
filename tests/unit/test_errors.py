"""Error messages: one line with operation, object, reason and remedy."""

from __future__ import annotations

import errno

import pytest

from vramtap.errors import KernelError, NotFound, TargetGone, Unsupported, VramtapError
from vramtap.linux.calls import error_for, syscall


def test_message_is_one_line_of_four_parts() -> None:
    error = NotFound("connect", "qemu:/x", "no such\nsocket", "start QEMU")
    assert str(error) == "connect qemu:/x: no such socket (start QEMU)"
    assert isinstance(error, VramtapError)


def test_missing_parts_leave_no_punctuation() -> None:
    assert str(VramtapError("stop")) == "stop"
    assert str(VramtapError("stop", "", "broken")) == "stop: broken"


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.ESRCH, TargetGone, "the process has ended"),
        (errno.ENOSYS, Unsupported, "ENOSYS"),
        (errno.ENOTTY, Unsupported, "ENOTTY"),
        (errno.EPERM, KernelError, "ptrace rights"),
        (errno.EBUSY, KernelError, "another tap"),
        (errno.EFAULT, KernelError, "EFAULT"),
    ],
)
def test_errno_maps_to_error_class_with_remedy(number: int, kind: type[VramtapError], text: str) -> None:
    error = error_for("PAGEMAP_SCAN", "pid 812", number)
    assert type(error) is kind
    assert str(error).startswith("PAGEMAP_SCAN pid 812: ")
    assert text in str(error)


def test_failed_raw_call_raises_kernel_error() -> None:
    with pytest.raises(KernelError, match="close fd -1: EBADF") as caught:
        syscall("close", "fd -1", 3, -1)
    assert caught.value.errno == errno.EBADF
