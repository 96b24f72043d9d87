"""Beside libxl, on the same monitor: its operations succeed while a tap works, and input arrives."""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from xen.dom0.driver_domain import wait_for, xl
from xen.dom0.forked import Forked, serving
from xen.dom0.served import Viewer, picture_of, viewer_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xen.dom0.driver_staged import StagedGuest

pytest_plugins = ("xen.dom0.spare",)

WAIT_S = 60.0
ROUNDS = 5
SCANCODES = {"h": 0x23, "e": 0x12, "l": 0x26, "o": 0x18}
"""Of set 1."""
RELEASED = 0x80


@pytest.fixture(scope="module")
def tapped(spare: StagedGuest) -> Iterator[tuple[Forked, Viewer]]:
    with serving(f"xen:{spare.name}", tracker="xen") as served, viewer_at(served.port()) as viewer:
        yield served, viewer


def arrived(spare: StagedGuest, keys: int) -> bool | None:
    return spare.page.keys >= keys or None


def press(spare: StagedGuest, viewer: Viewer, text: str) -> bytes:
    """Type, each key once the one before has arrived: a PS/2 keyboard holds 16 bytes.

    Returns:
        What must have come from it.
    """
    expected = b""
    for letter in text:
        wanted = spare.page.keys + 2
        for down in (True, False):
            viewer.client.key(ord(letter), down=down)
        wait_for(f"the key {letter}", partial(arrived, spare, wanted), WAIT_S)
        expected += bytes([SCANCODES[letter], SCANCODES[letter] | RELEASED])
    return expected


def motions(packets: bytes) -> tuple[int, int]:
    """How far a PS/2 mouse moved, right and up: packets of buttons and signs, x, y."""
    x = y = 0
    for at in range(0, len(packets) // 3 * 3, 3):
        flags, right, up = packets[at : at + 3]
        x += right - (flags << 4 & 0x100)
        y += up - (flags << 3 & 0x100)
    return x, y


def test_keys_and_motions_arrive(spare: StagedGuest, tapped: tuple[Forked, Viewer]) -> None:
    served, viewer = tapped
    viewer.shows(picture_of(spare))
    # Motions that have not been sent yet are merged, and the first one only says where the pointer is.
    viewer.client.pointer(100, 100)
    expected = press(spare, viewer, "hello")
    assert spare.keys()[-len(expected) :] == expected
    before = spare.page.mouse
    for step in range(1, 11):
        viewer.client.pointer(100 + 5 * step, 100 + 3 * step)
    moved = (50, -30)
    wait_for("the motions", lambda: motions(spare.mouse()[before:]) == moved or None, WAIT_S)
    assert served.errors == ""


@contextlib.contextmanager
def typing(spare: StagedGuest, viewer: Viewer) -> Iterator[None]:
    """Meanwhile keys and motions flow."""
    stop, failed = threading.Event(), []

    def flow() -> None:
        try:
            while not stop.is_set():
                expected = press(spare, viewer, "hello")
                assert spare.keys()[-len(expected) :] == expected
                for place in range(5):
                    viewer.client.pointer(place, place)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


def test_what_libxl_does_meanwhile_succeeds(spare: StagedGuest, tapped: tuple[Forked, Viewer]) -> None:
    served, viewer = tapped
    viewer.shows(picture_of(spare))
    with typing(spare, viewer):
        for number in range(ROUNDS):
            assert "running" in xl("qemu-monitor-command", spare.name, "info status")
            xl("vcpu-set", spare.name, "1")
            spare.fill(number * 20 * 4096, 3000, 0x717171 * number)
            viewer.shows(picture_of(spare))
    spare.check()
    assert served.errors == ""
