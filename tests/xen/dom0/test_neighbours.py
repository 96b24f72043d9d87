"""A tap and libxl use the same monitor: libxl's operations succeed, and input arrives."""

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
"""Scan codes of set 1."""
RELEASED = 0x80


@pytest.fixture(scope="module")
def tapped(spare: StagedGuest) -> Iterator[tuple[Forked, Viewer]]:
    with serving(f"xen:{spare.name}", tracker="xen") as served, viewer_at(served.port()) as viewer:
        yield served, viewer


def has_keys(spare: StagedGuest, keys: int) -> bool | None:
    """Return True when the guest has received that many scan codes in total; else None."""
    return spare.page.keys >= keys or None


def press(spare: StagedGuest, viewer: Viewer, text: str) -> bytes:
    """Type a text. Wait for each key to arrive, because a PS/2 keyboard buffers only 16 bytes.

    Returns:
        The scan codes that the guest must have received.
    """
    expected = b""
    for letter in text:
        wanted = spare.page.keys + 2
        for down in (True, False):
            viewer.client.key(ord(letter), down=down)
        wait_for(f"the key {letter}", partial(has_keys, spare, wanted), WAIT_S)
        expected += bytes([SCANCODES[letter], SCANCODES[letter] | RELEASED])
    return expected


def motions(packets: bytes) -> tuple[int, int]:
    """Return how far a PS/2 mouse moved right and up.

    Args:
        packets: Three bytes each: buttons and signs, x, y.
    """
    x = y = 0
    for at in range(0, len(packets) // 3 * 3, 3):
        flags, right, up = packets[at : at + 3]
        x += right - (flags << 4 & 0x100)
        y += up - (flags << 3 & 0x100)
    return x, y


def test_keys_and_pointer_motions_arrive(spare: StagedGuest, tapped: tuple[Forked, Viewer]) -> None:
    served, viewer = tapped
    viewer.shows(picture_of(spare))
    # vramtap merges motions that it has not sent yet. The first one only sets the pointer's position.
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
    """Send keys and pointer motions inside the `with` block."""
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


def test_libxl_commands_succeed_during_a_tap(spare: StagedGuest, tapped: tuple[Forked, Viewer]) -> None:
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
