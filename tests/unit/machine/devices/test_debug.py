"""DebugDevice: the text, frame, wake and exit ports."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vramtap.machine.devices.debug import LINE_BYTES, LINES_PER_SECOND, TEXT_BYTES, DebugDevice
from vramtap.machine.layout import PORT_DEBUG_TEXT, PORT_EXIT, PORT_FRAME, PORT_WAKE

if TYPE_CHECKING:
    import pytest


class Bench:
    """A device, and the calls it has made."""

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


def test_lines_are_logged_with_control_characters_escaped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "vramtap")
    bench = Bench()
    bench.say(b"hello\r\n\x1b[2J\xff\\ pwned\nrest")
    assert caplog.messages == ["guest: hello", r"guest: \x1b[2J\xff\\ pwned"]
    assert bench.device.text == "hello\r\n\x1b[2J\xff\\ pwned\nrest"


def test_text_and_log_lines_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vramtap")
    bench = Bench()
    bench.say(b"x" * (LINE_BYTES + 1) + b"\n")
    assert [len(message) for message in caplog.messages] == [LINE_BYTES + len("guest: "), 1 + len("guest: ")]
    bench.say(b"y\n" * 3 * TEXT_BYTES)
    assert len(caplog.messages) == LINES_PER_SECOND
    assert len(bench.device.text) == TEXT_BYTES
    assert len(bench.device._text) <= 2 * TEXT_BYTES, "the buffer holds at most twice that"
    bench.now_ns += 10**9
    bench.say(b"z\n")
    dropped = 3 * TEXT_BYTES - (LINES_PER_SECOND - 2)
    assert caplog.messages[-2:] == [f"guest: {dropped} lines not logged", "guest: z"]


def test_frame_wake_and_exit_ports_call_back() -> None:
    bench = Bench()
    bench.device.write(PORT_FRAME, 4, 1)
    bench.device.write(PORT_FRAME, 4, 2)
    bench.device.write(PORT_WAKE, 1, 0)
    bench.device.write(PORT_EXIT, 1, 3)
    assert (bench.device.frames, bench.frames, bench.lines, bench.exits) == (2, [1, 2], 1, [3])


def test_text_port_can_be_detected() -> None:
    assert Bench().device.read(PORT_DEBUG_TEXT, 1) == 0xE9


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
def test_random_writes_are_harmless(
    caplog: pytest.LogCaptureFixture, writes: list[tuple[int, int, int]]
) -> None:
    caplog.set_level(logging.INFO, "vramtap")
    caplog.clear()
    bench = Bench()
    for port, size, value in writes:
        bench.device.write(port, size, value & (1 << 8 * size) - 1)
        bench.device.read(port, size)
    assert all(message.isprintable() for message in caplog.messages)
    assert all(0 <= status <= 255 for status in bench.exits)
