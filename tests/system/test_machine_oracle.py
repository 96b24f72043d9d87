"""Every tracker against the recorded stores of the guest, on every workload."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.oracle import ON_KVM, ON_UNICORN, Oracle, true_pages, watching
from vramtap.machine.machine import Machine
from vramtap.machine.workloads import MEASURED
from vramtap.pages import PageRuns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vramtap.machine.choose_cpu import LogForm

DRAWING = [name for name in MEASURED if name != "idle"]
FRAMES = 24
"""Frames of each workload: a full cycle of those that repeat."""
FRAMES_ON_KVM = 6
SMALL = "mode=320x200 hz=0"


def line(workload: str, seed: int = 7) -> str:
    return f"workload={workload} seed={seed} {SMALL}"


def cut(frames: int, seed: int) -> list[int]:
    """Cut a number of frames into random intervals of one to four."""
    rng = random.Random(seed)
    parts: list[int] = []
    while sum(parts) < frames:
        parts.append(min(rng.randint(1, 4), frames - sum(parts)))
    return parts


def run(oracle: Oracle, parts: Sequence[int]) -> PageRuns:
    stored = PageRuns()
    for frames in parts:
        stored = stored.union(oracle.interval(frames))
    return stored


@pytest.mark.parametrize("workload", [*DRAWING, "large"])
def test_every_tracker_agrees_with_the_recorded_stores(workload: str) -> None:
    machine = Machine(cpu="unicorn", command_line=line(workload), record_writes=True, held=True)
    with watching(machine, ON_UNICORN) as oracle:
        stored = run(oracle, cut(FRAMES, seed=3))
        assert stored
        compare, log, dirtybits = oracle.watched
        assert compare.exact_answers >= 2
        assert compare.exact_answers == log.exact_answers
        assert dirtybits.exact_answers >= 2, dirtybits.reasons


@pytest.mark.parametrize("form", ["bitmap", "manual", "ring"])
@pytest.mark.parametrize("workload", DRAWING)
def test_every_tracker_on_kvm_agrees_with_unicorns_record(
    workload: str, form: LogForm, truths: dict[str, list[PageRuns]]
) -> None:
    machine = Machine(cpu="kvm", log=form, command_line=line(workload), held=True)
    truth = truths.setdefault(workload, []) or true_pages(line(workload), FRAMES_ON_KVM)
    truths[workload] = truth
    with watching(machine, ON_KVM, truth) as oracle:
        run(oracle, cut(FRAMES_ON_KVM, seed=5))
        answers = {watched.name: watched.exact_answers for watched in oracle.watched}
        assert min(answers.values()) >= 1, answers


@pytest.fixture(scope="module")
def truths() -> dict[str, list[PageRuns]]:
    """Recorded stores of each workload, filled on demand."""
    return {}


def test_idle_guest_has_no_dirty_pages() -> None:
    machine = Machine(cpu="unicorn", command_line=line("idle"), record_writes=True, held=True)
    with watching(machine, ON_UNICORN) as oracle:
        machine.release()
        while not machine.halts or machine.running:
            assert not machine.wait_end(0.001), machine.ended
        first = [watched.collect() for watched in oracle.watched]
        again = [watched.collect() for watched in oracle.watched]
        assert all(first)
        assert not any(again)


@pytest.mark.stress
def test_random_programs_are_followed_by_every_tracker(stress: int) -> None:
    @settings(
        max_examples=25 * stress,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**63 - 1), parts=st.lists(st.integers(1, 3), min_size=3, max_size=8))
    def follow(seed: int, parts: list[int]) -> None:
        words = f"program=random seed={seed} {SMALL}"
        machine = Machine(cpu="unicorn", command_line=words, record_writes=True, held=True)
        with watching(machine, ON_UNICORN) as oracle:
            run(oracle, parts)

    follow()


@pytest.mark.parametrize("workload", ["alias", "remap", "large"])
def test_all_dirty_reason_appears_and_dirty_bits_resume(workload: str) -> None:
    expected = {"alias": "aliased", "remap": "remapped", "large": "large-page"}[workload]
    machine = Machine(cpu="unicorn", command_line=line(workload), record_writes=True, held=True)
    with watching(machine, ON_UNICORN) as oracle:
        run(oracle, [1] * (2 * FRAMES))
        dirtybits = oracle.watched[2]
        assert expected in dirtybits.reasons
        names = [type(answer).__name__ for answer in dirtybits.answers]
        last = len(names) - 1 - names[::-1].index("AllDirty")
        assert "PageRuns" in names[names.index("AllDirty") + 1 : last]
