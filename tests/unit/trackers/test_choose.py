"""choose(): which tracker an extent gets, and the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.machine_code import assemble
from support.scribe import PAGE, Scribe
from vramtap.errors import TargetGone, UsageError, VramtapError
from vramtap.machine.machine import Machine
from vramtap.memory.extent import Extent
from vramtap.memory.mapped import FileSpace
from vramtap.memory.own import extent_of
from vramtap.memory.process import ProcessSpace
from vramtap.trackers import choose as module
from vramtap.trackers.choose import MAX_LATENCY_S, MIN_LATENCY_S, TrackerOptions, choose
from vramtap.trackers.userfault import log as writelog
from vramtap.trackers.userfault.hybrid import HybridTracker
from vramtap.trackers.userfault.probe import probe_log

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def own_extent() -> Extent:
    return extent_of(np.zeros(8 * PAGE, dtype=np.uint8))[0]


@pytest.fixture
def file_extent(tmp_path: Path) -> Iterator[Extent]:
    path = tmp_path / "memory"
    path.write_bytes(bytes(8 * PAGE))
    space = FileSpace(str(path))
    yield Extent(space, 0, 8)
    space.close()


def test_probe_passes_on_a_kernel_that_logs() -> None:
    assert probe_log() is None


def test_auto_chooses_hybrid_and_says_why_it_cannot_be_armed(own_extent: Extent) -> None:
    choice = choose("auto", own_extent)
    assert choice.tracker.name == "hybrid"
    assert "a page was written and seen" in choice.why
    assert "polled while idle, not armed: it is memory of this process" in choice.why
    choice.tracker.stop()


def test_auto_chooses_hybrid_without_a_note_if_it_can_be_armed() -> None:
    with Scribe(8) as scribe:
        space = ProcessSpace(scribe.pid)
        choice = choose("auto", Extent(space, scribe.address, 8))
        assert choice.tracker.name == "hybrid"
        assert "not armed" not in choice.why
        choice.tracker.stop()
        space.close()


def test_auto_chooses_log_for_a_caller_without_feedback(own_extent: Extent) -> None:
    choice = choose("auto", own_extent, wants_feedback=False)
    assert choice.tracker.name == "log"
    assert choice.why.endswith("(a page was written and seen)")
    choice.tracker.stop()


def test_named_hybrid_says_why_it_cannot_be_armed(own_extent: Extent, file_extent: Extent) -> None:
    choice = choose("hybrid", own_extent, wants_feedback=False)
    assert choice.tracker.name == "hybrid"
    assert choice.why.startswith("requested; polled while idle, not armed: it is memory of this process")
    choice.tracker.stop()
    with pytest.raises(VramtapError, match="no single process maps"):
        choose("hybrid", file_extent)


@pytest.mark.parametrize("name", ["hybrid", "log"])
def test_options_reach_the_tracker(name: str, own_extent: Extent, monkeypatch: pytest.MonkeyPatch) -> None:
    intervals = []

    class Watch:
        fd = None

        def __init__(self, poll: object, callback: object, interval_s: float) -> None:
            intervals.append(interval_s)

    monkeypatch.setattr(writelog, "IdleWatch", Watch)
    choice = choose(name, own_extent, options=TrackerOptions(latency_s=0.1, guest_cost_factor=3))
    choice.tracker.wake(lambda: None)
    assert intervals == [0.1]
    if isinstance(choice.tracker, HybridTracker):
        assert choice.tracker.costs.guest_cost_factor == 3
    choice.tracker.stop()


@pytest.mark.parametrize(
    "latency_s", [0, MIN_LATENCY_S / 2, MAX_LATENCY_S * 1.1, float("nan"), float("inf"), -1]
)
def test_latency_out_of_range_is_a_usage_error(latency_s: float) -> None:
    with pytest.raises(UsageError, match="--latency"):
        TrackerOptions(latency_s=latency_s)


@pytest.mark.parametrize("factor", [-1, float("nan"), float("inf"), 1e7])
def test_guest_cost_factor_out_of_range_is_a_usage_error(factor: float) -> None:
    with pytest.raises(UsageError, match="--guest-cost-factor"):
        TrackerOptions(guest_cost_factor=factor)


def test_auto_chooses_compare_for_memory_of_no_process(file_extent: Extent) -> None:
    choice = choose("auto", file_extent)
    assert choice.tracker.name == "compare"
    assert "no single process maps" in choice.why


def test_auto_chooses_compare_if_the_kernel_does_not_log(
    own_extent: Extent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "probe_log", lambda: "page 3 was written, the log reported nothing")
    choice = choose("auto", own_extent)
    assert choice.tracker.name == "compare"
    assert "page 3 was written" in choice.why


def test_auto_raises_target_gone_if_the_target_has_ended() -> None:
    with Scribe(4) as scribe:
        space = ProcessSpace(scribe.pid)
        extent = Extent(space, scribe.address, 4)
        scribe.end()
        with pytest.raises(TargetGone):
            choose("auto", extent)
        space.close()


def test_named_tracker_is_chosen_or_raises(own_extent: Extent, file_extent: Extent) -> None:
    for name in ("log", "compare"):
        choice = choose(name, own_extent)
        assert (choice.tracker.name, choice.why) == (name, "requested")
        choice.tracker.stop()
    with pytest.raises(VramtapError, match="no single process maps"):
        choose("log", file_extent)


@pytest.mark.parametrize("name", ["dirtybits", "kvmlog"])
def test_vm_trackers_raise_for_other_memory(name: str, own_extent: Extent) -> None:
    with Machine(assemble("hlt"), cpu="kvm" if name == "kvmlog" else "unicorn") as machine:
        choice = choose(name, machine.extent)
        assert (choice.tracker.name, choice.why) == (name, "requested")
        choice.tracker.stop()
    with pytest.raises(VramtapError, match="not memory of the built-in VM"):
        choose(name, own_extent)


def test_unknown_name_is_a_usage_error(own_extent: Extent) -> None:
    with pytest.raises(UsageError, match=r"--tracker magic: .*auto, hybrid, log, compare"):
        choose("magic", own_extent)
