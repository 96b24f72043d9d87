"""Keyboard and pointer of real X servers, as a program on the display reads them."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from support.testbed.xvfb import Xvfb
from support.x11 import x_connection
from support.xlib import Event, XlibListener
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.keyboard.keysyms import char_of_keysym, keysym_of_char
from vramtap.targets.x11.input import CLOSE_TIMEOUT_S, XInput
from vramtap.targets.x11.server import Display

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SHIFT, CONTROL, CAPS, NUM = 0xFFE1, 0xFFE3, 0xFFE5, 0xFF7F
MODIFIERS = {SHIFT, 0xFFE2, CONTROL, CAPS, NUM, 0xFE03}


class Desk:
    """A server, its input, and a program that reads the input."""

    def __init__(self, server: Xvfb, keys: XInput, seen: XlibListener) -> None:
        self.server = server
        self.keys = keys
        self.seen = seen

    async def send(self, *events: tuple[int, bool] | tuple[int, bool, int]) -> None:
        for keysym, down, *code in events:
            await self.keys.key(KeyEvent(keysym=keysym, down=down, scancode=code[0] if code else 0))

    async def strike(self, keysym: int, scancode: int = 0) -> int:
        """Press and release a key; return the keysym that the program reads for the press."""
        await self.send((keysym, True, scancode), (keysym, False, scancode))
        return self.pressed()

    def pressed(self) -> int:
        """Return the keysym of the next press, without modifiers."""
        while True:
            event = self.seen.next()
            if event.kind == "key" and event.down and event.detail not in MODIFIERS:
                return event.detail


def seen(kind: str, detail: int, x: int, y: int, *, down: bool) -> Event:
    return Event(kind, down=down, detail=detail, x=x, y=y)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with open_desk() as opened:
        yield opened


@contextlib.asynccontextmanager
async def open_desk(*, close_timeout_s: float = CLOSE_TIMEOUT_S) -> AsyncIterator[Desk]:
    with Xvfb(width=320, height=200) as server, XlibListener(server.display) as seen:
        keys = XInput.connect(Display(int(server.display[1:])), close_timeout_s=close_timeout_s)
        assert keys is not None
        try:
            yield Desk(server, keys, seen)
        finally:
            await keys.close()


async def test_ascii_is_typed_exactly(desk: Desk) -> None:
    text = "".join(map(chr, range(0x20, 0x7F)))
    read = [char_of_keysym(await desk.strike(keysym_of_char(char))) for char in text]
    assert "".join(char or "?" for char in read) == text


async def test_characters_that_the_map_lacks_are_typed(desk: Desk) -> None:
    text = "\u00e4\u00df\u0105\u0436\u05d0\u20ac\u4e2d\U0001f600"
    read = [char_of_keysym(await desk.strike(keysym_of_char(char))) for char in text]
    assert "".join(char or "?" for char in read) == text


async def test_more_missing_characters_than_spare_keys_are_typed(desk: Desk) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E28)))
    read = [char_of_keysym(await desk.strike(keysym_of_char(char))) for char in text]
    assert "".join(char or "?" for char in read) == text


async def test_legacy_and_unicode_keysyms_type_the_same(desk: Desk) -> None:
    assert char_of_keysym(await desk.strike(0x1B1)) == "\u0105"
    assert char_of_keysym(await desk.strike(0x1000041)) == "A"


@pytest.mark.parametrize("keysym", [0xFF0D, 0xFF1B, 0xFF08, 0xFF09, 0xFF52, 0xFFBE, 0xFFC9, 0xFF63, 0xFFFF])
async def test_keys_without_a_character_are_pressed(desk: Desk, keysym: int) -> None:
    assert await desk.strike(keysym) == keysym


async def test_shift_of_the_client_is_used(desk: Desk) -> None:
    await desk.send((SHIFT, True))
    assert await desk.strike(ord("A")) == ord("A")
    assert await desk.strike(ord("?")) == ord("?")
    assert await desk.strike(0xFE20) == 0xFE20, "Shift and Tab"
    await desk.send((SHIFT, False))
    assert await desk.strike(ord("a")) == ord("a")


async def test_shift_of_the_client_is_released_where_the_map_needs_none(desk: Desk) -> None:
    # On a French keyboard the digits are typed with Shift.
    await desk.send((SHIFT, True))
    assert await desk.strike(ord("1")) == ord("1")
    assert await desk.strike(ord("A")) == ord("A"), "Shift is held again afterwards"
    await desk.send((SHIFT, False))


async def test_shift_stays_pressed_for_keys_without_a_character(desk: Desk) -> None:
    await desk.send((SHIFT, True), (0xFF51, True))
    events = [desk.seen.next() for _ in range(2)]
    assert [(event.down, event.detail) for event in events] == [(True, SHIFT), (True, 0xFF51)]
    await desk.send((0xFF51, False), (SHIFT, False))


async def test_caps_lock_does_not_invert_letters(desk: Desk) -> None:
    await desk.send((CAPS, True), (CAPS, False))
    assert await desk.strike(ord("A")) == ord("A")
    assert await desk.strike(ord("a")) == ord("a")
    assert await desk.strike(ord("1")) == ord("1")
    assert await desk.strike(ord("!")) == ord("!")


async def test_num_lock_does_not_change_the_keypads_keysyms(desk: Desk) -> None:
    for _ in range(2):
        assert await desk.strike(0xFFB7) == 0xFFB7
        assert await desk.strike(0xFF95) == 0xFF95
        await desk.send((NUM, True), (NUM, False))


async def test_a_shortcut_keeps_its_modifiers(desk: Desk) -> None:
    await desk.send((CONTROL, True), (ord("C"), True), (ord("C"), False), (CONTROL, False))
    events = [desk.seen.next() for _ in range(4)]
    assert [event.down for event in events] == [True, True, False, False], "vramtap adds no Shift"


async def test_a_key_released_after_shift_is_released(desk: Desk) -> None:
    await desk.send((SHIFT, True), (ord("A"), True), (SHIFT, False), (ord("a"), False))
    events = [desk.seen.next() for _ in range(4)]
    assert [event.down for event in events] == [True, True, False, False]


async def test_a_release_is_matched_by_scancode(desk: Desk) -> None:
    await desk.send((ord("y"), True, 0x15), (ord("z"), False, 0x15))
    events = [desk.seen.next() for _ in range(2)]
    assert [(event.down, event.detail) for event in events] == [(True, ord("y")), (False, ord("y"))]


async def test_a_key_without_a_keysym_is_pressed_by_scancode(desk: Desk) -> None:
    assert await desk.strike(0, 0x1E) == ord("a")
    assert await desk.strike(0, 0xCB) == 0xFF51


async def test_the_scancode_chooses_between_keys_with_the_same_keysym(desk: Desk) -> None:
    await desk.send((ord("<"), True, 0x33), (ord("<"), False, 0x33))
    assert desk.seen.next().detail == SHIFT, "on the key of the comma it needs Shift"
    assert desk.pressed() == ord("<")
    await desk.send((ord("<"), True, 0x56), (ord("<"), False, 0x56))
    while (event := desk.seen.next()).detail != ord("<") or not event.down:
        assert not event.down


async def test_a_keysym_without_a_key_is_dropped(desk: Desk) -> None:
    await desk.send((0, True), (0, False), (0xFFFFFFFF, True), (0xFFFFFFFF, False), (0, True, 0xFFFF))
    assert await desk.strike(ord("x")) == ord("x")


async def test_a_repeated_press_is_dropped_because_the_server_repeats(desk: Desk) -> None:
    await desk.send((ord("r"), True), (ord("r"), True), (ord("r"), True), (ord("r"), False))
    assert [desk.seen.next().down for _ in range(2)] == [True, False]


async def test_release_all_releases_keys_and_buttons(desk: Desk) -> None:
    await desk.send((SHIFT, True), (CONTROL, True), (ord("k"), True))
    await desk.keys.pointer(PointerEvent(9, 8, 0b101), 320, 200)
    held = [desk.seen.next() for _ in range(6)]
    assert [event.kind for event in held] == ["key"] * 3 + ["motion"] + ["button"] * 2
    await desk.keys.release_all()
    events = [desk.seen.next() for _ in range(5)]
    assert not any(event.down for event in events)
    assert {event.detail for event in events if event.kind == "button"} == {1, 3}
    assert await desk.strike(ord("q")) == ord("q")


async def test_the_pointer_moves_and_clicks(desk: Desk) -> None:
    await desk.keys.pointer(PointerEvent(100, 50, 0), 320, 200)
    assert desk.seen.next() == seen("motion", 0, 100, 50, down=False)
    for bit in range(7):
        await desk.keys.pointer(PointerEvent(100, 50, 1 << bit), 320, 200)
        assert desk.seen.next() == seen("button", bit + 1, 100, 50, down=True)
        await desk.keys.pointer(PointerEvent(100, 50, 0), 320, 200)
        assert desk.seen.next() == seen("button", bit + 1, 100, 50, down=False)
    await desk.keys.pointer(PointerEvent(101, 51, 0b11111111), 320, 200)
    assert desk.seen.next() == seen("motion", 0, 101, 51, down=False)
    assert {desk.seen.next().detail for _ in range(7)} == set(range(1, 8))


async def test_a_position_outside_is_clamped_to_the_screen(desk: Desk) -> None:
    await desk.keys.pointer(PointerEvent(1 << 20, -5, 0), 320, 200)
    assert desk.seen.next() == seen("motion", 0, 319, 0, down=False)


def keyboard_map(display: str) -> list[int]:
    """Return all keysyms of a server's map, from keycode 8 on."""
    with x_connection(display) as connection:
        return [int(keysym) for keysym in connection.core.GetKeyboardMapping(8, 248).reply().keysyms]


async def test_close_restores_the_keyboard_map() -> None:
    async with open_desk() as desk:
        assert await desk.strike(ord("n")) == ord("n")
        before = keyboard_map(desk.server.display)
        assert await desk.strike(0x1000436) == 0x1000436
        assert keyboard_map(desk.server.display) != before
        await desk.send((0x1000437, True))
        await desk.keys.close()
        assert keyboard_map(desk.server.display) == before
        assert [desk.seen.next().down for _ in range(3)] == [False, True, False], "no key stays pressed"
        await desk.send((ord("n"), True))  # is dropped, because the input is closed


async def test_a_map_that_another_client_changed_is_read_again(desk: Desk) -> None:
    assert await desk.strike(0x1000436) == 0x1000436
    with x_connection(desk.server.display) as connection:
        # Another client empties the spare key that vramtap uses, and moves two letters.
        spare = keyboard_map(desk.server.display).index(0x1000436) // 7 + 8
        connection.core.ChangeKeyboardMapping(1, spare, 2, [0, 0])
        connection.core.ChangeKeyboardMapping(1, 38, 2, [ord("q"), ord("Q")])
        connection.core.ChangeKeyboardMapping(1, 24, 2, [ord("a"), ord("A")])
        connection.core.GetInputFocus().reply()
        assert await desk.strike(0x1000436) == 0x1000436
        assert await desk.strike(ord("a")) == ord("a")
        assert await desk.strike(ord("Q")) == ord("Q")


async def test_input_to_a_server_that_exited_is_dropped() -> None:
    with Xvfb(width=64, height=64) as server:
        keys = XInput.connect(Display(int(server.display[1:])))
        assert keys is not None
        await keys.key(KeyEvent(keysym=ord("g"), down=True))
        assert not keys.lost
        server.kill()
        await keys.key(KeyEvent(keysym=ord("g"), down=False))
        await keys.release_all()
        assert keys.lost
        await keys.close()


async def test_close_does_not_wait_for_a_stopped_server() -> None:
    async with open_desk(close_timeout_s=0.2) as desk:
        os.kill(desk.server.pid, signal.SIGSTOP)
        try:
            await desk.keys.close()
        finally:
            os.kill(desk.server.pid, signal.SIGCONT)
        await desk.send((ord("h"), True))  # returns at once, because the input is closed


async def test_a_server_without_xtest_takes_no_input() -> None:
    with Xvfb(width=64, height=64, arguments=("-extension", "XTEST")) as server:
        assert XInput.connect(Display(int(server.display[1:]))) is None
