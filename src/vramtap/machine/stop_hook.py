"""StopHook: machine code that Unicorn runs at the start of each block, to stop a run safely.

Facts (measured on Unicorn 2.1.4). Translated blocks jump directly to one another without updating RIP. If
another thread calls `emu_stop`, the run ends at the start of some block. Because of the stop request Unicorn
does not set RIP to that block (its cpu-exec.c): RIP still points to an earlier block of the chain, and the
next run repeats instructions. 400 stops of a loop that increments memory made 163 increments too many. If
memory is hooked, a further check follows each store and leaves RIP before the store. One way is correct:
calling `emu_stop` from a hook at the start of a block. Unicorn sets RIP before it calls the hook, and leaves
at once after it.

Consequences. Only a hook at the start of a block may stop a run. Unicorn calls it for every block, so it
cannot be a Python function, which takes a microsecond.

Decision. The hook is vramtap's own machine code, in a page of its own. It tests a byte and calls `emu_stop`
if the byte is not zero. A kick sets the byte. The hook costs the guest 1 to 4 % of its speed.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

from unicorn import UC_HOOK_BLOCK, Uc, UcError
from unicorn.unicorn_py3.unicorn import uclib

_EVERY_ADDRESS: Final = (1, 0)
"""Unicorn's form of "every address": a range that ends before it begins."""


class StopHook:
    """Ends a run of one Unicorn engine at the start of a block, on request.

    Args:
        uc: The engine. The hook stays until the engine is gone.
    """

    def __init__(self, uc: Uc) -> None:
        self._page = mmap.mmap(
            -1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE
        )
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._flag = mmap.PAGESIZE - 1
        stop = ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p).value or 0
        code = b"\x48\xb8" + (start + self._flag).to_bytes(8, "little")  # movabs $flag, %rax
        code += b"\x80\x38\x00\x75\x01\xc3"  # cmpb $0, (%rax); jne 1f; ret
        code += b"\x48\xb8" + stop.to_bytes(8, "little") + b"\xff\xe0"  # 1: movabs $stop, %rax; jmp *%rax
        self._page[: len(code)] = code
        handle = ctypes.c_size_t()
        # The hook's first argument is the engine, and so is that of uc_emu_stop. The binding's own hook_add
        # takes Python functions only.
        status = uclib.uc_hook_add(
            uc._uch,
            ctypes.byref(handle),
            UC_HOOK_BLOCK,
            ctypes.c_void_p(start),
            None,
            *map(ctypes.c_uint64, _EVERY_ADDRESS),
        )
        if status:
            raise UcError(status)

    @property
    def requested(self) -> bool:
        """Whether this hook is to end the run, or has ended it."""
        return self._page[self._flag] != 0

    @requested.setter
    def requested(self, requested: bool) -> None:
        self._page[self._flag] = requested
