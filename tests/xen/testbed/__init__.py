"""The Xen testbed: a real Xen host, its dom0 and its guests, in one QEMU process that emulates them."""

from __future__ import annotations

from typing import Final

HAP: Final = "VRAMTAP_XEN_HAP"
"""Environment variable in dom0: the paging modes to test, 0 and 1, separated by a space."""
