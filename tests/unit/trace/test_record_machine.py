"""Recording the built-in VM in guest time: each interval has the same number of frames."""

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


def recorded(query: str, intervals: int = 12, hz: float = 60) -> Trace:
    spec = parse(f"demo:?{query}&{SMALL}")
    recording = Recording(spec.url, hz, "guest")
    record_machine(spec, recording, hz=hz, intervals=intervals, stop=threading.Event())
    return recording.trace()


def test_each_interval_has_one_frame() -> None:
    trace = recorded("workload=video-full")
    assert trace.pages == PAGES
    assert trace.intervals == 12
    for interval in range(12):
        assert trace.written(interval) == PageRuns.full(PAGES)
        assert trace.at_ns[interval] == round((interval + 1) * 1e9 / 60)
    assert trace.meta["clock"] == "guest"
    assert trace.meta["ended"] == "after 12 intervals"


def test_same_seed_draws_the_same() -> None:
    assert (
        recorded("workload=random&seed=7").dirty(1).tolist()
        == recorded("workload=random&seed=7").dirty(1).tolist()
    )
    assert (
        recorded("workload=random&seed=7").dirty(1).tolist()
        != recorded("workload=random&seed=8").dirty(1).tolist()
    )


def test_caret_blinks_at_its_own_rate() -> None:
    trace = recorded("workload=caret", intervals=121)
    blinks = [interval for interval in range(121) if trace.written(interval)]
    assert blinks == [29, 59, 89, 119]


def test_frame_rate_is_a_parameter_of_the_target() -> None:
    trace = recorded("workload=video-full&hz=16", intervals=30)
    drawn = [interval for interval in range(30) if trace.written(interval)]
    assert drawn == [int(frame * 60 / 16 - 1e-9) for frame in range(1, 9)]


def test_idle_guest_writes_nothing() -> None:
    trace = recorded("workload=idle")
    assert trace.intervals == 12
    assert len(trace.runs) == 0


def test_guest_stops_after_its_number_of_frames() -> None:
    trace = recorded("workload=video-full&frames=5")
    assert [bool(trace.written(interval)) for interval in range(12)] == [True] * 4 + [False] * 8


def test_change_of_mode_ends_the_recording() -> None:
    trace = recorded("workload=modes&seed=2", intervals=40)
    assert trace.intervals == 3  # every fourth frame; the first was drawn before
    assert "the mode changed to" in trace.meta["ended"]


def test_page_flip_is_followed() -> None:
    trace = recorded("workload=flip", intervals=5)
    assert trace.intervals == 5
    assert trace.meta["moves"] == "5"
    assert trace.written(4) == PageRuns.full(PAGES)


def test_recording_can_be_stopped() -> None:
    spec, stop = parse(f"demo:?workload=typing&{SMALL}"), threading.Event()
    recording = Recording(spec.url, 60, "guest")
    record_machine(spec, recording, hz=60, intervals=1000, stop=stop, progress=lambda same: stop.set())
    assert recording.intervals == 1
    assert recording.trace().meta["ended"] == STOPPED


def test_intervals_before_the_end_of_the_guest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse(f"demo:?workload=typing&{SMALL}")
    recording = Recording(spec.url, 60, "guest")

    class Closing(Machine):
        def run_frames(self, count: int, timeout_s: float = 60) -> None:
            super().run_frames(count, timeout_s)
            if recording.intervals == 3:
                self.close()
                self.wait_end(60)

    monkeypatch.setattr(module, "Machine", Closing)
    record_machine(spec, recording, hz=60, intervals=1000, stop=threading.Event())
    assert recording.intervals == 4
    assert "the machine was closed" in recording.trace().meta["ended"]


def test_refused_log_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_workloads_that_draw_by_frames_are_recorded_in_guest_time(url: str, guests: bool) -> None:
    assert in_guest_time(parse(url)) is guests


def test_unknown_workload_is_refused() -> None:
    with pytest.raises(UsageError, match="skroll"):
        in_guest_time(parse("demo:?workload=skroll"))
