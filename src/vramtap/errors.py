"""The tree of errors that vramtap raises on purpose.

```
VramtapError                 base of all; the command line prints it on one line and exits with 1
├── UsageError               a target URL or an option is invalid (exit 2)
├── ModeError                a mode does not fit its memory, or is out of bounds
├── AttachError              the target cannot be tapped
│   ├── NotFound             there is no such socket, process, display or file
│   ├── Refused              the kernel or the target refused (ptrace rights, permissions, busy monitor)
│   └── NotTappable          the target exists, but vramtap cannot follow its framebuffer
├── KernelError              a system call failed; `errno` has its error number
│   └── Unsupported          the kernel does not offer the interface
├── TargetGone               the target ended while it was tapped
├── ListenError              vramtap cannot listen on an address (busy, unknown, not of this machine)
├── MissingAsset             a file of the installed package is missing
├── ProtocolError            the peer of an RFB connection violated the protocol
└── TimedOut                 an event did not happen in time (exit 3 from `wait`)
```

Every error names the operation, its object, the reason with the value found, and what the user can do.
"""

from __future__ import annotations

import errno as _errno


class VramtapError(Exception):
    """Base of all errors that vramtap raises on purpose.

    Args:
        operation: The failed operation, by the name that the interface uses (`PAGEMAP_SCAN`, `connect`).
        object: The object of the operation (`pid 812 0x7f..-0x7f..`, a path, a URL).
        reason: What went wrong, with the value found.
        remedy: What the user can do; empty if nothing.
    """

    def __init__(self, operation: str, object: str = "", reason: str = "", remedy: str = "") -> None:
        super().__init__(operation, object, reason, remedy)
        self.operation = operation
        self.object = object
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        """Return the message on one line: `operation object: reason (remedy)`."""
        head = " ".join(part for part in (self.operation, self.object) if part)
        text = f"{head}: {self.reason}" if self.reason else head
        if self.remedy:
            text += f" ({self.remedy})"
        return " ".join(text.split())


class UsageError(VramtapError):
    """A target URL or an option is invalid."""


class ModeError(VramtapError):
    """A mode does not fit its memory, or is out of bounds."""


class AttachError(VramtapError):
    """The target cannot be tapped."""


class NotFound(AttachError):
    """There is no such socket, process, display or file."""


class Refused(AttachError):
    """The kernel or the target refused."""


class NotTappable(AttachError):
    """The target exists, but vramtap cannot follow its framebuffer."""


class KernelError(VramtapError):
    """A system call failed.

    Args:
        operation: The call, as its manual page names it.
        object: The object of the call.
        errno: The error number.
        remedy: What the user can do.
    """

    def __init__(self, operation: str, object: str, errno: int, remedy: str = "") -> None:
        super().__init__(operation, object, _errno.errorcode.get(errno, str(errno)), remedy)
        self.errno = errno


class Unsupported(KernelError):
    """The kernel does not offer the interface."""


class TargetGone(VramtapError):
    """The target ended while it was tapped."""


class ListenError(VramtapError):
    """vramtap cannot listen on an address: it is busy, unknown or not an address of this machine."""


class MissingAsset(VramtapError):
    """A file of the installed package is missing."""


class ProtocolError(VramtapError):
    """The peer of an RFB connection violated the protocol."""


class TimedOut(VramtapError):
    """An event did not happen in time."""
