"""VNC clients of other projects on a real guest: they show exact pixels, and their input arrives."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from support.program import PATIENCE_S, PROGRAM, Served, serve
from support.testbed.guest import TABLET, Guest
from support.testbed.require import program
from support.testbed.supervise import spawn, stop
from support.testbed.xvfb import Xvfb
from support.xwatch import XWatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

VNCDO = PROGRAM.with_name("vncdo")
SYMBOLS = r"""abc XYZ 0123456789 `-=[]\;,./ ~!@#$%^&*()_+{}|:"<>?"""
"""All characters of a US keyboard except the quote, in which the guest's shell gets them."""


@pytest.fixture
def served(guest: Guest) -> Iterator[Served]:
    """A server of the shared guest. At the end it must report no failure."""
    with serve(guest.url) as server:
        yield server
        (report,) = server.stop()
        assert report["target"] == guest.url
        assert report["stats"]["failures"] == 0


def pixels_of(path: Path) -> NDArray[np.uint32]:
    """Read a picture file. Shape `(height, width)`, `0x00RRGGBB`."""
    with Image.open(path) as image:
        red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.uint32), -1, 0)
    pixels: NDArray[np.uint32] = red << np.uint32(16) | green << np.uint32(8) | blue
    return pixels


def typed(guest: Guest, path: str) -> str:
    """Wait for a file that a line typed on the guest's console writes; return its content."""
    guest.until(f"test -s {path}")
    return guest.run(f"cat {path}")


# gvnccapture


def capture(server: Served, path: Path) -> NDArray[np.uint32]:
    """Return the picture that gvnccapture saves."""
    host, port = server.vnc[0]
    # gvnccapture takes display numbers; display 0 is port 5900.
    command = [program("gvnccapture", "gvncviewer"), "-q", f"{host}:{port - 5900}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done
    return pixels_of(path)


DRAWING = {
    "console": r"printf '\033[1;31mred \033[42mon green\033[0m\n' >/dev/tty1; seq 1 100 >/dev/tty1",
    "noise": "fbtool noise 1",
    "edges": "fbtool fill 0x102030; fbtool edges 0xFFFFFF",
    "16 bits": "fbtool mode 1024 768 16; fbtool noise 2; fbtool edges 0xFFFFFF",
    "another size": "fbtool mode 800 600 32; fbtool noise 3",
}


def test_gvnccapture_shows_the_screendump(guest: Guest, served: Served, tmp_path: Path) -> None:
    for name, command in DRAWING.items():
        guest.run(command)
        truth = guest.screendump()
        np.testing.assert_array_equal(capture(served, tmp_path / "screen.png"), truth, err_msg=name)


# TigerVNC's viewer


class Tiger:
    """TigerVNC's viewer on its own X display."""

    def __init__(self, xvfb: Xvfb, watch: XWatch) -> None:
        self.watch = watch
        self._display = {"DISPLAY": xvfb.display}

    def xdotool(self, *arguments: str) -> str:
        command = [program("xdotool", "xdotool"), *arguments]
        done = subprocess.run(
            command, env=self._display, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, done
        return done.stdout

    def focus(self, at: tuple[int, int]) -> None:
        """Give the viewer's window the keyboard, and put the pointer inside its picture at this position."""
        (window,) = self.xdotool("search", "--onlyvisible", "--name", "TigerVNC").split()
        self.xdotool("mousemove", str(at[0] + 50), str(at[1] + 50), "windowfocus", "--sync", window)


@contextlib.contextmanager
def tiger(server: Served, *options: str) -> Iterator[Tiger]:
    """Start a lossless viewer without menus and dialogs, on a display larger than every mode in the tests."""
    host, port = server.vnc[0]
    quiet = ["-Shared", "-RemoteResize=0", "-MenuKey=", "-AlertOnFatalError=0", "-ReconnectOnError=0"]
    with Xvfb(width=1400, height=1100) as xvfb, XWatch(xvfb.display) as watch:
        command = [program("xtigervncviewer", "tigervnc-viewer"), *quiet, "-AutoSelect=0", *options]
        viewer = spawn(
            [*command, f"{host}::{port}"],
            stderr=subprocess.DEVNULL,
            env={"DISPLAY": xvfb.display, "HOME": str(xvfb.directory)},
        )
        try:
            yield Tiger(xvfb, watch)
            assert viewer.poll() is None, "the viewer has exited"
        finally:
            stop(viewer)


@pytest.mark.parametrize(
    "options",
    [("-PreferredEncoding=Tight", "-NoJPEG=1"), ("-PreferredEncoding=ZRLE",), ("-PreferredEncoding=Raw",)],
    ids=["tight", "zrle", "raw"],
)
def test_tigervnc_follows_the_guest(guest: Guest, served: Served, options: tuple[str, ...]) -> None:
    guest.run("fbtool noise 1")
    with tiger(served, *options) as viewer:
        viewer.watch.shows(guest.screendump())
        for command in (
            "fbtool fill 0x203040 100 100 300 200; fbtool edges 0xFFFFFF",
            "seq 1 200 >/dev/tty1; fbtool scroll 16 3",
            "fbtool mode 1280 1024 32; fbtool noise 2",
            "fbtool mode 800 600 16; fbtool noise 3; fbtool scroll 5 2",
        ):
            guest.run(command)
            viewer.watch.shows(guest.screendump())


def test_tigervnc_types_into_the_guest(guest: Guest, served: Served) -> None:
    guest.run("rm -f /tmp/tiger; echo ready >/dev/tty1; fbtool edges 0x00FF00")
    with tiger(served) as viewer:
        viewer.focus(viewer.watch.shows(guest.screendump()))

        def send(text: str) -> None:
            viewer.xdotool("type", "--delay", "5", text) if text != "\n" else viewer.xdotool("key", "Return")

        guest.type(f"echo '{SYMBOLS}' >/tmp/tiger", send)
        assert typed(guest, "/tmp/tiger") == f"{SYMBOLS}\n"
        viewer.watch.shows(guest.screendump())


# vncdotool


def vncdo(server: Served, *arguments: str | Path, password: str | None = None) -> int:
    """Run vncdotool to its end.

    Returns:
        Its exit status.
    """
    host, port = server.vnc[0]
    options = [] if password is None else ["-p", password]
    command = [VNCDO, "-s", f"{host}::{port}", *options, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "Traceback" not in done.stderr, done
    return done.returncode


TYPING_TIMEOUT_S = 300.0
"""Time limit for typing a line key by key into a guest on a busy machine, seconds."""
DELAY_MS = 50
"""Time between two keys of vncdotool, ms. At its own 10 ms a guest on a busy machine loses characters."""


@pytest.mark.parametrize("options", [(), ("--force-caps",)], ids=["bare keysyms", "with Shift"])
def test_vncdotool_types_and_shows_the_screen(
    guest: Guest, served: Served, options: tuple[str, ...], tmp_path: Path
) -> None:
    guest.run("rm -f /tmp/vncdo")
    guest.prompt()
    assert (
        vncdo(
            served, *options, f"--delay={DELAY_MS}", "type", f"echo '{SYMBOLS}' >/tmp/vncdo", "key", "enter"
        )
        == 0
    )
    assert typed(guest, "/tmp/vncdo") == f"{SYMBOLS}\n"
    picture = tmp_path / "screen.png"
    truth = guest.screendump()
    assert vncdo(served, "capture", picture) == 0
    np.testing.assert_array_equal(pixels_of(picture), truth)


@pytest.mark.parametrize("by_file", [True, False], ids=["file", "variable"])
def test_vncdotool_needs_the_password(guest: Guest, tmp_path: Path, *, by_file: bool) -> None:
    secret = tmp_path / "password"
    secret.write_text("Geh3im\nnot this line\n")
    arguments = ("--password-file", str(secret)) if by_file else ()
    env = {"VRAMTAP_PASSWORD": "unused" if by_file else "Geh3im"}
    picture = tmp_path / "screen.png"
    with serve(guest.url, arguments=arguments, env=env) as server:
        assert vncdo(server, "capture", picture, password="geh3im") != 0
        assert not picture.exists()
        assert vncdo(server, "capture", picture, password="Geh3im") == 0
        np.testing.assert_array_equal(pixels_of(picture), guest.screendump())
        assert "wrong password" in server.log
        server.stop()


def test_vncdotool_clicks_at_the_right_position() -> None:
    with Guest(TABLET) as guest, serve(guest.url) as server:
        guest.quiet()
        guest.run("load-input")
        guest.spawn("sh -c 'fbtool input 6 >/tmp/input'")
        guest.run("until grep -q listening /tmp/input; do usleep 20000; done")
        assert vncdo(server, "move", "1023", "384", "click", "1") == 0
        seen = guest.run("until test $(wc -l </tmp/input) -ge 5; do usleep 20000; done; cat /tmp/input")
        # linux/input-event-codes.h: ABS_X 0, ABS_Y 1, BTN_LEFT 0x110. The axes range from 0 to 32767.
        events = seen.splitlines()[1:]
        assert f"abs 0 {0x7FFF}" in events
        assert f"abs 1 {384 * 0x7FFF // 767}" in events
        assert [event for event in events if event.startswith("key")] == ["key 272 1", "key 272 0"]
        server.stop()


# asyncvnc2


async def test_asyncvnc_shows_the_screen_and_types(guest: Guest, served: Served) -> None:
    # asyncvnc2 has no type information.
    asyncvnc: Any = importlib.import_module("asyncvnc2")
    await asyncio.to_thread(guest.run, "rm -f /tmp/asyncvnc; fbtool noise 4")
    truth = await asyncio.to_thread(guest.screendump)
    # Each wait inside has its own limit; this one ends a client that hangs.
    async with asyncio.timeout(TYPING_TIMEOUT_S), asyncvnc.connect(*served.vnc[0]) as client:
        rgba = (await client.screenshot()).astype(np.uint32)
        pixels = rgba[..., 0] << np.uint32(16) | rgba[..., 1] << np.uint32(8) | rgba[..., 2]
        np.testing.assert_array_equal(pixels, truth)

        async def press(text: str) -> None:
            client.keyboard.write(text) if text != "\n" else client.keyboard.press("Return")
            await client.drain()

        loop = asyncio.get_running_loop()

        def send(text: str) -> None:
            asyncio.run_coroutine_threadsafe(press(text), loop).result(PATIENCE_S)

        await asyncio.to_thread(guest.type, f"echo '{SYMBOLS}' >/tmp/asyncvnc", send)
        assert await asyncio.to_thread(typed, guest, "/tmp/asyncvnc") == f"{SYMBOLS}\n"
