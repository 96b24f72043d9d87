"""Workloads of the guest that comes with the package, as its command line names them."""

from __future__ import annotations

from typing import Final

MEASURED: Final = (
    "idle",
    "caret",
    "typing",
    "scroll",
    "drag",
    "video-window",
    "video-full",
    "random",
    "flip",
    "modes",
    "alias",
    "remap",
)
"""Workloads that every measurement uses."""
WORKLOADS: Final = ("desktop", *MEASURED, "large")
"""All workloads (machine/guest/main.c)."""
