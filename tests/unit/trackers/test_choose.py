"""Which tracker an extent gets, and the reason that is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contract.scribe import PAGE, Scribe
from machine_code import assemble
from vramtap.errors import TargetGone, UsageError, VramtapError
from vramtap.machine.machine import Machine
from vramtap.memory.extent import Extent
from vramtap.memory.mapped import FileSpace
from vramtap.memory.own import extent_of
from vramtap.memory.process import ProcessSpace
from vramtap.trackers import choose as module
from vramtap.trackers.choose import choose
from vramtap.trackers.probe import probe_log


@pytest.fixture
def ours() -> Extent:
    return extent_of(np.zeros(8 * PAGE, dtype=np.uint8))[0]


@pytest.fixture
def nobodys(tmp_path: Path) -> Iterator[Extent]:
    path = tmp_path / "memory"
    path.write_bytes(bytes(8 * PAGE))
    space = FileSpace(str(path))
    yield Extent(space, 0, 8)
    space.close()


def test_the_probe_passes_on_a_kernel_that_logs() -> None:
    assert probe_log() is None


def test_auto_takes_the_log_and_says_why(ours: Extent) -> None:
    choice = choose("auto", ours)
    assert choice.tracker.name == "log"
    assert "a page was written and seen" in choice.why
    choice.tracker.disarm()


def test_auto_compares_where_no_process_is_known_and_says_why(nobodys: Extent) -> None:
    choice = choose("auto", nobodys)
    assert choice.tracker.name == "compare"
    assert "no process is known" in choice.why


def test_auto_compares_where_the_kernel_does_not_log(ours: Extent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "probe_log", lambda: "page 3 was written, the log said nothing")
    choice = choose("auto", ours)
    assert choice.tracker.name == "compare"
    assert "page 3 was written" in choice.why


def test_auto_does_not_hide_that_the_target_has_ended() -> None:
    with Scribe(4) as scribe:
        space = ProcessSpace(scribe.pid)
        extent = Extent(space, scribe.address, 4)
        scribe.end()
        with pytest.raises(TargetGone):
            choose("auto", extent)
        space.close()


def test_a_tracker_asked_for_by_name_is_taken_or_refused(ours: Extent, nobodys: Extent) -> None:
    for name in ("log", "compare"):
        choice = choose(name, ours)
        assert (choice.tracker.name, choice.why) == (name, "asked for")
        choice.tracker.disarm()
    with pytest.raises(VramtapError, match="no process is known"):
        choose("log", nobodys)


@pytest.mark.parametrize("name", ["dirtybits", "kvmlog"])
def test_the_machines_own_trackers_are_taken_for_a_machine_only(name: str, ours: Extent) -> None:
    with Machine(assemble("hlt"), cpu="kvm" if name == "kvmlog" else "unicorn") as machine:
        choice = choose(name, machine.extent)
        assert (choice.tracker.name, choice.why) == (name, "asked for")
        choice.tracker.disarm()
    with pytest.raises(VramtapError, match="not memory of the embedded machine"):
        choose(name, ours)


def test_an_unknown_name_is_a_usage_error(ours: Extent) -> None:
    with pytest.raises(UsageError, match=r"--tracker magic: .*auto, log, compare"):
        choose("magic", ours)
