"""What the guest that comes with the package can do, by the names its command line takes."""

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
"""Those every measurement runs on."""
WORKLOADS: Final = ("desktop", *MEASURED, "large")
"""All of them (machine/guest/main.c)."""
