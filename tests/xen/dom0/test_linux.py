"""A Linux guest from the BIOS to its shell: what it shows is served exactly, and what is typed arrives."""

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
"""Of the device model's own VNC server; no other guest's."""
ANSWER_S = 60.0
RETURN = 0xFF0D
PROMPT = "guest#"


@pytest.fixture(scope="module")
def linux(hap: bool) -> Iterator[LinuxGuest]:
    if not hap:
        pytest.skip("one paging mode: it takes a minute, and the boot-sector guest is there for both")
    with contextlib.ExitStack() as paused:
        # The guests of other tests wake a thousand times a second to look for commands.
        for domid in driver_domain.ids() - {"0"}:
            xl("pause", domid)
            paused.callback(xl, "unpause", domid)
        yield paused.enter_context(LinuxGuest("linux", hap=hap, vnc_display=DISPLAY))


@pytest.fixture(scope="module")
def viewer(linux: LinuxGuest) -> Iterator[Viewer]:
    """One viewer for all: connected from the BIOS's text to the end."""
    with Served(f"xen:{linux.name}") as served, served.viewer() as viewer:
        yield viewer


def test_the_bios_text_is_shown(linux: LinuxGuest, viewer: Viewer) -> None:
    def same() -> bool | None:
        ours, theirs = viewer.client.pixels & 0xFFFFFF, model.client.pixels & 0xFFFFFF
        return (np.array_equal(ours, theirs) and bool(theirs.any())) or None

    # The device model draws text, so its own server is who knows; its cursor blinks.
    with viewer_at(5900 + DISPLAY) as model:
        wait_for("the BIOS's text in both viewers", same, ANSWER_S)
        assert viewer.client.pixels.shape == (400, 720)


def test_the_change_to_graphics_is_followed(linux: LinuxGuest, viewer: Viewer) -> None:
    linux.boot()
    _wait_for_line(linux, PROMPT)
    viewer.shows(linux.picture())
    assert viewer.client.pixels.shape == (480, 640)


def test_what_is_printed_is_shown(linux: LinuxGuest, viewer: Viewer) -> None:
    linux.run("i=0; while [ $i -lt 40 ]; do echo tick $i; i=$((i + 1)); usleep 30000; done >/dev/tty1")
    viewer.shows(linux.picture())
    text = linux.text()
    assert any(line.rstrip() == "tick 39" for line in text)
    assert not any(line.rstrip() == "tick 0" for line in text), "it has not scrolled"
    _reads(viewer.client.pixels, text)


def test_single_characters_are_shown(linux: LinuxGuest, viewer: Viewer) -> None:
    for character in "tap":
        linux.run(f"printf {character} >/dev/tty1")
        viewer.shows(linux.picture())
    _reads(viewer.client.pixels, linux.text())


def test_what_is_typed_is_obeyed(linux: LinuxGuest, viewer: Viewer) -> None:
    linux.run("printf '\\033c' >/dev/tty1")
    # The device model keeps 16 bytes of the keyboard, which is five keys, and drops what comes while the
    # guest takes none. So each part is waited for.
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
    """Assert that the picture is that text: equal characters look equal, and others do not."""
    looks: dict[str, bytes] = {}
    for row, line in enumerate(text):
        for column, character in enumerate(line):
            top, left = row * FONT_ROWS, column * FONT_COLUMNS
            cell = pixels[top : top + FONT_ROWS, left : left + FONT_COLUMNS] & 0xFFFFFF
            assert cell.tobytes() == looks.setdefault(character, cell.tobytes()), (row, column, character)
    assert len(set(looks.values())) == len(looks), "different characters look the same"
    assert len(looks) > 5, "there is hardly any text"
