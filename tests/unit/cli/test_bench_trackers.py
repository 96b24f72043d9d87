"""The tracker benchmark measures every pair and reports errors; no speed is checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vramtap.cli._bench_trackers import Cost, measure
from vramtap.errors import UsageError, VramtapError
from vramtap.trackers.choose import Choice
from vramtap.trackers.compare import CompareTracker

if TYPE_CHECKING:
    from vramtap.memory.extent import Extent
    from vramtap.pages import PageRuns


def costs(workloads: list[str], trackers: list[str], rounds: int = 2) -> list[Cost]:
    return list(measure(workloads, trackers, mode="320x200", rounds=rounds, slice_s=0.05))


def test_each_tracker_is_measured_on_each_workload() -> None:
    trackers = ["compare", "log", "dirtybits", "hybrid", "blind"]
    found = costs(["caret", "video-full"], trackers)
    assert [(cost.workload, cost.tracker) for cost in found] == [
        (workload, tracker) for workload in ("caret", "video-full") for tracker in trackers
    ]
    for cost in found:
        assert cost.scans >= 2, "fewer than one scan in each of two turns"
        assert 0 < cost.collect_us <= cost.scan_us
        assert cost.frames_per_s > 0
        assert cost.untracked_per_s > 0
        assert cost.slowdown is not None
        assert cost.slowdown > 0
        assert len(cost.slowdowns) == 2
        assert cost.total_us > cost.lost_us
        assert 0 <= cost.all_dirty <= 1


def test_video_writes_only_pages_of_the_screen() -> None:
    (cost,) = costs(["video-full"], ["log"], rounds=3)
    assert cost.pages <= 320 * 200 * 4 // 4096 + 1
    assert cost.pages > 1


def test_idle_guest_has_no_slowdown() -> None:
    (cost,) = costs(["idle"], ["log"])
    assert cost.pages == 0
    assert cost.slowdown is None
    assert cost.lost_us == 0
    assert cost.total_us > 0


def test_blind_reads_the_whole_screen() -> None:
    (cost,) = costs(["caret"], ["blind"])
    assert 320 * 200 * 4 // 4096 <= cost.pages <= 320 * 200 * 4 // 4096 + 2
    assert cost.all_dirty == 0


def test_tracker_that_wants_feedback_receives_the_changed_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[PageRuns] = []

    class Learning(CompareTracker):
        @property
        def wants_feedback(self) -> bool:
            return True

        def feedback(self, changed: PageRuns) -> None:
            received.append(changed)

    def chosen(name: str, extent: Extent) -> Choice:
        tracker = Learning()
        tracker.start(extent)
        return Choice(tracker, name)

    monkeypatch.setattr("vramtap.cli._bench_trackers.choose", chosen)
    (cost,) = costs(["video-full"], ["compare"], rounds=1)
    assert len(received) == cost.scans + 1  # the first scan is not measured
    assert any(received[1:])
    assert all(changed.count <= 320 * 200 * 4 // 4096 + 1 for changed in received)


def test_guest_that_ends_is_an_error() -> None:
    with pytest.raises(VramtapError):
        list(measure(["caret"], ["log"], mode="9x9 fault=pf", rounds=1, slice_s=0.05))


def test_unknown_tracker_is_refused() -> None:
    with pytest.raises(UsageError, match="clairvoyance"):
        costs(["caret"], ["clairvoyance"])
