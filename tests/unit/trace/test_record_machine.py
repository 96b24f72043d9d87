"""Recording the machine in its guest's time: so many frames an interval, however long they take."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from vramtap.errors import UsageError, VramtapError
from vramtap.machine.machine import Machine
from vramtap.pages import PageRuns
from vramtap.targets.url import parse
from vramtap.trace import record_machine as module
from vramtap.trace.record import STOPPED
from vramtap.trace.record_machine import in_guest_time, record_machine
from vramtap.trace.recording import Recording
from vramtap.trackers.userfault.log import LogTracker

if TYPE_CHECKING:
    from vramtap.memory.extent import Extent
    from vramtap.trace.trace import Trace

SMALL = "mode=320x200&cpu=unicorn"
PAGES = -(-320 * 200 * 4 // 4096)


def recorded(query: str, looks: int = 12, hz: float = 60) -> Trace:
    spec = parse(f"demo:?{query}&{SMALL}")
    recording = Recording(spec.url, hz, "guest")
    record_machine(spec, recording, hz=hz, looks=looks, stop=threading.Event())
    return recording.trace()


def test_each_look_is_one_frame() -> None:
    trace = recorded("workload=video-full")
    assert trace.pages == PAGES
    assert trace.intervals == 12
    for look in range(12):
        assert trace.written(look) == PageRuns.full(PAGES)
        assert trace.at_ns[look] == round((look + 1) * 1e9 / 60)
    assert trace.meta["clock"] == "guest"
    assert trace.meta["ended"] == "after 12 looks"


def test_the_same_seed_draws_the_same() -> None:
    assert (
        recorded("workload=random&seed=7").dirty(1).tolist()
        == recorded("workload=random&seed=7").dirty(1).tolist()
    )
    assert (
        recorded("workload=random&seed=7").dirty(1).tolist()
        != recorded("workload=random&seed=8").dirty(1).tolist()
    )


def test_a_caret_blinks_at_its_own_rate() -> None:
    trace = recorded("workload=caret", looks=121)
    blinks = [look for look in range(121) if trace.written(look)]
    assert blinks == [29, 59, 89, 119]


def test_a_rate_of_frames_may_be_asked_for() -> None:
    trace = recorded("workload=video-full&hz=16", looks=30)
    drawn = [look for look in range(30) if trace.written(look)]
    assert drawn == [int(frame * 60 / 16 - 1e-9) for frame in range(1, 9)]


def test_an_idle_guest_writes_nothing() -> None:
    trace = recorded("workload=idle")
    assert trace.intervals == 12
    assert len(trace.runs) == 0


def test_frames_may_come_to_an_end() -> None:
    trace = recorded("workload=video-full&frames=5")
    assert [bool(trace.written(look)) for look in range(12)] == [True] * 4 + [False] * 8


def test_another_mode_ends_it() -> None:
    trace = recorded("workload=modes&seed=2", looks=40)
    assert trace.intervals == 3  # every fourth frame; the first was drawn before
    assert "the mode changed to" in trace.meta["ended"]


def test_a_page_flip_is_followed() -> None:
    trace = recorded("workload=flip", looks=5)
    assert trace.intervals == 5
    assert trace.meta["moves"] == "5"
    assert trace.written(4) == PageRuns.full(PAGES)


def test_it_can_be_stopped() -> None:
    spec, stop = parse(f"demo:?workload=typing&{SMALL}"), threading.Event()
    recording = Recording(spec.url, 60, "guest")
    record_machine(spec, recording, hz=60, looks=1000, stop=stop, progress=lambda same: stop.set())
    assert recording.looks == 1
    assert recording.trace().meta["ended"] == STOPPED


def test_a_guest_that_ends_leaves_what_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse(f"demo:?workload=typing&{SMALL}")
    recording = Recording(spec.url, 60, "guest")

    class Closing(Machine):
        def run_frames(self, count: int, timeout_s: float = 60) -> None:
            super().run_frames(count, timeout_s)
            if recording.looks == 3:
                self.close()
                self.wait_end(60)

    monkeypatch.setattr(module, "Machine", Closing)
    record_machine(spec, recording, hz=60, looks=1000, stop=threading.Event())
    assert recording.looks == 4
    assert "the machine was closed" in recording.trace().meta["ended"]


def test_a_log_that_is_refused_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(LogTracker):
        def start(self, extent: Extent) -> None:
            raise VramtapError("userfaultfd", "this process", "EPERM")

    monkeypatch.setattr(module, "LogTracker", Refusing)
    with pytest.raises(VramtapError, match="cannot be logged: userfaultfd this process: EPERM"):
        recorded("workload=typing")


@pytest.mark.parametrize(
    ("url", "guests"),
    [
        ("demo:", False),
        ("demo:?workload=desktop", False),
        ("demo:?workload=scroll", True),
        ("demo:?workload=idle", True),
        ("demo:?workload=scroll&image=/tmp/x.elf", False),
        ("x11::99", False),
    ],
)
def test_who_draws_by_frames_has_a_time_of_its_own(url: str, guests: bool) -> None:
    assert in_guest_time(parse(url)) is guests


def test_a_workload_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="skroll"):
        in_guest_time(parse("demo:?workload=skroll"))
