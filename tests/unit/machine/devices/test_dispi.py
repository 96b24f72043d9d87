"""DispiDevice: the display's registers, set and read by a guest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.display.bochs import COUNT, Dispi
from vramtap.machine.devices.dispi import (
    BANK,
    BPP,
    ENABLE,
    ENABLED,
    GETCAPS,
    ID,
    LFB_ENABLED,
    NOCLEARMEM,
    VIDEO_MEMORY_64K,
    VIRT_HEIGHT,
    VIRT_WIDTH,
    X_OFFSET,
    XRES,
    Y_OFFSET,
    YRES,
    DispiDevice,
)
from vramtap.machine.layout import PORT_DISPI_DATA, PORT_DISPI_INDEX, VRAM_BYTES
from vramtap.machine.memory import GuestMemory

MEMORY = GuestMemory()


class Guest:
    """A guest that uses the two ports."""

    def __init__(self) -> None:
        self.changes = 0
        self.device = DispiDevice(MEMORY, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def set(self, index: int, value: int) -> None:
        self.device.write(PORT_DISPI_INDEX, 2, index)
        self.device.write(PORT_DISPI_DATA, 2, value)

    def get(self, index: int) -> int:
        self.device.write(PORT_DISPI_INDEX, 2, index)
        return self.device.read(PORT_DISPI_DATA, 2)

    def mode(self, width: int, height: int, bpp: int = 32, flags: int = 0) -> None:
        self.set(ENABLE, 0)
        self.set(XRES, width)
        self.set(YRES, height)
        self.set(BPP, bpp)
        self.set(ENABLE, ENABLED | LFB_ENABLED | flags)


def test_registers_before_a_mode_is_set() -> None:
    guest = Guest()
    assert guest.get(ID) == 0xB0C5
    assert guest.get(VIDEO_MEMORY_64K) == VRAM_BYTES // 65536
    assert len(guest.device.words()) == COUNT
    assert Dispi.from_words(guest.device.words()).mode(VRAM_BYTES) is None
    guest.set(ID, 0xB0C2)
    assert guest.get(ID) == 0xB0C2
    guest.set(ID, 0x1234)
    assert guest.get(ID) == 0xB0C2


def test_getcaps_reads_the_maxima() -> None:
    guest = Guest()
    guest.set(ENABLE, GETCAPS)
    assert [guest.get(index) for index in (XRES, YRES, BPP)] == [16000, 12000, 32]
    guest.set(ENABLE, 0)
    assert guest.get(XRES) == 0


def test_mode_and_page_flip_are_visible() -> None:
    guest = Guest()
    guest.mode(1024, 768)
    mode = Dispi.from_words(guest.device.words()).mode(VRAM_BYTES)
    assert mode is not None
    assert (mode.width, mode.height, mode.stride_bytes, mode.offset_bytes) == (1024, 768, 4096, 0)
    assert guest.get(VIRT_WIDTH) == 1024
    assert guest.get(VIRT_HEIGHT) == VRAM_BYTES // 4096
    guest.set(Y_OFFSET, 768)
    flipped = Dispi.from_words(guest.device.words()).mode(VRAM_BYTES)
    assert flipped is not None
    assert flipped.offset_bytes == 768 * 4096


def test_setting_a_mode_clears_its_scanout_and_logs_it() -> None:
    guest = Guest()
    log = MEMORY.log_device_writes()
    MEMORY.vram[:] = 0xAA
    guest.mode(640, 480)
    shown = 640 * 480 * 4
    assert not MEMORY.vram[:shown].any()
    assert np.all(MEMORY.vram[shown:] == 0xAA)
    assert list(log.take()) == [(0, shown // 4096)]
    MEMORY.vram[:shown] = 0x55
    guest.mode(640, 480, flags=NOCLEARMEM)
    assert np.all(MEMORY.vram[:shown] == 0x55)
    assert not log.take()
    log.close()


def test_on_change_is_called_only_if_the_scanout_may_change() -> None:
    guest = Guest()
    guest.set(XRES, 640)
    guest.set(YRES, 480)
    guest.set(BPP, 32)
    assert guest.changes == 0
    guest.set(ENABLE, ENABLED)
    assert guest.changes == 1
    guest.set(XRES, 640)
    guest.get(XRES)
    assert guest.changes == 1
    guest.set(X_OFFSET, 8)
    assert guest.changes == 2
    guest.set(ENABLE, 0)
    assert guest.changes == 3


@pytest.mark.parametrize(
    ("wanted", "adjusted"),
    [
        ((1023, 768, 32), (1016, 768, 32)),
        ((0, 0, 0), (8, 1, 8)),
        ((65535, 65535, 32), (16000, 262, 32)),
        ((800, 600, 17), (800, 600, 8)),
        ((800, 600, 15), (800, 600, 15)),
        ((4096, 2000, 32), (4096, 1024, 32)),
    ],
)
def test_mode_that_does_not_fit_is_adjusted(
    wanted: tuple[int, int, int], adjusted: tuple[int, int, int]
) -> None:
    guest = Guest()
    guest.mode(*wanted)
    assert (guest.get(XRES), guest.get(YRES), guest.get(BPP)) == adjusted


def test_offset_that_does_not_fit_becomes_zero() -> None:
    guest = Guest()
    guest.mode(1024, 4096)
    guest.set(Y_OFFSET, 1)
    assert guest.get(Y_OFFSET) == 0
    guest.set(X_OFFSET, 1)
    assert guest.get(X_OFFSET) == 0


def test_enabling_resets_offsets_and_virtual_width() -> None:
    guest = Guest()
    guest.mode(640, 480)
    guest.set(VIRT_WIDTH, 1024)
    guest.set(X_OFFSET, 8)
    guest.set(Y_OFFSET, 9)
    guest.mode(640, 480)
    assert [guest.get(index) for index in (VIRT_WIDTH, X_OFFSET, Y_OFFSET)] == [640, 0, 0]


def test_accesses_of_other_sizes_have_no_effect() -> None:
    guest = Guest()
    guest.device.write(PORT_DISPI_INDEX, 2, XRES)
    guest.device.write(PORT_DISPI_DATA, 4, 640)
    guest.device.write(PORT_DISPI_INDEX, 1, ID)
    assert guest.device.read(PORT_DISPI_INDEX, 2) == XRES
    assert guest.device.read(PORT_DISPI_DATA, 2) == 0
    assert guest.device.read(PORT_DISPI_DATA, 1) == ~0


@given(
    st.lists(
        st.tuples(st.integers(0, 12) | st.integers(0, 65535), st.integers(0, 65535) | st.integers(0, 2048)),
        max_size=40,
    )
)
def test_registers_stay_valid_after_random_writes(writes: list[tuple[int, int]]) -> None:
    guest = Guest()
    for index, value in writes:
        # Without NOCLEARMEM, clearing 16 MiB each time would take minutes.
        guest.set(index, value | NOCLEARMEM if index == ENABLE else value)
    words = guest.device.words()
    assert all(0 <= word <= 0xFFFF for word in words)
    assert 0 <= guest.get(BANK) < 256
    if words[ENABLE] & ENABLED:
        # Modes of 8 or 15 bits a pixel are not linear. Every other mode is within the video RAM.
        linear = words[BPP] in (16, 24, 32)
        assert (Dispi.from_words(words).mode(VRAM_BYTES) is not None) == linear
