"""Command queue of the boot-sector guest, in the pages that it shares with dom0."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from xen.dom0.driver_domain import wait_for
from xen.dom0.driver_errors import DriverError
from xen.dom0.driver_maps import ForeignFrames
from xen.dom0.driver_page import (
    MAGIC,
    QUEUE_LENGTH,
    QUEUE_OFFSET,
    RING_BYTES,
    SHARED_GFN,
    SHARED_PAGES,
    Command,
    Operation,
    SharedPage,
)

if TYPE_CHECKING:
    from collections.abc import Callable

BOOT_TIMEOUT_S: Final = 60.0
COMMAND_TIMEOUT_S: Final = 30.0
_U32: Final = 0xFFFFFFFF


class Channel:
    """The shared pages of one running guest, mapped until closed.

    Args:
        domid: The domain.

    Raises:
        DriverError: The pages cannot be mapped, or the guest does not boot.
    """

    def __init__(self, domid: int) -> None:
        self._domid = domid
        self._frames = ForeignFrames(domid, SHARED_GFN, SHARED_PAGES, writable=True)
        try:
            self.wait("boot", lambda: self.page.magic == MAGIC, BOOT_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Unmap the shared pages."""
        self._frames.close()

    @property
    def page(self) -> SharedPage:
        """The first shared page, live."""
        return SharedPage.from_address(self._frames.address)

    def put(self, operation: Operation, *arguments: int) -> None:
        """Queue a command. Wait for room first if the queue is full."""
        page = self.page
        number = page.head
        self.wait(f"room for {operation.name}", lambda: number - page.tail & _U32 < QUEUE_LENGTH)
        place = self._frames.address + QUEUE_OFFSET + number % QUEUE_LENGTH * ctypes.sizeof(Command)
        command = Command.from_address(place)
        command.operation = operation
        command.arguments[:] = [argument & _U32 for argument in (*arguments, 0, 0, 0, 0, 0)[:5]]
        # Written last, because the guest then reads the entry at once. x86 keeps the order of stores.
        page.head = number + 1 & _U32

    def finish(self, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        """Wait until the guest has done all queued commands.

        Raises:
            DriverError: The time is up, the guest faulted, or it did not know a command.
        """
        head = self.page.head
        self.wait(f"command {head}", lambda: self.page.tail == head, timeout_s)
        if self.page.unknown:
            raise DriverError(f"domain {self._domid}: {self.page.unknown} unknown commands")

    def wait(self, what: str, done: Callable[[], bool], timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        """Poll until `done` returns True.

        Raises:
            DriverError: The time is up, or the guest faulted. The message has the guest's state.
        """
        what = f"domain {self._domid}: {what}"

        def poll() -> bool | None:
            page = self.page
            if page.magic == MAGIC and page.faulted:
                stack = " ".join(f"{word:#x}" for word in page.fault_stack)
                raise DriverError(f"{what}: the guest faulted: cr2 {page.fault_cr2:#x}, stack {stack}")
            return done() or None

        try:
            wait_for(what, poll, timeout_s)
        except DriverError as error:
            page = self.page
            state = f"magic {page.magic:#x}, heartbeat {page.heartbeat}, head {page.head}, tail {page.tail}"
            raise DriverError(f"{error} ({state})") from error

    def keys(self) -> bytes:
        """Return the last bytes from the keyboard, oldest first, at most 256."""
        page = self.page
        return _ring(bytes(page.key_ring), page.keys)

    def mouse(self) -> bytes:
        """Return the last bytes from the mouse, oldest first, at most 256."""
        page = self.page
        return _ring(bytes(page.mouse_ring), page.mouse)


def _ring(content: bytes, count: int) -> bytes:
    start = count % RING_BYTES
    return content[start:] + content[:start] if count > RING_BYTES else content[:count]
