"""Promises of an armed HybridTracker beyond the contract of `Tracker`: no polling until the first write."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pytest

from support.random_policy import RandomPolicy
from support.scribe import KERNEL_BYTE, PAGE, Scribe
from support.testbed.nobody import NOBODY
from support.testbed.require import require
from vramtap.display.mode import Mode
from vramtap.errors import TargetGone, VramtapError
from vramtap.linux.inject import fetch_userfaultfd
from vramtap.linux.procfs import vm_flags
from vramtap.linux.userfaultfd import LOG_FEATURES, Userfaultfd
from vramtap.memory.extent import Extent
from vramtap.memory.own import extent_of
from vramtap.memory.process import ProcessSpace
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.policy.decide import LogAlways
from vramtap.tap.tap import Tap
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.userfault.hybrid import HybridTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from vramtap.keyboard.events import Input

PAGES = 64
WAIT_MS = 10_000
"""Timeout; only a hang takes this long."""


@contextmanager
def anonymous(pages: int = PAGES) -> Iterator[Scribe]:
    with Scribe(pages) as scribe:
        yield scribe


@contextmanager
def memfd(pages: int = PAGES) -> Iterator[Scribe]:
    descriptor = os.memfd_create("armed")
    os.truncate(descriptor, pages * PAGE)
    with Scribe(pages, f"/proc/self/fd/{descriptor}", (descriptor,)) as scribe:
        os.close(descriptor)
        yield scribe


def arms_at_once() -> HybridTracker:
    """Return a tracker that arms after every scan that finds nothing, and leaves no tile unprotected."""
    return HybridTracker(policy=RandomPolicy(0, turn=0, arm=1))


class Armed:
    """A scribe's memory with a tracker, and a consumer that reads the reported pages."""

    def __init__(self, scribe: Scribe, tracker: HybridTracker) -> None:
        self.scribe = scribe
        self.space = ProcessSpace(scribe.pid)
        self.extent = Extent(self.space, scribe.address, scribe.pages)
        self.tracker = tracker
        self.mine = np.zeros(self.extent.size_bytes, np.uint8)
        self.called = 0

    def scan(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Collect and read the reported pages."""
        answer = self.tracker.collect(window)
        first, last = window or (0, self.extent.pages)
        runs = PageRuns([(first, last)]) if isinstance(answer, AllDirty) else answer
        self.tracker.read_from.read(runs, self.mine)
        return answer

    def start(self) -> None:
        """Scan until the tracker is armed; a watchdog that is not ready may delay this."""
        until_s = time.monotonic() + WAIT_MS / 1000
        self.scan()
        while not self.tracker.armed:
            assert time.monotonic() < until_s, "the tracker was not armed in time"
            self.scan()

    def wakes(self, timeout_ms: int = WAIT_MS) -> bool:
        """Return whether the waker's descriptor becomes readable within the timeout."""
        waker = self.tracker.wake(self._call)
        assert waker is not None
        assert waker.fd is not None
        poller = select.poll()
        poller.register(waker.fd, select.POLLIN)
        woken = bool(poller.poll(timeout_ms))
        waker.cancel()
        return woken

    def _call(self) -> None:
        self.called += 1

    def collect_all_dirty(self) -> AllDirty:
        """Wait for the waker, scan, and return the `AllDirty`, which pages near the write may precede."""
        assert self.wakes()
        answer = self.scan()
        if not isinstance(answer, AllDirty):
            assert answer
            answer = self.scan()
        assert isinstance(answer, AllDirty)
        assert not self.tracker.armed
        return answer

    def is_current(self) -> bool:
        """Return whether the consumer's copy equals the memory."""
        truth = np.zeros_like(self.mine)
        self.extent.read(PageRuns.full(self.extent.pages), truth)
        return np.array_equal(self.mine, truth)

    @property
    def watchdog(self) -> int:
        """Process ID of the watchdog."""
        pid = self.tracker.watchdog_pid
        assert pid is not None
        return pid

    def stop_watchdog(self) -> None:
        """Stop the watchdog, and wait until it has stopped."""
        os.kill(self.watchdog, signal.SIGSTOP)
        os.waitid(os.P_PID, self.watchdog, os.WSTOPPED | os.WNOWAIT)


@contextmanager
def attached(scribe: Scribe, make: Callable[[], HybridTracker] = arms_at_once) -> Iterator[Armed]:
    armed = Armed(scribe, make())
    armed.tracker.start(armed.extent)
    try:
        yield armed
    finally:
        armed.tracker.stop()
        armed.space.close()


@pytest.fixture(params=[anonymous, memfd], ids=lambda p: p.__name__)
def armed(request: pytest.FixtureRequest) -> Iterator[Armed]:
    make: Callable[[], AbstractContextManager[Scribe]] = request.param
    with make() as scribe, attached(scribe) as made:
        made.start()
        yield made


@pytest.fixture
def armed_anonymous() -> Iterator[Armed]:
    with anonymous() as scribe, attached(scribe) as made:
        made.start()
        yield made


def protected(pid: int) -> list[tuple[int, int]]:
    """Return the address ranges that are registered for write protection with any userfaultfd."""
    return [(mapping.start, mapping.end) for mapping, flags in vm_flags(pid) if "uw" in flags]


# No wake-up without a write


def test_armed_tracker_is_silent_without_writes(armed: Armed) -> None:
    for _ in range(20):
        assert not armed.wakes(0)
        assert armed.scan() == NO_PAGES
        assert armed.tracker.armed
    assert armed.called == 0
    assert armed.is_current()


def test_reads_do_not_wake(armed: Armed) -> None:
    assert armed.is_current()
    assert not armed.wakes(0)
    assert armed.scan() == NO_PAGES


def test_stopped_target_does_not_wake_until_it_writes(armed: Armed) -> None:
    armed.scribe.stop()
    assert not armed.wakes(0)
    assert armed.scan() == NO_PAGES
    os.kill(armed.scribe.pid, signal.SIGCONT)
    armed.scribe.write(3, 4)
    assert armed.collect_all_dirty().reason is Reason.WOKEN


# The first write


@pytest.mark.parametrize("offset", [0, 17 * PAGE + 5, PAGES * PAGE - 1])
def test_first_write_wakes_and_all_pages_are_dirty(armed: Armed, offset: int) -> None:
    armed.scribe.write(offset, 9)
    assert armed.collect_all_dirty() == AllDirty(Reason.WOKEN)
    assert armed.mine[offset] == 9
    assert armed.is_current()


def test_tracker_can_be_armed_and_woken_repeatedly(armed: Armed) -> None:
    for number in range(1, 30):
        armed.scribe.write(number * 2 * PAGE, number)
        assert armed.collect_all_dirty().reason is Reason.WOKEN
        assert armed.is_current()
        # Not armed: the log reports the next write.
        armed.scribe.write(number * PAGE, number + 100)
        assert armed.scan() == PageRuns([(number, number + 1)])
        assert armed.is_current()
        armed.start()


def test_all_writes_before_the_wake_up_are_seen(armed: Armed) -> None:
    for page in range(PAGES):
        armed.scribe.write(page * PAGE + page, page + 1)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert armed.is_current()


def test_write_after_the_wake_up_is_in_the_log(armed: Armed) -> None:
    armed.scribe.write(PAGE, 1)
    armed.collect_all_dirty()
    armed.scribe.write(PAGE, 2)
    answer = armed.tracker.collect()
    assert answer == PageRuns([(1, 2)])


def test_write_by_the_kernel_wakes(armed: Armed) -> None:
    armed.scribe.read_file_into(12 * PAGE)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert (armed.mine[12 * PAGE : 13 * PAGE] == KERNEL_BYTE).all()
    assert armed.is_current()


def test_two_writers_at_once_are_both_released(armed: Armed) -> None:
    for number in range(1, 11):
        armed.scribe.begin_two_writes(number * PAGE, (PAGES - number) * PAGE, number)
        armed.scribe.finish()
        assert armed.collect_all_dirty().reason is Reason.WOKEN
        assert armed.is_current()
        armed.start()


def test_write_of_the_parent_wakes_after_a_fork(armed: Armed) -> None:
    armed.scribe.write(PAGE, 1)
    armed.collect_all_dirty()
    armed.start()
    armed.scribe.protect_forks()
    assert armed.scan() == NO_PAGES
    armed.scribe.write(PAGE, 2)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert armed.is_current()


# Memory that changes without a write


@pytest.mark.parametrize("span", [(0, PAGES), (10, 20), (63, 64)])
def test_replaced_memory_wakes_and_is_tracked_again(armed: Armed, span: tuple[int, int]) -> None:
    armed.scribe.write(11 * PAGE, 7)
    armed.collect_all_dirty()
    armed.start()
    armed.scribe.replace(*span)
    armed.collect_all_dirty()
    assert armed.is_current()
    armed.start()
    armed.scribe.write((span[1] - 1) * PAGE, 3)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert armed.is_current()


@pytest.mark.parametrize("span", [(0, 1), (10, 20), (63, 64)])
def test_unmapped_memory_wakes_and_never_gives_an_empty_answer(armed: Armed, span: tuple[int, int]) -> None:
    armed.scribe.unmap(*span)
    assert armed.wakes()
    for _ in range(3):
        answer = armed.tracker.collect()
        assert isinstance(answer, AllDirty)
        assert answer.reason is Reason.UNMAPPED
        assert not armed.tracker.armed
    armed.scribe.replace(*span)
    assert isinstance(armed.scan(), AllDirty)
    armed.start()
    armed.scribe.write(span[0] * PAGE, 3)
    assert armed.collect_all_dirty().reason is Reason.WOKEN
    assert armed.is_current()


def test_extent_unmapped_as_a_whole_is_logged_once_it_is_mapped_again(armed: Armed) -> None:
    armed.scribe.unmap(0, PAGES)
    assert armed.wakes()
    answer = armed.tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.UNMAPPED
    armed.scribe.replace(0, PAGES)
    assert isinstance(armed.scan(), AllDirty)
    armed.scribe.write(7 * PAGE, 3)
    armed.scan()
    assert armed.mine[7 * PAGE] == 3
    assert armed.is_current()


def test_madvise_dontneed_wakes(armed_anonymous: Armed) -> None:
    armed = armed_anonymous
    armed.scribe.write(11 * PAGE, 7)
    armed.collect_all_dirty()
    armed.start()
    armed.scribe.give_back(10, 20)
    armed.collect_all_dirty()
    # The event comes before the pages are freed. Pages freed after the scan are in the log's next answer.
    armed.scan()
    assert armed.mine[11 * PAGE] == 0
    assert armed.is_current()


@pytest.mark.parametrize("span", [(0, 1), (10, 20), (1, PAGES)])
def test_moved_memory_wakes_and_is_unprotected(armed: Armed, span: tuple[int, int]) -> None:
    place = armed.scribe.move(*span)
    assert armed.wakes()
    answer = armed.tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.UNMAPPED
    size = (span[1] - span[0]) * PAGE
    assert not [r for r in protected(armed.scribe.pid) if r[0] < place + size and place < r[1]]
    armed.stop_watchdog()
    armed.scribe.write_elsewhere(0, 1)


def test_extent_moved_as_a_whole_is_unprotected(armed: Armed) -> None:
    place = armed.scribe.move(0, PAGES)
    assert armed.wakes()
    answer = armed.tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.UNMAPPED
    assert not protected(armed.scribe.pid), hex(place)
    armed.scribe.write_elsewhere(0, 1)


def test_memory_moved_while_the_watchdog_is_stopped_is_unprotected(armed: Armed) -> None:
    """Mremap causes two events and waits until both are read; collect reads them."""
    armed.stop_watchdog()
    armed.scribe.begin_move(10, 20)
    assert armed.wakes()
    until_s = time.monotonic() + WAIT_MS / 1000
    while not armed.scribe.answers():
        assert isinstance(armed.tracker.collect(), AllDirty)
        assert time.monotonic() < until_s, "the moving thread is still suspended"
    armed.scribe.finish_move()
    armed.scribe.write_elsewhere(0, 1)


def test_memory_replaced_by_an_ordinary_file_is_logged_and_never_armed(armed: Armed, tmp_path: Path) -> None:
    path = tmp_path / "ordinary"
    path.write_bytes(bytes(10 * PAGE))
    armed.scribe.replace_by_file(10, 20, str(path))
    armed.collect_all_dirty()
    for page in (5, 11, 40):
        armed.scribe.write(page * PAGE, 3)
        assert armed.scan() == PageRuns([(page, page + 1)])
    for _ in range(5):
        armed.scan()
        assert not armed.tracker.armed
    assert "UFFDIO" in armed.tracker.unarmable
    assert armed.is_current()


def test_extent_with_a_hole_outside_the_window_is_not_armed() -> None:
    """Memory that is mapped into the hole later is not protected, so its writes would be missed."""
    with anonymous() as scribe, attached(scribe) as armed:
        armed.scan()
        armed.scribe.unmap(20, 30)
        for _ in range(4):
            armed.scan((0, 10))
        assert isinstance(armed.tracker.collect((20, 30)), AllDirty)
        armed.scan((0, 10))
        armed.scribe.replace(20, 30)
        armed.scribe.write(25 * PAGE, 8)
        armed.scan()
        assert armed.mine[25 * PAGE] == 8
        armed.scribe.write(25 * PAGE, 9)
        armed.scan()
        assert armed.mine[25 * PAGE] == 9


# Collecting while armed


def test_restored_pages_are_reported_again_while_armed(armed: Armed) -> None:
    runs = PageRuns([(3, 5), (9, 10)])
    armed.tracker.restore(runs)
    assert not armed.wakes(0)
    assert armed.called == 1
    assert armed.scan((0, 4)) == PageRuns([(3, 4)])
    assert armed.scan() == PageRuns([(4, 5), (9, 10)])
    assert armed.scan() == NO_PAGES
    assert armed.tracker.armed
    armed.scribe.write(0, 1)
    assert armed.collect_all_dirty().reason is Reason.WOKEN


def test_each_window_is_all_dirty_once_after_arming_and_after_waking() -> None:
    with anonymous() as scribe, attached(scribe) as armed:
        armed.scan()
        while not armed.tracker.armed:
            answer = armed.scan((0, 8))
        assert answer == AllDirty(Reason.ARMED)
        assert armed.scan((0, 8)) == NO_PAGES
        assert armed.scan((4, 16)) == AllDirty(Reason.ARMED)
        assert armed.scan((8, 16)) == NO_PAGES
        assert armed.tracker.armed
        scribe.write(30 * PAGE, 5)
        assert armed.scan((0, 8)) == AllDirty(Reason.WOKEN)
        assert armed.scan((24, 32)) == AllDirty(Reason.WOKEN)
        assert armed.mine[30 * PAGE] == 5
        assert armed.scan() == AllDirty(Reason.WOKEN)
        assert armed.is_current()


def test_write_outside_the_window_wakes(armed: Armed) -> None:
    armed.scribe.write(40 * PAGE, 1)
    assert armed.scan((0, 8)) == AllDirty(Reason.WOKEN)
    assert armed.scan((32, 48)) == AllDirty(Reason.WOKEN)
    assert armed.mine[40 * PAGE] == 1


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


def descriptors(pid: int) -> set[str]:
    return set(os.listdir(f"/proc/{pid}/fd"))


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


# Memory that cannot be armed


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


# A tap


class StillTarget:
    """A scribe's memory as a target with a fixed mode."""

    url = "scribe:"
    input: Input | None = None
    tolerates_injection = False
    announces_mode = True

    def __init__(self, extent: Extent) -> None:
        self.extent = extent

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    async def mode(self) -> Mode:
        return Mode(PAGE // 4, self.extent.pages, PAGE)

    async def snapshot(self) -> NDArray[np.uint32]:
        raise NotImplementedError

    async def gone(self) -> str:
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never


async def test_one_refresh_of_a_tap_shows_all_writes_since_it_was_armed() -> None:
    with anonymous(1024) as scribe:
        space = ProcessSpace(scribe.pid)
        async with Tap(StillTarget(Extent(space, scribe.address, scribe.pages)), "hybrid") as tap:
            tracker = tap._tracker
            assert isinstance(tracker, HybridTracker)
            for number in range(1, 6):
                async with asyncio.timeout(WAIT_MS / 1000):
                    while not tracker.armed:
                        await tap.refresh()
                for page in (2, 500, 1023):
                    scribe.write(page * PAGE, number)
                await tap.refresh()
                assert tap.screen.pixels[[2, 500, 1023], 0].tolist() == [number] * 3
        space.close()
