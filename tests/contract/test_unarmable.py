"""HybridTracker on memory that cannot be armed: it says why, logs, and polls while idle."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.armed import (
    PAGES,
    WAIT_MS,
    Armed,
    anonymous,
    arms_at_once,
    attached,
    descriptors,
    protected,
)
from support.scribe import PAGE, Scribe
from support.testbed.nobody import NOBODY
from support.testbed.require import require
from vramtap.errors import VramtapError
from vramtap.linux.inject import fetch_userfaultfd
from vramtap.linux.userfaultfd import LOG_FEATURES, Userfaultfd
from vramtap.memory.own import extent_of
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.policy.decide import LogAlways
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.userfault.hybrid import HybridTracker

if TYPE_CHECKING:
    from collections.abc import Callable


def test_second_tracker_of_the_same_memory_is_refused_and_cleaned_up() -> None:
    with anonymous() as scribe, attached(scribe) as armed:
        armed.start()
        ours = descriptors(os.getpid())
        second = Armed(scribe, arms_at_once())
        with pytest.raises(VramtapError, match=r"EBUSY.*another tap"):
            second.tracker.start(second.extent)
        assert second.tracker.watchdog_pid is None
        second.space.close()
        assert descriptors(os.getpid()) == ours
        assert not armed.wakes(0)
        scribe.write(PAGE, 1)
        assert armed.collect_all_dirty().reason is Reason.WOKEN
        assert armed.is_current()


def test_memory_registered_by_another_program_is_not_armed_and_stays_protected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with anonymous() as scribe, attached(scribe) as armed:
        armed.scan()
        other = Userfaultfd(fetch_userfaultfd(scribe.pid).fd, f"pid {scribe.pid}")
        other.api(LOG_FEATURES)
        suspend = armed.tracker._log.suspend

        def suspend_and_register_other(why: AllDirty) -> None:
            suspend(why)
            other.register(armed.extent.address, armed.extent.end)

        with monkeypatch.context() as patch:
            patch.setattr(armed.tracker._log, "suspend", suspend_and_register_other)
            answer = armed.scan()
        assert isinstance(answer, AllDirty)
        assert not armed.tracker.armed
        assert protected(scribe.pid) == [(armed.extent.address, armed.extent.end)]
        scribe.write(PAGE, 1)
        other.close()
        assert isinstance(armed.scan(), AllDirty)
        assert armed.is_current()
        armed.start()


def _write(descriptor: int) -> None:
    os.write(descriptor, b"x")


def callback_waker(tracker: HybridTracker, write: Callable[[], None]) -> None:
    """Check that a tracker that cannot be armed polls and calls back."""
    called, calls = os.pipe()
    waker = tracker.wake(lambda: _write(calls))
    assert waker is not None
    assert waker.fd is None
    write()
    assert select.select([called], [], [], WAIT_MS / 1000)[0]
    waker.cancel()
    os.close(called)
    os.close(calls)


def test_ordinary_file_is_logged_with_a_reason_not_to_arm(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(PAGES * PAGE))
    with Scribe(PAGES, str(path)) as scribe, attached(scribe) as armed:
        assert "UFFDIO_REGISTER" in armed.tracker.unarmable
        assert "EINVAL" in armed.tracker.unarmable
        assert armed.tracker.watchdog_pid is None
        armed.scan()
        for _ in range(3):
            assert armed.scan() == NO_PAGES
        assert not armed.tracker.armed
        callback_waker(armed.tracker, lambda: scribe.write(5 * PAGE, 1))
        assert armed.scan() == PageRuns([(5, 6)])


def test_target_without_the_privilege_is_logged_with_a_remedy() -> None:
    unprivileged = Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip()
    require(unprivileged == "0", "vm.unprivileged_userfaultfd=1: every user gets a full userfaultfd")
    require(os.geteuid() == 0, "only root can become an unprivileged user")
    with Scribe(PAGES, user=NOBODY) as scribe, attached(scribe) as armed:
        assert "EPERM" in armed.tracker.unarmable
        assert "CAP_SYS_PTRACE" in armed.tracker.unarmable
        assert "vm.unprivileged_userfaultfd=1" in armed.tracker.unarmable
        assert armed.tracker.watchdog_pid is None
        armed.scan()
        for _ in range(3):
            assert armed.scan() == NO_PAGES
        assert not armed.tracker.armed
        callback_waker(armed.tracker, lambda: scribe.write(5 * PAGE, 1))
        assert armed.scan() == PageRuns([(5, 6)])
        assert armed.is_current()


def test_memory_of_this_process_is_logged_with_a_reason_not_to_arm() -> None:
    room = np.zeros((PAGES + 1) * PAGE, dtype=np.uint8)
    skip = -room.ctypes.data % PAGE
    pages = room[skip : skip + PAGES * PAGE]
    tracker = arms_at_once()
    tracker.start(extent_of(pages)[0])
    assert "memory of this process" in tracker.unarmable
    tracker.collect()
    for _ in range(3):
        assert tracker.collect() == NO_PAGES
    assert not tracker.armed
    callback_waker(tracker, lambda: pages.__setitem__(5 * PAGE, 1))
    assert tracker.collect() == PageRuns([(5, 6)])
    tracker.stop()


def test_tracker_with_a_policy_that_never_arms_must_be_polled() -> None:
    with anonymous() as scribe, attached(scribe, lambda: HybridTracker(policy=LogAlways())) as armed:
        armed.scan()
        for _ in range(3):
            assert armed.scan() == NO_PAGES
        assert not armed.tracker.armed
        assert armed.tracker.unarmable == ""
        assert armed.tracker.wake(armed._call) is None
