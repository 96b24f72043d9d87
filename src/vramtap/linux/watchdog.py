"""Watchdog: answers the first write to an armed extent, from a process that nothing else keeps busy.

Why a process of its own, and what it tells when:

Facts. A write to a page under synchronous protection stands still until somebody lifts the protection of
that page; whoever does must get to run. Ours is a Python process with an event loop: it may be in the
middle of an encoding that takes ten milliseconds, be stopped by Ctrl-Z or by a debugger, or swapped out.
Lifting the protection of one page and waking the writer takes 40 us. Lifting that of a whole screen takes
150 us, and a writer that was just woken does not get on meanwhile: it waited 300 to 500 us where the one
followed the other at once, and 20 where not. A process that is killed closes its descriptors, and the last
reference to the userfaultfd lifts everything; one that is stopped does nothing, and nobody is told.

Consequences. The writer must not depend on our event loop. The page that is waited for comes first, and
then nothing for a moment. There must be no fault that nobody will ever answer or hear of: not when the
watchdog dies, nor when it is stopped, at whatever instruction.

Decision. The helper that opened the descriptor inside the target stays, in a session of its own and with
every signal blocked, and waits for a fault or for the end of our end of its socket. We wait for the
descriptor too: a watchdog that was stopped before leaves the fault there, and we answer it. At a fault it
counts `begun` in memory that we share and rings, and only then takes the message out of the descriptor: so
a fault is in the descriptor, or told, or both. It lifts the page, counts `released` and rings again: that
is what we wait for, though no longer than it ever takes. It then gives the writer time, and us time to take
the whole range over, which we tell by `taken`. If the writer runs into the next page before, or we do not
come, it lifts the whole range. Then it counts `done`. Before an extent is armed anew every `begun` must
have had its `done`: a watchdog that was late in between would lift the protection of the new round, and
nobody would ever hear of a write. A lift that comes late while the log is in charge does no harm: an
unprotected page counts as written.
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
"""A writer is released after 0.15 ms. One that is not after 5 has found its watchdog stopped: we answer."""
GIVE_WAY_S: Final = 0.001
"""For the writer to get on, and for us to take over: that takes 0.2 to 0.5 ms."""
_BEGUN, _RELEASED, _DONE, _TAKEN, _WHERE, _COUNTERS = range(6)
_GONE: Final = frozenset({errno.EINVAL, errno.ENOENT, errno.ENOMEM, errno.ESRCH, errno.EAGAIN})
"""How a userfaultfd refuses memory that is not there any more, is not registered, whose process has ended, or
that is being changed (Linux: fs/userfaultfd.c, mm/userfaultfd.c)."""
_REHEARSE: Final = b"r"
"""The only thing ever said to a watchdog."""
_MESSAGES: Final = 64
"""Faults taken out at once; as many threads may have run into the protection together."""
_MESSAGE_BYTES: Final = ctypes.sizeof(abi.UffdMsg)
_FAULT: Final = struct.Struct(f"=B{abi.UffdMsg.flags.offset - 1}xQQQ")
"""Of a message: its event; of a fault flags and address, of what has moved from, to and how many bytes."""
_RANGE: Final = struct.Struct("=QQQ")
"""`abi.UffdioWriteprotect`: start, bytes, mode; packed by hand where a writer waits for it."""
_REALTIME_PRIORITY: Final = 1
"""The lowest of the real-time ones: enough to come before everything that has none."""

_END_S: Final = 1.0
"""For the watchdog to end once it has been let go; it takes a millisecond."""


class Signals:
    """By what a watchdog tells what it does, and hears that it need not; shared with it by descriptor.

    Counters in memory and an eventfd rather than messages: to send one takes 50 us when the caches are cold,
    to ring takes 10 (measured), and a writer waits meanwhile.

    Args:
        board: A memfd of numbers: what the watchdog has begun, released and done, what we have taken, and
            where the last writer was held.
        bell: An eventfd, not blocking, for the watchdog to ring.
    """

    def __init__(self, board: int, bell: int) -> None:
        self._board = Descriptor(board)
        self._bell = Descriptor(bell)
        self._counters = (ctypes.c_uint64 * _COUNTERS).from_buffer(mmap.mmap(board, mmap.PAGESIZE))

    @classmethod
    def make(cls) -> Self:
        """New ones, not inheritable."""
        with contextlib.ExitStack() as stack:
            board = os.memfd_create("vramtap-watchdog", os.MFD_CLOEXEC)
            stack.callback(os.close, board)
            os.truncate(board, mmap.PAGESIZE)
            bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            stack.callback(os.close, bell)
            made = cls(board, bell)
            stack.pop_all()
            return made

    @property
    def descriptors(self) -> tuple[int, int]:
        """What the other side makes its own of: board and bell."""
        return self._board.fileno(), self._bell.fileno()

    @property
    def begun(self) -> int:
        """Faults that the watchdog was about to take."""
        return self._counters[_BEGUN]

    @property
    def released(self) -> int:
        """The last of them whose page was lifted."""
        return self._counters[_RELEASED]

    @property
    def done(self) -> int:
        """The last of them after which nothing is lifted any more."""
        return self._counters[_DONE]

    @property
    def taken(self) -> int:
        """The last of them after which we have taken the range over."""
        return self._counters[_TAKEN]

    @property
    def where(self) -> int:
        """The address of the page that was released last; 0 where that was none."""
        return self._counters[_WHERE]

    def take(self) -> None:
        """Tell the watchdog that the range is no longer its."""
        self._counters[_TAKEN] = self._counters[_BEGUN]

    def begin(self) -> None:
        """Tell that a fault is about to be taken."""
        self._counters[_BEGUN] += 1
        self._ring()

    def release(self, page: int) -> None:
        """Tell that its page was lifted.

        Args:
            page: Its address; 0 where no page was waited for.
        """
        self._counters[_WHERE] = page
        self._counters[_RELEASED] = self._counters[_BEGUN]
        self._ring()

    def finish(self) -> None:
        """Tell that nothing is lifted any more."""
        self._counters[_DONE] = self._counters[_BEGUN]
        self._ring()

    def _ring(self) -> None:
        # The counter cannot become full: it would take 2 ** 64 faults that we did not listen to.
        os.eventfd_write(self._bell.fileno(), 1)

    def hush(self) -> None:
        """Let the bell be silent until it rings again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell.fileno())

    def close(self) -> None:
        """Give them back."""
        self._board.close()
        self._bell.close()


class Watchdog:
    """Our end of a watchdog that guards one extent.

    Args:
        guard: A duplicate of the descriptor it guards, which it waits for already.
        signals: By which it tells; owned from here on.
        link: The socket to it; its end is the watchdog's.
        process: It; waited for when closed.
    """

    def __init__(
        self, guard: Userfaultfd, signals: Signals, link: socket.socket, process: subprocess.Popen[bytes]
    ) -> None:
        self.guard = guard
        self._signals = signals
        self._link = link
        self._process = process
        self._heard = self._called = 0
        self._epoll = select.epoll()
        for fd in (guard.fileno(), link.fileno(), signals.descriptors[1]):
            self._epoll.register(fd, select.EPOLLIN)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def fileno(self) -> int:
        """Readable when there is a fault, or the watchdog tells of one, or it has ended."""
        return self._epoll.fileno()

    @property
    def fired(self) -> bool:
        """Whether there is a fault, or was since `ready`, or the watchdog has ended."""
        # What rings after this is counted before; what has rung and was counted long ago is forgotten.
        self._signals.hush()
        if self._signals.begun != self._heard:
            return True
        return bool(self._readable(0, self.guard.fileno(), self._link.fileno()))

    @property
    def alive(self) -> bool:
        """Whether it has not ended: nothing is ever said to us on the socket."""
        return not self._readable(0, self._link.fileno())

    def ready(self) -> bool:
        """Whether it is alive and done with whatever it began; from then on `fired` is about what comes."""
        # Silence first: what rings after it is either counted here, and rings for nothing, or is to come. Of
        # the counters the last one first: it never overtakes the other.
        self._signals.hush()
        done, begun = self._signals.done, self._signals.begun
        self._heard = begun
        return begun == done and self.alive

    @property
    def where(self) -> int:
        """The address of the page it released last; 0 where nobody waited for one."""
        return self._signals.where

    def settle(self, timeout_s: float) -> bool:
        """Wait until the watchdog has released whoever ran into the protection.

        Args:
            timeout_s: It may have been stopped; whoever calls then lifts the protection instead.

        Returns:
            Whether it has; False too when it has ended.
        """
        return self._wait(lambda: self._heard != self._signals.begun == self._signals.released, timeout_s)

    def call(self) -> None:
        """Ask one that did not answer for a sign of life; `answered` tells when it has given it."""
        self._called = self._signals.done
        # It has ended, or has not taken what it was sent before: either is seen by `alive` and `answered`.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._link.send(_REHEARSE, socket.MSG_DONTWAIT)

    @property
    def answered(self) -> bool:
        """Whether it has done something since it was called, and has done with it."""
        done, begun = self._signals.done, self._signals.begun
        return done == begun != self._called

    def take_over(self) -> None:
        """Tell it that nothing is left to lift, and take what messages are left out of the descriptor."""
        while self._readable(0, self.guard.fileno()):
            _faults(self.guard.fileno())
        self._signals.take()

    def _wait(self, happened: Callable[[], bool], timeout_s: float) -> bool:
        bell, link = self._signals.descriptors[1], self._link.fileno()
        while not happened():
            if bell not in self._readable(timeout_s * 1000, bell, link):
                return False
            self._signals.hush()
        return self.alive

    def _readable(self, timeout_ms: float, *fds: int) -> list[int]:
        poller = select.poll()
        for fd in fds:
            poller.register(fd, select.POLLIN)
        return [fd for fd, _ in poller.poll(timeout_ms)]

    def rehearse(self, timeout_s: float) -> float | None:
        """Let the watchdog do, unasked by any fault, what it does at one.

        Returns:
            Until a writer would have been released, microseconds; None if the watchdog did not answer.
        """
        self.ready()
        began_ns = time.perf_counter_ns()
        try:
            self._link.send(_REHEARSE)
        except OSError:
            return None
        if not self.settle(timeout_s):
            return None
        released_ns = time.perf_counter_ns()
        if not self._wait(lambda: self._signals.begun == self._signals.done, timeout_s):
            return None
        return (released_ns - began_ns) / 1000

    def close(self) -> None:
        """Let it go: it ends, and with the last reference to the descriptor all protection is lifted."""
        self._epoll.close()
        self._link.close()
        self.guard.close()
        self._signals.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            # Stopped by somebody. It holds nothing but descriptors, and all they do is lift protection.
            self._process.kill()
            self._process.wait()


def stand_guard(guard: Userfaultfd, signals: Signals, link: socket.socket, start: int, end: int) -> None:
    """What the watchdog does until whoever it works for has let go or has died.

    Args:
        guard: The full userfaultfd, its features agreed on.
        signals: By which it tells whoever it works for.
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
                _lift(fd, everything)
            signals.finish()


def _ended(link: socket.socket) -> bool:
    try:
        return not link.recv(len(_REHEARSE))
    except ConnectionResetError:
        return True


def _faults(fd: int) -> list[int]:
    """Take messages out of the descriptor; returns the addresses of the pages that are waited for."""
    try:
        # Once: to be told that there are no more takes 15 us when the caches are cold, and a writer waits.
        data = os.read(fd, _MESSAGES * _MESSAGE_BYTES)
    except BlockingIOError:
        return []  # whoever had waited was released by the other side
    pages = []
    for at in range(0, len(data), _MESSAGE_BYTES):
        event, _, address, size = _FAULT.unpack_from(data, at)
        # Unmapped, given back: taking the event is the whole answer.
        if event == abi.UFFD_EVENT_PAGEFAULT:
            pages.append(address & -mmap.PAGESIZE)
        elif event == abi.UFFD_EVENT_REMAP:
            _let_go(fd, address, size)
    return pages


def _let_go(fd: int, start: int, size: int) -> None:
    """Memory that was moved took its protection along, to where nobody looks after it."""
    argument = bytearray(_RANGE.pack(start, size, 0))
    for request in (abi.UFFDIO_UNREGISTER, abi.UFFDIO_WAKE):
        _ask(fd, request, argument)


def _lift(fd: int, argument: bytearray) -> None:
    # Refused when part of it was unmapped or the other side has unregistered it, which lifts it but wakes
    # nobody. Where only part of it has gone the rest stays protected, and who is woken runs into it again:
    # the other side was told, and lifts all of it.
    if not _ask(fd, abi.UFFDIO_WRITEPROTECT, argument):
        _ask(fd, abi.UFFDIO_WAKE, argument)


def _ask(fd: int, request: int, argument: bytearray) -> bool:
    """Make a request of a userfaultfd; returns whether it was not refused because memory has gone or changes.

    Anything else ends the watchdog: the kernel then lifts all protection, and who it works for hears of it.
    """
    try:
        fcntl.ioctl(fd, request, argument)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return False
    return True
