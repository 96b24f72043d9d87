"""A viewer of the device model's VNC server and one of vramtap at the same time: neither misses a fill."""

from __future__ import annotations

import random

import pytest

from xen.dom0.driver import BootSectorGuest, Paging
from xen.dom0.served import Served, picture_of, viewer_at

FILLS, CHECKS = 1000, 20


def fills(machine: BootSectorGuest, served: Served, count: int, checks: int) -> None:
    machine.paging(Paging.OFF)
    machine.set_mode(400, 300, 32)
    chance = random.Random(count)
    display = 0 if "hap" in machine.name else 1
    with served.viewer() as ours, viewer_at(5900 + display) as theirs:
        picture = picture_of(machine)
        for viewer in (ours, theirs):
            viewer.shows(picture)
        words = machine.frame_pages * 1024
        for _ in range(checks):
            for _ in range(count // checks):
                begin = chance.randrange(words)
                length = min(words - begin, chance.choice((1, 7, 300, 5000)))
                machine.fill(begin * 4, length, chance.getrandbits(32))
            picture = picture_of(machine)
            for viewer in (ours, theirs):
                viewer.shows(picture)
        machine.check()
        assert ours.updates > checks
        assert theirs.updates > checks


def test_neither_viewer_misses_a_thousand_fills(machine: BootSectorGuest, served: Served) -> None:
    fills(machine, served, FILLS, CHECKS)


@pytest.mark.short
def test_neither_viewer_misses_a_hundred_fills(machine: BootSectorGuest, served: Served) -> None:
    fills(machine, served, FILLS // 10, CHECKS // 5)
