"""`vramtap demo` in a real browser: typing and dragging reach the guest, and the page shows the result."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

import vramtap
from support.browser import PATIENCE_S, SCREEN, Window, window
from support.guest_screen import CONSOLE_INK, HEIGHT, TITLE_INK, locate, pixels
from support.program import demo
from vramtap.rfb import connection
from vramtap.servers.web.server import WebServer

if TYPE_CHECKING:
    import pytest

TEXT = "Typed, in_the {browser}: 42!"
TITLE = "drag me"
Place = tuple[int, int]


async def place_of(shown: Window, text: str, ink: int, *, other_than: Place | None = None) -> Place:
    """Wait until the canvas shows a text, at another place than before."""
    found: list[Place] = []

    async def shows_text() -> bool:
        picture = await shown.pixels()
        if picture.shape[0] < HEIGHT or picture.shape[1] < HEIGHT * len(text):
            return False  # no picture yet
        place = locate(picture, text, ink)
        if place is None or place == other_than:
            return False
        found[:] = [place]
        return True

    await shown.until(shows_text)
    return found[0]


async def drag(shown: Window, begin: Place, end: Place) -> None:
    """Drag with the left button, in pixels of the guest's screen."""
    box = await shown.page.locator(SCREEN).bounding_box()
    height, width = (await shown.pixels()).shape
    assert box is not None

    def on_page(place: Place) -> tuple[float, float]:
        # The middle of the pixel, at any scale of the page.
        return (
            box["x"] + (place[0] + 0.5) * box["width"] / width,
            box["y"] + (place[1] + 0.5) * box["height"] / height,
        )

    await shown.page.mouse.move(*on_page(begin))
    await shown.page.mouse.down()
    await shown.page.mouse.move(*on_page(end), steps=5)
    await shown.page.mouse.up()


async def type_and_drag(shown: Window) -> None:
    """Type text and drag the window, and wait until the page shows both."""
    title = await place_of(shown, TITLE, TITLE_INK)
    await shown.type(TEXT)
    await place_of(shown, TEXT, CONSOLE_INK)
    # On the title bar but beside the text, because the pointer stays where the drag ends.
    begin = title[0] + 150, title[1] + 8
    end = begin[0] - 80, begin[1] - 240
    await drag(shown, begin, end)
    moved = await place_of(shown, TITLE, TITLE_INK, other_than=title)
    while moved != (title[0] - 80, title[1] - 240):
        moved = await place_of(shown, TITLE, TITLE_INK, other_than=moved)


async def test_typing_and_dragging_reach_the_guest() -> None:
    # Wide enough for the guest's screen at full size or larger, so that a drag ends at the exact pixel.
    with demo(web=True) as server:
        async with asyncio.timeout(4 * PATIENCE_S), window(1600, 1200) as shown:
            await shown.page.goto(server.web[0])
            await shown.state("connected")
            await type_and_drag(shown)
            assert shown.errors == []
        (report,) = server.stop()
    assert report["target"] == "demo:"
    assert report["ended"] is None
    assert report["stats"]["failures"] == 0


async def test_canvas_equals_the_video_ram(monkeypatch: pytest.MonkeyPatch) -> None:
    # The page allows JPEG, and the window contains a picture. Without JPEG every pixel must be equal.
    monkeypatch.setattr(connection, "JPEG_QUALITY", range(0))
    with vramtap.Machine(cpu="unicorn") as machine:
        async with (
            asyncio.timeout(4 * PATIENCE_S),
            vramtap.open(machine) as tap,
            WebServer([tap]) as server,
            window(1600, 1200) as shown,
        ):
            await shown.page.goto(server.urls[0])
            await shown.state("connected")
            await type_and_drag(shown)
            # A stopped guest is quiet: clock and caret do not change.
            with machine.paused():
                truth = pixels(machine) & np.uint32(0xFFFFFF)
                await shown.shows(truth)
                await tap.refresh()
                assert np.array_equal(tap.screen.pixels, truth)
            assert shown.errors == []
