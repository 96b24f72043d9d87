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
import os
import select
import socket
import struct
import subprocess
import time
from typing import Final

from vramtap.errors import VramtapError
from vramtap.linux import abi
from vramtap.linux.userfaultfd import Userfaultfd
from vramtap.pages import PAGE_SIZE

BEGUN: Final = b"b"
"""The watchdog is about to take a fault out of the descriptor."""
DONE: Final = b"d"
"""It has lifted the protection of everything."""
_REHEARSE: Final = b"r"
"""The only thing ever said to a watchdog."""
_NEWS: Final = struct.Struct("<cI")
_MESSAGES: Final = 16
"""Faults taken out at once; as many threads may have run into the protection together."""
_MESSAGE_BYTES: Final = ctypes.sizeof(abi.UffdMsg)
_REALTIME_PRIORITY: Final = 1
"""The lowest of the real-time ones: enough to come before everything that has none."""

_END_S: Final = 1.0
"""For the watchdog to end once it has been let go; it takes a millisecond."""


class Watchdog:
    """Our end of a watchdog that guards one extent.

    Args:
        guard: A duplicate of the descriptor it guards.
        link: The socket to it.
        process: It; waited for when closed.
    """

    def __init__(self, guard: Userfaultfd, link: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.guard = guard
        self.alive = True
        self._link = link
        self._process = process
        self._begun = self._done = 0
        self._epoll = select.epoll()
        self._epoll.register(link.fileno(), select.EPOLLIN)
        self._epoll.register(guard.fileno(), select.EPOLLIN)
        link.setblocking(False)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def fileno(self) -> int:
        """Readable while there is a fault, or news of the watchdog that was not taken."""
        return self._epoll.fileno()

    @property
    def fired(self) -> bool:
        """Whether there is a fault, or news that was not taken."""
        return bool(self._epoll.poll(0))

    @property
    def idle(self) -> bool:
        """Whether the watchdog is alive and done with whatever it began."""
        self._take_news()
        return self.alive and self._begun == self._done

    def settle(self, timeout_s: float) -> bool:
        """Wait until the watchdog has answered a fault it was woken for.

        Args:
            timeout_s: It may have been stopped; whoever calls then lifts the protection instead.

        Returns:
            Whether it is done; False too when it has ended.
        """
        poller = select.poll()
        poller.register(self._link.fileno(), select.POLLIN)
        timeout_ms = timeout_s * 1000
        while self.alive:
            if poller.poll(timeout_ms):
                self._take_news()
                if self._begun == self._done:
                    return self.alive
            else:
                break
        return False

    def rehearse(self, timeout_s: float) -> float | None:
        """Let the watchdog do, unasked by any fault, what it does at one.

        Returns:
            Until it was done, microseconds: about what a writer would have been held; None if it did not answer.
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
        self._take_news()

    def _take_news(self) -> None:
        while self.alive:
            try:
                news = self._link.recv(_NEWS.size)
            except BlockingIOError:
                return
            except OSError:
                news = b""
            if len(news) != _NEWS.size:
                self.alive = False
                self._epoll.unregister(self._link.fileno())
                return
            kind, number = _NEWS.unpack(news)
            self._begun = max(self._begun, number)
            if kind == DONE:
                self._done = number

    def close(self) -> None:
        """Let it go: it ends, and with the last reference to the descriptor all protection is lifted."""
        self._epoll.close()
        self._link.close()
        self.guard.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            # Stopped by somebody. It holds nothing but descriptors, and all they do is lift protection.
            self._process.kill()
            self._process.wait()


def stand_guard(guard: Userfaultfd, link: socket.socket, start: int, end: int) -> None:
    """What the watchdog does until whoever it works for has let go or has died.

    Args:
        guard: The full userfaultfd, its features agreed on.
        link: The socket to whoever it works for.
        start: First address of the extent.
        end: Address past the last.
    """
    # Somebody stands still while we wait for a processor. Without the right to it we wait in line.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REALTIME_PRIORITY))
    link.setblocking(True)
    poller = select.poll()
    poller.register(guard.fileno(), select.POLLIN)
    poller.register(link.fileno(), select.POLLIN)
    number = 0
    while True:
        for fd, _ in poller.poll():
            if fd == link.fileno() and not link.recv(len(_REHEARSE)):
                return  # the end of the other side
            number += 1
            _tell(link, BEGUN, number)
            for page in _faults(guard) if fd == guard.fileno() else [start]:
                _lift(guard, page, page + PAGE_SIZE)
            _lift(guard, start, end)
            _tell(link, DONE, number)


def _tell(link: socket.socket, kind: bytes, number: int) -> None:
    # A socket that is full has plenty of news in it already, and one that is closed is seen by the poll. To
    # wait for either would be to hold a writer. If a DONE is lost, the extent is not armed again.
    with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        link.send(_NEWS.pack(kind, number), socket.MSG_DONTWAIT)


def _faults(guard: Userfaultfd) -> list[int]:
    """Take messages out of the descriptor; returns the addresses of the pages that are waited for."""
    try:
        data = os.read(guard.fileno(), _MESSAGES * _MESSAGE_BYTES)
    except BlockingIOError:
        return []  # whoever had waited was released by the other side
    pages = []
    for at in range(0, len(data), _MESSAGE_BYTES):
        message = abi.UffdMsg.from_buffer_copy(data, at)
        # Moved, unmapped, given back: taking the event is the whole answer.
        if message.event == abi.UFFD_EVENT_PAGEFAULT:
            pages.append(message.address & -PAGE_SIZE)
    return pages


def _lift(guard: Userfaultfd, start: int, end: int) -> None:
    # Refused when part of it was unmapped or the other side has unregistered it, which lifts it but wakes
    # nobody. Where only part of it has gone the rest stays protected, and who is woken runs into it again: the
    # other side was told, and lifts all of it.
    try:
        guard.lift(start, end)
    except VramtapError:
        with contextlib.suppress(VramtapError):
            guard.wake(start, end)
