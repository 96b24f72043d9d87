"""The KVM log of a guest that stores without pause: a copy of the reported pages equals the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.kvm_guest import enter_user_mode
from vramtap.linux.kvm import Vm
from vramtap.machine.kvm_cpu import KvmCpu
from vramtap.machine.kvm_log import RING_ENTRIES
from vramtap.machine.layout import BOOT_INFO, VRAM_BYTES
from vramtap.machine.machine import Machine
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.trackers.base import AllDirty
from vramtap.trackers.machine.kvmlog import KvmLogTracker

if TYPE_CHECKING:
    from vramtap.machine.choose_cpu import LogForm

STORES_AT_RANDOM = bytes.fromhex(
    "b801000000"  # mov eax, 1
    "ba000000e0"  # mov edx, VRAM_BASE
    "69c00d661900"  # 1: imul eax, eax, 1664525
    "055ff36e3c"  # add eax, 1013904223
    "89c1"  # mov ecx, eax
    "c1e908"  # shr ecx, 8
    "81e1fcffff00"  # and ecx, 0xfffffc: a word of the 16 MiB
    "890411"  # mov [rcx + rdx], eax
    "ff07"  # inc dword [rdi]
    "ebe3"  # jmp 1b
)
PAGES = VRAM_BYTES // PAGE_SIZE


TURNS, STORES_A_TURN = 30, 4000


@pytest.mark.parametrize(
    ("form", "ring_entries"), [("bitmap", 0), ("manual", 0), ("ring", RING_ENTRIES), ("ring", 1024)]
)
@pytest.mark.parametrize("privilege", [0, 3])
def test_no_store_is_missed(
    form: LogForm, ring_entries: int, privilege: int, stress: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    enable = Vm.enable_dirty_rings
    monkeypatch.setattr(Vm, "enable_dirty_rings", lambda vm, entries: enable(vm, ring_entries))
    mine = np.zeros(VRAM_BYTES, dtype=np.uint8)
    machine = Machine(STORES_AT_RANDOM, cpu="kvm", log=form)
    assert isinstance(machine.cpu, KvmCpu)
    if privilege == 3:
        enter_user_mode(machine.memory, machine.cpu)
    with machine:
        tracker = KvmLogTracker()
        tracker.start(machine.extent)
        counter = machine.memory.ram[BOOT_INFO : BOOT_INFO + 4].view(np.uint32)

        def follow(window: tuple[int, int]) -> bool:
            answer = tracker.collect(window)
            runs = PageRuns([window]) if isinstance(answer, AllDirty) else answer
            tracker.read_from.read(runs, mine)
            return isinstance(answer, AllDirty)

        named = 0
        for turn in range(TURNS * stress):
            before = int(counter[0])
            while (int(counter[0]) - before) % (1 << 32) < STORES_A_TURN:
                assert machine.ended is None, machine.ended
            first = turn % 4 * 1000
            named += not follow((0, PAGES) if turn % 2 else (first, first + 1000))
        with machine.paused():
            follow((0, PAGES))
            assert np.array_equal(mine, machine.memory.vram)
        # A ring of 1,024 entries is overrun in every turn.
        assert named > 0 or ring_entries == 1024, "every collect returned AllDirty"
        tracker.stop()
        assert machine.ended is None
