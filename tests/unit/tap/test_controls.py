"""Keyboard and pointer for programs: what reaches the target's input, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from support.faulty import FaultyTarget
from support.tapped import tapped
from vramtap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from vramtap.keyboard.events import KeyEvent, PointerEvent
    from vramtap.tap.tap import Tap

CTRL, ALT, DELETE, RETURN, PLUS = 0xFFE3, 0xFFE9, 0xFFFF, 0xFF0D, 0x2B


class Recorder:
    """An input device that records its events. It yields to the loop in every call."""

    def __init__(self) -> None:
        self.events: list[object] = []

    async def key(self, event: KeyEvent) -> None:
        await asyncio.sleep(0)
        self.events.append((event.keysym, event.down))

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        await asyncio.sleep(0)
        assert (width, height) == (100, 60)
        self.events.append((event.x, event.y, event.buttons))

    async def release_all(self) -> None:
        self.events.append("release_all")


@contextlib.asynccontextmanager
async def controlled() -> AsyncIterator[tuple[Tap, Recorder]]:
    target, recorder = FaultyTarget(), Recorder()
    target.input = recorder
    async with tapped(target) as (tap, _):
        yield tap, recorder


def strike(*keysyms: int) -> list[object]:
    return [*((keysym, True) for keysym in keysyms), *((keysym, False) for keysym in reversed(keysyms))]


@pytest.mark.parametrize(
    ("keys", "keysyms"),
    [
        ("a", [0x61]),
        ("enter", [RETURN]),
        ("ctrl+alt+delete", [CTRL, ALT, DELETE]),
        ("ctrl++", [CTRL, PLUS]),
        ("+", [PLUS]),
    ],
)
async def test_press_presses_in_order_and_releases_in_reverse(keys: str, keysyms: list[int]) -> None:
    async with controlled() as (tap, recorder):
        await tap.press(keys)
    assert recorder.events == strike(*keysyms)


async def test_held_keys_stay_down_until_they_are_released() -> None:
    async with controlled() as (tap, recorder):
        await tap.press("ctrl+a", hold=True)
        assert recorder.events == [(CTRL, True), (0x61, True)]
        await tap.release("ctrl+a")
        assert recorder.events[2:] == [(0x61, False), (CTRL, False)]
        await tap.release()
        assert recorder.events[4:] == ["release_all"]


async def test_text_is_typed_key_by_key_and_calls_do_not_mix() -> None:
    async with controlled() as (tap, recorder):
        await asyncio.gather(tap.type("Ab\n"), tap.press("ctrl+c"))
    assert recorder.events == [*strike(0x41), *strike(0x62), *strike(RETURN), *strike(CTRL, 0x63)]


async def test_click_moves_presses_and_releases() -> None:
    async with controlled() as (tap, recorder):
        await tap.move(3, 4)
        await tap.click(button="right")
        await tap.click(99, 59, count=2)
    double = [(99, 59, 1), (99, 59, 0), (99, 59, 1), (99, 59, 0)]
    assert recorder.events == [(3, 4, 0), (3, 4, 0), (3, 4, 4), (3, 4, 0), (99, 59, 0), *double]


async def test_invalid_calls_are_refused_and_send_nothing() -> None:
    async with controlled() as (tap, recorder):
        for call in (
            tap.press("hyper"),
            tap.press("ctrl+"),
            tap.press(""),
            tap.type("\x00"),
            tap.move(100, 0),
            tap.move(0, -1),
            tap.click(5, 60),
            tap.click(button="fourth"),
            tap.click(count=0),
        ):
            with pytest.raises(UsageError):
                await call
    assert recorder.events == []


async def test_target_without_input_says_so() -> None:
    async with tapped(FaultyTarget()) as (tap, _):
        with pytest.raises(UsageError, match="takes no keyboard or pointer input"):
            await tap.press("a")
