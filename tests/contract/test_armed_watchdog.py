"""Promises of an armed HybridTracker when its watchdog stops or ends, and when the tracker stops."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support.armed import (
    PAGES,
    Armed,
    anonymous,
    attached,
    descriptors,
    protected,
)
from support.scribe import PAGE
from vramtap.errors import TargetGone, VramtapError
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.trackers.base import Reason

# The watchdog


def test_stopped_watchdog_suspends_no_writer(armed: Armed, caplog: pytest.LogCaptureFixture) -> None:
    armed.stop_watchdog()
    armed.scribe.begin_two_writes(PAGE, 40 * PAGE, 5)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert "did not answer a write" in caplog.text
    armed.scribe.finish()
    armed.scan()
    assert armed.is_current()
    os.kill(armed.watchdog, signal.SIGCONT)
    armed.start()
    armed.scribe.write(PAGE, 6)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert armed.is_current()


def test_watchdog_that_continues_late_hides_no_write(armed: Armed) -> None:
    for number in range(1, 6):
        if not armed.tracker.armed:
            armed.start()
        armed.stop_watchdog()
        armed.scribe.begin_write(number * PAGE, number)
        armed.collect_all_dirty()
        armed.scribe.finish()
        armed.scan()
        os.kill(armed.watchdog, signal.SIGCONT)
        for page in range(PAGES):
            armed.scribe.write(page * PAGE, number + page)
            armed.scan()
            assert armed.mine[page * PAGE] == number + page


@pytest.mark.parametrize("write_first", [True, False])
def test_killed_watchdog_is_reported_and_the_log_continues(
    armed: Armed, caplog: pytest.LogCaptureFixture, write_first: bool
) -> None:
    if write_first:
        armed.scribe.write(PAGE, 1)
    os.kill(armed.watchdog, signal.SIGKILL)
    os.waitid(os.P_PID, armed.watchdog, os.WEXITED | os.WNOWAIT)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert "has ended: never armed again" in caplog.text
    assert "has ended" in armed.tracker.unarmable
    assert armed.tracker.watchdog_pid is None
    for page in (1, 2, 63):
        armed.scribe.write(page * PAGE, 2)
        assert armed.scan() == PageRuns([(page, page + 1)])
    for _ in range(3):
        assert armed.scan() == NO_PAGES
        assert not armed.tracker.armed
    waker = armed.tracker.wake(armed._call)
    assert waker is not None
    assert waker.fd is None, "the tracker polls instead"
    waker.cancel()


def test_watchdog_killed_while_logging_is_noticed_before_arming() -> None:
    with anonymous() as scribe, attached(scribe) as armed:
        armed.scan()
        os.kill(armed.watchdog, signal.SIGKILL)
        os.waitid(os.P_PID, armed.watchdog, os.WEXITED | os.WNOWAIT)
        for _ in range(3):
            armed.scan()
            assert not armed.tracker.armed
        assert "has ended" in armed.tracker.unarmable
        scribe.write(PAGE, 1)
        assert armed.scan() == PageRuns([(1, 2)])


# Stopping


def test_stop_leaves_no_protection_descriptor_or_process() -> None:
    with anonymous() as scribe:
        ours, theirs = descriptors(os.getpid()), descriptors(scribe.pid)
        with attached(scribe) as armed:
            armed.start()
            assert descriptors(scribe.pid) == theirs
            assert protected(scribe.pid)
            watchdog = armed.watchdog
            armed.tracker.stop()
            assert not protected(scribe.pid)
            assert not Path(f"/proc/{watchdog}").exists()
            assert not armed.tracker.armed
            with pytest.raises(VramtapError, match="not started"):
                armed.tracker.collect()
            scribe.write(0, 1)
            armed.tracker.stop()
        assert descriptors(os.getpid()) == ours
        assert descriptors(scribe.pid) == theirs


@pytest.mark.parametrize("stopped", [True, False])
def test_stop_releases_a_suspended_writer(stopped: bool) -> None:
    with anonymous() as scribe, attached(scribe) as armed:
        armed.start()
        if stopped:
            armed.stop_watchdog()
        scribe.begin_write(PAGE, 1)
        assert armed.wakes()
        watchdog = armed.watchdog
        armed.tracker.stop()
        scribe.finish()
        assert not protected(scribe.pid)
        assert not Path(f"/proc/{watchdog}").exists()


def test_tracker_can_be_started_again_at_once(armed: Armed) -> None:
    for number in range(1, 4):
        armed.tracker.start(armed.extent)
        armed.start()
        armed.scribe.write(PAGE, number)
        armed.collect_all_dirty()
        assert armed.mine[PAGE] == number


def test_collect_raises_target_gone_after_the_target_ended(armed: Armed) -> None:
    armed.scribe.end()
    with pytest.raises(TargetGone):
        armed.tracker.collect()


def test_collect_raises_target_gone_after_exec(armed: Armed) -> None:
    armed.scribe.exec()
    with pytest.raises(TargetGone):
        armed.tracker.collect()
