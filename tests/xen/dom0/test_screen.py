"""End to end: vramtap's VNC client shows what the guest draws, in each paging mode of the guest."""

from __future__ import annotations

import random

import pytest

from xen.dom0.driver import BootSectorGuest, Paging
from xen.dom0.served import Served, picture_of

WIDTH, HEIGHT = 400, 300
"""Small, because an emulated processor takes a second for a frame of 1024 x 768."""
SHORT = (Paging.BITS32_SMALL, Paging.LONG_SMALL)
PAGINGS = [
    pytest.param(mode, id=mode.name.lower(), marks=[pytest.mark.short] if mode in SHORT else [])
    for mode in Paging
]


@pytest.fixture(autouse=True)
def initial_mode(machine: BootSectorGuest) -> None:
    machine.paging(Paging.OFF)
    if (machine.width, machine.height, machine.bpp) != (WIDTH, HEIGHT, 32) or machine.scanout:
        machine.set_mode(WIDTH, HEIGHT, 32)
        machine.set_offset(0, 0)


@pytest.mark.parametrize("paging", PAGINGS)
def test_random_writes_are_served_exactly(machine: BootSectorGuest, served: Served, paging: Paging) -> None:
    machine.paging(paging)
    chance = random.Random(paging.value)
    with served.viewer() as viewer:
        viewer.shows(picture_of(machine))
        for _ in range(2):
            words = machine.frame_pages * 1024
            with machine.batch():
                machine.fill(
                    chance.randrange(words // 2) * 4, chance.randrange(1, words // 2), chance.getrandbits(32)
                )
                machine.strided(0, 14, chance.getrandbits(32), 8 * 4096 + 4)
                machine.scatter(0, 200, words, chance.getrandbits(31) | 1)
                machine.rect(chance.randrange(300) * 4, 20, 30, chance.getrandbits(32))
            viewer.shows(picture_of(machine))
            # A single store after a pause.
            machine.fill(chance.randrange(words) * 4, 1, chance.getrandbits(32))
            viewer.shows(picture_of(machine))
        machine.check()


def test_writes_through_a_second_mapping_are_served(machine: BootSectorGuest, served: Served) -> None:
    machine.paging(Paging.BITS32_SMALL, alias=True)
    with served.viewer() as viewer:
        viewer.shows(picture_of(machine))
        for at in (0, 5, 100):
            machine.fill(at * 4096, 8, 0x123400 + at, alias=at != 5)
            viewer.shows(picture_of(machine))


@pytest.mark.short
def test_device_model_writes_are_served(machine: BootSectorGuest, served: Served) -> None:
    with served.viewer() as viewer:
        viewer.shows(picture_of(machine))
        for value in (0x0000FF, 0x00FF00, 0xFF0000):
            machine.banked(50 * 4096, 64, value)
            viewer.shows(picture_of(machine))


def test_mode_changes_and_page_flips_are_followed(machine: BootSectorGuest, served: Served) -> None:
    with served.viewer() as viewer:
        viewer.shows(picture_of(machine))
        for width, height in ((800, 600), (640, 480), (1024, 768)):
            machine.set_mode(width, height, 32)
            machine.fill(width * 4 * 10, 3 * width, width)
            viewer.shows(picture_of(machine))
        machine.set_mode(WIDTH, HEIGHT, 32)
        machine.fill(0, WIDTH * HEIGHT, 0x777777)
        machine.fill(WIDTH * HEIGHT * 4, WIDTH * HEIGHT, 0x333333)
        viewer.shows(picture_of(machine))
        machine.set_offset(0, HEIGHT)
        viewer.shows(picture_of(machine))
        machine.fill(WIDTH * HEIGHT * 4 + 4096, 5, 0xABCDEF)
        viewer.shows(picture_of(machine))


def test_writes_with_cr0_wp_clear_are_served(machine: BootSectorGuest, served: Served) -> None:
    machine.write_protect(False)
    try:
        with served.viewer() as viewer:
            viewer.shows(picture_of(machine))
            for at in range(5):
                machine.fill(at * 20 * 4096, 1, 0xC0FFEE + at)
                viewer.shows(picture_of(machine))
    finally:
        machine.write_protect(True)
