"""Commands that QEMU gets for a client's keys and pointer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.targets.qemu.input import ABS_MAX, QemuInput

if TYPE_CHECKING:
    from vramtap.targets.qemu.commands import Commands

SHIFT_L, CAPS_LOCK, RETURN = 0xFFE1, 0xFFE5, 0xFF0D


class Recorder:
    """A monitor that records the input events. System tests use a real one."""

    def __init__(self, *, absolute: bool) -> None:
        self.absolute = absolute
        self.sent: list[str] = []

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> object:
        if command == "query-mice":
            return [
                {"name": "mouse", "current": not self.absolute, "absolute": False},
                {"name": "tablet", "current": self.absolute, "absolute": True},
            ]
        assert command == "input-send-event"
        assert arguments is not None
        for event in arguments["events"]:
            data = event["data"]
            if event["type"] == "key":
                self.sent.append(("+" if data["down"] else "-") + data["key"]["data"])
            elif event["type"] == "btn":
                self.sent.append(("+" if data["down"] else "-") + data["button"])
            else:
                self.sent.append(f"{event['type']} {data['axis']} {data['value']}")
        return {}


def recorded_input(*, absolute: bool = True) -> tuple[QemuInput, Recorder]:
    recorder = Recorder(absolute=absolute)
    return QemuInput(cast("Commands", recorder)), recorder


async def press(keys: QemuInput, keysym: int, scancode: int = 0) -> None:
    await keys.key(KeyEvent(keysym=keysym, down=True, scancode=scancode))
    await keys.key(KeyEvent(keysym=keysym, down=False, scancode=scancode))


@pytest.mark.parametrize(
    "mice", [None, 5, {}, [None, [], "mouse"], [{}], [{"current": 1, "absolute": "yes"}]]
)
async def test_an_invalid_list_of_mice_means_a_relative_mouse(
    monkeypatch: pytest.MonkeyPatch, mice: object
) -> None:
    pointer, recorder = recorded_input()
    answer = recorder.execute

    async def execute(command: str, arguments: dict[str, Any] | None = None) -> object:
        return mice if command == "query-mice" else await answer(command, arguments)

    monkeypatch.setattr(recorder, "execute", execute)
    await pointer.pointer(PointerEvent(10, 10, 0), 100, 100)
    await pointer.pointer(PointerEvent(12, 10, 1), 100, 100)
    assert recorder.sent == ["rel x 2", "+left"]


async def test_a_letter_is_pressed_and_released() -> None:
    keys, recorder = recorded_input()
    await press(keys, ord("a"))
    assert recorder.sent == ["+a", "-a"]


async def test_a_capital_without_shift_is_wrapped_in_shift() -> None:
    keys, recorder = recorded_input()
    await press(keys, ord("A"))
    assert recorder.sent == ["+shift", "+a", "-shift", "-a"]


async def test_a_capital_with_shift_is_sent_as_it_is() -> None:
    keys, recorder = recorded_input()
    await keys.key(KeyEvent(keysym=SHIFT_L, down=True))
    await press(keys, ord("A"))
    await keys.key(KeyEvent(keysym=SHIFT_L, down=False))
    assert recorder.sent == ["+shift", "+a", "-a", "-shift"]


async def test_a_digit_while_shift_is_held_releases_shift_for_the_stroke() -> None:
    keys, recorder = recorded_input()
    await keys.key(KeyEvent(keysym=SHIFT_L, down=True))
    await press(keys, ord("1"))
    assert recorder.sent == ["+shift", "-shift", "+1", "+shift", "-1"]


async def test_caps_lock_changes_letters_only() -> None:
    keys, recorder = recorded_input()
    await press(keys, CAPS_LOCK)
    recorder.sent.clear()
    await press(keys, ord("A"))
    await press(keys, ord("!"))
    assert recorder.sent == ["+a", "-a", "+shift", "+1", "-shift", "-1"]


async def test_a_scancode_decides_over_the_keysym() -> None:
    keys, recorder = recorded_input()
    await press(keys, ord("A"), 0x1E)
    await press(keys, 0, 0xC8)
    assert recorder.sent == ["+a", "-a", "+up", "-up"]


async def test_unknown_keys_are_dropped() -> None:
    keys, recorder = recorded_input()
    await press(keys, 0x01004E00)
    await press(keys, 0x0FFFFFFF)
    assert recorder.sent == []


async def test_a_key_pressed_by_two_keysyms_is_released_once() -> None:
    keys, recorder = recorded_input()
    await keys.key(KeyEvent(keysym=ord("a"), down=True))
    await keys.key(KeyEvent(keysym=ord("A"), down=True))
    await keys.key(KeyEvent(keysym=ord("a"), down=False))
    recorder.sent.clear()
    await keys.key(KeyEvent(keysym=ord("A"), down=False))
    assert recorder.sent == ["-a"]


async def test_a_tablet_gets_positions_over_the_whole_axis() -> None:
    keys, recorder = recorded_input(absolute=True)
    await keys.pointer(PointerEvent(0, 0, 0), 1024, 768)
    await keys.pointer(PointerEvent(1023, 767, 0b101), 1024, 768)
    assert recorder.sent == [
        "abs x 0",
        "abs y 0",
        f"abs x {ABS_MAX}",
        f"abs y {ABS_MAX}",
        "+left",
        "+right",
    ]


async def test_a_mouse_gets_relative_motions() -> None:
    keys, recorder = recorded_input(absolute=False)
    await keys.pointer(PointerEvent(100, 100, 0), 1024, 768)
    await keys.pointer(PointerEvent(110, 95, 1), 1024, 768)
    await keys.pointer(PointerEvent(110, 95, 0), 1024, 768)
    assert recorder.sent == ["rel x 10", "rel y -5", "+left", "-left"]


async def test_the_wheel_is_sent_as_a_button() -> None:
    keys, recorder = recorded_input(absolute=False)
    await keys.pointer(PointerEvent(0, 0, 0b1000), 10, 10)
    await keys.pointer(PointerEvent(0, 0, 0), 10, 10)
    assert recorder.sent == ["+wheel-up", "-wheel-up"]


async def test_release_all_releases_keys_and_buttons_once() -> None:
    keys, recorder = recorded_input()
    await keys.key(KeyEvent(keysym=SHIFT_L, down=True))
    await keys.key(KeyEvent(keysym=RETURN, down=True))
    await keys.pointer(PointerEvent(1, 1, 0b10), 10, 10)
    recorder.sent.clear()
    await keys.release_all()
    await keys.release_all()
    assert recorder.sent == ["-ret", "-shift", "-middle"]


@pytest.mark.parametrize("size", [(1, 1), (1, 700)])
async def test_a_screen_of_one_pixel_has_position_zero(size: tuple[int, int]) -> None:
    keys, recorder = recorded_input()
    await keys.pointer(PointerEvent(0, 0, 0), *size)
    assert recorder.sent == ["abs x 0", "abs y 0"]
