"""The tracker bench: every pair is measured, and what cannot be is said. How fast is not asked here."""

from __future__ import annotations

import pytest

from vramtap.bench.trackers import Cost, measure
from vramtap.errors import UsageError, VramtapError


def costs(workloads: list[str], trackers: list[str], rounds: int = 2) -> list[Cost]:
    return list(measure(workloads, trackers, mode="320x200", rounds=rounds, slice_s=0.05))


def test_each_tracker_is_measured_on_each_workload() -> None:
    trackers = ["compare", "log", "dirtybits"]
    found = costs(["caret", "video-full"], trackers)
    assert [(cost.workload, cost.tracker) for cost in found] == [
        (workload, tracker) for workload in ("caret", "video-full") for tracker in trackers
    ]
    for cost in found:
        assert cost.looks >= 2 * 2
        assert 0 < cost.collect_us <= cost.look_us
        assert cost.frames_per_s > 0
        assert cost.untracked_per_s > 0
        assert cost.slowdown is not None
        assert cost.slowdown > 0
        assert 0 <= cost.everything <= 1


def test_a_video_writes_no_page_beside_the_screen() -> None:
    (cost,) = costs(["video-full"], ["log"], rounds=3)
    assert cost.pages <= 320 * 200 * 4 // 4096 + 1
    assert cost.pages > 1


def test_a_guest_that_draws_nothing_has_no_slowdown() -> None:
    (cost,) = costs(["idle"], ["log"])
    assert cost.pages == 0
    assert cost.slowdown is None


def test_a_guest_that_ends_is_an_error() -> None:
    with pytest.raises(VramtapError):
        list(measure(["caret"], ["log"], mode="9x9 fault=pf", rounds=1, slice_s=0.05))


def test_a_tracker_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="clairvoyance"):
        costs(["caret"], ["clairvoyance"])
