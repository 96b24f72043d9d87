"""The error tree: everything vramtap raises on purpose, each with the four things a reader needs.

```
VramtapError                 anything below; the command line prints it as one line and exits 1
├── UsageError               a target URL or an option that means nothing (exit 2)
├── ModeError                a geometry that does not fit its memory or is out of bounds
├── AttachError              the target cannot be tapped
│   ├── NotFound             no such socket, process, display or file
│   ├── Refused              the kernel or the target said no (ptrace, permissions, busy monitor)
│   └── NotTappable          it is there, but has no framebuffer we can follow
├── KernelError              a system call failed; carries the errno
│   └── Unsupported          this kernel does not offer the interface
├── TargetGone               the target ended while it was tapped
├── ListenError              an address cannot be listened on (busy, unknown, not of this machine)
├── MissingAsset             a file of the installed package is missing
├── ProtocolError            the other side of an RFB connection broke the protocol
└── TimedOut                 what was waited for did not happen in time (exit 3 from `wait`)
```
"""

from __future__ import annotations

import errno as _errno


class VramtapError(Exception):
    """Base of all errors raised on purpose.

    Args:
        operation: What was being done, in the words of the interface (`PAGEMAP_SCAN`, `connect`).
        object: What it was done to (`pid 812 0x7f..-0x7f..`, a path, a URL).
        reason: What went wrong, with the value that was found.
        remedy: What the reader can do about it; empty if there is nothing.
    """

    def __init__(self, operation: str, object: str = "", reason: str = "", remedy: str = "") -> None:
        super().__init__(operation, object, reason, remedy)
        self.operation = operation
        self.object = object
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        """Render on one line: `operation object: reason (remedy)`."""
        head = " ".join(part for part in (self.operation, self.object) if part)
        text = f"{head}: {self.reason}" if self.reason else head
        if self.remedy:
            text += f" ({self.remedy})"
        return " ".join(text.split())


class UsageError(VramtapError):
    """A target URL or an option that means nothing."""


class ModeError(VramtapError):
    """A geometry that does not fit its memory or is out of bounds."""


class AttachError(VramtapError):
    """The target cannot be tapped."""


class NotFound(AttachError):
    """No such socket, process, display or file."""


class Refused(AttachError):
    """The kernel or the target said no."""


class NotTappable(AttachError):
    """The target is there, but has no framebuffer that can be followed."""


class KernelError(VramtapError):
    """A system call failed.

    Args:
        operation: The call, as the manual names it.
        object: What it was called on.
        errno: The error number the kernel gave.
        remedy: What the reader can do about it.
    """

    def __init__(self, operation: str, object: str, errno: int, remedy: str = "") -> None:
        super().__init__(operation, object, _errno.errorcode.get(errno, str(errno)), remedy)
        self.errno = errno


class Unsupported(KernelError):
    """This kernel does not offer the interface."""


class TargetGone(VramtapError):
    """The target ended while it was tapped."""


class ListenError(VramtapError):
    """An address cannot be listened on: it is busy, unknown or not an address of this machine."""


class MissingAsset(VramtapError):
    """A file that belongs to the installed package is missing."""


class ProtocolError(VramtapError):
    """The other side of an RFB connection broke the protocol."""


class TimedOut(VramtapError):
    """What was waited for did not happen in time."""
