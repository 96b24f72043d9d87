"""Three real guests, a minute each: a terminal in Xvfb, a Debian guest under QEMU, a video in Xvfb.

What their users do is a script with times, as what people do has times: it begins with the recording.
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
"""Between two keys: 100 words of five letters a minute, a quick typist."""

Act = tuple[float, Callable[[], object]]
"""When, in seconds from the begin, and what."""


class Actor:
    """Does what a script says at the times it says, on a thread of its own, from the first look on.

    Args:
        script: In order of time.
    """

    def __init__(self, script: Sequence[Act]) -> None:
        self._script = script
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces-actor")
        self._error: Exception | None = None

    def begin(self, recording: Recording) -> None:
        """Told at every look; the first one begins it."""
        if self._thread.ident is None:
            self._thread.start()

    def end(self) -> None:
        """Let it do no more, and say what went wrong.

        Raises:
            TestbedError: an act failed.
        """
        self._over.set()
        if self._thread.ident is None:
            raise TestbedError("the recording never began")
        self._thread.join()
        if self._error is not None:
            raise TestbedError(f"an act failed: {self._error}") from self._error

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
    """An X client that works in this directory; inside it shows a window."""
    if shutil.which(str(argv[0])) is None or shutil.which("xdotool") is None:
        raise TestbedError(f"{argv[0]} and xdotool are needed (install the packages of these names)")
    process = spawn(argv, stderr=subprocess.DEVNULL, env={"DISPLAY": display}, cwd=directory)
    try:
        _xdotool(display, "search", "--sync", "--onlyvisible", "--name", ".")()
        yield
    finally:
        stop(process, gently_s=2)


def terminal() -> Trace:
    """Xterm in Xvfb: lines typed, lists scrolled, an editor's worth of text, and then nobody there."""
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
    """A Debian kernel under QEMU from its boot on: its console scrolls, is typed at, and blinks a cursor."""
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
    """Mpv in Xvfb: 640x360 at 30 frames a second, with two pauses."""
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
