"""What an armed extent promises beyond the contract of `Tracker`: silence until the first write."""

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
"""Only a hang takes so long."""


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
    """Arms at every look that finds nothing, and leaves nothing open."""
    return HybridTracker(policy=RandomPolicy(0, turn=0, arm=1))


class Armed:
    """A scribe's memory, armed; and a consumer that reads what it is told to."""

    def __init__(self, scribe: Scribe, tracker: HybridTracker) -> None:
        self.scribe = scribe
        self.space = ProcessSpace(scribe.pid)
        self.extent = Extent(self.space, scribe.address, scribe.pages)
        self.tracker = tracker
        self.mine = np.zeros(self.extent.size_bytes, np.uint8)
        self.called = 0

    def look(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        """Collect and read."""
        answer = self.tracker.collect(window)
        first, last = window or (0, self.extent.pages)
        runs = PageRuns([(first, last)]) if isinstance(answer, AllDirty) else answer
        self.tracker.read_from.read(runs, self.mine)
        return answer

    def start(self) -> None:
        """Look until it is armed: a watchdog that is not done yet may keep it from that for a while."""
        until_s = time.monotonic() + WAIT_MS / 1000
        self.look()
        while not self.tracker.armed:
            assert time.monotonic() < until_s, "it is never armed"
            self.look()

    def fires(self, timeout_ms: int = WAIT_MS) -> bool:
        """Whether the waker's descriptor is readable in this time; nobody may have been called back."""
        waker = self.tracker.wake(self._call)
        assert waker is not None
        assert waker.fd is not None
        poller = select.poll()
        poller.register(waker.fd, select.POLLIN)
        fired = bool(poller.poll(timeout_ms))
        waker.cancel()
        return fired

    def _call(self) -> None:
        self.called += 1

    def told(self) -> AllDirty:
        """Wait for the waker and look; returns the answer, which must be everything.

        What is near the write may be told first.
        """
        assert self.fires()
        answer = self.look()
        if not isinstance(answer, AllDirty):
            assert answer
            answer = self.look()
        assert isinstance(answer, AllDirty)
        assert not self.tracker.armed
        return answer

    def knows_all(self) -> bool:
        """Whether the consumer has the memory."""
        truth = np.zeros_like(self.mine)
        self.extent.read(PageRuns.full(self.extent.pages), truth)
        return np.array_equal(self.mine, truth)

    @property
    def watchdog(self) -> int:
        """Its pid."""
        pid = self.tracker.watchdog_pid
        assert pid is not None
        return pid

    def stop_watchdog(self) -> None:
        """Stop it, and wait until it has stopped."""
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
    """What some userfaultfd may write-protect: address ranges."""
    return [(mapping.start, mapping.end) for mapping, flags in vm_flags(pid) if "uw" in flags]


# Silence


def test_nothing_is_said_while_nothing_is_written(armed: Armed) -> None:
    for _ in range(20):
        assert not armed.fires(0)
        assert armed.look() == NO_PAGES
        assert armed.tracker.armed
    assert armed.called == 0
    assert armed.knows_all()


def test_reading_is_no_write(armed: Armed) -> None:
    assert armed.knows_all()
    assert not armed.fires(0)
    assert armed.look() == NO_PAGES


def test_a_stopped_target_is_a_quiet_one(armed: Armed) -> None:
    armed.scribe.stop()
    assert not armed.fires(0)
    assert armed.look() == NO_PAGES
    os.kill(armed.scribe.pid, signal.SIGCONT)
    armed.scribe.write(3, 4)
    assert armed.told().reason is Reason.WOKEN


# The first write


@pytest.mark.parametrize("offset", [0, 17 * PAGE + 5, PAGES * PAGE - 1])
def test_the_first_write_fires_and_everything_is_to_be_looked_at(armed: Armed, offset: int) -> None:
    armed.scribe.write(offset, 9)
    assert armed.told() == AllDirty(Reason.WOKEN)
    assert armed.mine[offset] == 9
    assert armed.knows_all()


def test_it_fires_again_and_again(armed: Armed) -> None:
    for number in range(1, 30):
        armed.scribe.write(number * 2 * PAGE, number)
        assert armed.told().reason is Reason.WOKEN
        assert armed.knows_all()
        # The log is in charge.
        armed.scribe.write(number * PAGE, number + 100)
        assert armed.look() == PageRuns([(number, number + 1)])
        assert armed.knows_all()
        armed.start()


def test_many_writes_before_anybody_looks_are_all_seen(armed: Armed) -> None:
    for page in range(PAGES):
        armed.scribe.write(page * PAGE + page, page + 1)
    assert armed.told().reason is Reason.WOKEN
    assert armed.knows_all()


def test_a_write_right_after_the_hand_over_is_the_logs(armed: Armed) -> None:
    armed.scribe.write(PAGE, 1)
    armed.told()
    armed.scribe.write(PAGE, 2)
    answer = armed.tracker.collect()
    assert answer == PageRuns([(1, 2)])


def test_what_the_kernel_writes_fires_too(armed: Armed) -> None:
    armed.scribe.read_file_into(12 * PAGE)
    assert armed.told().reason is Reason.WOKEN
    assert (armed.mine[12 * PAGE : 13 * PAGE] == KERNEL_BYTE).all()
    assert armed.knows_all()


def test_two_writers_at_once_are_both_let_go(armed: Armed) -> None:
    for number in range(1, 11):
        armed.scribe.begin_two_writes(number * PAGE, (PAGES - number) * PAGE, number)
        armed.scribe.finish()
        assert armed.told().reason is Reason.WOKEN
        assert armed.knows_all()
        armed.start()


def test_after_a_fork_the_parents_writes_fire(armed: Armed) -> None:
    armed.scribe.write(PAGE, 1)
    armed.told()
    armed.start()
    armed.scribe.protect_forks()
    assert armed.look() == NO_PAGES
    armed.scribe.write(PAGE, 2)
    assert armed.told().reason is Reason.WOKEN
    assert armed.knows_all()


# Memory that changes without a write


@pytest.mark.parametrize("span", [(0, PAGES), (10, 20), (63, 64)])
def test_memory_that_was_replaced_fires_and_is_watched_again(armed: Armed, span: tuple[int, int]) -> None:
    armed.scribe.write(11 * PAGE, 7)
    armed.told()
    armed.start()
    armed.scribe.replace(*span)
    armed.told()
    assert armed.knows_all()
    armed.start()
    armed.scribe.write((span[1] - 1) * PAGE, 3)
    assert armed.told().reason is Reason.WOKEN
    assert armed.knows_all()


@pytest.mark.parametrize("span", [(0, 1), (10, 20), (63, 64)])
def test_memory_that_was_unmapped_fires_and_is_never_an_empty_answer(
    armed: Armed, span: tuple[int, int]
) -> None:
    armed.scribe.unmap(*span)
    assert armed.fires()
    for _ in range(3):
        answer = armed.tracker.collect()
        assert isinstance(answer, AllDirty)
        assert answer.reason is Reason.UNMAPPED
        assert not armed.tracker.armed
    armed.scribe.replace(*span)
    assert isinstance(armed.look(), AllDirty)
    armed.start()
    armed.scribe.write(span[0] * PAGE, 3)
    assert armed.told().reason is Reason.WOKEN
    assert armed.knows_all()


def test_memory_that_was_unmapped_as_a_whole_is_logged_when_it_is_back(armed: Armed) -> None:
    armed.scribe.unmap(0, PAGES)
    assert armed.fires()
    answer = armed.tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.UNMAPPED
    armed.scribe.replace(0, PAGES)
    assert isinstance(armed.look(), AllDirty)
    armed.scribe.write(7 * PAGE, 3)
    armed.look()
    assert armed.mine[7 * PAGE] == 3
    assert armed.knows_all()


def test_memory_that_was_given_back_fires(armed_anonymous: Armed) -> None:
    armed = armed_anonymous
    armed.scribe.write(11 * PAGE, 7)
    armed.told()
    armed.start()
    armed.scribe.give_back(10, 20)
    armed.told()
    # It is told before it is done: what is given back after we looked is in the log's next answer.
    armed.look()
    assert armed.mine[11 * PAGE] == 0
    assert armed.knows_all()


@pytest.mark.parametrize("span", [(0, 1), (10, 20), (1, PAGES)])
def test_memory_that_was_moved_fires_and_is_let_go(armed: Armed, span: tuple[int, int]) -> None:
    place = armed.scribe.move(*span)
    assert armed.fires()
    answer = armed.tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.UNMAPPED
    size = (span[1] - span[0]) * PAGE
    assert not [r for r in protected(armed.scribe.pid) if r[0] < place + size and place < r[1]]
    armed.stop_watchdog()
    armed.scribe.write_elsewhere(0, 1)


def test_memory_that_was_moved_as_a_whole_is_let_go(armed: Armed) -> None:
    place = armed.scribe.move(0, PAGES)
    assert armed.fires()
    answer = armed.tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.UNMAPPED
    assert not protected(armed.scribe.pid), hex(place)
    armed.scribe.write_elsewhere(0, 1)


def test_memory_that_was_moved_while_the_watchdog_is_stopped_is_let_go(armed: Armed) -> None:
    """Moving tells twice, and whoever moves waits for both to be heard: looking hears them."""
    armed.stop_watchdog()
    armed.scribe.begin_move(10, 20)
    assert armed.fires()
    until_s = time.monotonic() + WAIT_MS / 1000
    while not armed.scribe.answers():
        assert isinstance(armed.tracker.collect(), AllDirty)
        assert time.monotonic() < until_s, "who moves is held"
    armed.scribe.finish_move()
    armed.scribe.write_elsewhere(0, 1)


def test_memory_replaced_by_an_ordinary_file_is_logged_from_then_on(armed: Armed, tmp_path: Path) -> None:
    path = tmp_path / "ordinary"
    path.write_bytes(bytes(10 * PAGE))
    armed.scribe.replace_by_file(10, 20, str(path))
    armed.told()
    for page in (5, 11, 40):
        armed.scribe.write(page * PAGE, 3)
        assert armed.look() == PageRuns([(page, page + 1)])
    for _ in range(5):
        armed.look()
        assert not armed.tracker.armed
    assert "UFFDIO" in armed.tracker.unarmable
    assert armed.knows_all()


def test_a_hole_beside_the_window_keeps_it_from_being_armed() -> None:
    """What is mapped into the hole later has no protection, and nobody would hear of its writes."""
    with anonymous() as scribe, attached(scribe) as armed:
        armed.look()
        armed.scribe.unmap(20, 30)
        for _ in range(4):
            armed.look((0, 10))
        assert isinstance(armed.tracker.collect((20, 30)), AllDirty)
        armed.look((0, 10))
        armed.scribe.replace(20, 30)
        armed.scribe.write(25 * PAGE, 8)
        armed.look()
        assert armed.mine[25 * PAGE] == 8
        armed.scribe.write(25 * PAGE, 9)
        armed.look()
        assert armed.mine[25 * PAGE] == 9


# The consumer's side while armed


def test_what_is_restored_is_named_again_and_it_stays_armed(armed: Armed) -> None:
    runs = PageRuns([(3, 5), (9, 10)])
    armed.tracker.restore(runs)
    assert not armed.fires(0)
    assert armed.called == 1
    assert armed.look((0, 4)) == PageRuns([(3, 4)])
    assert armed.look() == PageRuns([(4, 5), (9, 10)])
    assert armed.look() == NO_PAGES
    assert armed.tracker.armed
    armed.scribe.write(0, 1)
    assert armed.told().reason is Reason.WOKEN


def test_each_window_is_everything_once_after_arming_and_after_waking() -> None:
    with anonymous() as scribe, attached(scribe) as armed:
        armed.look()
        while not armed.tracker.armed:
            answer = armed.look((0, 8))
        assert answer == AllDirty(Reason.ARMED)
        assert armed.look((0, 8)) == NO_PAGES
        assert armed.look((4, 16)) == AllDirty(Reason.ARMED)
        assert armed.look((8, 16)) == NO_PAGES
        assert armed.tracker.armed
        scribe.write(30 * PAGE, 5)
        assert armed.look((0, 8)) == AllDirty(Reason.WOKEN)
        assert armed.look((24, 32)) == AllDirty(Reason.WOKEN)
        assert armed.mine[30 * PAGE] == 5
        assert armed.look() == AllDirty(Reason.WOKEN)
        assert armed.knows_all()


def test_a_write_to_another_window_fires(armed: Armed) -> None:
    armed.scribe.write(40 * PAGE, 1)
    assert armed.look((0, 8)) == AllDirty(Reason.WOKEN)
    assert armed.look((32, 48)) == AllDirty(Reason.WOKEN)
    assert armed.mine[40 * PAGE] == 1


# The watchdog


def test_a_stopped_watchdog_holds_nobody(armed: Armed, caplog: pytest.LogCaptureFixture) -> None:
    armed.stop_watchdog()
    armed.scribe.begin_two_writes(PAGE, 40 * PAGE, 5)
    assert armed.told().reason is Reason.WOKEN
    assert "did not answer a write" in caplog.text
    armed.scribe.finish()
    armed.look()
    assert armed.knows_all()
    os.kill(armed.watchdog, signal.SIGCONT)
    armed.start()
    armed.scribe.write(PAGE, 6)
    assert armed.told().reason is Reason.WOKEN
    assert armed.knows_all()


def test_a_stopped_watchdog_that_goes_on_late_hides_nothing(armed: Armed) -> None:
    for number in range(1, 6):
        if not armed.tracker.armed:
            armed.start()
        armed.stop_watchdog()
        armed.scribe.begin_write(number * PAGE, number)
        armed.told()
        armed.scribe.finish()
        armed.look()
        os.kill(armed.watchdog, signal.SIGCONT)
        for page in range(PAGES):
            armed.scribe.write(page * PAGE, number + page)
            armed.look()
            assert armed.mine[page * PAGE] == number + page


@pytest.mark.parametrize("write_first", [True, False])
def test_a_watchdog_that_was_killed_is_told_and_the_log_goes_on(
    armed: Armed, caplog: pytest.LogCaptureFixture, write_first: bool
) -> None:
    if write_first:
        armed.scribe.write(PAGE, 1)
    os.kill(armed.watchdog, signal.SIGKILL)
    os.waitid(os.P_PID, armed.watchdog, os.WEXITED | os.WNOWAIT)
    assert armed.told().reason is Reason.WOKEN
    assert "has ended: never armed again" in caplog.text
    assert "has ended" in armed.tracker.unarmable
    assert armed.tracker.watchdog_pid is None
    for page in (1, 2, 63):
        armed.scribe.write(page * PAGE, 2)
        assert armed.look() == PageRuns([(page, page + 1)])
    for _ in range(3):
        assert armed.look() == NO_PAGES
        assert not armed.tracker.armed
    waker = armed.tracker.wake(armed._call)
    assert waker is not None
    assert waker.fd is None, "it is asked instead"
    waker.cancel()


def test_a_watchdog_that_was_killed_while_it_is_logged_is_noticed_before_arming() -> None:
    with anonymous() as scribe, attached(scribe) as armed:
        armed.look()
        os.kill(armed.watchdog, signal.SIGKILL)
        os.waitid(os.P_PID, armed.watchdog, os.WEXITED | os.WNOWAIT)
        for _ in range(3):
            armed.look()
            assert not armed.tracker.armed
        assert "has ended" in armed.tracker.unarmable
        scribe.write(PAGE, 1)
        assert armed.look() == PageRuns([(1, 2)])


# Ends


def descriptors(pid: int) -> set[str]:
    return set(os.listdir(f"/proc/{pid}/fd"))


def test_disarming_leaves_nothing_behind() -> None:
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
def test_disarming_lets_a_held_writer_go(stopped: bool) -> None:
    with anonymous() as scribe, attached(scribe) as armed:
        armed.start()
        if stopped:
            armed.stop_watchdog()
        scribe.begin_write(PAGE, 1)
        assert armed.fires()
        watchdog = armed.watchdog
        armed.tracker.stop()
        scribe.finish()
        assert not protected(scribe.pid)
        assert not Path(f"/proc/{watchdog}").exists()


def test_it_can_be_attached_again_at_once(armed: Armed) -> None:
    for number in range(1, 4):
        armed.tracker.start(armed.extent)
        armed.start()
        armed.scribe.write(PAGE, number)
        armed.told()
        assert armed.mine[PAGE] == number


def test_the_end_of_the_target_is_said(armed: Armed) -> None:
    armed.scribe.end()
    with pytest.raises(TargetGone):
        armed.tracker.collect()


def test_a_target_that_became_another_program_has_ended(armed: Armed) -> None:
    armed.scribe.exec()
    with pytest.raises(TargetGone):
        armed.tracker.collect()


# Where it cannot be armed


def test_memory_that_another_tap_has_is_refused_and_nobody_is_left() -> None:
    with anonymous() as scribe, attached(scribe) as armed:
        armed.start()
        ours = descriptors(os.getpid())
        second = Armed(scribe, arms_at_once())
        with pytest.raises(VramtapError, match=r"EBUSY.*another tap"):
            second.tracker.start(second.extent)
        assert second.tracker.watchdog_pid is None
        second.space.close()
        assert descriptors(os.getpid()) == ours
        assert not armed.fires(0)
        scribe.write(PAGE, 1)
        assert armed.told().reason is Reason.WOKEN
        assert armed.knows_all()


def test_memory_that_another_takes_in_between_is_not_armed_and_keeps_the_others_protection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with anonymous() as scribe, attached(scribe) as armed:
        armed.look()
        other = Userfaultfd(fetch_userfaultfd(scribe.pid).fd, f"pid {scribe.pid}")
        other.api(LOG_FEATURES)
        suspend = armed.tracker._log.suspend

        def suspend_and_lose(why: AllDirty) -> None:
            suspend(why)
            other.register(armed.extent.address, armed.extent.end)

        with monkeypatch.context() as patch:
            patch.setattr(armed.tracker._log, "suspend", suspend_and_lose)
            answer = armed.look()
        assert isinstance(answer, AllDirty)
        assert not armed.tracker.armed
        assert protected(scribe.pid) == [(armed.extent.address, armed.extent.end)]
        scribe.write(PAGE, 1)
        other.close()
        assert isinstance(armed.look(), AllDirty)
        assert armed.knows_all()
        armed.start()


def _write(descriptor: int) -> None:
    os.write(descriptor, b"x")


def callback_waker(tracker: HybridTracker, write: Callable[[], None]) -> None:
    """Where it cannot be armed, it asks: the callback comes."""
    called, calls = os.pipe()
    waker = tracker.wake(lambda: _write(calls))
    assert waker is not None
    assert waker.fd is None
    write()
    assert select.select([called], [], [], WAIT_MS / 1000)[0]
    waker.cancel()
    os.close(called)
    os.close(calls)


def test_an_ordinary_file_is_logged_and_it_is_said_why_it_cannot_be_armed(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(PAGES * PAGE))
    with Scribe(PAGES, str(path)) as scribe, attached(scribe) as armed:
        assert "UFFDIO_REGISTER" in armed.tracker.unarmable
        assert "EINVAL" in armed.tracker.unarmable
        assert armed.tracker.watchdog_pid is None
        armed.look()
        for _ in range(3):
            assert armed.look() == NO_PAGES
        assert not armed.tracker.armed
        callback_waker(armed.tracker, lambda: scribe.write(5 * PAGE, 1))
        assert armed.look() == PageRuns([(5, 6)])


def test_a_target_without_the_right_is_logged_and_it_is_said_what_would_help() -> None:
    unprivileged = Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip()
    require(unprivileged == "0", "vm.unprivileged_userfaultfd=1: nobody is refused a full userfaultfd")
    require(os.geteuid() == 0, "only root can become a user that owns nothing")
    with Scribe(PAGES, user=NOBODY) as scribe, attached(scribe) as armed:
        assert "EPERM" in armed.tracker.unarmable
        assert "CAP_SYS_PTRACE" in armed.tracker.unarmable
        assert "vm.unprivileged_userfaultfd=1" in armed.tracker.unarmable
        assert armed.tracker.watchdog_pid is None
        armed.look()
        for _ in range(3):
            assert armed.look() == NO_PAGES
        assert not armed.tracker.armed
        callback_waker(armed.tracker, lambda: scribe.write(5 * PAGE, 1))
        assert armed.look() == PageRuns([(5, 6)])
        assert armed.knows_all()


def test_our_own_memory_is_logged_and_it_is_said_why_it_cannot_be_armed() -> None:
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


def test_a_policy_that_never_arms_needs_to_be_asked() -> None:
    with anonymous() as scribe, attached(scribe, lambda: HybridTracker(policy=LogAlways())) as armed:
        armed.look()
        for _ in range(3):
            assert armed.look() == NO_PAGES
        assert not armed.tracker.armed
        assert armed.tracker.unarmable == ""
        assert armed.tracker.wake(armed._call) is None


# A tap


class StillTarget:
    """A scribe's memory as a target whose geometry never changes."""

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


async def test_one_look_of_a_tap_shows_all_that_was_written_while_it_was_armed() -> None:
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
