"""Page tables of the guest that comes with the package, and what its workloads do to them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.guest_tables import LARGE, SMALL, Mapping, Tables, tables_of
from vramtap.machine.layout import RAM_BYTES, VRAM_BASE, VRAM_BYTES
from vramtap.machine.machine import Machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

POOL = 0x400000
ADDRESS = 0x000F_FFFF_FFFF_F000
DIRTY = np.uint64(0x40)
HOME = 0xFFFF_8000_0000_0000
PLACES = [HOME + (place << 30) for place in range(8)]
ALIAS = 0xFFFF_8080_0000_0000


def guest(command_line: str) -> Machine:
    return Machine(cpu="unicorn", command_line=f"{command_line} mode=320x200 hz=0", held=True)


def home_of(tables: Tables) -> int | None:
    """Return where the framebuffer is mapped completely, once and in order, by 4 KiB pages; else None."""
    found = [one for one in tables.of_vram() if one.address < ALIAS]
    want = (
        [(found[0].address + at, VRAM_BASE + at, SMALL) for at in range(0, VRAM_BYTES, SMALL)]
        if found
        else []
    )
    is_so = want and [(one.address, one.physical, one.size_bytes) for one in found] == want
    return found[0].address if is_so else None


def aliases(tables: Tables) -> list[Mapping]:
    return [one for one in tables.of_vram() if one.address >= ALIAS]


def test_tables_have_the_described_layout() -> None:
    with guest("workload=idle") as machine:
        machine.run_frames(1)
        tables = tables_of(machine)
    low = tables.between(0, 1 << 47)
    assert all(one.address == one.physical for one in low)
    assert sum(one.size_bytes for one in low) == RAM_BYTES
    assert {one.address for one in low if one.size_bytes == SMALL} == set(range(POOL, POOL + LARGE, SMALL))
    assert home_of(tables) == HOME
    assert len(tables.mappings) == len(low) + VRAM_BYTES // SMALL


def pool_entries(machine: Machine) -> NDArray[np.uint64]:
    """Return the entries that map the pool of tables; writable."""
    with machine.paused():
        table = machine.cpu.registers().cr3 & ADDRESS
        for shift in (39, 30, 21):
            table = int(machine.memory.words(table, 512)[POOL >> shift & 511]) & ADDRESS
    return machine.memory.words(table, 512)


def take_written_tables(machine: Machine) -> set[int]:
    """Return the frames of the pool with a dirty bit, and clear these bits, as a tracker does."""
    entries = pool_entries(machine)
    with machine.paused():
        dirty = (entries & DIRTY) != 0
        entries[dirty] &= ~DIRTY
        machine.cpu.flush_tlb()
    return {POOL + int(index) * SMALL for index in np.flatnonzero(dirty)}


@pytest.mark.parametrize("workload", ["workload=idle", "workload=remap", "workload=alias", "program=random"])
def test_pool_holds_only_tables(workload: str) -> None:
    with guest(workload) as machine:
        machine.run_frames(1)
        tables = tables_of(machine)
        assert take_written_tables(machine) <= tables.frames
    assert all(POOL <= frame < POOL + LARGE for frame in tables.frames)


@pytest.mark.parametrize("workload", ["random", "typing", "flip", "video-full", "modes"])
def test_drawing_alone_writes_no_table(workload: str) -> None:
    with guest(f"workload={workload}") as machine:
        machine.run_frames(1)
        take_written_tables(machine)
        machine.run_frames(9)
        assert not take_written_tables(machine)


def test_alias_maps_frames_twice_writes_and_unmaps_them() -> None:
    with guest("workload=alias seed=2") as machine:
        for frame in range(1, 49):
            machine.run_frames(1)
            tables = tables_of(machine)
            assert home_of(tables) == HOME
            found = aliases(tables)
            if frame >= 3:
                assert bool(found) == (frame % 16 in (0, 1, 2, 12)), frame
            assert [one.address for one in found] == [ALIAS + at * SMALL for at in range(len(found))]
            if frame in (16, 32, 48):
                assert not any(one.dirty for one in found)
            if frame in (17, 33):
                assert any(one.dirty for one in found)


def test_alias_within_a_frame_shows_only_in_written_tables() -> None:
    with guest("workload=alias seed=2") as machine:
        machine.run_frames(25)
        before = tables_of(machine)
        for _ in range(2):
            take_written_tables(machine)
            machine.run_frames(1)
            after = tables_of(machine)
            assert not aliases(after)
            assert after.frames == before.frames
            # One table was written, and none of the framebuffer's.
            assert len(take_written_tables(machine)) == 1


def test_remap_moves_the_framebuffer_with_its_tables_and_without() -> None:
    with guest("workload=remap seed=2") as machine:
        machine.run_frames(1)
        tables = tables_of(machine)
        assert home_of(tables) == HOME
        kinds = set()
        for _ in range(6):
            before = tables
            machine.run_frames(1)
            tables = tables_of(machine)
            assert home_of(tables) in PLACES
            assert home_of(tables) != home_of(before)
            # New tables start clean; moved tables keep their dirty bits.
            clean = sum(one.dirty for one in tables.of_vram()) < sum(one.dirty for one in before.of_vram())
            kinds.add(clean)
            machine.run_frames(5)
            assert home_of(tables_of(machine)) == home_of(tables)
            tables = tables_of(machine)
        assert kinds == {True, False}


def test_large_maps_the_framebuffer_by_large_pages_and_back() -> None:
    with guest("workload=large") as machine:
        for frame in range(1, 33):
            machine.run_frames(1)
            tables = tables_of(machine)
            if 4 <= frame % 16 < 12:
                found = [(one.address, one.physical, one.size_bytes) for one in tables.of_vram()]
                assert found == [(HOME + at, VRAM_BASE + at, LARGE) for at in range(0, VRAM_BYTES, LARGE)]
            else:
                assert home_of(tables) == HOME


def test_random_programs_use_every_kind_of_mapping() -> None:
    with guest("program=random seed=1") as machine:
        seen: Counter[str] = Counter()
        for _ in range(150):
            machine.run_frames(1)
            tables = tables_of(machine)
            home = home_of(tables)
            seen["large"] += home is None
            seen["elsewhere"] += home is not None and home != HOME
            seen["aliased"] += bool(aliases(tables))
            seen["plain"] += home is not None and not aliases(tables)
            assert len(tables.frames) < 40
        assert all(seen[kind] >= 5 for kind in ("large", "elsewhere", "aliased", "plain")), seen
