"""The pages that the boot-sector guest shares with dom0. The layout is that of tests/xen/guest/layout.S."""

from __future__ import annotations

import ctypes
import enum
from typing import Final

SHARED_GFN: Final = 0x10
SHARED_PAGES: Final = 4
MAGIC: Final = 0x32424658
QUEUE_OFFSET: Final = 0x1000
QUEUE_LENGTH: Final = 512
RING_BYTES: Final = 256
ALIAS: Final = 1
"""Flag in the last argument of a write: write through the second mapping of the framebuffer."""


class Operation(enum.IntEnum):
    """Commands of the guest. The methods of `BootSectorGuest` describe the arguments."""

    FILL = 1
    STRIDED = 2
    READ = 3
    SCATTER = 4
    RECT = 5
    PAGING = 16
    WRITE_PROTECT = 17
    TICK = 18
    SPIN = 19
    MODE = 20
    OFFSET = 21
    TEXT_MODE = 22
    TEXT = 23
    BANKED = 24
    RESET = 25
    POWER_OFF = 26
    HALT = 27
    TRIPLE_FAULT = 28


class Paging(enum.IntEnum):
    """Paging modes of the guest. `SMALL` maps the framebuffer by 4 KiB pages."""

    OFF = 0
    BITS32_LARGE = 1
    BITS32_SMALL = 2
    PAE_LARGE = 3
    PAE_SMALL = 4
    LONG_LARGE = 5
    LONG_SMALL = 6


_U32 = ctypes.c_uint32


class SharedPage(ctypes.LittleEndianStructure):
    """The first shared page; layout.S describes the fields."""

    _fields_ = (
        ("magic", _U32), ("lfb", _U32), ("width", _U32), ("height", _U32),
        ("pitch", _U32), ("bpp", _U32), ("vbe_result", _U32), ("heartbeat", _U32),
        ("cr0", _U32), ("cr3", _U32), ("cr4", _U32), ("efer", _U32),
        ("head", _U32), ("tail", _U32), ("paging", _U32), ("unknown", _U32),
        ("result", _U32), ("keys", _U32), ("mouse", _U32), ("faulted", _U32),
        ("fault_cr2", _U32), ("fault_stack", _U32 * 4), ("x_offset", _U32), ("y_offset", _U32),
        ("_gap", ctypes.c_uint8 * (0x100 - 0x6C)),
        ("key_ring", ctypes.c_uint8 * RING_BYTES), ("mouse_ring", ctypes.c_uint8 * RING_BYTES),
    )  # fmt: skip

    magic: int
    lfb: int
    width: int
    height: int
    pitch: int
    bpp: int
    vbe_result: int
    heartbeat: int
    cr0: int
    cr3: int
    cr4: int
    efer: int
    head: int
    tail: int
    paging: int
    unknown: int
    result: int
    keys: int
    mouse: int
    faulted: int
    fault_cr2: int
    fault_stack: ctypes.Array[ctypes.c_uint32]
    x_offset: int
    y_offset: int
    key_ring: ctypes.Array[ctypes.c_uint8]
    mouse_ring: ctypes.Array[ctypes.c_uint8]


class Command(ctypes.LittleEndianStructure):
    """One entry of the queue."""

    _fields_ = (("operation", _U32), ("arguments", _U32 * 5))

    operation: int
    arguments: ctypes.Array[ctypes.c_uint32]


# layout.S names these offsets as numbers, so an added field must not move them.
_PLACES: Final = {"head": 0x30, "paging": 0x38, "faulted": 0x4C, "key_ring": 0x100, "mouse_ring": 0x200}
assert all(getattr(SharedPage, name).offset == place for name, place in _PLACES.items())
assert ctypes.sizeof(Command) * QUEUE_LENGTH == (SHARED_PAGES - 1) * 4096
