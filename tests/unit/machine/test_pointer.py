"""Pointer, with a model of a guest that moves its pointer by the mouse's packets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vramtap.machine.devices.ps2 import STATUS_MOUSE, STATUS_OUTPUT, Ps2Device
from vramtap.machine.layout import PORT_PS2_DATA, PORT_PS2_STATUS
from vramtap.machine.pointer import LEFT, MIDDLE, RIGHT, WHEEL_DOWN, WHEEL_UP, Pointer


class Guest:
    """A screen with a pointer that packets move. It starts in the middle."""

    def __init__(self, *, wheel: bool = False) -> None:
        self.ps2 = Ps2Device(lambda: None)
        self.pointer = Pointer(self.ps2)
        self.width, self.height = 640, 480
        self.x, self.y = 320, 240
        self.buttons: list[int] = [0]
        self.notches = 0
        self._wheel = wheel
        if wheel:
            self.command(0xF3, 200, 0xF3, 100, 0xF3, 80)

    def command(self, *values: int) -> None:
        for value in values:
            self.ps2.write(PORT_PS2_STATUS, 1, 0xD4)
            self.ps2.write(PORT_PS2_DATA, 1, value)
        self._bytes()

    def _bytes(self) -> list[int]:
        found = []
        while (status := self.ps2.read(PORT_PS2_STATUS, 1)) & STATUS_OUTPUT:
            assert status & STATUS_MOUSE
            found.append(self.ps2.read(PORT_PS2_DATA, 1))
        return found

    def read(self) -> None:
        """Move the pointer by all packets that have arrived."""
        data, size = self._bytes(), 4 if self._wheel else 3
        for start in range(0, len(data), size):
            head, dx, dy = data[start : start + 3]
            self.x = max(0, min(self.x + dx - ((head & 0x10) << 4), self.width - 1))
            self.y = max(0, min(self.y - dy + ((head & 0x20) << 3), self.height - 1))
            if head & 7 != self.buttons[-1]:
                self.buttons.append(head & 7)
            if self._wheel:
                notches = data[start + 3]
                self.notches += notches - 256 if notches > 127 else notches

    def go(self, x: int, y: int, buttons: int = 0) -> None:
        self.pointer.move_to(x, y, buttons, self.width, self.height)


def test_pointer_reaches_each_position() -> None:
    guest = Guest()
    guest.command(0xF4)
    for x, y in ((0, 0), (639, 479), (17, 300), (18, 300), (639, 0)):
        guest.go(x, y)
        guest.read()
        assert (guest.x, guest.y) == (x, y)


def test_pointer_reaches_its_position_in_a_slow_guest() -> None:
    guest = Guest()
    guest.command(0xF4)
    for x in range(600):
        guest.go(x, 479 - x % 480, LEFT if x & 8 else 0)
    guest.read()
    assert (guest.x, guest.y) == (599, 479 - 599 % 480)


def test_motions_before_the_mouse_is_enabled_do_no_harm() -> None:
    guest = Guest()
    guest.go(100, 100)
    guest.command(0xF4)
    guest.go(50, 60)
    guest.read()
    assert (guest.x, guest.y) == (50, 60)


def test_mouse_reset_sends_the_pointer_to_the_corner_again() -> None:
    guest = Guest()
    guest.command(0xF4)
    guest.go(10, 10)
    guest.read()
    guest.x, guest.y = 320, 240
    guest.command(0xFF, 0xF4)
    guest.go(11, 10)
    guest.read()
    assert (guest.x, guest.y) == (11, 10)


def test_mode_change_sends_the_pointer_to_the_corner_again() -> None:
    guest = Guest()
    guest.command(0xF4)
    guest.width, guest.height = 1600, 1200
    guest.go(1599, 1199)
    guest.read()
    guest.width, guest.height = 320, 200
    guest.x, guest.y = 1599, 1199  # not yet moved inside the new screen
    guest.go(5, 6)
    guest.read()
    assert (guest.x, guest.y) == (5, 6)


def test_buttons_are_converted_and_released() -> None:
    guest = Guest()
    guest.command(0xF4)
    for buttons in (LEFT, MIDDLE, RIGHT, LEFT | RIGHT):
        guest.go(1, 1, buttons)
    guest.pointer.release()
    guest.read()
    assert guest.buttons == [0, 1, 4, 2, 3, 0]


def test_wheel_turns_one_notch_for_each_press() -> None:
    guest = Guest(wheel=True)
    guest.command(0xF4)
    for buttons in (WHEEL_DOWN, 0, WHEEL_DOWN, WHEEL_DOWN, 0, WHEEL_UP, 0):
        guest.go(3, 3, buttons)
    guest.read()
    assert guest.notches == 1
    assert (guest.x, guest.y) == (3, 3)


places = st.tuples(st.integers(-10, 2000), st.integers(-10, 2000), st.integers(0, 31))


@given(
    st.lists(
        st.tuples(st.just("go"), places)
        | st.tuples(st.sampled_from(["read", "reset", "disable", "enable"]), st.just((0, 0, 0)))
        | st.tuples(st.just("size"), places),
        max_size=60,
    ),
    places,
)
def test_pointer_reaches_its_position_whatever_happened_before(
    events: list[tuple[str, tuple[int, int, int]]], last: tuple[int, int, int]
) -> None:
    guest = Guest()
    for what, (x, y, buttons) in events:
        if what == "go":
            guest.go(x, y, buttons)
        elif what == "read":
            guest.read()
        elif what == "size":
            guest.read()  # finish the motions meant for the old screen
            guest.width, guest.height = max(1, x), max(1, y)
        else:
            guest.read()
            guest.command({"reset": 0xFF, "disable": 0xF5, "enable": 0xF4}[what])
            guest.x, guest.y = guest.width // 2, guest.height // 2
    guest.command(0xF4)
    guest.go(*last)
    guest.read()
    x, y, _ = last
    assert (guest.x, guest.y) == (max(0, min(x, guest.width - 1)), max(0, min(y, guest.height - 1)))
