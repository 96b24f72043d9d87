"""Tests that the benchmarks run from end to end, with few repetitions. They check no speed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vramtap.pages import PageRuns

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:  # the benchmarks are not a part of the package
    sys.path.append(ROOT)

from benchmarks import costs, held, video  # noqa: E402 - found only now
from benchmarks.follow import BLIND, follower  # noqa: E402
from benchmarks.painter import Painter  # noqa: E402

if TYPE_CHECKING:
    import pytest


def quietly(what: str) -> None:
    """Ignore progress."""


def test_writers_are_timed_untapped_and_tapped() -> None:
    found = held.measure(2, 1, 0.0, 1, ["log"], quietly, size=(64, 64))
    assert [(each.tracker, each.what) for each in found[:4]] == [
        (held.UNTAPPED, held.PAGE),
        (held.UNTAPPED, held.SCREEN),
        ("log", held.PAGE),
        ("log", held.SCREEN),
    ]
    for each in found:
        assert each.pages == 4
        assert each.lost == 0
        assert all(0 < first <= last for first, last in zip(each.first_us, each.all_us, strict=True))
    stopped = {each.what for each in found[4:]}
    assert held.STOPPED["server"] in stopped
    assert stopped <= set(held.STOPPED.values())


def test_recording_is_played_and_tracked() -> None:
    path = costs.recorded()["typing"]
    found = list(costs.measure([path], ["compare", "log"], 0.25, quietly))
    assert [(cost.trace, cost.tracker, cost.frames) for cost in found] == [
        ("typing", "compare", 15),
        ("typing", "log", 15),
    ]
    assert all(cost.tap_us > 0 for cost in found)


def test_video_is_tracked_by_each_follower_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "WARM_S", 0.05)
    found = video.measure(["log"], 2, 0.1, quietly, size=(64, 64), work=1)
    assert [each.tracker for each in found] == [video.UNTAPPED, BLIND, "log"]
    for each in found:
        assert len(each.per_s) == len(each.ratios) == len(each.cpu_ratios) == len(each.tap_ms_s) == 2
    assert found[0].ratios == [1.0, 1.0]


def test_follower_finds_the_written_pages() -> None:
    with Painter(16) as painter, follower(painter.url, "log") as tap:
        painter.fill(3, 7)
        # The next scan finds the writes at the latest.
        while tap.stats()["dirty_pages"] < 4:
            painter.replay([PageRuns([(3, 7)])], hz=60)
        assert tap.stats()["tracker"] == "log"
