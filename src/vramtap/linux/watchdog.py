"""Watchdog: answers the first write to an armed extent, from a process that nothing else keeps busy.

Why a process of its own, and what it tells when:

Facts. A write to a page under synchronous protection stands still until somebody lifts the protection of
that page; whoever does must get to run. Ours is a Python process with an event loop: it may be in the
middle of an encoding that takes ten milliseconds, be stopped by Ctrl-Z or by a debugger, or swapped out.
Lifting the protection of one page and waking the writer takes tens of microseconds, of all pages of a
screen hundreds. A process that is killed closes its descriptors, and the last reference to the userfaultfd
lifts everything.

Consequences. The writer must not depend on our event loop. The page that is waited for comes first, the
rest after. There must be no moment in which a writer is held and nobody knows: not the watchdog, because it
died or was stopped, nor we.

Decision. The helper that opened the descriptor inside the target stays, in a session of its own and with
every signal blocked, and waits for a fault or for the end of our end of its socket. At a fault it tells us
before it takes the message out of the descriptor, so that the fault is in the descriptor, or told, or both;
then it lifts the page, then the whole range, then tells us that it is done. We wait for the socket and for
the descriptor too: a watchdog that is stopped does not answer, and then we do. Before an extent is armed
anew every `begun` must have had its `done`: a watchdog that was late in between would lift the protection
of the new round, and nobody would ever hear of a write. A lift that comes late while the log is in charge
does no harm: an unprotected page counts as written.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from typing import Final, NamedTuple, Self

from vramtap.linux import abi
from vramtap.linux.userfaultfd import Userfaultfd
from vramtap.pages import PAGE_SIZE

_REHEARSE: Final = b"r"
"""The only thing ever said to a watchdog."""
_MESSAGES: Final = 16
"""Faults taken out at once; as many threads may have run into the protection together."""
_MESSAGE_BYTES: Final = ctypes.sizeof(abi.UffdMsg)
_FAULT: Final = struct.Struct(f"=B{abi.UffdMsg.flags.offset - 1}xQQ")
"""Of a message: its event, and of a fault the flags and the address."""
_RANGE: Final = struct.Struct("=QQQ")
"""`abi.UffdioWriteprotect`: start, bytes, mode; packed by hand where a writer waits for it."""
_REALTIME_PRIORITY: Final = 1
"""The lowest of the real-time ones: enough to come before everything that has none."""

_END_S: Final = 1.0
"""For the watchdog to end once it has been let go; it takes a millisecond."""


class Bells(NamedTuple):
    """Two eventfds by which a watchdog tells what it does; each rings once for every fault.

    Eventfds, since to send a message takes 50 us when the caches are cold, and to ring takes 10 (measured):
    the writer waits meanwhile.
    """

    begun: int
    """It is about to take a fault out of the descriptor."""
    done: int
    """It has lifted the protection of everything."""

    @classmethod
    def make(cls) -> Self:
        """New ones, not inheritable."""
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        begun = os.eventfd(0, flags)
        try:
            return cls(begun, os.eventfd(0, flags))
        except BaseException:
            os.close(begun)
            raise

    def close(self) -> None:
        """Give them back."""
        for bell in self:
            os.close(bell)


class Watchdog:
    """Our end of a watchdog that guards one extent.

    Args:
        guard: A duplicate of the descriptor it guards.
        bells: That it rings; owned from here on.
        link: The socket to it; its end is the watchdog's.
        process: It; waited for when closed.
    """

    def __init__(
        self, guard: Userfaultfd, bells: Bells, link: socket.socket, process: subprocess.Popen[bytes]
    ) -> None:
        self.guard = guard
        self._bells = bells
        self._link = link
        self._process = process
        self._begun = self._done = 0
        self._epoll = select.epoll()
        for fd in (link.fileno(), guard.fileno(), bells.begun):
            self._epoll.register(fd, select.EPOLLIN)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def fileno(self) -> int:
        """Readable while there is a fault, or a bell that was not heard, or the watchdog has ended."""
        return self._epoll.fileno()

    @property
    def fired(self) -> bool:
        """Whether there is a fault, or a bell that was not heard, or the watchdog has ended."""
        return bool(self._epoll.poll(0))

    @property
    def alive(self) -> bool:
        """Whether it has not ended: nothing is ever said to us on the socket."""
        return not _readable(self._link.fileno(), 0)

    @property
    def idle(self) -> bool:
        """Whether it is alive and done with whatever it began."""
        self._hear()
        return self._begun == self._done and self.alive

    def settle(self, timeout_s: float) -> bool:
        """Wait until the watchdog has answered a fault it was woken for.

        Args:
            timeout_s: It may have been stopped; whoever calls then lifts the protection instead.

        Returns:
            Whether it is done; False too when it has ended.
        """
        poller = select.poll()
        poller.register(self._bells.done, select.POLLIN)
        poller.register(self._link.fileno(), select.POLLIN)
        while poller.poll(timeout_s * 1000):
            self._hear()
            if self._begun == self._done:
                return self.alive
            if not self.alive:
                break
        return False

    def rehearse(self, timeout_s: float) -> float | None:
        """Let the watchdog do, unasked by any fault, what it does at one.

        Returns:
            Until it was done, microseconds: about what a writer would have been held; None if it did not
            answer.
        """
        began_ns = time.perf_counter_ns()
        try:
            self._link.send(_REHEARSE)
        except OSError:
            return None
        return (time.perf_counter_ns() - began_ns) / 1000 if self.settle(timeout_s) else None

    def forget(self) -> None:
        """Take whatever is left of a round out of the descriptor: events that have no page to be lifted."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.guard.fileno(), _MESSAGES * _MESSAGE_BYTES):
                pass
        self._hear()

    def _hear(self) -> None:
        # The second bell first: what has rung it has rung the first one before.
        with contextlib.suppress(BlockingIOError):
            self._done += os.eventfd_read(self._bells.done)
        with contextlib.suppress(BlockingIOError):
            self._begun += os.eventfd_read(self._bells.begun)

    def close(self) -> None:
        """Let it go: it ends, and with the last reference to the descriptor all protection is lifted."""
        self._epoll.close()
        self._link.close()
        self.guard.close()
        self._bells.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            # Stopped by somebody. It holds nothing but descriptors, and all they do is lift protection.
            self._process.kill()
            self._process.wait()


def stand_guard(guard: Userfaultfd, bells: Bells, link: socket.socket, start: int, end: int) -> None:
    """What the watchdog does until whoever it works for has let go or has died.

    Args:
        guard: The full userfaultfd, its features agreed on.
        bells: That whoever it works for listens to.
        link: The socket to whoever it works for.
        start: First address of the extent.
        end: Address past the last.
    """
    # Somebody stands still while we wait for a processor. Without the right to it we wait in line.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REALTIME_PRIORITY))
    fd = guard.fileno()
    everything = bytearray(_RANGE.pack(start, end - start, 0))
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    poller.register(link.fileno(), select.POLLIN)
    while True:
        for ready, _ in poller.poll():
            if ready != fd and _ended(link):
                return
            os.eventfd_write(bells.begun, 1)
            for page in _faults(fd) if ready == fd else [start]:
                _lift(fd, bytearray(_RANGE.pack(page, PAGE_SIZE, 0)))
            _lift(fd, everything)
            os.eventfd_write(bells.done, 1)


def _ended(link: socket.socket) -> bool:
    try:
        return not link.recv(len(_REHEARSE))
    except ConnectionResetError:
        return True


def _readable(fd: int, timeout_ms: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout_ms))


def _faults(fd: int) -> list[int]:
    """Take messages out of the descriptor; returns the addresses of the pages that are waited for."""
    try:
        data = os.read(fd, _MESSAGES * _MESSAGE_BYTES)
    except BlockingIOError:
        return []  # whoever had waited was released by the other side
    pages = []
    for at in range(0, len(data), _MESSAGE_BYTES):
        event, _, address = _FAULT.unpack_from(data, at)
        # Moved, unmapped, given back: taking the event is the whole answer.
        if event == abi.UFFD_EVENT_PAGEFAULT:
            pages.append(address & -PAGE_SIZE)
    return pages


def _lift(fd: int, argument: bytearray) -> None:
    # Refused when part of it was unmapped or the other side has unregistered it, which lifts it too. Where
    # only part of it has gone the rest stays protected: the other side was told, and unregisters all of it.
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, abi.UFFDIO_WRITEPROTECT, argument)
