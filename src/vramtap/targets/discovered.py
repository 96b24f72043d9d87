"""Found: something with a screen, as `vramtap ls` lists it, and how its path stands in a TARGET string."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PLAIN: Final = "/:@,=+~ !$&'()*;"
"""What stands for itself in the path of a TARGET string; percent and question mark do not."""


@dataclass(frozen=True, slots=True)
class Discovered:
    """Something with a screen.

    Args:
        url: The TARGET string that taps it, or would.
        what: What it is, in a few words (`QEMU debian`, `Xvfb`).
        pid: Its process; 0 if that is not known.
        tappable: Whether tapping it should work.
        why: If not, the reason and what would help; else empty.
    """

    url: str
    what: str
    pid: int
    tappable: bool
    why: str = ""
