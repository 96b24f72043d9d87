"""A headless Chromium that shows vramtap's page."""

from __future__ import annotations

import asyncio
import base64
import io
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from playwright.async_api import ConsoleMessage, Page, async_playwright

from support.testbed.require import program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from numpy.typing import NDArray

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_S = 30.0
"""Time limit for every wait, seconds. Emulated guests on two cores are slow; only a hang takes this long."""
SHIFTED = '~!@#$%^&*()_+{}|:"<>?'
SCREEN = "#stage canvas:not(.ghost)"


class Window:
    """One page of the browser.

    Args:
        page: The page in Playwright.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        """Errors of the page and the browser: exceptions, blocked scripts, failed requests."""
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    async def state(self, state: str) -> str:
        """Wait until the page is in this state; return its text."""
        found = self.page.locator(f'#state[data-state="{state}"]')
        await found.wait_for(timeout=PATIENCE_S * 1000)
        return await found.inner_text()

    async def type(self, text: str) -> None:
        """Type on a US keyboard, with Shift pressed where a character needs it."""
        for character in text:
            shifted = character.isupper() or character in SHIFTED
            key = "Enter" if character == "\n" else character
            await self.page.keyboard.press(f"Shift+{key}" if shifted else key)

    async def pixels(self) -> NDArray[np.uint32]:
        """Return the screen as noVNC drew it, before scaling. Shape `(height, width)`, `0x00RRGGBB`."""
        url: str = await self.page.eval_on_selector(SCREEN, "canvas => canvas.toDataURL('image/png')")
        picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
        red, green, blue = np.moveaxis(np.asarray(picture).astype(np.uint32), -1, 0)
        pixels: NDArray[np.uint32] = red << np.uint32(16) | green << np.uint32(8) | blue
        return pixels

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until this holds; check it at every frame of the browser."""
        async with asyncio.timeout(PATIENCE_S):
            while not await holds():
                await self.page.evaluate("() => new Promise(requestAnimationFrame)")

    async def shows(self, expected: NDArray[np.uint32]) -> None:
        """Wait until the screen equals this picture exactly.

        Raises:
            AssertionError: It does not; says how many pixels differ.
        """
        seen: list[NDArray[np.uint32]] = []

        async def equal() -> bool:
            seen[:] = [await self.pixels()]
            return np.array_equal(seen[0], expected & 0xFFFFFF)

        try:
            await self.until(equal)
        except TimeoutError:
            if seen and seen[0].shape == expected.shape:
                wrong = np.argwhere(seen[0] != expected & 0xFFFFFF)
                raise AssertionError(f"{len(wrong)} pixels differ, the first at {wrong[0]}") from None
            raise AssertionError(
                f"screen is {seen[0].shape if seen else None}, not {expected.shape}"
            ) from None


@asynccontextmanager
async def window(width: int = 1280, height: int = 800) -> AsyncIterator[Window]:
    """Open a window of a new browser without cookies and cache."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program("chromium", "chromium"), args=list(ARGUMENTS)
        )
        try:
            yield Window(await browser.new_page(viewport={"width": width, "height": height}))
        finally:
            await browser.close()
