"""A real guest: Debian's kernel under QEMU with a linear framebuffer and a shell on a serial line."""

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
"""Time limit for a boot, seconds. Emulation on a busy machine is slow."""
TABLET: Final = ("-usb", "-device", "usb-tablet")
"""Arguments of QEMU that add an absolute pointing device. `load-input` loads its driver."""
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
    """A guest that runs inside the `with` block. Any thread may call the methods.

    The block starts when the guest's shell answers. `qmp_path` is for the code under test. A QEMU monitor
    serves one client, so the tests' own commands go through a second monitor.

    Args:
        arguments: Further arguments of QEMU (`("-vnc", "127.0.0.1:0")`).
        kernel_arguments: Further arguments on the kernel's command line.
        vga: QEMU's `-vga`.
        video_mode: The kernel's `vga=`. If the device lacks the mode, the kernel asks the user for another
            one and waits 30 s. Use `normal` with the devices `none` and `cirrus`.
        memory_mb: Memory of the guest, MiB.

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
        """Directory for sockets and pictures; removed at the end."""
        self.monitor: Monitor
        """The tests' own QMP connection."""

    def __enter__(self) -> Self:
        """Boot the guest and wait for its shell.

        Raises:
            TestbedError: The image cannot be built, or the guest does not boot.
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
        """Kill the guest."""
        self.stop()

    @property
    def pid(self) -> int:
        """Process ID of QEMU."""
        return self._process.pid

    @property
    def qmp_path(self) -> Path:
        """Socket of the monitor for the code under test."""
        return self.directory / "qmp.sock"

    @property
    def url(self) -> str:
        """Target URL of this guest."""
        return f"qemu:{self.qmp_path}"

    @property
    def running(self) -> bool:
        """Whether QEMU runs."""
        return self._process.poll() is None

    def start(self) -> None:
        """Start QEMU and return when its monitors answer. The guest is still booting."""
        built = image()
        self.directory = Path(
            self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="vramtap-guest-"))
        )
        self._serial, serial_end = socket.socketpair()
        own_end, monitor_end = socket.socketpair()
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
        self.monitor = Monitor(own_end)
        self._cleanup.callback(self.monitor.close)
        self._cleanup.callback(self._serial.close)
        self._cleanup.callback(stop, self._process)
        try:
            self.monitor.greet()
        except TestbedError as error:
            self._process.wait(10)
            output = (self.directory / "qemu.log").read_text(errors="replace").strip()
            self.stop()
            raise TestbedError(f"QEMU did not start: {output}") from error

    def wait_ready(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Wait until the shell on the serial line is ready.

        Raises:
            TestbedError: The shell is not ready in this time, or QEMU has ended.
        """
        with self._lock:
            self._read_until(_READY, timeout_s, "boot")

    def run(self, command: str, timeout_s: float = 60) -> str:
        """Run a shell command in the guest as root, with an empty standard input.

        Args:
            command: One line of shell.
            timeout_s: Time limit, seconds.

        Returns:
            Its output, standard error included.

        Raises:
            TestbedError: Its exit status is not 0, it takes too long, or QEMU has ended.
        """
        if "\n" in command:
            raise ValueError("a command for the guest is one line")
        with self._lock:
            token = f"done-{next(self._tokens)}"
            self._send(f"{token} {command}\n".encode())
            # Output of an earlier command that ran into its time limit may come first.
            self._read_until(f"{token} begin\n".encode(), timeout_s, command)
            output = self._read_until(f"\n{token} ".encode(), timeout_s, command)
            status = int(self._read_until(b"\n", timeout_s, command))
        text = output.decode(errors="replace")
        if status:
            raise TestbedError(f"guest: {command}: exit status {status}: {text.strip()}")
        return text

    def spawn(self, command: str) -> int:
        """Start a program in the guest and do not wait for it.

        Args:
            command: The program and its arguments.

        Returns:
            Its process ID in the guest, for `kill`.
        """
        return int(self.run(f"(exec {command}) >/dev/null 2>&1 & echo $!"))

    def kill(self, pid: int) -> None:
        """Kill a program in the guest and wait for its end."""
        self.run(f"kill -9 {pid}; while test -d /proc/{pid}; do usleep 10000; done")

    def show(self, text: str) -> None:
        """Write lines on the console."""
        lines = " ".join(shlex.quote(line) for line in text.split("\n"))
        self.run(f"printf '%s\\n' {lines} >/dev/tty1")

    def prompt(self) -> None:
        """Start a new shell on the console and wait until it shows its prompt on an empty screen.

        The new shell drops characters that another test typed without Enter.
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
        """Stop the blinking cursor and kernel messages, and wait until the screen no longer changes."""
        self.run("dmesg -n 1; echo 0 >/sys/class/graphics/fbcon/cursor_blink")
        self.screendump()

    def restore(self) -> None:
        """Set the mode of the boot, empty the console and stop everything that draws."""
        self.run("killall -q -9 fbtool; fbtool mode 1024 768 32; printf '\\033c' >/dev/tty1")
        self.quiet()

    def screendump(self) -> NDArray[np.uint32]:
        """Return the screen as QEMU shows it: the ground truth.

        A single picture may tear, so pictures are taken until two in a row are equal.

        Returns:
            Shape `(height, width)`, `0x00RRGGBB`.

        Raises:
            TestbedError: No two pictures are equal because something draws, or QEMU has ended.
        """
        last = self.screendump_once()
        for _ in range(_STABLE_ATTEMPTS):
            again = self.screendump_once()
            if again.shape == last.shape and np.array_equal(again, last):
                return again
            last = again
        raise TestbedError(
            f"screendump: {_STABLE_ATTEMPTS} pictures, no two in a row are equal (does something draw?)"
        )

    def screendump_once(self) -> NDArray[np.uint32]:
        """Return one picture. It may tear if the guest draws."""
        descriptor, name = tempfile.mkstemp(dir=self.directory, suffix=".ppm")
        os.close(descriptor)
        path = Path(name)
        try:
            self.monitor.execute("screendump", filename=name)
            return ppm.parse(path.read_bytes())
        finally:
            path.unlink()

    def reboot(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Reboot the guest from inside and wait for its shell. The effect of `quiet` is lost."""
        with self._lock:
            self._send(b"reboot reboot -f\n")
            self._read_until(_READY, timeout_s, "reboot")

    def reset(self) -> None:
        """Reset the guest. `wait_ready` waits until it has booted."""
        self.monitor.execute("system_reset")

    def wait_end(self) -> int:
        """Wait until QEMU ends.

        Returns:
            Its exit status.
        """
        return self._process.wait()

    def stop(self) -> None:
        """Kill QEMU and remove its files. Does nothing if that is done already."""
        self._cleanup.close()

    def _send(self, data: bytes) -> None:
        try:
            self._serial.settimeout(10)
            self._serial.sendall(data)
        except OSError as error:
            raise TestbedError(f"guest: serial line: {error}") from error

    def _read_until(self, marker: bytes, timeout_s: float, doing: str) -> bytes:
        """Return everything before the marker. The marker is removed from the input."""
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._serial, selectors.EVENT_READ)
            while marker not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    last = self._received[-500:]
                    raise TestbedError(
                        f"guest: {doing}: no end after {timeout_s:.0f} s, last output {last!r}"
                    )
                data = self._serial.recv(65536)
                if not data:
                    raise TestbedError(f"guest: {doing}: QEMU ended, last output {self._received[-500:]!r}")
                self._received += data
        before, _, self._received = self._received.partition(marker)
        return before
