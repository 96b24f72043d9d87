"""StopHook: machine code that Unicorn runs at the start of each block, to stop a run where it is safe.

Stopping Unicorn, and what it costs to get it wrong (measured on Unicorn 2.1.4):

Facts. Translated blocks jump to one another without coming back, and without keeping RIP up to date. A run
that `emu_stop` ends from another thread leaves them at the start of some block, but because it was asked to
stop, Unicorn does not set RIP to that block (its cpu-exec.c): RIP is where an earlier block of the chain
began. The next run then does once more what was done already: 400 stops of a loop that increments memory
made 163 increments too many. Once memory is hooked there is a further check after each store, which leaves
RIP before the store. What is right: `emu_stop` called from a hook at the start of a block, for which Unicorn
sets RIP and after which it leaves at once.

Consequences. Only a hook at the start of a block may stop a run. It is called for every block, so it cannot
be a Python function, which takes a microsecond.

Decision. The hook is machine code of our own, on a page of its own: it looks at a byte, and calls `emu_stop`
if that is not zero. A kick sets the byte. It costs the guest 1 to 4 % of its speed.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

from unicorn import UC_HOOK_BLOCK, Uc, UcError
from unicorn.unicorn_py3.unicorn import uclib

_EVERY_ADDRESS: Final = (1, 0)
"""As Unicorn wants it: a range that ends before it begins."""


class StopHook:
    """Ends the runs of one Unicorn at the start of a block once it is asked to.

    Args:
        uc: The engine; the hook stays as long as it does.
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
        # The engine is the hook's first argument, as it is that of uc_emu_stop. The binding's own hook_add
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
    def asked(self) -> bool:
        """Whether the run is to end, or was ended, by this hook."""
        return self._page[self._flag] != 0

    @asked.setter
    def asked(self, asked: bool) -> None:
        self._page[self._flag] = asked
