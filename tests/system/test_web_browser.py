"""The page in a real browser: exact pixels, input, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
import io
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from support.browser import PATIENCE_S, SCREEN, Window, window
from support.painted import PaintedTarget
from vramtap.servers.web.server import WebServer
from vramtap.tap.tap import Tap
from vramtap.targets.open import open_target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.testbed.guest import Guest

TOOLS = ("Send Ctrl-Alt-Del", "Scale to fit", "Save a screenshot as PNG", "Full screen")


@dataclass
class Scene:
    """A painted target, served, and a window that shows it."""

    target: PaintedTarget
    tap: Tap
    server: WebServer
    window: Window


@asynccontextmanager
async def scene(width: int = 640, height: int = 400, token: str | None = None) -> AsyncIterator[Scene]:
    """Everything at work and connected; at the end the browser must have had nothing to complain about."""
    async with AsyncExitStack() as stack:
        target = PaintedTarget(width, height)
        tap = await stack.enter_async_context(Tap(target))
        server = await stack.enter_async_context(WebServer([tap], token=token))
        shown = await stack.enter_async_context(window())
        await shown.page.goto(server.urls[0])
        await shown.state("connected")
        yield Scene(target, tap, server, shown)
        assert shown.complaints == []


def console(width: int, height: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    """Something like lines of text: few colours, sharp edges."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, 2, (-(-height // 4), -(-width // 2)), dtype=np.uint32)
    return (np.kron(cells, np.ones((4, 2), np.uint32)) * np.uint32(0xAAAAAA))[:height, :width]


async def test_screen_is_shown_to_the_last_bit() -> None:
    async with scene() as on:
        pixels = on.target.pixels
        pixels[:] = console(640, 400, seed=1)
        await on.window.shows(pixels)
        pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1] = 0xFF0000, 0x00FF00, 0x0000FF, 0x123456
        await on.window.shows(pixels)
        pixels[:-16] = pixels[16:].copy()
        pixels[-16:] = console(640, 16, seed=2)
        await on.window.shows(pixels)


async def test_change_of_size_is_followed() -> None:
    async with scene() as on:
        for width, height in ((800, 600), (320, 200), (1023, 767)):
            on.target.resize(width, height)
            on.target.pixels[:] = console(width, height, seed=width)
            await on.window.shows(on.target.pixels)


async def test_screen_fits_the_window_or_is_one_to_one() -> None:
    async with scene(1600, 900) as on:
        page = on.window.page

        async def shown_width() -> float:
            box = await page.locator(SCREEN).bounding_box()
            assert box is not None
            return box["width"]

        async def is_fitted() -> bool:
            return 0 < await shown_width() <= 1280

        async def is_one_to_one() -> bool:
            return await shown_width() == 1600

        button = page.get_by_role("button", name="Scale to fit")
        await on.window.until(is_fitted)
        assert await button.get_attribute("aria-pressed") == "true"
        await button.click()
        await on.window.until(is_one_to_one)
        assert await button.get_attribute("aria-pressed") == "false"
        await button.click()
        await on.window.until(is_fitted)


async def test_keyboard_has_the_focus_and_keys_arrive_with_scancodes() -> None:
    async with scene() as on:
        for seed in (1, 2):  # the second update tells noVNC that scancodes are welcome
            on.target.pixels[:] = console(640, 400, seed)
            await on.window.shows(on.target.pixels)
        await on.window.type("aB\n")
        events = [await asyncio.wait_for(on.target.listener.keys.get(), PATIENCE_S) for _ in range(8)]
        shift, enter = 0xFFE1, 0xFF0D  # X11/keysymdef.h: XK_Shift_L, XK_Return
        assert [(event.keysym, event.scancode, event.down) for event in events] == [
            (ord("a"), 0x1E, True),
            (ord("a"), 0x1E, False),
            (shift, 0x2A, True),
            (ord("B"), 0x30, True),
            (ord("B"), 0x30, False),
            (shift, 0x2A, False),
            (enter, 0x1C, True),
            (enter, 0x1C, False),
        ]


async def test_ctrl_alt_del_button_presses_the_three_and_gives_the_focus_back() -> None:
    async with scene() as on:
        await on.window.page.get_by_role("button", name="Send Ctrl-Alt-Del").click()
        events = [await asyncio.wait_for(on.target.listener.keys.get(), PATIENCE_S) for _ in range(6)]
        down = [event.keysym for event in events if event.down]
        assert down == [0xFFE3, 0xFFE9, 0xFFFF]  # Control_L, Alt_L, Delete
        assert sorted(event.keysym for event in events if not event.down) == sorted(down)
        assert await on.window.page.evaluate("document.activeElement.tagName") == "CANVAS"


async def test_pointer_arrives_where_it_is_on_the_scaled_screen() -> None:
    async with scene(1600, 900) as on:
        box = await on.window.page.locator(SCREEN).bounding_box()
        assert box is not None
        scale = box["width"] / 1600
        await on.window.page.mouse.click(box["x"] + 800 * scale, box["y"] + 450 * scale)
        while not (event := await asyncio.wait_for(on.target.listener.pointers.get(), PATIENCE_S)).buttons:
            pass
        assert event.buttons == 1
        assert abs(event.x - 800) <= 2
        assert abs(event.y - 450) <= 2


async def test_screenshot_button_saves_the_screen() -> None:
    async with scene() as on:
        on.target.pixels[:] = console(640, 400, seed=3)
        async with on.window.page.expect_download() as saving:
            await on.window.page.get_by_role("link", name="Save a screenshot as PNG").click()
        saved = await saving.value
        assert saved.suggested_filename == "vramtap-0.png"
        picture = Image.open(io.BytesIO((await saved.path()).read_bytes())).convert("RGB")
        assert np.array_equal(np.asarray(picture)[..., 0], on.target.pixels & 0xFF)


async def test_live_line_says_what_the_tap_does() -> None:
    async with scene() as on:
        page = on.window.page

        async def complete() -> bool:
            return await page.locator("#live-viewers").inner_text() == "1"

        await on.window.until(complete)
        assert await page.locator("#live-mode").inner_text() == "640x400 XR24"
        assert await page.locator("#live-tracker").inner_text() == on.tap.stats.tracker
        assert await page.locator("#live-why").get_attribute("title") == on.tap.stats.tracker_why
        assert "µs" in await page.locator("#live-scan").inner_text()
        rounds = 0

        async def busy() -> bool:
            nonlocal rounds
            rounds += 1
            on.target.pixels[rounds % 400] = rounds
            return await page.locator("#live-pages").inner_text() != "0 pages/s"

        async def idle() -> bool:
            return await page.locator("#live-pages").inner_text() == "0 pages/s"

        await on.window.until(busy)
        await on.window.until(idle)


async def test_every_tool_has_an_accessible_name_and_the_screen_too() -> None:
    async with scene() as on:
        toolbar = on.window.page.get_by_role("toolbar", name="Screen")
        for name in TOOLS:
            role = toolbar.get_by_role("button", name=name).or_(toolbar.get_by_role("link", name=name))
            assert await role.count() == 1, name
        screen = on.window.page.get_by_role("application", name="Screen of demo:painted")
        assert await screen.count() == 1


async def test_full_screen_shows_the_screen_alone() -> None:
    async with scene() as on:
        await on.window.page.get_by_role("button", name="Full screen").click()

        async def full() -> bool:
            return bool(await on.window.page.evaluate("document.fullscreenElement?.id === 'stage'"))

        await on.window.until(full)


async def test_token_is_hidden_from_the_address_bar_and_kept_for_the_rest() -> None:
    async with scene(token="open-sesame") as on:
        assert "token" not in on.window.page.url
        await on.window.page.reload()
        await on.window.state("connected")


async def test_page_says_that_the_target_has_ended_and_how() -> None:
    async with scene() as on:
        on.target.end("it was switched off")
        assert await on.window.state("ended") == "target ended"
        assert await on.window.page.locator("#notice-what").inner_text() == "The target has ended"
        assert await on.window.page.locator("#notice-why").inner_text() == "it was switched off"


async def test_page_still_says_how_the_target_ended_when_the_server_stops_with_it() -> None:
    async with scene() as on:
        on.target.end("it was switched off")
        await on.tap.ended()
        await on.server.close()
        await on.window.state("ended")

        async def says_both() -> bool:
            why = await on.window.page.locator("#notice-why").inner_text()
            return why == "it was switched off; vramtap has stopped too"

        await on.window.until(says_both)
        on.window.complaints.clear()  # the browser reports each request that nobody answered


async def test_page_says_that_the_server_is_gone_and_comes_back_with_it() -> None:
    async with scene() as on:
        on.target.pixels[:] = console(640, 400, seed=4)
        await on.window.shows(on.target.pixels)
        await on.server.close()
        assert await on.window.state("waiting") == "server gone"
        assert await on.window.page.locator("#notice-what").inner_text() == "The server is gone"
        assert await on.window.page.locator("#ghost").is_visible()
        on.target.pixels[:] = console(640, 400, seed=5)
        async with WebServer([on.tap], port=on.server.port):
            await on.window.state("connected")
            await on.window.shows(on.target.pixels)
            assert not await on.window.page.locator("#notice").is_visible()
        on.window.complaints.clear()  # the browser reports each request that nobody answered


async def test_page_says_that_its_token_is_no_longer_good() -> None:
    async with scene(token="the-old-one") as on:
        await on.server.close()
        async with WebServer([on.tap], port=on.server.port, token="the-new-one"):
            assert await on.window.state("refused") == "refused"
            assert "a token is needed" in await on.window.page.locator("#notice-why").inner_text()
        on.window.complaints.clear()


async def test_several_targets_are_listed_and_each_has_its_page() -> None:
    async with AsyncExitStack() as stack:
        targets = [PaintedTarget(320, 200, name) for name in ("first", "second")]
        taps = [await stack.enter_async_context(Tap(target)) for target in targets]
        server = await stack.enter_async_context(WebServer(taps))
        shown = await stack.enter_async_context(window())
        for seed, target in enumerate(targets):
            target.pixels[:] = console(320, 200, seed)
        await shown.page.goto(server.urls[0])
        await shown.page.get_by_role("link", name="demo:second").click()
        await shown.state("connected")
        assert shown.page.url.endswith("/t/1/")
        await shown.shows(targets[1].pixels)
        await shown.page.get_by_role("link", name="vramtap").click()
        await shown.page.get_by_role("link", name="demo:first").click()
        await shown.state("connected")
        await shown.shows(targets[0].pixels)
        assert shown.complaints == []


# --- A real guest --------------------------------------------------------------------------------


@pytest.fixture
async def guest_window(guest: Guest) -> AsyncIterator[Window]:
    """A window that shows a real guest."""
    async with Tap(open_target(guest.url)) as tap, WebServer([tap]) as server, window() as shown:
        await shown.page.goto(server.urls[0])
        await shown.state("connected")
        yield shown
        assert shown.complaints == []


async def test_real_guest_is_shown_to_the_last_bit(guest: Guest, guest_window: Window) -> None:
    await guest_window.shows(await asyncio.to_thread(guest.screendump))
    await asyncio.to_thread(guest.show, "\n".join(f"line {number}" for number in range(100)))
    await guest_window.shows(await asyncio.to_thread(guest.screendump))
    await asyncio.to_thread(guest.run, "fbtool edges")
    await guest_window.shows(await asyncio.to_thread(guest.screendump))
    await asyncio.to_thread(guest.run, "fbtool mode 800 600 16")
    await asyncio.to_thread(guest.run, "fbtool edges")
    await guest_window.shows(await asyncio.to_thread(guest.screendump))


async def test_typed_text_reaches_a_real_guest(guest: Guest, guest_window: Window) -> None:
    await asyncio.to_thread(guest.run, "rm -f /tmp/typed")
    await guest_window.type("echo Typed-in_The browser:42 >/tmp/typed && sync\n")

    async def arrived() -> bool:
        said = await asyncio.to_thread(guest.run, "cat /tmp/typed 2>/dev/null || true")
        return said == "Typed-in_The browser:42\n"

    await guest_window.until(arrived)
    await guest_window.shows(await asyncio.to_thread(guest.screendump))
