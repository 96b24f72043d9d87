"""Recorders of three real guests, a minute each: a terminal in Xvfb, a Debian guest in QEMU, a video in Xvfb.

A script acts as the user of each guest. Its times are relative to the begin of the recording.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.testbed.errors import TestbedError
from support.testbed.guest import Guest
from support.testbed.supervise import spawn, stop
from support.testbed.xvfb import Xvfb
from vramtap.targets.open import open_target
from vramtap.trace import record
from vramtap.trace.recording import Recording

if TYPE_CHECKING:
    from vramtap.targets.base import Target
    from vramtap.trace.trace import Trace

HZ: Final = 60
SECONDS: Final = 60
WIDTH: Final = 1280
HEIGHT: Final = 800
_KEY_MS: Final = 120
"""Time between two keys, milliseconds: 100 words of five letters a minute."""

Act = tuple[float, Callable[[], object]]
"""Time, seconds since the recording began, and the action."""


class Actor:
    """Runs a script on its own thread, from the first interval on.

    Args:
        script: Actions in the order of time.
    """

    def __init__(self, script: Sequence[Act]) -> None:
        self._script = script
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces-actor")
        self._error: Exception | None = None

    def begin(self, recording: Recording) -> None:
        """Start the script at the first interval; called at every interval."""
        if self._thread.ident is None:
            self._thread.start()

    def end(self) -> None:
        """Stop the script.

        Raises:
            TestbedError: An action failed, or the recording never began.
        """
        self._over.set()
        if self._thread.ident is None:
            raise TestbedError("the recording never began")
        self._thread.join()
        if self._error is not None:
            raise TestbedError(f"an action failed: {self._error}") from self._error

    def _run(self) -> None:
        began_s = time.monotonic()
        try:
            for due_s, act in self._script:
                if self._over.wait(max(0.0, began_s + due_s - time.monotonic())):
                    return
                act()
        except Exception as error:
            self._error = error


def _record(target: Target, name: str, what: str, script: Sequence[Act]) -> Trace:
    recording = Recording(what, HZ, "host", {"name": name})
    actor = Actor(script)
    try:
        asyncio.run(record.record(target, recording, hz=HZ, seconds=SECONDS, progress=actor.begin))
    finally:
        actor.end()
    return recording.trace()


# A terminal


def _xdotool(display: str, *words: str) -> Callable[[], object]:
    return lambda: subprocess.run(
        ["xdotool", *words], env={"DISPLAY": display}, check=True, timeout=30, capture_output=True
    )


@contextlib.contextmanager
def _client(argv: Sequence[str | Path], display: str, directory: Path) -> Iterator[None]:
    """Run an X client in a directory until the block ends; wait for its window first."""
    if shutil.which(str(argv[0])) is None or shutil.which("xdotool") is None:
        raise TestbedError(f"{argv[0]} and xdotool are needed; install the packages with these names")
    process = spawn(argv, stderr=subprocess.DEVNULL, env={"DISPLAY": display}, cwd=directory)
    try:
        _xdotool(display, "search", "--sync", "--onlyvisible", "--name", ".")()
        yield
    finally:
        stop(process, gently_s=2)


def terminal() -> Trace:
    """Record xterm in Xvfb: typing, scrolling lists, a paragraph of text, and then no input."""
    with Xvfb(width=WIDTH, height=HEIGHT) as server, tempfile.TemporaryDirectory() as directory:

        def types(text: str) -> Callable[[], object]:
            return _xdotool(server.display, "type", "--delay", str(_KEY_MS), text)

        def key(name: str) -> Callable[[], object]:
            return _xdotool(server.display, "key", name)

        shell = ["env", "PS1=$ ", "sh", "-i"]
        xterm = ["xterm", "-geometry", "120x45+60+60", "+sb", "-bc", "-e", *shell]
        with _client(xterm, server.display, Path(directory)):
            _xdotool(server.display, "mousemove", "400", "400")()
            script: list[Act] = [
                (2, types("ls -l /usr/lib")),
                (5, key("Return")),
                (8, types("cat > note.txt")),
                (10.5, key("Return")),
                (11, types("the pages of a screen are written when something moves on it,")),
                (18, key("Return")),
                (19, types("and when nothing does, none is.")),
                (23, key("Return")),
                (23.5, key("ctrl+d")),
                (25, types("for i in $(seq 200); do echo step $i of 200; sleep 0.04; done")),
                (32, key("Return")),
                (43, types("date; sleep 1; date")),
                (46, key("Return")),
            ]
            return _record(open_target(server.url), "terminal", "x11: xterm in Xvfb", script)


# A guest


def _press(guest: Guest, *names: str) -> None:
    guest.monitor.execute("send-key", keys=[{"type": "qcode", "data": name} for name in names], hold_time=20)


_QCODES: Final = {" ": "spc", "/": "slash", ".": "dot", "-": "minus", "\n": "ret", ";": "semicolon"}


def _types(guest: Guest, text: str) -> Callable[[], object]:
    def act() -> None:
        pause = threading.Event()
        for character in text:
            _press(guest, _QCODES.get(character, character))
            pause.wait(_KEY_MS / 1000)

    return act


def guest_console() -> Trace:
    """Record a Debian kernel in QEMU from its boot: its console scrolls, echoes typing, blinks a cursor."""
    guest = Guest()
    guest.start()
    try:
        painting: list[int] = []
        script: list[Act] = [
            (0, guest.wait_ready),
            (12, _types(guest, "ls -l /bin\n")),
            (18, _types(guest, "dmesg\n")),
            (22, lambda: guest.run("cat /proc/interrupts /proc/meminfo >/dev/tty1")),
            (26, _types(guest, "cat /proc/cpuinfo\n")),
            (31, lambda: painting.append(guest.spawn("fbtool draw 1 50"))),
            (35, lambda: guest.kill(painting.pop())),
            (37, _types(guest, "uname -a\n")),
        ]
        return _record(open_target(guest.url), "guest-console", "qemu: Debian's kernel, vesafb", script)
    finally:
        guest.stop()


# A video


def _mpv(path: Path, *command: object) -> Callable[[], object]:
    def act() -> None:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(str(path))
            control.sendall(json.dumps({"command": command}).encode() + b"\n")
            if b'"success"' not in control.recv(65536):
                raise TestbedError(f"mpv: {command} was refused")

    return act


def video() -> Trace:
    """Record mpv in Xvfb: 640x360 at 30 frames a second, with two pauses."""
    with Xvfb(width=WIDTH, height=HEIGHT) as server, tempfile.TemporaryDirectory() as directory:
        control = Path(directory) / "control"
        mpv: list[str | Path] = [
            "mpv",
            "--no-config",
            "--no-border",
            "--vo=x11",
            "--geometry=640x360+320+200",
        ]
        mpv += ["--osc=no", "--osd-level=0", "--loop=inf", "--no-audio", f"--input-ipc-server={control}"]
        mpv += ["av://lavfi:testsrc2=size=640x360:rate=30"]
        with _client(mpv, server.display, Path(directory)):
            script: list[Act] = [
                (15, _mpv(control, "set_property", "pause", True)),
                (25, _mpv(control, "set_property", "pause", False)),
                (40, _mpv(control, "set_property", "pause", True)),
                (48, _mpv(control, "set_property", "pause", False)),
            ]
            return _record(open_target(server.url), "video", "x11: mpv in Xvfb", script)


RECORDERS: Final[dict[str, Callable[[], Trace]]] = {
    "real/terminal": terminal,
    "real/guest-console": guest_console,
    "real/video": video,
}
