"""`Discovered`: a screen that vramtap found on this machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovered:
    """A screen that vramtap found on this machine, as `vramtap.discover()` returns it.

    Args:
        url: The TARGET string for `vramtap.open()` and the command line (`qemu:/run/vm.qmp`, `x11::99`).
            It is a pattern such as `qemu:PATH` if the screen cannot be named.
        kind: The part of `url` before the first colon: `qemu`, `xen` or `x11`.
        description: What it is, in a few words (`QEMU debian`, `Xvfb`).
        pid: Id of the process that holds the screen; 0 if it is not known.
        reason: Why the screen cannot be tapped, and what would help; empty if it can be tapped.
    """

    url: str
    kind: str
    description: str
    pid: int = 0
    reason: str = ""

    @property
    def tappable(self) -> bool:
        """Whether `vramtap.open(url)` is expected to work for this user."""
        return not self.reason
