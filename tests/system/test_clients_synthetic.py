"""VNC clients of other projects on a synthetic tap: pixels, keys and pointer."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from support.pictures import Pixels, channels, picture
from support.synthetic_tap import RecordingInput, SyntheticTap
from support.vnc_serving import until_empty
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.servers.vnc.server import VncServer
from vramtap.servers.vnc.session import SessionOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SCREEN = picture("patches", 640, 480, seed=5)
LIMIT_S = 60
FIRST_PORT = 5900
"""Port of VNC display 0."""


@pytest.fixture
def recorder() -> RecordingInput:
    return RecordingInput()


@pytest.fixture
async def server(recorder: RecordingInput) -> AsyncIterator[VncServer]:
    async with VncServer(SyntheticTap(SCREEN, recorder), port=0) as server:
        yield server


async def run(*command: str) -> str:
    """Run a client to its end. It must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode(errors="replace")
    assert process.returncode == 0, text
    return text


async def vncdotool(server: VncServer, *actions: str, password: str | None = None) -> None:
    tool = Path(sys.executable).with_name("vncdotool")
    given = ["-p", password] if password is not None else []
    await run(str(tool), "-s", f"127.0.0.1::{server.port}", *given, *actions)


def shown(path: Path) -> Pixels:
    rgb = np.asarray(Image.open(path).convert("RGB")).astype(np.uint32)
    pixels: Pixels = rgb[..., 0] << np.uint32(16) | rgb[..., 1] << np.uint32(8) | rgb[..., 2]
    return pixels


@pytest.mark.parametrize("kind", ["patches", "photo", "noise", "runs"])
async def test_gvnccapture_shows_every_pixel(kind: str, tmp_path: Path) -> None:
    screen = picture(kind, 800, 600, seed=11)
    file = tmp_path / "screen.png"
    async with VncServer(SyntheticTap(screen), port=0) as server:
        await run("gvnccapture", "-q", f"127.0.0.1:{server.port - FIRST_PORT}", str(file))
    assert np.array_equal(channels(shown(file)), channels(screen))


async def test_vncdotool_shows_every_pixel(server: VncServer, tmp_path: Path) -> None:
    file = tmp_path / "screen.png"
    await vncdotool(server, "capture", str(file))
    assert np.array_equal(shown(file), SCREEN)


async def test_vncdotool_logs_in_with_the_password(tmp_path: Path) -> None:
    file = tmp_path / "screen.png"
    options = SessionOptions(password="secret")
    async with VncServer(SyntheticTap(SCREEN), port=0, options=options) as server:
        await vncdotool(server, "capture", str(file), password="secret")
    assert np.array_equal(shown(file), SCREEN)


async def test_keys_and_clicks_of_vncdotool_reach_the_target(
    server: VncServer, recorder: RecordingInput
) -> None:
    await vncdotool(server, "type", "root", "key", "enter", "move", "100", "50", "click", "1")
    await until_empty(server, LIMIT_S)
    pressed = [event.keysym for event in recorder.received if isinstance(event, KeyEvent) and event.down]
    released = [event.keysym for event in recorder.received if isinstance(event, KeyEvent) and not event.down]
    assert pressed == [*b"root", 0xFF0D]
    assert sorted(released) == sorted(pressed)
    pointer = [event for event in recorder.received if isinstance(event, tuple)]
    assert (PointerEvent(100, 50, 1), 640, 480) in pointer
    assert pointer[-1] == (PointerEvent(100, 50, 0), 640, 480)
