"""Tracker `xen`, case by case: what it asks the hypervisor, what it answers, when it looks at everything."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from support.fake_xen.host import CR0_WP, VRAM_FRAME
from support.xen_domain import DOMID, XenDomain
from vramtap.errors import KernelError, NotFound, Refused, VramtapError
from vramtap.memory.extent import Extent
from vramtap.memory.own import OwnSpace
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.trackers.base import AllDirty, Reason
from vramtap.trackers.choose import choose
from vramtap.trackers.xen import tracker as module
from vramtap.trackers.xen.rescan_timer import MAX_INTERVAL_S, MIN_INTERVAL_S
from vramtap.trackers.xen.tracker import XenTracker
from vramtap.xen.devicemodel import MAX_PAGES

PAGES = 64
TRACK = "xendevicemodel_track_dirty_vram"
Make = Callable[..., XenDomain]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[XenDomain] = []

    def begin(pages: int = PAGES, *, hap: bool = True) -> XenDomain:
        made.append(XenDomain(pages=pages, hap=hap))
        return made[-1]

    yield begin
    for domain in made:
        domain.close()


def reason(answer: PageRuns | AllDirty) -> Reason:
    assert isinstance(answer, AllDirty), answer
    return answer.reason


def settled(tracker: XenTracker) -> None:
    """The first answer, after which the log is vouched for."""
    assert reason(tracker.collect()) is Reason.FIRST
    assert tracker.collect() == NO_PAGES


@pytest.mark.parametrize("hap", [True, False])
def test_what_was_written_is_told_once(make: Make, hap: bool) -> None:
    domain = make(hap=hap)
    tracker = domain.tracker()
    settled(tracker)
    assert tracker.shadow is not hap
    for pages in ([0], [PAGES - 1], [1, 2, 40], list(range(PAGES))):
        for page in pages:
            domain.write(page)
        assert tracker.collect() == PageRuns.from_pages(pages)
        assert tracker.collect() == NO_PAGES
    domain.write(5)
    domain.write(50)
    assert tracker.collect((0, 10)) == PageRuns.from_pages([5])
    assert tracker.collect() == PageRuns.from_pages([50]), "kept for whoever asks for it"
    tracker.restore(PageRuns([(3, 5)]))
    assert tracker.collect() == PageRuns([(3, 5)])


def test_qemus_range_stays_qemus(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    settled(tracker)
    asked = domain.xen.asked
    assert (asked.first, asked.frames) == (VRAM_FRAME, PAGES + 1)
    domain.write(7)
    domain.xen.ask(DOMID, VRAM_FRAME, PAGES)
    domain.write(9)
    assert tracker.collect() == PageRuns.full(PAGES), "begun anew, so all of it"
    assert domain.xen.asked.of_all == 0


def test_under_shadow_paging_another_question_is_noticed(make: Make) -> None:
    domain = make(hap=False)
    tracker = domain.tracker()
    settled(tracker)
    domain.write(7)
    domain.xen.ask(DOMID, VRAM_FRAME, PAGES)
    assert reason(tracker.collect()) is Reason.TAKEN
    domain.write(8)
    assert tracker.collect() == PageRuns.from_pages([8])


def test_what_a_killed_one_has_left_does_not_answer_in_our_place(make: Make) -> None:
    domain = make(hap=False)
    domain.xen.ask(DOMID, VRAM_FRAME, PAGES + 1)
    tracker = domain.tracker()
    settled(tracker)
    assert tracker.shadow


def test_only_the_window_is_tracked(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_PAGES", 4)
    domain = make()
    tracker = domain.tracker()
    assert reason(tracker.collect((8, 24))) is Reason.FIRST
    asked = domain.xen.asked
    assert (asked.first, asked.frames) == (VRAM_FRAME + 8, 16)
    assert tracker.collect((10, 14)) == NO_PAGES
    assert domain.xen.asked.frames == 16, "it is not so much longer that it would have to begin anew"
    assert reason(tracker.collect((10, 12))) is Reason.FIRST
    assert domain.xen.asked.frames == 2
    assert reason(tracker.collect((10, 13))) is Reason.FIRST


def test_a_window_of_more_than_one_call_is_refused(make: Make) -> None:
    domain = make(MAX_PAGES + 1)
    tracker = domain.tracker()
    for window, asked in ((None, MAX_PAGES + 2), ((0, MAX_PAGES + 1), MAX_PAGES + 2)):
        with pytest.raises(VramtapError, match=rf"{asked} pages in one call: .* at most 32768 .*compare\)"):
            tracker.collect(window)
    assert reason(tracker.collect((1, MAX_PAGES + 1))) is Reason.FIRST
    domain.write(MAX_PAGES)
    assert tracker.collect((1, MAX_PAGES + 1)) == PageRuns.from_pages([MAX_PAGES])


def test_all_of_it_needs_a_frame_more_than_it_has(make: Make) -> None:
    with pytest.raises(VramtapError, match="32769 pages in one call"):
        make(MAX_PAGES).tracker().collect()


@pytest.mark.parametrize("after", [False, True])
def test_a_failure_may_have_cleared_what_nobody_has_seen(make: Make, after: bool) -> None:
    domain = make()
    tracker = domain.tracker()
    settled(tracker)
    domain.write(3)
    domain.xen.fail(TRACK, errno.EIO, times=1, after=after)
    with pytest.raises(KernelError, match=f"{TRACK} domain 3 frames 0xf0000-0xf0041: EIO"):
        tracker.collect()
    assert reason(tracker.collect((0, 32))) is Reason.TAKEN
    assert reason(tracker.collect((32, 64))) is Reason.TAKEN
    domain.write(4)
    assert tracker.collect() == PageRuns.from_pages([4])


def test_it_follows_the_video_ram(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    settled(tracker)
    domain.xen.place(DOMID, 0xE_0000)
    assert domain.space.place(DOMID, 0xE_0000)
    assert reason(tracker.collect()) is Reason.REMAPPED
    assert domain.xen.asked.first == 0xE_0000
    domain.write(6)
    assert tracker.collect() == PageRuns.from_pages([6])
    domain.space.unplace()
    questions = domain.xen.asked.questions
    assert reason(tracker.collect()) is Reason.UNMAPPED
    assert domain.xen.asked.questions == questions
    assert domain.space.place(DOMID, 0xE_0000)
    assert reason(tracker.collect()) is Reason.REMAPPED


def test_a_domain_that_ends_is_looked_at_once_more_and_followed_as_another(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    settled(tracker)
    domain.write(3)
    domain.xen.destroy(DOMID)
    assert reason(tracker.collect()) is Reason.UNMAPPED
    questions = domain.xen.asked.questions
    assert tracker.collect() == NO_PAGES
    assert domain.xen.asked.questions == questions, "nobody is there to be asked"
    domain.reboot_after_end()
    assert reason(tracker.collect()) is Reason.REMAPPED
    assert domain.xen.asked.domid == DOMID + 1
    domain.write(3)
    assert tracker.collect() == PageRuns.from_pages([3])


# What is in no log


def test_the_device_models_running_is_a_reason_to_look_four_times_a_second(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    settled(tracker)
    domain.now_s += MIN_INTERVAL_S
    assert tracker.collect() == NO_PAGES, "it has not run"
    looks = []
    began_s = domain.now_s
    for tick in range(33):
        domain.now_s = began_s + tick / 32
        domain.draw(tick)
        answer = tracker.collect()
        assert tracker.wants_feedback is isinstance(answer, AllDirty)
        if tracker.wants_feedback:
            assert reason(answer) is Reason.UNLOGGED
            looks.append(tick / 32)
            tracker.feedback(domain.read(answer, (0, PAGES)))
            assert tracker.idle_after_s == float("inf")
    assert looks == [0, 0.25, 0.5, 0.75, 1.0]


def test_in_vain_it_is_once_a_second_and_then_nobody_waits_for_more(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    domain.read(tracker.collect(), (0, PAGES))
    looks = []
    for _ in range(160):
        domain.now_s += 1 / 32
        domain.model.runs += 1
        answer = tracker.collect()
        if tracker.wants_feedback:
            looks.append(domain.now_s)
            tracker.feedback(domain.read(answer, (0, PAGES)))
            assert tracker.idle_after_s == 0.0
    gaps = [round(after - before, 3) for before, after in pairwise(looks)]
    assert gaps == [2 * MIN_INTERVAL_S, *[MAX_INTERVAL_S] * (len(gaps) - 1)]


def test_what_the_log_has_told_is_nothing_found(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    domain.read(tracker.collect(), (0, PAGES))
    domain.now_s += MIN_INTERVAL_S
    domain.write(9)
    domain.model.runs += 1
    answer = tracker.collect()
    changed = domain.read(answer, (0, PAGES))
    assert changed == PageRuns.from_pages([9])
    tracker.feedback(changed)
    assert tracker.idle_after_s == float("inf"), "something was written all the same"
    domain.now_s += MIN_INTERVAL_S
    domain.model.runs += 1
    assert tracker.collect() == NO_PAGES, "the look found nothing that was in no log: the next is later"
    domain.now_s += MIN_INTERVAL_S
    assert reason(tracker.collect()) is Reason.UNLOGGED


def test_a_look_at_a_part_is_none_at_the_rest(make: Make) -> None:
    """A look at a part of it vouches for that part: what was drawn elsewhere is told when it is asked for."""
    domain = make()
    tracker = domain.tracker()
    domain.read(tracker.collect(), (0, PAGES))
    domain.now_s += MAX_INTERVAL_S
    domain.draw(40)
    assert reason(tracker.collect((0, 24))) is Reason.UNLOGGED
    assert tracker.collect((0, 24)) == NO_PAGES
    answer = tracker.collect()
    assert reason(answer) is Reason.UNLOGGED
    assert domain.read(answer, (0, PAGES)) == PageRuns.from_pages([40])
    assert tracker.collect((0, 24)) == NO_PAGES, "nothing has happened since"
    assert tracker.collect() == NO_PAGES


def test_a_device_model_that_is_not_known_is_looked_past_again_and_again(make: Make) -> None:
    domain = make()
    domain.space.model = None
    tracker = domain.tracker()
    assert reason(tracker.collect()) is Reason.FIRST
    answers = []
    for _ in range(8):
        domain.now_s += MIN_INTERVAL_S / 2
        answers.append(tracker.collect())
    assert [isinstance(answer, AllDirty) for answer in answers] == [False, True] * 4
    domain.model.close()


def test_write_protection_off_under_shadow_paging_is_a_reason_to_look(make: Make) -> None:
    domain = make(hap=False)
    tracker = domain.tracker()
    settled(tracker)
    domain.xen.cpu(DOMID, 0)
    for page in range(8):
        domain.now_s += MIN_INTERVAL_S
        domain.write(page)
        answer = tracker.collect()
        assert reason(answer) is Reason.UNLOGGED
        changed = domain.read(answer, (0, PAGES))
        assert page in changed
        tracker.feedback(changed)
    domain.write(20)
    domain.xen.cpu(DOMID, CR0_WP)
    domain.now_s += MAX_INTERVAL_S
    answer = tracker.collect()
    assert reason(answer) is Reason.UNLOGGED, "until a moment ago"
    assert 20 in domain.read(answer, (0, PAGES))
    domain.now_s += MAX_INTERVAL_S
    assert tracker.collect() == NO_PAGES


def test_write_protection_off_is_nothing_to_the_processors_paging(make: Make) -> None:
    domain = make(hap=True)
    tracker = domain.tracker()
    settled(tracker)
    domain.xen.cpu(DOMID, 0)
    domain.now_s += MAX_INTERVAL_S
    domain.write(4)
    assert tracker.collect() == PageRuns.from_pages([4])


@pytest.mark.parametrize("why", ["no libxenctrl", "it refuses"])
def test_where_write_protection_is_not_known_it_counts_as_clear(make: Make, why: str) -> None:
    domain = make(hap=False)
    if why == "it refuses":
        domain.xen.fail("xc_domain_hvm_getcontext_partial", errno.EPERM)
    else:
        domain.xen.absent.add("libxenctrl")
    tracker = domain.tracker()
    assert reason(tracker.collect()) is Reason.FIRST
    for _ in range(4):
        domain.now_s += MAX_INTERVAL_S
        assert reason(tracker.collect()) is Reason.UNLOGGED


# Waiting


class Question:
    """Stands where the thread that asks stands."""

    def __init__(self, question: Callable[[], bool], answer: Callable[[], None], interval_s: float) -> None:
        self.ask = question
        self.interval_s = interval_s

    def cancel(self) -> None:
        """Nothing runs."""


def waiting(tracker: XenTracker, monkeypatch: pytest.MonkeyPatch) -> Question:
    monkeypatch.setattr(module, "IdleWatch", Question)
    waker = tracker.wake(lambda: None)
    assert isinstance(waker, Question)
    return waker


def test_it_asks_no_more_often_than_the_latency_needs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = make()
    tracker = domain.tracker(lambda clock: XenTracker(latency_s=0.5, clock=clock))
    settled(tracker)
    waker = waiting(tracker, monkeypatch)
    asked = domain.xen.asked.questions
    domain.write(3)
    for _ in range(4):
        domain.now_s += 0.1
        assert not waker.ask()
    assert domain.xen.asked.questions == asked
    domain.now_s += 0.1
    assert waker.ask()
    assert domain.xen.asked.questions == asked + 1
    assert tracker.collect() == PageRuns.from_pages([3])


def test_the_device_models_running_makes_it_ask_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = make()
    tracker = domain.tracker(lambda clock: XenTracker(latency_s=9.0, clock=clock))
    settled(tracker)
    waker = waiting(tracker, monkeypatch)
    assert not waker.ask()
    domain.model.runs += 1
    domain.write(3)
    assert waker.ask()
    assert tracker.collect() == PageRuns.from_pages([3])


def test_it_wakes_for_what_is_shown_for_another_place_and_for_errors(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = make()
    tracker = domain.tracker()
    settled(tracker)
    tracker.collect((0, 48))
    waker = waiting(tracker, monkeypatch)
    domain.write(50)
    domain.now_s += 1
    assert not waker.ask()
    domain.write(47)
    domain.now_s += 1
    assert waker.ask()
    assert tracker.collect((0, 48)) == PageRuns.from_pages([47])
    assert tracker.collect() == PageRuns.from_pages([50])
    waker = waiting(tracker, monkeypatch)
    domain.xen.fail(TRACK, errno.EIO, times=1)
    domain.now_s += 1
    assert waker.ask()
    assert reason(tracker.collect()) is Reason.TAKEN
    waker = waiting(tracker, monkeypatch)
    domain.space.unplace()
    assert waker.ask()


def test_write_protection_that_is_back_when_the_collect_comes(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks first takes the news that it was off; the look that follows must happen all the same."""
    domain = make(hap=False)
    tracker = domain.tracker()
    settled(tracker)
    domain.xen.cpu(DOMID, 0)
    domain.now_s += MAX_INTERVAL_S
    domain.read(tracker.collect(), (0, PAGES))
    domain.write(30)
    domain.xen.cpu(DOMID, CR0_WP)
    domain.now_s += MAX_INTERVAL_S
    waker = waiting(tracker, monkeypatch)
    domain.now_s += MAX_INTERVAL_S
    assert waker.ask()
    answer = tracker.collect()
    assert reason(answer) is Reason.UNLOGGED
    assert domain.read(answer, (0, PAGES)) == PageRuns.from_pages([30])


def test_a_thread_asks(make: Make) -> None:
    domain = make()
    tracker = XenTracker()
    tracker.start(domain.extent)
    tracker.collect()
    woken = threading.Event()
    waker = tracker.wake(woken.set)
    assert waker is not None
    domain.write(3)
    assert woken.wait(30)
    waker.cancel()
    assert tracker.collect() == PageRuns.from_pages([3])
    tracker.stop()


# Arming and leaving


def test_disarmed_nothing_is_tracked_wherever_it_is_by_then(make: Make) -> None:
    domain = make()
    for elsewhere in (VRAM_FRAME, 0xE_0000, 0):
        domain.xen.place(DOMID, VRAM_FRAME)
        assert domain.space.place(DOMID, VRAM_FRAME)
        tracker = domain.tracker()
        settled(tracker)
        assert domain.xen.tracked(DOMID)
        domain.xen.place(DOMID, elsewhere)
        assert domain.space.place(DOMID, elsewhere) is bool(elsewhere)
        tracker.stop()
        assert not domain.xen.tracked(DOMID)
        tracker.stop()
        with pytest.raises(VramtapError, match="tracker xen: not started"):
            tracker.collect()
        assert domain.xen.handles == {"devicemodel": 0, "foreignmemory": 1, "xenstore": 0, "control": 0}


def test_disarming_after_the_domain_has_ended(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    settled(tracker)
    domain.xen.destroy(DOMID)
    tracker.stop()
    assert domain.xen.handles["devicemodel"] == 0


def test_handles_are_given_back_even_if_stopping_fails(make: Make) -> None:
    domain = make()
    tracker = domain.tracker()
    settled(tracker)
    domain.xen.fail(TRACK, errno.EPERM, times=1)
    with pytest.raises(Refused, match="domain 3, to stop"):
        tracker.stop()
    assert domain.xen.handles["devicemodel"] == domain.xen.handles["control"] == 0
    again = domain.tracker()
    settled(again)


def test_a_second_tap_of_a_domain_is_refused(make: Make) -> None:
    domain = make()
    first = domain.tracker()
    with pytest.raises(Refused, match="lock the log of domain a: another vramtap holds it"):
        domain.tracker()
    assert domain.xen.handles["devicemodel"] == 1
    first.stop()
    settled(domain.tracker())


def test_arming_that_fails_leaves_nothing(make: Make) -> None:
    domain = make()
    domain.xen.absent.add("libxendevicemodel")
    with pytest.raises(NotFound, match="apt install libxendevicemodel1"):
        domain.tracker()
    domain.xen.absent.clear()
    domain.xen.fail("xendevicemodel_open", errno.EPERM, times=1)
    with pytest.raises(Refused):
        domain.tracker()
    assert domain.xen.handles["control"] == 0
    settled(domain.tracker())


def test_it_is_for_xen_only() -> None:
    space = OwnSpace()
    with pytest.raises(VramtapError, match="is not memory of a Xen domain"):
        XenTracker().start(Extent(space, 0x1000, 4))


@pytest.mark.parametrize("name", ["auto", "hybrid", "xen"])
def test_a_domains_memory_gets_it(make: Make, name: str) -> None:
    domain = make()
    chosen = choose(name, domain.extent)
    assert chosen.tracker.name == "xen"
    assert chosen.why == "the hypervisor logs writes"
    if name == "auto":
        other = choose(name, domain.extent)
        assert other.tracker.name == "compare"
        assert other.why.startswith("the hypervisor's log refused: lock the log of domain a")
        other.tracker.stop()
    else:
        with pytest.raises(Refused):
            choose(name, domain.extent)
    chosen.tracker.stop()
