"""Ps2Device: keyboard and mouse by the rules of the hardware."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.machine.devices.ps2 import (
    STATUS_COMMAND,
    STATUS_MOUSE,
    STATUS_OUTPUT,
    STATUS_SYSTEM,
    STATUS_UNLOCKED,
    Ps2Device,
)
from vramtap.machine.devices.ps2_keyboard import MAX_KEYS
from vramtap.machine.devices.ps2_mouse import MAX_MOTIONS
from vramtap.machine.layout import PORT_PS2_DATA, PORT_PS2_STATUS


class Guest:
    """A guest that uses the controller."""

    def __init__(self, *, mouse: bool = False) -> None:
        self.raised = 0
        self.device = Ps2Device(self._raise)
        if mouse:
            assert self.to_mouse(0xF4) == [0xFA]
        self.raised = 0

    def _raise(self) -> None:
        self.raised += 1

    @property
    def status(self) -> int:
        return self.device.read(PORT_PS2_STATUS, 1)

    def drain(self) -> tuple[list[int], list[int]]:
        """Read all bytes: those of keyboard and controller, and those of the mouse."""
        both: tuple[list[int], list[int]] = ([], [])
        while (status := self.status) & STATUS_OUTPUT:
            both[bool(status & STATUS_MOUSE)].append(self.device.read(PORT_PS2_DATA, 1))
            assert len(both[0]) + len(both[1]) < 100_000
        return both

    def command(self, *values: int) -> list[int]:
        """Send a controller command with its bytes, and return the answer."""
        self.device.write(PORT_PS2_STATUS, 1, values[0])
        for value in values[1:]:
            self.device.write(PORT_PS2_DATA, 1, value)
        return self.drain()[0]

    def to_keyboard(self, *values: int) -> list[int]:
        for value in values:
            self.device.write(PORT_PS2_DATA, 1, value)
        return self.drain()[0]

    def to_mouse(self, *values: int) -> list[int]:
        for value in values:
            self.device.write(PORT_PS2_STATUS, 1, 0xD4)
            self.device.write(PORT_PS2_DATA, 1, value)
        return self.drain()[1]

    def packets(self, size: int = 3) -> list[tuple[int, int, int, int]]:
        """Read the mouse's packets: buttons, right, down, notches."""
        data = self.drain()[1]
        assert len(data) % size == 0
        found = []
        for start in range(0, len(data), size):
            head, dx, dy = data[start : start + 3]
            assert head & 0xC8 == 0x08, "bit 3 set, no overflow"
            dx -= (head & 0x10) << 4
            dy -= (head & 0x20) << 3
            dz = data[start + 3] if size == 4 else 0
            found.append((head & 7, dx, -dy, dz - 256 if dz > 127 else dz))
        return found


# The controller


def test_status_and_self_tests() -> None:
    guest = Guest()
    assert guest.status == STATUS_UNLOCKED | STATUS_SYSTEM
    assert guest.command(0xAA) == [0x55]
    assert guest.status & STATUS_COMMAND
    assert guest.command(0xAB) == [0x00]
    assert guest.command(0xA9) == [0x00]
    assert guest.command(0xC0) == [0x80]
    assert guest.command(0xD0) == [0x03]
    assert guest.command(0xFE) == [], "there is no reset line"


def test_command_byte_is_kept() -> None:
    guest = Guest()
    assert guest.command(0x20) == [0x47]
    guest.command(0x60, 0x65)
    assert guest.command(0x20) == [0x65]
    guest.command(0xA8)
    guest.command(0xAD)
    assert guest.command(0x20) == [0x55]
    guest.command(0xA7)
    guest.command(0xAE)
    assert guest.command(0x20) == [0x65]


def test_buffer_write_commands_return_the_byte_as_device_data() -> None:
    guest = Guest()
    guest.device.write(PORT_PS2_STATUS, 1, 0xD2)
    guest.device.write(PORT_PS2_DATA, 1, 0x12)
    guest.device.write(PORT_PS2_STATUS, 1, 0xD3)
    guest.device.write(PORT_PS2_DATA, 1, 0x34)
    assert guest.drain() == ([0x12], [0x34])
    guest.command(0xD1, 0xFF)
    assert guest.drain() == ([], [])


def test_disabled_device_keeps_its_bytes() -> None:
    guest = Guest(mouse=True)
    guest.command(0xAD)
    guest.command(0xA7)
    guest.device.key(0x1E, down=True)
    guest.device.move(1, 0, 0)
    assert guest.raised == 0
    assert guest.drain() == ([], [])
    assert guest.device.mouse_epoch is None
    guest.device.write(PORT_PS2_STATUS, 1, 0xA8)
    guest.device.write(PORT_PS2_STATUS, 1, 0xAE)
    assert guest.raised == 1
    keyboard, mouse = guest.drain()
    assert keyboard == [0x1E]
    assert mouse == [0x08, 1, 0]


def test_line_is_raised_for_every_byte_at_the_data_port() -> None:
    guest = Guest()
    guest.device.key(0xC8, down=True)
    assert guest.raised == 1
    assert guest.device.read(PORT_PS2_DATA, 1) == 0xE0
    assert guest.raised == 2
    assert guest.device.read(PORT_PS2_DATA, 1) == 0x48
    assert guest.raised == 2
    assert guest.device.read(PORT_PS2_DATA, 1) == 0x48, "an empty buffer still holds the last byte"


# The keyboard


@pytest.mark.parametrize(
    ("scancode", "down", "up"),
    [
        (0x1E, [0x1E], [0x9E]),
        (0x9D, [0xE0, 0x1D], [0xE0, 0x9D]),
        (0xB7, [0xE0, 0x2A, 0xE0, 0x37], [0xE0, 0xB7, 0xE0, 0xAA]),
        (0xC6, [0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5], []),
        (0x00, [], []),
        (0x80, [], []),
        (0x100, [], []),
        (-1, [], []),
    ],
)
def test_keys_send_set_1(scancode: int, down: list[int], up: list[int]) -> None:
    guest = Guest()
    guest.device.key(scancode, down=True)
    assert guest.drain() == (down, [])
    guest.device.key(scancode, down=False)
    assert guest.drain() == (up, [])
    guest.device.key(scancode, down=False)
    assert guest.drain() == ([], [])


def test_pause_with_ctrl_is_break() -> None:
    guest = Guest()
    guest.device.key(0x1D, down=True)
    guest.device.key(0xC6, down=True)
    assert guest.drain()[0] == [0x1D, 0xE0, 0x46, 0xE0, 0xC6]


def test_keyboard_commands() -> None:
    guest = Guest()
    assert guest.to_keyboard(0xFF) == [0xFA, 0xAA]
    assert guest.to_keyboard(0xF2) == [0xFA, 0xAB, 0x41]
    assert guest.to_keyboard(0xED, 0x07) == [0xFA, 0xFA]
    assert guest.to_keyboard(0xEE) == [0xEE]
    assert guest.to_keyboard(0xF0, 0x00) == [0xFA, 0xFA, 0x41]
    assert guest.to_keyboard(0xF0, 0x01, 0xF0, 0x00) == [0xFA, 0xFA, 0xFA, 0xFA, 0x43]
    assert guest.to_keyboard(0xF0, 0x09) == [0xFA, 0xFE]
    assert guest.to_keyboard(0xF3, 0x20) == [0xFA, 0xFA]
    assert guest.to_keyboard(0xFE) == [0xFA], "the last byte once more"
    assert guest.to_keyboard(0x77) == [0xFE]
    assert guest.to_keyboard(0xF6) == [0xFA]
    guest.command(0x60, 0x05)
    assert guest.to_keyboard(0xF2) == [0xFA, 0xAB, 0x83]
    assert guest.to_keyboard(0xF0, 0x00) == [0xFA, 0xFA, 0x02]


def test_disabled_keyboard_sends_nothing() -> None:
    guest = Guest()
    assert guest.to_keyboard(0xF5) == [0xFA]
    guest.device.key(0x1E, down=True)
    assert guest.drain() == ([], [])
    assert guest.to_keyboard(0xF4) == [0xFA]
    guest.device.key(0x1E, down=True)
    assert guest.drain()[0] == [0x1E]


def test_answer_never_splits_a_key() -> None:
    guest = Guest()
    guest.device.key(0xC8, down=True)
    assert guest.device.read(PORT_PS2_DATA, 1) == 0xE0
    assert guest.to_keyboard(0xED) == [0x48, 0xFA]


def test_no_release_is_lost_after_its_press() -> None:
    guest = Guest()
    for _ in range(3):
        for scancode in range(1, 0x59):
            guest.device.key(scancode, down=True)
        for scancode in range(1, 0x59):
            guest.device.key(scancode, down=False)
    sent = guest.drain()[0]
    presses = [code for code in sent if code < 0x80]
    releases = [code & 0x7F for code in sent if code & 0x80]
    assert sorted(presses) == sorted(releases)
    assert MAX_KEYS <= len(presses) <= MAX_KEYS + 1


# The mouse


def test_mouse_commands() -> None:
    guest = Guest()
    assert guest.to_mouse(0xFF) == [0xFA, 0xAA, 0x00]
    assert guest.to_mouse(0xF2) == [0xFA, 0x00]
    assert guest.to_mouse(0xF3, 40) == [0xFA, 0xFA]
    assert guest.to_mouse(0xE8, 3) == [0xFA, 0xFA]
    assert guest.to_mouse(0xE7) == [0xFA]
    assert guest.to_mouse(0xE9) == [0xFA, 0x10, 3, 40]
    assert guest.to_mouse(0xE6) == [0xFA]
    assert guest.to_mouse(0xF4) == [0xFA]
    assert guest.to_mouse(0xE9) == [0xFA, 0x20, 3, 40]
    assert guest.to_mouse(0xF6) == [0xFA]
    assert guest.to_mouse(0xE9) == [0xFA, 0x00, 2, 100]
    assert guest.to_mouse(0xF5) == [0xFA]
    assert guest.to_mouse(0x01) == [0xFE]
    assert guest.to_mouse(0xEE, 0x42, 0xEC) == [0xFA, 0x42, 0xFA]


def test_motions_are_sent_only_when_enabled() -> None:
    guest = Guest()
    guest.device.move(5, 5, 0)
    assert guest.packets() == []
    assert guest.device.mouse_epoch is None
    guest.to_mouse(0xF4)
    assert guest.device.mouse_epoch is not None
    guest.device.move(5, -7, 0)
    assert guest.packets() == [(0, 5, -7, 0)]
    guest.device.move(0, 0, 1)
    guest.device.move(0, 0, 1)
    assert guest.packets() == [(1, 0, 0, 0)]
    guest.device.move(300, 0, 1)
    assert guest.packets() == [(1, 127, 0, 0), (1, 127, 0, 0), (1, 46, 0, 0)]
    before = guest.device.mouse_epoch
    guest.to_mouse(0xF5)
    guest.to_mouse(0xF4)
    assert guest.device.mouse_epoch != before


def test_unread_motions_are_merged() -> None:
    guest = Guest(mouse=True)
    for _ in range(10_000):
        guest.device.move(1, -2, 0)
    packets = guest.packets()
    assert sum(packet[1] for packet in packets) == 10_000
    assert sum(packet[2] for packet in packets) == -20_000


def test_clicks_keep_their_order_within_a_limit() -> None:
    guest = Guest(mouse=True)
    guest.device.move(3, 0, 1)
    guest.device.move(4, 0, 0)
    assert guest.packets() == [(1, 3, 0, 0), (0, 4, 0, 0)]
    for number in range(10_001):
        guest.device.move(1, 0, number & 1 ^ 1)
    packets = guest.packets()
    assert sum(packet[1] for packet in packets) == 10_001
    assert len(packets) < 2 * MAX_MOTIONS + 10_001 // 127
    assert packets[-1][0] == 1


def test_motion_to_a_border_is_not_merged() -> None:
    guest = Guest(mouse=True)
    for number in range(3 * MAX_MOTIONS):
        guest.device.move(0, 0, number & 1)
        guest.device.home(-100, -100)
        guest.device.move(50, 60, number & 1)
    packets = guest.packets()
    assert packets[-2:] == [(1, -100, -100, 0), (1, 50, 60, 0)]
    assert (0, -50, -40, 0) not in packets


def test_unread_motions_to_a_border_are_limited() -> None:
    guest = Guest(mouse=True)
    for _ in range(10_000):
        guest.device.home(-1, 0)
        guest.device.move(1, 0, 0)
    packets = guest.packets()
    assert len(packets) <= MAX_MOTIONS + 1
    assert packets[-2:] == [(0, -1, 0, 0), (0, 1, 0, 0)]


def test_reset_changes_the_epoch_in_remote_mode() -> None:
    guest = Guest()
    guest.to_mouse(0xF0)
    before = guest.device.mouse_epoch
    assert before is not None
    guest.to_mouse(0xF6, 0xF0)
    assert guest.device.mouse_epoch not in (before, None)


def test_wheel_is_enabled_by_the_rate_sequence() -> None:
    guest = Guest(mouse=True)
    guest.device.move(0, 0, 0, 1)
    assert guest.packets() == []
    assert guest.to_mouse(0xF3, 200, 0xF3, 100, 0xF3, 80) == [0xFA] * 6
    assert guest.to_mouse(0xF2) == [0xFA, 3]
    guest.device.move(1, 0, 0, -1)
    guest.device.move(0, 0, 0, 9)
    assert guest.packets(4) == [(0, 1, 0, -1), (0, 0, 0, 7), (0, 0, 0, 2)]
    guest.to_mouse(0xFF)
    assert guest.to_mouse(0xF2) == [0xFA, 0]


def test_remote_mode_sends_packets_on_request() -> None:
    guest = Guest()
    assert guest.to_mouse(0xF0) == [0xFA]
    guest.device.move(1, 2, 1)
    assert guest.packets() == []
    assert guest.to_mouse(0xEB) == [0xFA, 0x29, 1, 0xFE]
    assert guest.to_mouse(0xEB) == [0xFA, 0x09, 0, 0]
    assert guest.to_mouse(0xEA) == [0xFA]


ports = st.sampled_from([PORT_PS2_DATA, PORT_PS2_STATUS])
commands = st.sampled_from([0x20, 0x60, 0xA7, 0xA8, 0xAD, 0xAE, 0xD2, 0xD3, 0xD4, 0xF4, 0xF5, 0xEB, 0xF0])
small = st.integers(-(1 << 20), 1 << 20)


@given(
    st.lists(
        st.tuples(st.just("write"), ports, st.sampled_from([1, 2, 4]), commands | st.integers(0, 0xFFFF))
        | st.tuples(st.just("read"), ports, st.sampled_from([1, 2, 4]), st.just(0))
        | st.tuples(st.just("key"), st.integers(-5, 300), st.booleans(), st.just(0))
        | st.tuples(st.just("move"), small, small, st.integers(0, 255))
        | st.tuples(st.just("home"), small, small, st.just(0)),
        max_size=200,
    )
)
def test_random_traffic_keeps_answers_valid_and_queues_limited(
    traffic: list[tuple[str, int, int, int]],
) -> None:
    guest = Guest(mouse=True)
    for what, first, second, third in traffic:
        if what == "write":
            guest.device.write(first, second, third)
        elif what == "read":
            assert 0 <= guest.device.read(first, second) <= 0xFF
        elif what == "key":
            guest.device.key(first, down=bool(second))
        elif what == "move":
            guest.device.move(first, second, third, second)
        else:
            guest.device.home(first, second)
    keyboard, mouse = guest.drain()
    assert len(keyboard) + len(mouse) < 100_000
    # After a reset the devices work as at the start.
    guest.command(0x60, 0x47)
    guest.to_mouse(0xFF)
    assert guest.to_keyboard(0xFF) == [0xFA, 0xAA]
    assert guest.to_mouse(0xF4) == [0xFA]
    guest.device.key(0x1E, down=True)
    guest.device.move(3, 4, 0)
    assert guest.drain() == ([0x1E], [0x08 | 0x20, 3, 0xFC])
