"""DebugDevice: ports by which a guest reports text, drawn frames and its end, and wakes itself."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from vramtap.machine.layout import PORT_DEBUG_TEXT, PORT_EXIT, PORT_FRAME, PORT_WAKE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vramtap.machine.ports import RaiseLine

TEXT_BYTES: Final = 64 << 10
"""Length of the guest's text that is kept: the end of it."""
LINE_BYTES: Final = 512
"""Longest line in the log; longer ones are split."""
LINES_PER_SECOND: Final = 100
"""Most lines logged a second. The log says how many more there were."""
_SECOND_NS: Final = 1_000_000_000

log: logging.Logger = logging.getLogger(__name__)


class DebugDevice:
    """The text, frame, wake and exit ports.

    Args:
        raise_line: Called on the CPU's thread when the guest writes to the wake port.
        on_frame: Called on the CPU's thread with each number written to the frame port.
        on_exit: Called on the CPU's thread with the status written to the exit port.
        now_ns: Clock for the limit of lines a second, nanoseconds.
    """

    def __init__(
        self,
        raise_line: RaiseLine,
        on_frame: Callable[[int], None],
        on_exit: Callable[[int], None],
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.ports: Iterable[int] = (PORT_DEBUG_TEXT, PORT_FRAME, PORT_WAKE, PORT_EXIT)
        self.frames: int = 0
        """Number of frames that the guest has reported as drawn."""
        self._raise_line = raise_line
        self._on_frame = on_frame
        self._on_exit = on_exit
        self._now_ns = now_ns
        self._text = bytearray()
        self._line = bytearray()
        self._second = self._lines = self._dropped = 0

    @property
    def text(self) -> str:
        """End of the guest's text: at most `TEXT_BYTES` bytes, each a Latin-1 character."""
        return bytes(self._text[-TEXT_BYTES:]).decode("latin-1")

    def read(self, port: int, size: int) -> int:
        """Return 0xE9 from the text port (Bochs: so a guest detects it), ones from the others."""
        return PORT_DEBUG_TEXT if port == PORT_DEBUG_TEXT else ~0

    def write(self, port: int, size: int, value: int) -> None:
        """Do what the port is for."""
        if port == PORT_DEBUG_TEXT:
            self._add_text(value & 0xFF)
        elif port == PORT_FRAME:
            self.frames += 1
            self._on_frame(value)
        elif port == PORT_WAKE:
            self._raise_line()
        elif port == PORT_EXIT:
            self._on_exit(value & 0xFF)

    def _add_text(self, byte: int) -> None:
        self._text.append(byte)
        if len(self._text) >= 2 * TEXT_BYTES:
            del self._text[:-TEXT_BYTES]
        if byte != 0x0A:
            self._line.append(byte)
        if byte == 0x0A or len(self._line) >= LINE_BYTES:
            self._log(self._line.rstrip(b"\r"))
            self._line.clear()

    def _log(self, line: bytearray) -> None:
        second = self._now_ns() // _SECOND_NS
        if second != self._second:
            if self._dropped:
                log.info("guest: %d lines not logged", self._dropped)
            self._second, self._lines, self._dropped = second, 0, 0
        if self._lines >= LINES_PER_SECOND:
            self._dropped += 1
            return
        self._lines += 1
        # Escape control characters, which a terminal would execute.
        log.info("guest: %s", line.decode("latin-1").encode("unicode_escape").decode("ascii"))
