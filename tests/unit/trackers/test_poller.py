"""IdleWatch: one callback after the first hit, and no poll after cancel."""

from __future__ import annotations

import contextlib
import resource
import threading
from typing import TYPE_CHECKING

import numpy as np

from support.machine_code import assemble
from support.scribe import PAGE
from vramtap.machine.machine import Machine
from vramtap.machine.watch import IDLE_AFTER_S, MachineWatch
from vramtap.memory.own import extent_of
from vramtap.pages import PageRuns
from vramtap.trackers.poller import IdleWatch
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


def test_watch_polls_until_the_first_hit() -> None:
    answers = iter([False, False, True])
    called = threading.Event()
    watch = IdleWatch(lambda: next(answers), called.set, interval_s=0.001)
    assert called.wait(10)
    watch.cancel()
    assert next(answers, "no more") == "no more"


def test_cancel_ends_the_thread_without_a_callback() -> None:
    polled, called = threading.Event(), []

    def poll() -> bool:
        polled.set()
        return False

    watch = IdleWatch(poll, lambda: called.append("called"), 0.001)
    assert polled.wait(10)
    watch.cancel()
    assert not called
    assert not any(thread.name == "vramtap-idle" for thread in threading.enumerate())


def test_log_wakes_at_a_write_and_reports_it() -> None:
    room = np.zeros(9 * PAGE, dtype=np.uint8)
    skip = -room.ctypes.data % PAGE
    pages = room[skip : skip + 8 * PAGE]
    tracker = LogTracker()
    tracker.start(extent_of(pages)[0])
    tracker.collect()
    called = threading.Event()
    waker = tracker.wake(called.set)
    assert waker is not None
    pages[3 * PAGE] = 1
    assert called.wait(10)
    waker.cancel()
    answer = tracker.collect()
    assert answer == PageRuns([(3, 4)])
    tracker.stop()


@contextlib.contextmanager
def limited(resource_kind: int) -> Iterator[None]:
    """Refuse any more of this resource."""
    limit = resource.getrlimit(resource_kind)
    resource.setrlimit(resource_kind, (0, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource_kind, limit)


def test_log_wakes_without_free_descriptors() -> None:
    pages = np.zeros(9 * PAGE, dtype=np.uint8)
    tracker = LogTracker()
    tracker.start(extent_of(pages)[0])
    tracker.collect()
    called = threading.Event()
    with limited(resource.RLIMIT_NOFILE):
        waker = tracker.wake(called.set)
        assert waker is not None
        pages[3 * PAGE] = 1
        assert called.wait(10)
    waker.cancel()
    tracker.stop()


def test_log_cannot_wake_if_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pages = np.zeros(9 * PAGE, dtype=np.uint8)
    tracker = LogTracker()
    tracker.start(extent_of(pages)[0])
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert tracker.wake(lambda: None) is None
    tracker.stop()


def test_log_calls_back_at_once_if_pages_are_pending() -> None:
    room = np.zeros(9 * PAGE, dtype=np.uint8)
    tracker = LogTracker()
    tracker.start(extent_of(room)[0])
    called = threading.Event()
    waker = tracker.wake(called.set)
    assert waker is not None
    assert called.is_set()
    waker.cancel()
    tracker.stop()


def test_log_waits_for_the_events_of_a_vm() -> None:
    with Machine(assemble("hlt"), cpu="unicorn") as machine:
        tracker = LogTracker()
        tracker.start(machine.extent)
        tracker.collect()
        assert tracker.idle_after_s == IDLE_AFTER_S
        waker = tracker.wake(lambda: None)
        assert isinstance(waker, MachineWatch)
        waker.cancel()
        tracker.stop()
