"""Oracle: runs every tracker on one VM and compares the answers with the guest's recorded stores."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from support.exactness import is_exact
from vramtap.machine.machine import Machine
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty, Tracker
from vramtap.trackers.choose import choose

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from vramtap.machine.memory import DeviceLog

ON_UNICORN: Final = ("compare", "log", "dirtybits")
ON_KVM: Final = ("compare", "log", "dirtybits", "kvmlog")


class Watched:
    """One tracker, a consumer's copy of the memory, and the answers so far."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.name = name
        self.tracker: Tracker = choose(name, machine.extent).tracker
        self.copy: NDArray[np.uint8] = np.zeros(machine.extent.size_bytes, dtype=np.uint8)
        self.answers: list[PageRuns | AllDirty] = []

    def collect(self) -> PageRuns | AllDirty:
        """Collect, and update the copy from exactly the reported pages."""
        answer = self.tracker.collect()
        source = self.tracker.read_from
        runs = PageRuns.full(source.pages) if isinstance(answer, AllDirty) else answer
        source.read(runs, self.copy)
        self.answers.append(answer)
        return answer

    @property
    def reasons(self) -> list[str]:
        """Reasons of the answers `AllDirty`."""
        return [answer.reason.value for answer in self.answers if isinstance(answer, AllDirty)]

    @property
    def exact_answers(self) -> int:
        """Number of answers that were page runs."""
        return sum(not isinstance(answer, AllDirty) for answer in self.answers)


@dataclass
class Oracle:
    """Runs a guest in intervals, and checks every tracker against the stores of each interval.

    Args:
        machine: A held VM.
        watched: Trackers, started before the guest's first instruction.
        truth: Pages stored into in each frame, from an earlier run of the same guest; empty if this VM
            records them itself.
    """

    machine: Machine
    watched: Sequence[Watched]
    truth: Sequence[PageRuns] = ()
    device: DeviceLog = field(init=False)

    def __post_init__(self) -> None:
        self.device = self.machine.memory.log_device_writes()

    def interval(self, frames: int) -> PageRuns:
        """Let the guest draw, collect from every tracker, compare, and return the stored pages."""
        first = self.machine.frames
        before = self.machine.memory.vram.copy()
        self.machine.run_frames(frames)
        stored = self._stored(first, frames).union(self.device.take())
        changed = changed_pages(before, self.machine.memory.vram)
        assert not changed.difference(stored), "the oracle itself missed a store"
        for watched in self.watched:
            self._check(watched, stored, changed)
        return stored

    def _stored(self, first: int, frames: int) -> PageRuns:
        if not self.truth:
            return self.machine.written()
        pages = PageRuns()
        for part in self.truth[first : first + frames]:
            pages = pages.union(part)
        return pages

    def _check(self, watched: Watched, stored: PageRuns, changed: PageRuns) -> None:
        answer = watched.collect()
        if not isinstance(answer, AllDirty):
            # A tracker that compares does not see a store of an equal value, and need not.
            must = changed if watched.tracker.prefers_window else stored
            missed = must.difference(answer)
            assert not missed, f"{watched.name} missed {missed} of {must}"
            if is_exact(watched.tracker):
                extra = answer.difference(stored)
                assert not extra, f"{watched.name} reported {extra} beyond {stored}"
        assert np.array_equal(watched.copy, self.machine.memory.vram), f"{watched.name}: the copy differs"


@contextmanager
def watching(machine: Machine, names: Sequence[str], truth: Sequence[PageRuns] = ()) -> Iterator[Oracle]:
    """Start trackers of these names on a VM that has not run yet, then start the VM."""
    with ExitStack() as stack:
        watched = []
        for name in names:
            watched.append(Watched(machine, name))
            stack.callback(watched[-1].tracker.stop)
        stack.enter_context(machine)
        yield Oracle(machine, watched, truth)


def true_pages(command_line: str, frames: int) -> list[PageRuns]:
    """Return the pages that the guest stores into in each frame, recorded by Unicorn; without devices."""
    with Machine(cpu="unicorn", command_line=command_line, record_writes=True, held=True) as machine:
        pages = []
        for _ in range(frames):
            machine.run_frames(1)
            pages.append(machine.written())
        return pages


def changed_pages(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> PageRuns:
    """Return the pages that differ."""
    return PageRuns.from_mask((before != after).reshape(-1, PAGE_SIZE).any(axis=1))
