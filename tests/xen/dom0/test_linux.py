"""A Linux guest from the BIOS to its shell: vramtap serves its screen exactly and delivers typed keys."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from xen.dom0 import driver_domain
from xen.dom0.driver_domain import wait_for, xl
from xen.dom0.driver_errors import DriverError
from xen.dom0.driver_linux import FONT_COLUMNS, FONT_ROWS, LinuxGuest
from xen.dom0.served import Served, Viewer, viewer_at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

DISPLAY = 4
"""Display number of the device model's own VNC server. No other guest uses it."""
ANSWER_S = 60.0
RETURN = 0xFF0D
PROMPT = "guest#"


@pytest.fixture(scope="module")
def linux(hap: bool) -> Iterator[LinuxGuest]:
    if not hap:
        pytest.skip(
            "tested with hap=1 only: Linux takes a minute; the boot-sector guest is tested in both modes"
        )
    with contextlib.ExitStack() as paused:
        # The guests of other tests wake up a thousand times a second to poll for commands.
        for domid in driver_domain.ids() - {"0"}:
            xl("pause", domid)
            paused.callback(xl, "unpause", domid)
        yield paused.enter_context(LinuxGuest("linux", hap=hap, vnc_display=DISPLAY))


@pytest.fixture(scope="module")
def viewer(linux: LinuxGuest) -> Iterator[Viewer]:
    """The viewer of all these tests, connected from the BIOS text to the end."""
    with Served(f"xen:{linux.name}") as served, served.viewer() as viewer:
        yield viewer


def test_bios_text_is_served(linux: LinuxGuest, viewer: Viewer) -> None:
    def same() -> bool | None:
        ours, theirs = viewer.client.pixels & 0xFFFFFF, model.client.pixels & 0xFFFFFF
        return (np.array_equal(ours, theirs) and bool(theirs.any())) or None

    # The device model draws the text, so its own VNC server is the reference. The cursor blinks, so poll.
    with viewer_at(5900 + DISPLAY) as model:
        wait_for("the BIOS's text in both viewers", same, ANSWER_S)
        assert viewer.client.pixels.shape == (400, 720)


def test_switch_to_graphics_mode_is_followed(linux: LinuxGuest, viewer: Viewer) -> None:
    linux.boot()
    _wait_for_line(linux, PROMPT)
    viewer.shows(linux.picture())
    assert viewer.client.pixels.shape == (480, 640)


def test_scrolling_output_is_served(linux: LinuxGuest, viewer: Viewer) -> None:
    linux.run("i=0; while [ $i -lt 40 ]; do echo tick $i; i=$((i + 1)); usleep 30000; done >/dev/tty1")
    viewer.shows(linux.picture())
    text = linux.text()
    assert any(line.rstrip() == "tick 39" for line in text)
    assert not any(line.rstrip() == "tick 0" for line in text), "the screen has not scrolled"
    _reads(viewer.client.pixels, text)


def test_single_characters_are_served(linux: LinuxGuest, viewer: Viewer) -> None:
    for character in "tap":
        linux.run(f"printf {character} >/dev/tty1")
        viewer.shows(linux.picture())
    _reads(viewer.client.pixels, linux.text())


def test_typed_command_is_executed(linux: LinuxGuest, viewer: Viewer) -> None:
    linux.run("printf '\\033c' >/dev/tty1")
    # The device model buffers 16 bytes from the keyboard, which is five keys. It drops more until the guest
    # reads some. So the test waits for each part.
    for keys, shown in (
        ("\r", PROMPT),
        ("seq ", f"{PROMPT} seq"),
        ("42 42", f"{PROMPT} seq 42 42"),
        ("\r", "42"),
    ):
        for key in keys:
            keysym = RETURN if key == "\r" else ord(key)
            viewer.client.key(keysym, down=True)
            viewer.client.key(keysym, down=False)
        _wait_for_line(linux, shown)
    viewer.shows(linux.picture())
    _reads(viewer.client.pixels, linux.text())


def _wait_for_line(linux: LinuxGuest, wanted: str) -> None:
    lines: list[str] = []

    def there() -> bool | None:
        lines[:] = [line.rstrip() for line in linux.text()]
        return wanted in lines or None

    try:
        wait_for(f"the line {wanted!r}", there, ANSWER_S, 0.2)
    except DriverError as error:
        raise AssertionError("\n".join([f"{error}; the screen:", *filter(None, lines)])) from error


def _reads(pixels: NDArray[np.uint32], text: list[str]) -> None:
    """Assert that the pixels show the text: equal characters have equal cells, different ones do not."""
    cells: dict[str, bytes] = {}
    for row, line in enumerate(text):
        for column, character in enumerate(line):
            top, left = row * FONT_ROWS, column * FONT_COLUMNS
            cell = pixels[top : top + FONT_ROWS, left : left + FONT_COLUMNS] & 0xFFFFFF
            assert cell.tobytes() == cells.setdefault(character, cell.tobytes()), (row, column, character)
    assert len(set(cells.values())) == len(cells), "different characters have equal cells"
    assert len(cells) > 5, "the screen shows hardly any text"
