"""What vramtap may leave behind in a process: protected mappings and descriptors."""

from __future__ import annotations

import contextlib
import os
from collections import Counter

from vramtap.linux.procfs import vm_flags


def protections(pid: int) -> list[str]:
    """Return the mappings that are registered with a userfaultfd for write protection."""
    return [str(mapping) for mapping, flags in vm_flags(pid) if "uw" in flags]


def descriptors(pid: int) -> Counter[str]:
    """Count the descriptors of a process by kind."""
    kinds: Counter[str] = Counter()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            kinds[os.readlink(f"/proc/{pid}/fd/{entry}").partition(":[")[0]] += 1
    return kinds
