"""`vramtap demo` in a real browser: what is typed and dragged reaches the guest and comes back."""

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
    """Wait until a text stands on the canvas, somewhere else than it stood."""
    found: list[Place] = []

    async def stands() -> bool:
        picture = await shown.pixels()
        if picture.shape[0] < HEIGHT or picture.shape[1] < HEIGHT * len(text):
            return False  # nothing has come yet
        place = locate(picture, text, ink)
        if place is None or place == other_than:
            return False
        found[:] = [place]
        return True

    await shown.until(stands)
    return found[0]


async def drag(shown: Window, begin: Place, end: Place) -> None:
    """Drag with the left button, by pixels of the guest's screen."""
    box = await shown.page.locator(SCREEN).bounding_box()
    height, width = (await shown.pixels()).shape
    assert box is not None

    def on_page(place: Place) -> tuple[float, float]:
        # The middle of the pixel, however large the page shows it.
        return (
            box["x"] + (place[0] + 0.5) * box["width"] / width,
            box["y"] + (place[1] + 0.5) * box["height"] / height,
        )

    await shown.page.mouse.move(*on_page(begin))
    await shown.page.mouse.down()
    await shown.page.mouse.move(*on_page(end), steps=5)
    await shown.page.mouse.up()


async def type_and_drag(shown: Window) -> None:
    """Hold the page to what it is for."""
    title = await place_of(shown, TITLE, TITLE_INK)
    await shown.type(TEXT)
    await place_of(shown, TEXT, CONSOLE_INK)
    # On the title bar, but clear of the text: the pointer stays where the drag ends, and must not cover it.
    begin = title[0] + 150, title[1] + 8
    end = begin[0] - 80, begin[1] - 240
    await drag(shown, begin, end)
    moved = await place_of(shown, TITLE, TITLE_INK, other_than=title)
    while moved != (title[0] - 80, title[1] - 240):
        moved = await place_of(shown, TITLE, TITLE_INK, other_than=moved)


async def test_the_demo_is_typed_into_and_its_window_dragged() -> None:
    # As wide as to show the guest's screen pixel for pixel or larger: a drag ends at the pixel it was led to.
    with demo(web=True) as server:
        async with asyncio.timeout(4 * PATIENCE_S), window(1600, 1200) as shown:
            await shown.page.goto(server.web[0])
            await shown.state("connected")
            await type_and_drag(shown)
            assert shown.complaints == []
        (report,) = server.stop()
    assert report["target"] == "demo:"
    assert report["ended"] is None
    assert report["stats"]["failures"] == 0


async def test_the_canvas_is_the_video_ram_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    # The page allows JPEG, and the window has a picture in it: without, nothing may differ.
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
            # Stopped, it is quiet: the clock and the caret stand still.
            with machine.paused():
                truth = pixels(machine) & np.uint32(0xFFFFFF)
                await shown.shows(truth)
                await tap.refresh()
                assert np.array_equal(tap.screen.pixels, truth)
            assert shown.complaints == []
