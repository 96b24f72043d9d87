"""The page in a real browser: exact pixels, input, and its messages when it is not connected."""

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
    """A painted target, a server for it, and a browser window that shows it."""

    target: PaintedTarget
    tap: Tap
    server: WebServer
    window: Window


@asynccontextmanager
async def scene(width: int = 640, height: int = 400, token: str | None = None) -> AsyncIterator[Scene]:
    """Start the scene with the page connected. At the end the browser must have reported no errors."""
    async with AsyncExitStack() as stack:
        target = PaintedTarget(width, height)
        tap = await stack.enter_async_context(Tap(target))
        server = await stack.enter_async_context(WebServer([tap], token=token))
        shown = await stack.enter_async_context(window())
        await shown.page.goto(server.urls[0])
        await shown.state("connected")
        yield Scene(target, tap, server, shown)
        assert shown.errors == []


def console(width: int, height: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
    """Return a picture like a text console: few colours, sharp edges."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, 2, (-(-height // 4), -(-width // 2)), dtype=np.uint32)
    return (np.kron(cells, np.ones((4, 2), np.uint32)) * np.uint32(0xAAAAAA))[:height, :width]


async def test_page_shows_the_screen_exactly() -> None:
    async with scene() as on:
        pixels = on.target.pixels
        pixels[:] = console(640, 400, seed=1)
        await on.window.shows(pixels)
        pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1] = 0xFF0000, 0x00FF00, 0x0000FF, 0x123456
        await on.window.shows(pixels)
        pixels[:-16] = pixels[16:].copy()
        pixels[-16:] = console(640, 16, seed=2)
        await on.window.shows(pixels)


async def test_page_follows_the_size_of_the_screen() -> None:
    async with scene() as on:
        for width, height in ((800, 600), (320, 200), (1023, 767)):
            on.target.resize(width, height)
            on.target.pixels[:] = console(width, height, seed=width)
            await on.window.shows(on.target.pixels)


async def test_scale_button_switches_between_fit_and_original_size() -> None:
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


async def test_keys_reach_the_target_with_scancodes() -> None:
    async with scene() as on:
        for seed in (1, 2):  # the second update tells noVNC that the server takes scancodes
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


async def test_ctrl_alt_del_button_sends_the_keys_and_returns_the_focus() -> None:
    async with scene() as on:
        await on.window.page.get_by_role("button", name="Send Ctrl-Alt-Del").click()
        events = [await asyncio.wait_for(on.target.listener.keys.get(), PATIENCE_S) for _ in range(6)]
        down = [event.keysym for event in events if event.down]
        assert down == [0xFFE3, 0xFFE9, 0xFFFF]  # Control_L, Alt_L, Delete
        assert sorted(event.keysym for event in events if not event.down) == sorted(down)
        assert await on.window.page.evaluate("document.activeElement.tagName") == "CANVAS"


async def test_pointer_position_is_right_on_a_scaled_screen() -> None:
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


async def test_screenshot_link_saves_the_screen() -> None:
    async with scene() as on:
        on.target.pixels[:] = console(640, 400, seed=3)
        async with on.window.page.expect_download() as saving:
            await on.window.page.get_by_role("link", name="Save a screenshot as PNG").click()
        saved = await saving.value
        assert saved.suggested_filename == "vramtap-0.png"
        picture = Image.open(io.BytesIO((await saved.path()).read_bytes())).convert("RGB")
        assert np.array_equal(np.asarray(picture)[..., 0], on.target.pixels & 0xFF)


async def test_statistics_line_shows_what_the_tap_does() -> None:
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


async def test_tools_and_screen_have_accessible_names() -> None:
    async with scene() as on:
        toolbar = on.window.page.get_by_role("toolbar", name="Screen")
        for name in TOOLS:
            role = toolbar.get_by_role("button", name=name).or_(toolbar.get_by_role("link", name=name))
            assert await role.count() == 1, name
        screen = on.window.page.get_by_role("application", name="Screen of demo:painted")
        assert await screen.count() == 1


async def test_full_screen_button_shows_only_the_screen() -> None:
    async with scene() as on:
        await on.window.page.get_by_role("button", name="Full screen").click()

        async def full() -> bool:
            return bool(await on.window.page.evaluate("document.fullscreenElement?.id === 'stage'"))

        await on.window.until(full)


async def test_token_leaves_the_address_bar_and_still_works() -> None:
    async with scene(token="open-sesame") as on:
        assert "token" not in on.window.page.url
        await on.window.page.reload()
        await on.window.state("connected")


async def test_page_shows_how_the_target_ended() -> None:
    async with scene() as on:
        on.target.end("it was switched off")
        assert await on.window.state("ended") == "target ended"
        assert await on.window.page.locator("#notice-what").inner_text() == "The target has ended"
        assert await on.window.page.locator("#notice-why").inner_text() == "it was switched off"


async def test_page_shows_how_the_target_ended_after_the_server_stopped() -> None:
    async with scene() as on:
        on.target.end("it was switched off")
        await on.tap.ended()
        await on.server.close()
        await on.window.state("ended")

        async def shows_both() -> bool:
            why = await on.window.page.locator("#notice-why").inner_text()
            return why == "it was switched off; vramtap has stopped too"

        await on.window.until(shows_both)
        on.window.errors.clear()  # the browser reports every request that got no answer


async def test_page_reconnects_when_the_server_returns() -> None:
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
        on.window.errors.clear()  # the browser reports every request that got no answer


async def test_page_shows_that_its_token_is_no_longer_valid() -> None:
    async with scene(token="the-old-one") as on:
        await on.server.close()
        async with WebServer([on.tap], port=on.server.port, token="the-new-one"):
            assert await on.window.state("refused") == "refused"
            assert "needs a token" in await on.window.page.locator("#notice-why").inner_text()
        on.window.errors.clear()


async def test_list_of_targets_links_to_the_page_of_each() -> None:
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
        assert shown.errors == []


# A real guest


@pytest.fixture
async def guest_window(guest: Guest) -> AsyncIterator[Window]:
    """A browser window that shows a real guest."""
    async with Tap(open_target(guest.url)) as tap, WebServer([tap]) as server, window() as shown:
        await shown.page.goto(server.urls[0])
        await shown.state("connected")
        yield shown
        assert shown.errors == []


async def test_page_shows_a_real_guest_exactly(guest: Guest, guest_window: Window) -> None:
    await guest_window.shows(await asyncio.to_thread(guest.screendump))
    await asyncio.to_thread(guest.show, "\n".join(f"line {number}" for number in range(100)))
    await guest_window.shows(await asyncio.to_thread(guest.screendump))
    await asyncio.to_thread(guest.run, "fbtool edges")
    await guest_window.shows(await asyncio.to_thread(guest.screendump))
    await asyncio.to_thread(guest.run, "fbtool mode 800 600 16")
    await asyncio.to_thread(guest.run, "fbtool edges")
    await guest_window.shows(await asyncio.to_thread(guest.screendump))


async def test_text_typed_in_the_page_reaches_a_real_guest(guest: Guest, guest_window: Window) -> None:
    await asyncio.to_thread(guest.run, "rm -f /tmp/typed")
    loop = asyncio.get_running_loop()

    def send(text: str) -> None:
        asyncio.run_coroutine_threadsafe(guest_window.type(text), loop).result(PATIENCE_S)

    await asyncio.to_thread(guest.type, "echo Typed-in_The browser:42 >/tmp/typed && sync", send)
    await asyncio.to_thread(guest.until, "test -s /tmp/typed")
    assert await asyncio.to_thread(guest.run, "cat /tmp/typed") == "Typed-in_The browser:42\n"
    await guest_window.shows(await asyncio.to_thread(guest.screendump))
