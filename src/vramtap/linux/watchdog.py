"""Watchdog: a process that answers the first write to an armed extent.

The *watchdog* is a separate process. The *main process* runs vramtap's event loop. This is why there are
two of them, and how they communicate:

Facts. The kernel holds a write to a synchronously protected page until a process lifts the protection of
that page. The main process may not run in time: it may spend ten milliseconds on an encoding, be stopped
by Ctrl-Z or by a debugger, or be swapped out. To lift the protection of one page and wake the writer takes
40 us. To lift the protection of a whole screen takes 150 us, and a writer that was just woken makes no
progress meanwhile: it waited 300 to 500 us when the second lift followed the first at once, and 20 us when
it did not. A killed process closes its descriptors, and the kernel lifts all protection with the last
reference to the userfaultfd. A stopped process does nothing, and no event reports the stop.

Consequences. The writer must not depend on the main process. The watchdog lifts the faulting page first,
and then waits for a moment. Every fault must be answered and reported, even if the watchdog is killed or
stopped at any instruction.

Decision. The helper that opened the userfaultfd inside the target stays, in its own session and with every
signal blocked. It waits for a fault, or for the main process to close its end of the socket. The main
process polls the userfaultfd too: a watchdog that is stopped leaves the fault there, and the main process
answers it. At a fault the two proceed as follows.

1. The watchdog increments the shared counter `begun` and signals the eventfd. Only then does it read the
   message from the userfaultfd. So a fault is in the userfaultfd, or counted, or both.
2. The watchdog lifts the page, increments `released` and signals the eventfd again. The main process waits
   for this, with a timeout.
3. The watchdog waits, so that the writer makes progress and the main process can lift the whole range. The
   main process then sets `taken`. If it does not, or the writer faults on the next page first, the watchdog
   lifts the whole range itself.
4. The watchdog increments `done`.

Before the tracker arms the extent again, `done` must equal `begun`. Otherwise a late watchdog could lift
the protection of the new round, and no write of that round would be reported. A late lift while the write
log is active does no harm: an unprotected page counts as written.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import select
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Final, Self

from vramtap.linux import abi
from vramtap.linux.descriptor import Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.linux.userfaultfd import Userfaultfd

LATE_S: Final = 0.005
"""Time after which the main process answers a fault itself; a watchdog that runs needs 0.15 ms."""
GIVE_WAY_S: Final = 0.001
"""Time that the watchdog waits before it lifts the range. Writer and main process need 0.2 to 0.5 ms."""
_BEGUN, _RELEASED, _DONE, _TAKEN, _WHERE, _COUNTERS = range(6)
_GONE: Final = frozenset({errno.EINVAL, errno.ENOENT, errno.ENOMEM, errno.ESRCH, errno.EAGAIN})
"""Errors of a userfaultfd for memory that was unmapped, is not registered, belongs to an ended process, or is
being changed (Linux: fs/userfaultfd.c, mm/userfaultfd.c)."""
_REHEARSE: Final = b"r"
"""The only message that the main process sends to a watchdog."""
_MESSAGES: Final = 64
"""Most messages read at once; that many threads may have faulted together."""
_MESSAGE_BYTES: Final = ctypes.sizeof(abi.UffdMsg)
_FAULT: Final = struct.Struct(f"=B{abi.UffdMsg.flags.offset - 1}xQQQ")
"""Fields: event; flags and address of a fault, or old address, new address and bytes of a move."""
_RANGE: Final = struct.Struct("=QQQ")
"""`abi.UffdioWriteprotect`: start, bytes, mode. Packing by hand is faster while a writer waits."""
_REALTIME_PRIORITY: Final = 1
"""The lowest real-time priority: it runs before every process without one."""

_END_S: Final = 1.0
"""Time for the watchdog to end after the socket was closed; it needs a millisecond."""


class Signals:
    """Shared counters and an eventfd, by which watchdog and main process communicate.

    They replace messages, because a writer waits meanwhile: to send a message takes 50 us when the caches
    are cold, to signal an eventfd takes 10 us (measured).

    Args:
        counters: A memfd that holds `begun`, `released`, `done`, `taken` and `where`; owned from here on.
        eventfd: A non-blocking eventfd that the watchdog signals; owned from here on.
    """

    def __init__(self, counters: int, eventfd: int) -> None:
        self._memfd = Descriptor(counters)
        self._eventfd = Descriptor(eventfd)
        self._counters = (ctypes.c_uint64 * _COUNTERS).from_buffer(mmap.mmap(counters, mmap.PAGESIZE))

    @classmethod
    def create(cls) -> Self:
        """Create both descriptors, close-on-exec."""
        with contextlib.ExitStack() as stack:
            counters = os.memfd_create("vramtap-watchdog", os.MFD_CLOEXEC)
            stack.callback(os.close, counters)
            os.truncate(counters, mmap.PAGESIZE)
            eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            stack.callback(os.close, eventfd)
            made = cls(counters, eventfd)
            stack.pop_all()
            return made

    @property
    def descriptors(self) -> tuple[int, int]:
        """The memfd of the counters and the eventfd, to pass on to the other process."""
        return self._memfd.fileno(), self._eventfd.fileno()

    @property
    def begun(self) -> int:
        """Number of faults that the watchdog has begun to answer."""
        return self._counters[_BEGUN]

    @property
    def released(self) -> int:
        """Number of the last fault whose page the watchdog has lifted."""
        return self._counters[_RELEASED]

    @property
    def done(self) -> int:
        """Number of the last fault for which the watchdog lifts nothing more."""
        return self._counters[_DONE]

    @property
    def taken(self) -> int:
        """Number of the last fault after which the main process has lifted the whole range."""
        return self._counters[_TAKEN]

    @property
    def where(self) -> int:
        """Address of the page that was released last; 0 if no writer waited."""
        return self._counters[_WHERE]

    def take(self) -> None:
        """Tell the watchdog that the main process has lifted the whole range."""
        self._counters[_TAKEN] = self._counters[_BEGUN]

    def begin(self) -> None:
        """Announce that the watchdog is about to read a fault."""
        self._counters[_BEGUN] += 1
        self._notify()

    def release(self, page: int) -> None:
        """Announce that the watchdog has lifted the faulting page.

        Args:
            page: Address of the page; 0 if no writer waited.
        """
        self._counters[_WHERE] = page
        self._counters[_RELEASED] = self._counters[_BEGUN]
        self._notify()

    def finish(self) -> None:
        """Announce that the watchdog lifts nothing more for this fault."""
        self._counters[_DONE] = self._counters[_BEGUN]
        self._notify()

    def _notify(self) -> None:
        # The eventfd cannot overflow: that would take 2 ** 64 faults without a read.
        os.eventfd_write(self._eventfd.fileno(), 1)

    def drain(self) -> None:
        """Reset the eventfd, so that it is not readable until the next signal."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._eventfd.fileno())

    def close(self) -> None:
        """Close both descriptors; repeated calls do nothing."""
        self._memfd.close()
        self._eventfd.close()


class Watchdog:
    """The main process's end of a watchdog that guards one extent.

    Args:
        guard: A duplicate of the userfaultfd that the watchdog waits for already.
        signals: The shared counters and eventfd; owned from here on.
        link: The socket to the watchdog; closing it ends the watchdog.
        process: The watchdog; `close` waits for its end.
    """

    def __init__(
        self, guard: Userfaultfd, signals: Signals, link: socket.socket, process: subprocess.Popen[bytes]
    ) -> None:
        self.guard = guard
        self._signals = signals
        self._link = link
        self._process = process
        self._heard = self._done_at_ping = 0
        self._epoll = select.epoll()
        for fd in (guard.fileno(), link.fileno(), signals.descriptors[1]):
            self._epoll.register(fd, select.EPOLLIN)

    @property
    def pid(self) -> int:
        """Process id of the watchdog."""
        return self._process.pid

    def fileno(self) -> int:
        """Return a descriptor that is readable after a fault, a signal, or the watchdog's end."""
        return self._epoll.fileno()

    @property
    def fired(self) -> bool:
        """Whether a fault is pending or was since `ready`, or the watchdog has ended."""
        # The watchdog counts before it signals. So this drains signals whose counts are read below, or that
        # were read before; a later signal makes the descriptor readable again.
        self._signals.drain()
        if self._signals.begun != self._heard:
            return True
        return bool(self._readable(0, self.guard.fileno(), self._link.fileno()))

    @property
    def alive(self) -> bool:
        """Whether the watchdog runs. It sends nothing on the socket, so readable means closed."""
        return not self._readable(0, self._link.fileno())

    def ready(self) -> bool:
        """Return whether the watchdog runs and is done with all faults; `fired` reports new ones only."""
        # Drain first: a signal after it is either counted here, and is then spurious, or belongs to a later
        # fault. Read `done` first: it never overtakes `begun`.
        self._signals.drain()
        done, begun = self._signals.done, self._signals.begun
        self._heard = begun
        return begun == done and self.alive

    @property
    def where(self) -> int:
        """Address of the page that the watchdog released last; 0 if no writer waited."""
        return self._signals.where

    def wait_released(self, timeout_s: float) -> bool:
        """Wait until the watchdog has released the writer that faulted.

        Args:
            timeout_s: Time limit for each signal. The watchdog may be stopped; the caller then lifts the
                protection instead.

        Returns:
            True if the watchdog has released the writer; False after the timeout or the watchdog's end.
        """
        return self._wait(lambda: self._heard != self._signals.begun == self._signals.released, timeout_s)

    def ping(self) -> None:
        """Send a watchdog that did not respond a request; `answered` is True once it has handled it."""
        self._done_at_ping = self._signals.done
        # The watchdog has ended, or has not read earlier requests: `alive` and `answered` show either.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._link.send(_REHEARSE, socket.MSG_DONTWAIT)

    @property
    def answered(self) -> bool:
        """Whether the watchdog has handled a request or fault since `ping`, and is done with it."""
        done, begun = self._signals.done, self._signals.begun
        return done == begun != self._done_at_ping

    def acknowledge(self) -> None:
        """Read the remaining messages, and tell the watchdog that nothing is left to lift."""
        while self._readable(0, self.guard.fileno()):
            _faults(self.guard.fileno())
        self._signals.take()

    def _wait(self, happened: Callable[[], bool], timeout_s: float) -> bool:
        eventfd, link = self._signals.descriptors[1], self._link.fileno()
        while not happened():
            if eventfd not in self._readable(timeout_s * 1000, eventfd, link):
                return False
            self._signals.drain()
        return self.alive

    def _readable(self, timeout_ms: float, *fds: int) -> list[int]:
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        return [fd for fd, _ in poller.poll(timeout_ms)]

    def rehearse(self, timeout_s: float) -> float | None:
        """Make the watchdog do what it does at a fault, and measure it.

        Returns:
            Time until a writer would be released, us; None if the watchdog did not answer.
        """
        self.ready()
        began_ns = time.perf_counter_ns()
        try:
            self._link.send(_REHEARSE)
        except OSError:
            return None
        if not self.wait_released(timeout_s):
            return None
        released_ns = time.perf_counter_ns()
        if not self._wait(lambda: self._signals.begun == self._signals.done, timeout_s):
            return None
        return (released_ns - began_ns) / 1000

    def close(self) -> None:
        """End the watchdog; the kernel lifts all protection with the last reference to the userfaultfd."""
        self._epoll.close()
        self._link.close()
        self.guard.close()
        self._signals.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            # It is stopped. It holds only descriptors, and closing them only lifts protection.
            self._process.kill()
            self._process.wait()


def stand_guard(guard: Userfaultfd, signals: Signals, link: socket.socket, start: int, end: int) -> None:
    """Run the watchdog until the main process closes its end of the socket or ends.

    Args:
        guard: The full userfaultfd, after `api`.
        signals: The counters and eventfd shared with the main process.
        link: The socket to the main process.
        start: First address of the extent.
        end: Address past the last.
    """
    # A writer waits while the watchdog waits for a processor. Without CAP_SYS_NICE it keeps its priority.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REALTIME_PRIORITY))
    fd = guard.fileno()
    whole = bytearray(_RANGE.pack(start, end - start, 0))
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    poller.register(link.fileno(), select.POLLIN)
    while True:
        for which, _ in poller.poll():
            if which != fd and _ended(link):
                return
            signals.begin()
            pages = _faults(fd) if which == fd else [start]
            for page in pages:
                _lift(fd, bytearray(_RANGE.pack(page, mmap.PAGESIZE, 0)))
            signals.release(pages[0] if pages and which == fd else 0)
            poller.poll(GIVE_WAY_S * 1000)
            if signals.taken != signals.begun:
                _lift(fd, whole)
            signals.finish()


def _ended(link: socket.socket) -> bool:
    """Read one request; return whether the main process has closed its end instead."""
    try:
        return not link.recv(len(_REHEARSE))
    except ConnectionResetError:
        return True


def _faults(fd: int) -> list[int]:
    """Read messages from the userfaultfd; return the addresses of the pages that writers wait for."""
    try:
        # Once: a second read, only to get EAGAIN, takes 15 us when the caches are cold, and a writer waits.
        data = os.read(fd, _MESSAGES * _MESSAGE_BYTES)
    except BlockingIOError:
        return []  # the main process has released the writer
    pages = []
    for at in range(0, len(data), _MESSAGE_BYTES):
        event, _, address, size = _FAULT.unpack_from(data, at)
        # For memory that was unmapped or given back, reading the event is the whole answer.
        if event == abi.UFFD_EVENT_PAGEFAULT:
            pages.append(address & -mmap.PAGESIZE)
        elif event == abi.UFFD_EVENT_REMAP:
            _release_moved(fd, address, size)
    return pages


def _release_moved(fd: int, start: int, size: int) -> None:
    """Release memory at its new address: mremap(2) takes the protection along, out of the extent."""
    argument = bytearray(_RANGE.pack(start, size, 0))
    for request in (abi.UFFDIO_UNREGISTER, abi.UFFDIO_WAKE):
        _ioctl(fd, request, argument)


def _lift(fd: int, argument: bytearray) -> None:
    """Lift the protection of a range and wake its writers."""
    # The kernel refuses if part of the range was unmapped, or if the main process has unregistered it, which
    # lifts the protection but wakes no writer. If only part of the range is gone the rest stays protected,
    # and a woken writer faults again: the main process knows of the fault, and lifts the whole range.
    if not _ioctl(fd, abi.UFFDIO_WRITEPROTECT, argument):
        _ioctl(fd, abi.UFFDIO_WAKE, argument)


def _ioctl(fd: int, request: int, argument: bytearray) -> bool:
    """Make a request; return False if the kernel refused it because the memory is gone or changes.

    Any other error ends the watchdog: the kernel then lifts all protection, and the main process sees the
    socket close.
    """
    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return False
    return True
