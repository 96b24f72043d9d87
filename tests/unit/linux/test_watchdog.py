"""The watchdog with hand-made messages: the order of its actions, and the main process's view of it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from support.scribe import PAGE
from vramtap.linux import abi, watchdog
from vramtap.linux.userfaultfd import Userfaultfd
from vramtap.linux.watchdog import Signals, Watchdog, stand_guard

if TYPE_CHECKING:
    from collections.abc import Iterator

START, END = 0x7F00_0000_0000, 0x7F00_0010_0000
WAIT_S = 10.0
"""Time limit, against hangs."""
LATE_S = 0.005
"""Time to wait for an event that must not happen."""
MOVED = abi.UFFD_EVENT_REMAP
UNMAPPED = 0x16
"""UFFD_EVENT_UNMAP (linux/userfaultfd.h)."""


def message(event: int, flags: int = 0, address: int = 0, third: int = 0) -> bytes:
    """Return a message as the kernel writes it; for a move the fields are old address, new address, bytes."""
    made = abi.UffdMsg(event=event, flags=flags, address=address, ptid=third)
    return bytes(made)


class Bench:
    """A watchdog in a thread, with a pipe as its userfaultfd, and the main process's end of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.signals = Signals.create()
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = Process()
        self.guard = Userfaultfd(reader, "test")
        self.link = ours
        self.requests: list[tuple[int, int, int]] = []
        """Requests to the kernel: request, first address, bytes."""
        self.counts: list[tuple[int, int]] = []
        """Counters `begun` and `released` at each request."""
        monkeypatch.setattr(fcntl, "ioctl", self._ioctl)
        self.refused = False
        self.dog = Watchdog(self.guard, self.signals, ours, cast("subprocess.Popen[bytes]", self.process))

    def _ioctl(self, fd: int, request: int, argument: bytearray) -> int:
        start, size, mode = watchdog._RANGE.unpack(argument)
        assert mode == 0
        self.requests.append((request, start, size))
        self.counts.append((self.signals.begun, self.signals.released))
        if self.refused:
            raise OSError(2, "refused")
        return 0

    def close(self) -> None:
        self.dog.close()
        os.close(self.writer)
        self.theirs.close()

    @contextlib.contextmanager
    def standing(self) -> Iterator[threading.Thread]:
        """Run the watchdog; it ends when this side shuts the socket down."""
        thread = threading.Thread(
            target=stand_guard, args=(self.guard, self.signals, self.theirs, START, END)
        )
        thread.start()
        try:
            yield thread
        finally:
            self.link.shutdown(socket.SHUT_RDWR)
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def until_done(self, number: int) -> None:
        """Wait until the watchdog is done with this many faults."""
        poller = select.poll()
        poller.register(self.signals.descriptors[1], select.POLLIN)
        while self.signals.done < number:
            assert poller.poll(WAIT_S * 1000)
            self.signals.drain()


class Process:
    """A stub of the watchdog's process."""

    pid = 4711

    def wait(self, timeout_s: float = 0) -> int:
        return 0


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # A real-time thread would disturb the other work of the test machine.
    monkeypatch.setattr(os, "sched_setscheduler", lambda *arguments: None)
    made = Bench(monkeypatch)
    yield made
    made.close()


LIFT, UNREGISTER, WAKE = abi.UFFDIO_WRITEPROTECT, abi.UFFDIO_UNREGISTER, abi.UFFDIO_WAKE
WHOLE_RANGE = (LIFT, START, END - START)


# The watchdog's process


def test_faulting_page_is_lifted_first_then_whole_range(bench: Bench) -> None:
    os.write(bench.writer, message(abi.UFFD_EVENT_PAGEFAULT, 3, START + 5 * PAGE + 123))
    with bench.standing():
        bench.until_done(1)
    assert bench.requests == [(LIFT, START + 5 * PAGE, PAGE), WHOLE_RANGE]
    assert bench.dog.where == START + 5 * PAGE
    assert bench.counts == [(1, 0), (1, 1)]
    assert bench.signals.begun == bench.signals.released == bench.signals.done == 1


def test_fault_is_counted_before_it_is_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    faults, begun = watchdog._faults, []

    def spying(fd: int) -> list[int]:
        begun.append(bench.signals.begun)
        return faults(fd)

    monkeypatch.setattr(watchdog, "_faults", spying)
    os.write(bench.writer, message(abi.UFFD_EVENT_PAGEFAULT, 3, START))
    with bench.standing():
        bench.until_done(1)
    assert begun == [1]


def test_all_faulting_pages_are_lifted_before_range(bench: Bench) -> None:
    pages = [START + number * PAGE for number in range(40)]
    os.write(bench.writer, b"".join(message(abi.UFFD_EVENT_PAGEFAULT, 3, page) for page in pages))
    with bench.standing():
        bench.until_done(1)
    assert bench.requests == [*((LIFT, page, PAGE) for page in pages), WHOLE_RANGE]


def test_acknowledged_range_is_not_lifted_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    release = Signals.release

    def release_and_take(signals: Signals, page: int) -> None:
        release(signals, page)
        bench.dog.acknowledge()

    monkeypatch.setattr(Signals, "release", release_and_take)
    os.write(bench.writer, message(abi.UFFD_EVENT_PAGEFAULT, 3, START))
    with bench.standing():
        bench.until_done(1)
    assert bench.requests == [(LIFT, START, PAGE)]


def test_refused_lift_wakes_writers(bench: Bench) -> None:
    bench.refused = True
    os.write(bench.writer, message(abi.UFFD_EVENT_PAGEFAULT, 3, START))
    with bench.standing():
        bench.until_done(1)
    assert bench.requests == [
        (LIFT, START, PAGE),
        (WAKE, START, PAGE),
        WHOLE_RANGE,
        (WAKE, START, END - START),
    ]


def test_moved_memory_is_released_at_new_address(bench: Bench) -> None:
    elsewhere, size = END + 7 * PAGE, 3 * PAGE
    os.write(bench.writer, message(MOVED, START, elsewhere, size))
    with bench.standing():
        bench.until_done(1)
    assert bench.requests == [(UNREGISTER, elsewhere, size), (WAKE, elsewhere, size), WHOLE_RANGE]


def test_unmap_event_only_lifts_range(bench: Bench) -> None:
    os.write(bench.writer, message(UNMAPPED, START, START + PAGE))
    with bench.standing():
        bench.until_done(1)
    assert bench.requests == [WHOLE_RANGE]
    assert bench.dog.where == 0, "no writer was held"


def test_fault_read_by_main_process_is_still_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = watchdog._faults

    def too_late(fd: int) -> list[int]:
        faults(fd)
        return faults(fd)

    monkeypatch.setattr(watchdog, "_faults", too_late)
    os.write(bench.writer, message(abi.UFFD_EVENT_PAGEFAULT, 3, START))
    with bench.standing():
        bench.until_done(1)
    assert bench.requests == [WHOLE_RANGE]


def test_watchdog_ends_when_socket_is_shut_down(bench: Bench) -> None:
    with bench.standing() as thread:
        bench.link.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert bench.requests == []


def test_watchdog_ends_when_main_is_killed_with_unread_data(bench: Bench) -> None:
    bench.theirs.send(b"never read")
    bench.link.close()
    with contextlib.suppress(OSError), bench.standing() as thread:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_watchdog_accepts_descriptors_above_1024(bench: Bench) -> None:
    """The descriptors keep their numbers from the main process, which may serve a thousand viewers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        high = fcntl.fcntl(bench.theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    bench.theirs.close()
    bench.theirs = socket.socket(fileno=high)
    with bench.standing():
        bench.link.send(b"r")
        bench.until_done(1)


# The main process's end


def test_new_watchdog_is_ready_and_has_not_fired(bench: Bench) -> None:
    assert bench.dog.alive
    assert bench.dog.ready()
    assert not bench.dog.fired
    assert not bench.dog.wait_released(LATE_S)
    assert bench.dog.pid == 4711
    assert not _readable(bench.dog.fileno())


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_unanswered_fault_fires_until_acknowledged(bench: Bench) -> None:
    assert bench.dog.ready()
    os.write(bench.writer, message(abi.UFFD_EVENT_PAGEFAULT, 3, START))
    assert bench.dog.fired
    assert _readable(bench.dog.fileno())
    assert not bench.dog.wait_released(LATE_S)
    bench.dog.acknowledge()
    assert not bench.dog.fired, "the message was read"


def test_watchdog_is_not_ready_until_done(bench: Bench) -> None:
    assert bench.dog.ready()
    bench.signals.begin()
    assert _readable(bench.dog.fileno())
    assert bench.dog.fired
    assert not bench.dog.wait_released(LATE_S)
    assert not bench.dog.ready()
    bench.signals.release(START)
    assert not bench.dog.ready(), "the watchdog may still lift the range"
    bench.signals.finish()
    assert bench.dog.ready()
    assert not bench.dog.fired
    assert not _readable(bench.dog.fileno())


def test_wait_released_returns_after_release(bench: Bench) -> None:
    assert bench.dog.ready()
    bench.signals.begin()
    bench.signals.release(START)
    assert bench.dog.wait_released(LATE_S)
    assert bench.dog.fired, "fired stays true until ready"


def test_wait_released_waits_for_signal(bench: Bench) -> None:
    assert bench.dog.ready()
    bench.signals.begin()
    later = threading.Timer(0.01, bench.signals.release, [START])
    later.start()
    assert bench.dog.wait_released(WAIT_S)
    later.join()


def test_late_watchdog_fires_in_next_round(bench: Bench) -> None:
    """The watchdog is stopped between poll and begin; meanwhile main acknowledges and arms again."""
    assert bench.dog.ready()
    assert not bench.dog.fired
    bench.signals.begin()
    assert bench.dog.fired
    bench.signals.release(START)
    bench.signals.finish()
    assert bench.dog.fired


def test_fired_stays_true_when_read_repeatedly(bench: Bench) -> None:
    assert bench.dog.ready()
    bench.signals.begin()
    assert [bench.dog.fired for _ in range(3)] == [True] * 3


def test_ended_watchdog_is_detected(bench: Bench) -> None:
    assert bench.dog.ready()
    bench.theirs.close()
    assert not bench.dog.alive
    assert bench.dog.fired
    assert _readable(bench.dog.fileno())
    assert not bench.dog.ready()
    assert not bench.dog.wait_released(WAIT_S)
    assert bench.dog.rehearse(WAIT_S) is None


def test_watchdog_that_ended_during_fault_is_never_ready(bench: Bench) -> None:
    assert bench.dog.ready()
    bench.signals.begin()
    bench.theirs.close()
    assert not bench.dog.wait_released(WAIT_S)
    assert not bench.dog.ready()


def test_rehearse_measures_and_repeats_fault_handling(bench: Bench) -> None:
    with bench.standing():
        for number in range(1, 4):
            took_us = bench.dog.rehearse(WAIT_S)
            assert took_us is not None
            assert took_us > 0
            assert bench.requests == [(LIFT, START, PAGE), WHOLE_RANGE] * number
    assert bench.dog.rehearse(LATE_S) is None


def test_acknowledge_releases_moved_memory(bench: Bench) -> None:
    elsewhere = END + PAGE
    os.write(bench.writer, message(UNMAPPED, START, START + PAGE) + message(MOVED, START, elsewhere, PAGE))
    bench.dog.acknowledge()
    assert bench.requests == [(UNREGISTER, elsewhere, PAGE), (WAKE, elsewhere, PAGE)]


def test_close_kills_watchdog_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_END_S", LATE_S)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    with subprocess.Popen(["sleep", "inf"]) as process:
        Watchdog(Userfaultfd(reader, "test"), Signals.create(), ours, cast("Any", process)).close()
        assert process.returncode is not None
    theirs.close()
    os.close(writer)


# The signals


def test_counters_are_shared_by_descriptor() -> None:
    ours = Signals.create()
    theirs = Signals(*(os.dup(fd) for fd in ours.descriptors))
    assert (ours.begun, ours.released, ours.done, ours.taken) == (0, 0, 0, 0)
    theirs.begin()
    assert (ours.begun, ours.released, ours.done, ours.taken) == (1, 0, 0, 0)
    theirs.release(START)
    theirs.finish()
    theirs.begin()
    ours.take()
    assert (theirs.begun, theirs.released, theirs.done, theirs.taken) == (2, 1, 1, 2)
    assert _readable(ours.descriptors[1])
    ours.drain()
    assert not _readable(ours.descriptors[1])
    ours.drain()
    ours.close()
    theirs.close()


def test_failed_create_leaves_no_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for room in range(1, 3):
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + room - 1, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                Signals.create()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert set(os.listdir("/proc/self/fd")) == before


def test_message_layout_matches_abi() -> None:
    assert len(message(0)) == ctypes.sizeof(abi.UffdMsg) == watchdog._MESSAGE_BYTES == 32
    assert watchdog._FAULT.unpack_from(message(MOVED, 1, 2, 3)) == (MOVED, 1, 2, 3)
