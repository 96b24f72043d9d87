"""What a guest says about itself."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vramtap.machine.devices.debug import LINE_BYTES, LINES_PER_SECOND, TEXT_BYTES, DebugDevice
from vramtap.machine.layout import PORT_DEBUG_TEXT, PORT_EXIT, PORT_FRAME, PORT_WAKE

if TYPE_CHECKING:
    import pytest


class Heard:
    """A device and what came of it."""

    def __init__(self) -> None:
        self.lines = 0
        self.frames: list[int] = []
        self.exits: list[int] = []
        self.now_ns = 10**9
        self.device = DebugDevice(self._line, self.frames.append, self.exits.append, lambda: self.now_ns)

    def _line(self) -> None:
        self.lines += 1

    def say(self, data: bytes) -> None:
        for byte in data:
            self.device.write(PORT_DEBUG_TEXT, 1, byte)


def test_lines_go_to_the_log_with_what_a_terminal_would_obey_spelt_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "vramtap")
    heard = Heard()
    heard.say(b"hello\r\n\x1b[2J\xff\\ pwned\nrest")
    assert caplog.messages == ["guest: hello", r"guest: \x1b[2J\xff\\ pwned"]
    assert heard.device.text == "hello\r\n\x1b[2J\xff\\ pwned\nrest"


def test_a_guest_that_never_stops_talking_is_kept_short(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vramtap")
    heard = Heard()
    heard.say(b"x" * (LINE_BYTES + 1) + b"\n")
    assert [len(message) for message in caplog.messages] == [LINE_BYTES + len("guest: "), 1 + len("guest: ")]
    heard.say(b"y\n" * 3 * TEXT_BYTES)
    assert len(caplog.messages) == LINES_PER_SECOND
    assert len(heard.device.text) == TEXT_BYTES
    assert len(heard.device._text) <= 2 * TEXT_BYTES, "and no more is kept than twice that"
    heard.now_ns += 10**9
    heard.say(b"z\n")
    left_out = 3 * TEXT_BYTES - (LINES_PER_SECOND - 2)
    assert caplog.messages[-2:] == [f"guest: {left_out} lines not logged", "guest: z"]


def test_frames_wakes_and_the_end_are_told() -> None:
    heard = Heard()
    heard.device.write(PORT_FRAME, 4, 1)
    heard.device.write(PORT_FRAME, 4, 2)
    heard.device.write(PORT_WAKE, 1, 0)
    heard.device.write(PORT_EXIT, 1, 3)
    assert (heard.device.frames, heard.frames, heard.lines, heard.exits) == (2, [1, 2], 1, [3])


def test_the_text_port_says_that_it_is_there() -> None:
    assert Heard().device.read(PORT_DEBUG_TEXT, 1) == 0xE9


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([PORT_DEBUG_TEXT, PORT_FRAME, PORT_WAKE, PORT_EXIT]),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 0xFFFF_FFFF),
        )
    )
)
def test_anything_may_be_written_anywhere(
    caplog: pytest.LogCaptureFixture, writes: list[tuple[int, int, int]]
) -> None:
    caplog.set_level(logging.INFO, "vramtap")
    caplog.clear()
    heard = Heard()
    for port, size, value in writes:
        heard.device.write(port, size, value & (1 << 8 * size) - 1)
        heard.device.read(port, size)
    assert all(message.isprintable() for message in caplog.messages)
    assert all(0 <= status <= 255 for status in heard.exits)
