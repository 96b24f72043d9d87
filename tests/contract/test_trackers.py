"""The contract of `Tracker`, checked for every tracker on every kind of memory that it supports."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.exactness import is_exact
from support.kvm_guest import KVM_MEMORIES
from support.paged_kvm_guest import PAGED_MEMORIES
from support.scribe import PAGE, Scribe
from vramtap.errors import TargetGone, VramtapError
from vramtap.linux.procfs import vm_flags
from vramtap.memory.extent import Extent
from vramtap.memory.mapped import FileSpace
from vramtap.memory.own import extent_of
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PageRuns
from vramtap.policy.decide import LogAlways
from vramtap.trackers.base import AllDirty, Reason, Tracker
from vramtap.trackers.compare import CompareTracker
from vramtap.trackers.machine.dirtybits import DirtyBitsTracker
from vramtap.trackers.machine.kvmlog import KvmLogTracker
from vramtap.trackers.userfault.hybrid import HybridTracker
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGES = 64


@dataclass
class Memory:
    """Memory, and a function that writes a byte to it."""

    extent: Extent
    write: Callable[[int, int], None]


@contextmanager
def own(tmp_path: Path) -> Iterator[Memory]:
    room = np.zeros((PAGES + 1) * PAGE, dtype=np.uint8)
    skip = -room.ctypes.data % PAGE
    pages = room[skip : skip + PAGES * PAGE]
    yield Memory(extent_of(pages)[0], pages.__setitem__)


@contextmanager
def other_anonymous(tmp_path: Path) -> Iterator[Memory]:
    with Scribe(PAGES) as scribe:
        space = ProcessSpace(scribe.pid)
        yield Memory(Extent(space, scribe.address, PAGES), scribe.write)
        space.close()


@contextmanager
def other_file(tmp_path: Path) -> Iterator[Memory]:
    path = tmp_path / "memory"
    path.write_bytes(bytes(PAGES * PAGE))
    with Scribe(PAGES, str(path)) as scribe:
        space = ProcessSpace(scribe.pid)
        yield Memory(Extent(space, scribe.address, PAGES), scribe.write)
        space.close()


@contextmanager
def other_memfd(tmp_path: Path) -> Iterator[Memory]:
    descriptor = os.memfd_create("contract")
    os.truncate(descriptor, PAGES * PAGE)
    with Scribe(PAGES, f"/proc/self/fd/{descriptor}", (descriptor,)) as scribe:
        os.close(descriptor)
        space = ProcessSpace(scribe.pid)
        yield Memory(Extent(space, scribe.address, PAGES), scribe.write)
        space.close()


@contextmanager
def file_of_no_process(tmp_path: Path) -> Iterator[Memory]:
    path = tmp_path / "memory"
    path.write_bytes(bytes(PAGES * PAGE))
    with path.open("r+b", buffering=0) as file:

        def write(offset: int, value: int) -> None:
            os.pwrite(file.fileno(), bytes([value]), offset)

        space = FileSpace(str(path))
        yield Memory(Extent(space, 0, PAGES), write)
        space.close()


MEMORIES = [own, other_anonymous, other_file, other_memfd, file_of_no_process]
SUPPORTED: list[tuple[Callable[[], Tracker], object]] = [(CompareTracker, memory) for memory in MEMORIES]


def hybrid_that_logs() -> Tracker:
    """Return a hybrid that leaves no tile unprotected, so that it reports written pages only."""
    return HybridTracker(policy=LogAlways())


LOGGED = [memory for memory in MEMORIES if memory is not file_of_no_process]
SUPPORTED += [(LogTracker, memory) for memory in LOGGED]
SUPPORTED += [(hybrid_that_logs, memory) for memory in LOGGED]


KVM = [(CompareTracker, KVM_MEMORIES[0]), (LogTracker, KVM_MEMORIES[0]), (hybrid_that_logs, KVM_MEMORIES[0])]
KVM += [(KvmLogTracker, memory) for memory in KVM_MEMORIES]
PAGED = [(DirtyBitsTracker, memory) for memory in PAGED_MEMORIES]


@pytest.fixture(params=[*SUPPORTED, *KVM, *PAGED], ids=lambda p: f"{p[0].__name__}-{p[1].__name__}")
def tracked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Tracker, Memory]]:
    make: Callable[[], Tracker]
    factory: Callable[[Path], AbstractContextManager[Memory]]
    make, factory = request.param
    with factory(tmp_path) as memory:
        tracker = make()
        tracker.start(memory.extent)
        yield tracker, memory
        tracker.stop()


def content(tracker: Tracker) -> np.ndarray:
    """Return all bytes of `read_from`."""
    extent = tracker.read_from
    into = np.zeros(extent.size_bytes, dtype=np.uint8)
    extent.read(PageRuns.full(extent.pages), into)
    return into


Tracked = tuple[Tracker, Memory]


def test_first_answer_is_all_dirty_and_the_next_is_empty(tracked: Tracked) -> None:
    tracker, _ = tracked
    first = tracker.collect()
    assert isinstance(first, AllDirty)
    assert first.reason is Reason.FIRST
    assert tracker.collect() == PageRuns()


def test_written_page_is_reported_once(tracked: Tracked) -> None:
    tracker, memory = tracked
    tracker.collect()
    memory.write(5 * PAGE + 7, 1)
    memory.write(6 * PAGE, 1)
    memory.write(63 * PAGE + PAGE - 1, 1)
    seen = tracker.collect()
    assert not isinstance(seen, AllDirty)
    assert {5, 6, 63} <= {page for first, last in seen for page in range(first, last)}
    if is_exact(tracker):
        assert seen == PageRuns([(5, 7), (63, 64)])
    assert content(tracker)[5 * PAGE + 7] == 1
    assert tracker.collect() == PageRuns()


def test_write_before_the_first_collect_is_not_lost(tracked: Tracked) -> None:
    tracker, memory = tracked
    memory.write(9 * PAGE, 3)
    assert isinstance(tracker.collect(), AllDirty)
    assert content(tracker)[9 * PAGE] == 3


def test_restored_pages_are_reported_again(tracked: Tracked) -> None:
    tracker, memory = tracked
    tracker.collect()
    memory.write(0, 1)
    seen = tracker.collect()
    assert isinstance(seen, PageRuns)
    tracker.restore(seen)
    assert tracker.collect() == seen
    assert tracker.collect() == PageRuns()


def test_pages_outside_the_window_are_kept(tracked: Tracked) -> None:
    tracker, memory = tracked
    tracker.collect()
    memory.write(3 * PAGE, 1)
    memory.write(40 * PAGE, 1)
    assert tracker.collect((0, 10)) == PageRuns([(3, 4)])
    assert tracker.collect((10, 20)) == PageRuns()
    assert tracker.collect() == PageRuns([(40, 41)])


def test_first_answer_for_each_window_is_all_dirty(tracked: Tracked) -> None:
    tracker, memory = tracked
    assert isinstance(tracker.collect((0, 8)), AllDirty)
    assert tracker.collect((0, 8)) == PageRuns()
    memory.write(20 * PAGE, 1)
    assert isinstance(tracker.collect((16, 24)), AllDirty)
    assert content(tracker)[20 * PAGE] == 1


def test_stopped_tracker_raises_and_can_be_started_again(tracked: Tracked) -> None:
    tracker, memory = tracked
    tracker.collect()
    tracker.stop()
    tracker.stop()
    with pytest.raises(VramtapError, match="not started"):
        tracker.collect()
    memory.write(PAGE, 9)
    tracker.start(memory.extent)
    assert isinstance(tracker.collect(), AllDirty)
    assert content(tracker)[PAGE] == 9


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_consumer_that_reads_reported_pages_has_the_memory(tracked: Tracked, data: st.DataObject) -> None:
    consume_at_random(tracked, data)


def consume_at_random(tracked: Tracked, data: st.DataObject) -> None:
    """Write, collect, restore and read the reported pages; in the end the copy equals the memory."""
    tracker, memory = tracked
    mine = np.zeros(PAGES * PAGE, dtype=np.uint8)
    tracker.start(memory.extent)
    steps = data.draw(st.lists(st.sampled_from(["write", "collect", "window", "fail"]), max_size=30))
    for step in [*steps, "collect"]:
        if step == "write":
            for _ in range(data.draw(st.integers(1, 5))):
                memory.write(data.draw(st.integers(0, PAGES * PAGE - 1)), data.draw(st.integers(0, 255)))
            continue
        window = sorted(data.draw(st.tuples(st.integers(0, PAGES), st.integers(0, PAGES))))
        first, last = (window[0], window[1]) if step == "window" and window[0] < window[1] else (0, PAGES)
        seen = tracker.collect((first, last))
        runs = PageRuns([(first, last)]) if isinstance(seen, AllDirty) else seen
        assert runs == runs.clip(first, last)
        if step == "fail":
            tracker.restore(runs)
        else:
            tracker.read_from.read(runs, mine)
    truth = np.zeros(PAGES * PAGE, dtype=np.uint8)
    memory.extent.read(PageRuns.full(PAGES), truth)
    assert np.array_equal(mine, truth)


# LogTracker only


@pytest.fixture
def logged() -> Iterator[tuple[LogTracker, Scribe]]:
    with Scribe(PAGES) as scribe:
        space = ProcessSpace(scribe.pid)
        tracker = LogTracker()
        tracker.start(Extent(space, scribe.address, PAGES))
        tracker.collect()
        yield tracker, scribe
        tracker.stop()
        space.close()


def protected(pid: int) -> list[str]:
    return [str(mapping) for mapping, flags in vm_flags(pid) if "uw" in flags]


def test_log_reports_writes_by_the_kernel(logged: tuple[LogTracker, Scribe]) -> None:
    tracker, scribe = logged
    scribe.read_file_into(12 * PAGE)
    assert tracker.collect() == PageRuns([(12, 13)])


def test_log_reports_writes_after_a_fork(logged: tuple[LogTracker, Scribe]) -> None:
    tracker, scribe = logged
    scribe.write(PAGE, 1)
    tracker.collect()
    scribe.protect_forks()
    scribe.write(PAGE, 2)
    seen = tracker.collect()
    assert isinstance(seen, PageRuns)
    assert 1 in seen


def test_replaced_memory_is_all_dirty_and_is_tracked_again(
    logged: tuple[LogTracker, Scribe],
) -> None:
    tracker, scribe = logged
    scribe.replace(10, 20)
    answer = tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.REMAPPED
    assert tracker.collect() == PageRuns()
    scribe.write(15 * PAGE, 1)
    assert tracker.collect() == PageRuns([(15, 16)])


def test_hole_never_gives_an_empty_answer(logged: tuple[LogTracker, Scribe]) -> None:
    tracker, scribe = logged
    scribe.unmap(10, 20)
    for _ in range(2):
        answer = tracker.collect()
        assert isinstance(answer, AllDirty)
        assert answer.reason is Reason.UNMAPPED
    scribe.replace(10, 20)
    answer = tracker.collect()
    assert isinstance(answer, AllDirty)
    assert answer.reason is Reason.REMAPPED
    assert tracker.collect() == PageRuns()


def test_stop_leaves_no_protection(logged: tuple[LogTracker, Scribe]) -> None:
    tracker, scribe = logged
    assert protected(scribe.pid)
    tracker.stop()
    assert not protected(scribe.pid)
    scribe.write(0, 1)


def test_second_log_of_the_same_memory_is_refused(
    logged: tuple[LogTracker, Scribe],
) -> None:
    tracker, scribe = logged
    space = ProcessSpace(scribe.pid)
    with pytest.raises(VramtapError, match=r"EBUSY.*another tap"):
        LogTracker().start(Extent(space, scribe.address, PAGES))
    space.close()
    scribe.write(PAGE, 1)
    assert tracker.collect() == PageRuns([(1, 2)])


def test_collect_raises_target_gone_after_the_target_ended(logged: tuple[LogTracker, Scribe]) -> None:
    tracker, scribe = logged
    scribe.end()
    with pytest.raises(TargetGone):
        tracker.collect()


def test_log_refuses_memory_of_no_known_process(tmp_path: Path) -> None:
    with file_of_no_process(tmp_path) as memory, pytest.raises(VramtapError, match="--tracker compare"):
        LogTracker().start(memory.extent)
