"""The Xen testbed: a real Xen host, its dom0 and its guests, all in one process of emulated QEMU."""

from __future__ import annotations

from typing import Final

HAP: Final = "VRAMTAP_XEN_HAP"
"""Environment variable in dom0: the paging modes that its tests try, of 0 and 1, apart by a space."""
