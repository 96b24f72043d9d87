"""Keyboard and pointer of real X servers: what is sent is what a program there reads."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import xcffib
import xcffib.xproto

from support.testbed.xvfb import Xvfb
from support.xlib import Event, XlibListener
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.keyboard.keysyms import char_of_keysym, keysym_of_char
from vramtap.targets.x11 import input as xinput
from vramtap.targets.x11.connection import Display
from vramtap.targets.x11.input import XInput

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SHIFT, CONTROL, CAPS, NUM = 0xFFE1, 0xFFE3, 0xFFE5, 0xFF7F
MODIFIERS = {SHIFT, 0xFFE2, CONTROL, CAPS, NUM, 0xFE03}


class Desk:
    """A server, its input, and a program that reads it."""

    def __init__(self, server: Xvfb, keys: XInput, seen: XlibListener) -> None:
        self.server = server
        self.keys = keys
        self.seen = seen

    async def send(self, *events: tuple[int, bool] | tuple[int, bool, int]) -> None:
        for keysym, down, *code in events:
            await self.keys.key(KeyEvent(keysym=keysym, down=down, scancode=code[0] if code else 0))

    async def strike(self, keysym: int, scancode: int = 0) -> int:
        """Press and release; returns what the program read at the press, modifiers left out."""
        await self.send((keysym, True, scancode), (keysym, False, scancode))
        return self.pressed()

    def pressed(self) -> int:
        """The next keysym pressed that is no modifier."""
        while True:
            event = self.seen.next()
            if event.kind == "key" and event.down and event.detail not in MODIFIERS:
                return event.detail


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with open_desk() as opened:
        yield opened


@contextlib.asynccontextmanager
async def open_desk() -> AsyncIterator[Desk]:
    with Xvfb(width=320, height=200) as server, XlibListener(server.display) as seen:
        keys = XInput.connect(Display(int(server.display[1:])))
        assert keys is not None
        try:
            yield Desk(server, keys, seen)
        finally:
            await keys.close()


async def test_ascii_is_typed(desk: Desk) -> None:
    text = "".join(map(chr, range(0x20, 0x7F)))
    read = [char_of_keysym(await desk.strike(keysym_of_char(char))) for char in text]
    assert "".join(char or "?" for char in read) == text


async def test_what_the_layout_lacks_is_typed(desk: Desk) -> None:
    text = "\u00e4\u00df\u0105\u0436\u05d0\u20ac\u4e2d\U0001f600"
    read = [char_of_keysym(await desk.strike(keysym_of_char(char))) for char in text]
    assert "".join(char or "?" for char in read) == text


async def test_more_characters_than_spare_keys(desk: Desk) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E28)))
    read = [char_of_keysym(await desk.strike(keysym_of_char(char))) for char in text]
    assert "".join(char or "?" for char in read) == text


async def test_a_legacy_name_of_a_character_is_as_good(desk: Desk) -> None:
    assert char_of_keysym(await desk.strike(0x1B1)) == "\u0105"
    assert char_of_keysym(await desk.strike(0x1000041)) == "A"


@pytest.mark.parametrize("keysym", [0xFF0D, 0xFF1B, 0xFF08, 0xFF09, 0xFF52, 0xFFBE, 0xFFC9, 0xFF63, 0xFFFF])
async def test_named_keys_are_struck(desk: Desk, keysym: int) -> None:
    assert await desk.strike(keysym) == keysym


async def test_shift_of_the_client_agrees_with_the_layout(desk: Desk) -> None:
    await desk.send((SHIFT, True))
    assert await desk.strike(ord("A")) == ord("A")
    assert await desk.strike(ord("?")) == ord("?")
    assert await desk.strike(0xFE20) == 0xFE20, "Shift and Tab"
    await desk.send((SHIFT, False))
    assert await desk.strike(ord("a")) == ord("a")


async def test_shift_of_the_client_is_let_go_where_this_layout_needs_none(desk: Desk) -> None:
    # On a French keyboard the digits are typed with Shift.
    await desk.send((SHIFT, True))
    assert await desk.strike(ord("1")) == ord("1")
    assert await desk.strike(ord("A")) == ord("A"), "and is held again after"
    await desk.send((SHIFT, False))


async def test_shift_stays_with_keys_that_type_nothing(desk: Desk) -> None:
    await desk.send((SHIFT, True), (0xFF51, True))
    events = [desk.seen.next() for _ in range(2)]
    assert [(event.down, event.detail) for event in events] == [(True, SHIFT), (True, 0xFF51)]
    await desk.send((0xFF51, False), (SHIFT, False))


async def test_caps_lock_does_not_turn_letters_round(desk: Desk) -> None:
    await desk.send((CAPS, True), (CAPS, False))
    assert await desk.strike(ord("A")) == ord("A")
    assert await desk.strike(ord("a")) == ord("a")
    assert await desk.strike(ord("1")) == ord("1")
    assert await desk.strike(ord("!")) == ord("!")


async def test_num_lock_does_not_turn_the_keypad_round(desk: Desk) -> None:
    for _ in range(2):
        assert await desk.strike(0xFFB7) == 0xFFB7
        assert await desk.strike(0xFF95) == 0xFF95
        await desk.send((NUM, True), (NUM, False))


async def test_a_shortcut_keeps_its_modifiers(desk: Desk) -> None:
    await desk.send((CONTROL, True), (ord("C"), True), (ord("C"), False), (CONTROL, False))
    events = [desk.seen.next() for _ in range(4)]
    assert [event.down for event in events] == [True, True, False, False], "no Shift of ours in between"


async def test_a_key_let_go_after_shift_is_not_left_hanging(desk: Desk) -> None:
    await desk.send((SHIFT, True), (ord("A"), True), (SHIFT, False), (ord("a"), False))
    events = [desk.seen.next() for _ in range(4)]
    assert [event.down for event in events] == [True, True, False, False]


async def test_a_key_is_known_by_its_place_too(desk: Desk) -> None:
    await desk.send((ord("y"), True, 0x15), (ord("z"), False, 0x15))
    events = [desk.seen.next() for _ in range(2)]
    assert [(event.down, event.detail) for event in events] == [(True, ord("y")), (False, ord("y"))]


async def test_a_key_without_a_keysym_is_struck_by_its_place(desk: Desk) -> None:
    assert await desk.strike(0, 0x1E) == ord("a")
    assert await desk.strike(0, 0xCB) == 0xFF51


async def test_the_place_chooses_between_keys_that_send_the_same(desk: Desk) -> None:
    await desk.send((ord("<"), True, 0x33), (ord("<"), False, 0x33))
    assert desk.seen.next().detail == SHIFT, "on the comma's key it needs Shift, beside Shift it does not"
    assert desk.pressed() == ord("<")
    await desk.send((ord("<"), True, 0x56), (ord("<"), False, 0x56))
    while (event := desk.seen.next()).detail != ord("<") or not event.down:
        assert not event.down


async def test_what_has_no_key_is_dropped(desk: Desk) -> None:
    await desk.send((0, True), (0, False), (0xFFFFFFFF, True), (0xFFFFFFFF, False), (0, True, 0xFFFF))
    assert await desk.strike(ord("x")) == ord("x")


async def test_the_servers_own_repeat_is_enough(desk: Desk) -> None:
    await desk.send((ord("r"), True), (ord("r"), True), (ord("r"), True), (ord("r"), False))
    assert [desk.seen.next().down for _ in range(2)] == [True, False]


async def test_all_is_let_go(desk: Desk) -> None:
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
    assert desk.seen.next() == Event("motion", False, 0, 100, 50)
    for bit in range(7):
        await desk.keys.pointer(PointerEvent(100, 50, 1 << bit), 320, 200)
        assert desk.seen.next() == Event("button", True, bit + 1, 100, 50)
        await desk.keys.pointer(PointerEvent(100, 50, 0), 320, 200)
        assert desk.seen.next() == Event("button", False, bit + 1, 100, 50)
    await desk.keys.pointer(PointerEvent(101, 51, 0b11111111), 320, 200)
    assert desk.seen.next() == Event("motion", False, 0, 101, 51)
    assert {desk.seen.next().detail for _ in range(7)} == set(range(1, 8))


async def test_a_point_far_outside_is_kept_on_the_screen(desk: Desk) -> None:
    await desk.keys.pointer(PointerEvent(1 << 20, -5, 0), 320, 200)
    assert desk.seen.next() == Event("motion", False, 0, 319, 0)


def keyboard_map(display: str) -> list[int]:
    connect: Any = xcffib.connect
    connection = connect(display)
    try:
        return [int(keysym) for keysym in connection.core.GetKeyboardMapping(8, 248).reply().keysyms]
    finally:
        connection.disconnect()


async def test_the_map_is_left_as_it_was() -> None:
    async with open_desk() as desk:
        assert await desk.strike(ord("n")) == ord("n")
        before = keyboard_map(desk.server.display)
        assert await desk.strike(0x1000436) == 0x1000436
        assert keyboard_map(desk.server.display) != before
        await desk.send((0x1000437, True))
        await desk.keys.close()
        assert keyboard_map(desk.server.display) == before
        assert [desk.seen.next().down for _ in range(3)] == [False, True, False], "nothing stays pressed"
        await desk.send((ord("n"), True))  # after the end: nothing happens, nothing breaks


async def test_a_map_that_is_changed_meanwhile_is_read_again(desk: Desk) -> None:
    assert await desk.strike(0x1000436) == 0x1000436
    connect: Any = xcffib.connect
    connection = connect(desk.server.display)
    # Somebody else empties the key that was borrowed, and moves a letter.
    spare = keyboard_map(desk.server.display).index(0x1000436) // 7 + 8
    connection.core.ChangeKeyboardMapping(1, spare, 2, [0, 0])
    connection.core.ChangeKeyboardMapping(1, 38, 2, [ord("q"), ord("Q")])
    connection.core.ChangeKeyboardMapping(1, 24, 2, [ord("a"), ord("A")])
    connection.core.GetInputFocus().reply()
    assert await desk.strike(0x1000436) == 0x1000436
    assert await desk.strike(ord("a")) == ord("a")
    assert await desk.strike(ord("Q")) == ord("Q")
    connection.disconnect()


async def test_a_server_that_exits_takes_input_with_it() -> None:
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


async def test_a_server_that_is_stopped_does_not_hold_us(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xinput, "CLOSE_TIMEOUT_S", 0.2)
    os.kill(desk.server.pid, signal.SIGSTOP)
    try:
        await desk.keys.close()
    finally:
        os.kill(desk.server.pid, signal.SIGCONT)
    await desk.send((ord("h"), True))  # after the end: does not wait


async def test_a_server_without_the_extension_takes_no_input() -> None:
    with Xvfb(width=64, height=64, arguments=("-extension", "XTEST")) as server:
        assert XInput.connect(Display(int(server.display[1:]))) is None
