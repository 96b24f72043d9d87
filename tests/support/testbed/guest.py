"""A real guest: Debian's kernel under QEMU, its screen in a linear framebuffer, a shell on a serial line."""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from support.testbed import ppm
from support.testbed.errors import TestbedError
from support.testbed.image import image
from support.testbed.qmp import Monitor
from support.testbed.supervise import spawn, stop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

BOOT_TIMEOUT_S: Final = 180.0
"""Generous: emulation shares the machine with whatever else runs there."""
TABLET: Final = ("-usb", "-device", "usb-tablet")
"""Arguments that give the guest an absolute pointing device; its driver is loaded by `load-input`."""
VESA_1024X768X32: Final = "0x344"
"""For the kernel's `vga=`: mode 0x144 of QEMU's VGA BIOS, plus 0x200 (Documentation/admin-guide/svga.rst)."""
# iomem=relaxed lets fbtool map the VGA device's memory while vesafb owns it (CONFIG_IO_STRICT_DEVMEM).
_KERNEL_ARGUMENTS: Final = "console=tty0 iomem=relaxed nokaslr mitigations=off consoleblank=0"
PROMPT: Final = "guest# "
"""Prompt of the console's shell; `guest/init` sets it."""
CONSOLE_TIMEOUT_S: Final = 120.0
"""Time limit for a condition in the guest, seconds. Emulated guests on a busy machine are slow."""
_BURST: Final = 3
"""Characters that the keyboard's queue holds with Shift: 4 bytes each, of 16."""
_READY: Final = b"READY\n"
_STABLE_ATTEMPTS: Final = 100


class Guest:
    """A guest that is running inside the `with` block; methods may be called from any thread.

    The block is entered when its shell answers. `qmp_path` is for the code under test: QEMU serves
    one client on each monitor, and the tests' own commands go through another.

    Args:
        arguments: Further arguments of QEMU (`("-vnc", "127.0.0.1:0")`).
        kernel_arguments: Appended to the kernel's command line.
        vga: QEMU's `-vga`.
        video_mode: The kernel's `vga=`. A mode the device lacks makes the kernel ask, and wait half a
            minute: `normal` for `none` and `cirrus`.
        memory_mb: Of the guest, in MiB.

    Example:
        ```
        with Guest() as guest:
            guest.quiet()
            guest.run("fbtool edges")
            guest.screendump()[0, 0]
        ```
    """

    def __init__(
        self,
        arguments: Sequence[str] = (),
        *,
        kernel_arguments: str = "",
        vga: str = "std",
        video_mode: str = VESA_1024X768X32,
        memory_mb: int = 256,
    ) -> None:
        self._arguments = tuple(arguments)
        self._kernel_arguments = f"vga={video_mode} {_KERNEL_ARGUMENTS} {kernel_arguments}".strip()
        self._vga = vga
        self._memory_mb = memory_mb
        self._cleanup = contextlib.ExitStack()
        self._tokens = itertools.count(1)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes]
        self._serial: socket.socket
        self._received = b""
        self.directory: Path
        """For sockets and pictures; removed at the end."""
        self.monitor: Monitor
        """The tests' own QMP connection."""

    def __enter__(self) -> Self:
        """Boot it and wait for its shell.

        Raises:
            TestbedError: it cannot be built or does not come up.
        """
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it."""
        self.stop()

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._process.pid

    @property
    def qmp_path(self) -> Path:
        """Where the code under test finds a monitor."""
        return self.directory / "qmp.sock"

    @property
    def url(self) -> str:
        """What the code under test is told to tap."""
        return f"qemu:{self.qmp_path}"

    @property
    def running(self) -> bool:
        """Whether QEMU's process is there."""
        return self._process.poll() is None

    def start(self) -> None:
        """Start QEMU and return as soon as its monitors answer: the guest is booting."""
        built = image()
        self.directory = Path(
            self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="vramtap-guest-"))
        )
        self._serial, serial_end = socket.socketpair()
        ours, monitor_end = socket.socketpair()
        with serial_end, monitor_end:
            log = self._cleanup.enter_context((self.directory / "qemu.log").open("wb"))
            argv: list[str | Path] = ["qemu-system-x86_64", "-nodefaults", "-accel", "tcg"]
            argv += ["-m", str(self._memory_mb), "-vga", self._vga, "-display", "none"]
            argv += ["-kernel", built.kernel, "-initrd", built.initrd, "-append", self._kernel_arguments]
            argv += ["-chardev", f"socket,id=serial,fd={serial_end.fileno()}", "-serial", "chardev:serial"]
            argv += [
                "-chardev",
                f"socket,id=testbed,fd={monitor_end.fileno()}",
                "-mon",
                "chardev=testbed,mode=control",
            ]
            argv += ["-qmp", f"unix:{self.qmp_path},server=on,wait=off"]
            self._process = spawn(
                [*argv, *self._arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(serial_end.fileno(), monitor_end.fileno()),
            )
        self._received = b""
        self.monitor = Monitor(ours)
        self._cleanup.callback(self.monitor.close)
        self._cleanup.callback(self._serial.close)
        self._cleanup.callback(stop, self._process)
        try:
            self.monitor.greet()
        except TestbedError as error:
            self._process.wait(10)
            said = (self.directory / "qemu.log").read_text(errors="replace").strip()
            self.stop()
            raise TestbedError(f"QEMU did not start: {said}") from error

    def wait_ready(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Wait until the shell on the serial line says that it is there.

        Raises:
            TestbedError: it does not in this time, or QEMU has ended.
        """
        with self._lock:
            self._read_until(_READY, timeout_s, "boot")

    def run(self, command: str, timeout_s: float = 60) -> str:
        """Run a shell command in the guest, as root, with nothing to read.

        Args:
            command: One line of shell.
            timeout_s: How long it may take.

        Returns:
            What it wrote, standard error included.

        Raises:
            TestbedError: its exit status was not 0, it took too long, or QEMU has ended.
        """
        if "\n" in command:
            raise ValueError("a command for the guest is one line")
        with self._lock:
            token = f"done-{next(self._tokens)}"
            self._send(f"{token} {command}\n".encode())
            # Before that may stand what an earlier command said after its time was up.
            self._read_until(f"{token} begin\n".encode(), timeout_s, command)
            output = self._read_until(f"\n{token} ".encode(), timeout_s, command)
            status = int(self._read_until(b"\n", timeout_s, command))
        text = output.decode(errors="replace")
        if status:
            raise TestbedError(f"guest: {command}: exit status {status}: {text.strip()}")
        return text

    def spawn(self, command: str) -> int:
        """Start a program in the guest and leave it running.

        Args:
            command: The program and its arguments.

        Returns:
            Its pid in the guest, for `kill`.
        """
        return int(self.run(f"(exec {command}) >/dev/null 2>&1 & echo $!"))

    def kill(self, pid: int) -> None:
        """End a program in the guest, and wait until it is gone."""
        self.run(f"kill -9 {pid}; while test -d /proc/{pid}; do usleep 10000; done")

    def show(self, text: str) -> None:
        """Write lines on the console, as a program on tty1 would."""
        lines = " ".join(shlex.quote(line) for line in text.split("\n"))
        self.run(f"printf '%s\\n' {lines} >/dev/tty1")

    def prompt(self) -> None:
        """Start a new shell on the console and wait until it shows its prompt on the empty screen.

        Characters that another test typed, and did not end with Enter, are gone.
        """
        shell = "/run/console-shell"
        self.until(f"test -s {shell}")
        # The screen is cleared first: the only prompt on it is the new shell's.
        self.run(f"printf '\\033c' >/dev/tty1; kill -9 $(cat {shell})")
        self.await_console(PROMPT)

    def await_console(self, text: str) -> None:
        """Wait until the console shows this text; a text longer than a line goes on in the next.

        Raises:
            TestbedError: The console does not show it in `CONSOLE_TIMEOUT_S`, or QEMU has ended.
        """
        # vcs(4): the characters of the console without line ends.
        self.until(f"grep -qF {shlex.quote(text)} /dev/vcs1")

    def until(self, condition: str) -> None:
        """Wait until a shell command in the guest succeeds.

        Raises:
            TestbedError: It does not in `CONSOLE_TIMEOUT_S`, or QEMU has ended. The message has the console.
        """
        deadline = time.monotonic() + CONSOLE_TIMEOUT_S
        while not self.run(f"if {condition}; then echo yes; else usleep 10000; fi"):
            if time.monotonic() > deadline:
                console = self.run("tr -s ' ' </dev/vcs1")
                raise TestbedError(
                    f"guest: not after {CONSOLE_TIMEOUT_S:.0f} s: {condition}; console: {console}"
                )

    def type(self, line: str, send: Callable[[str], object]) -> None:
        """Type a line on a new prompt, no faster than the console shows it, and press Enter.

        QEMU's PS/2 keyboard queues 16 bytes and drops what comes after (hw/input/ps2.c,
        PS2_QUEUE_SIZE). A character takes up to 4 bytes, so a busy machine loses characters of a line
        that is sent at once. Therefore the next characters are sent when the guest has read the last ones.

        Args:
            line: Printable characters.
            send: Types these characters in the client under test. The last call's is a newline.
        """
        self.prompt()
        for start in range(0, len(line), _BURST):
            end = start + _BURST
            send(line[start:end])
            self.await_console(f"{PROMPT}{line[:end]}".rstrip())
        send("\n")

    def quiet(self) -> None:
        """Stop what draws by itself (cursor, kernel messages) and wait until the screen stands still."""
        self.run("dmesg -n 1; echo 0 >/sys/class/graphics/fbcon/cursor_blink")
        self.screendump()

    def restore(self) -> None:
        """Undo what a test may have done to the screen: the mode of the boot, an empty console, quiet."""
        self.run("killall -q -9 fbtool; fbtool mode 1024 768 32; printf '\\033c' >/dev/tty1")
        self.quiet()

    def screendump(self) -> NDArray[np.uint32]:
        """The screen as QEMU itself shows it: the ground truth.

        Taken again until two pictures in a row agree, since one can tear.

        Returns:
            Shape `(height, width)`, `0x00RRGGBB`.

        Raises:
            TestbedError: no two agree (is something drawing?), or QEMU has ended.
        """
        last = self.screendump_once()
        for _ in range(_STABLE_ATTEMPTS):
            again = self.screendump_once()
            if again.shape == last.shape and np.array_equal(again, last):
                return again
            last = again
        raise TestbedError(f"screendump: {_STABLE_ATTEMPTS} pictures, no two alike in a row")

    def screendump_once(self) -> NDArray[np.uint32]:
        """One picture, which may tear if the guest is drawing."""
        descriptor, name = tempfile.mkstemp(dir=self.directory, suffix=".ppm")
        os.close(descriptor)
        path = Path(name)
        try:
            self.monitor.execute("screendump", filename=name)
            return ppm.parse(path.read_bytes())
        finally:
            path.unlink()

    def reboot(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Let the guest reboot itself and wait until it is up again; `quiet` is forgotten."""
        with self._lock:
            self._send(b"reboot reboot -f\n")
            self._read_until(_READY, timeout_s, "reboot")

    def reset(self) -> None:
        """Pull the guest's reset line; `wait_ready` waits until it is up again."""
        self.monitor.execute("system_reset")

    def wait_end(self) -> int:
        """Wait until QEMU ends by itself.

        Returns:
            Its exit status.
        """
        return self._process.wait()

    def stop(self) -> None:
        """End QEMU at once and remove everything; harmless when it has ended."""
        self._cleanup.close()

    def _send(self, data: bytes) -> None:
        try:
            self._serial.settimeout(10)
            self._serial.sendall(data)
        except OSError as error:
            raise TestbedError(f"guest: serial line: {error}") from error

    def _read_until(self, marker: bytes, timeout_s: float, doing: str) -> bytes:
        """Everything up to the marker, which is taken too."""
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._serial, selectors.EVENT_READ)
            while marker not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    said = self._received[-500:]
                    raise TestbedError(f"guest: {doing}: nothing after {timeout_s:.0f} s, said {said!r}")
                data = self._serial.recv(65536)
                if not data:
                    raise TestbedError(f"guest: {doing}: QEMU ended, said {self._received[-500:]!r}")
                self._received += data
        before, _, self._received = self._received.partition(marker)
        return before
