"""Boots a Xen host in emulated QEMU, runs one command in its dom0, and collects its output.

dom0 has two outputs. Its console is Xen's serial port: live text, but not reliably complete, because the
hypervisor writes there too. Files go through a 9p share of a host directory, at 3 MB in 0.2 s. A serial line
of dom0 would be slow, because Xen traps each byte, and a disk image would need unpacking. The exit status is
such a file. After the command dom0 powers off, and QEMU's end shows that the output is complete.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import termios
import time
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

from support.testbed.errors import TestbedError
from support.testbed.qmp import Monitor
from support.testbed.supervise import spawn, stop
from xen.testbed import layers

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

CONSOLE: Final = "console.log"
"""File in `/out` with all output of the serial port.

If the time was up, it ends with dom0's registers, processors and run queues (from Xen), and the processor's
registers (from QEMU).
"""
# The line that dom0's init writes before the command, and the file with the command's exit status.
_READY: Final = "TESTBED ready"
_STATUS: Final = "status"
# max: AMD's virtualization with nested paging. QEMU 7.2 faults on dom0's return from ring 0 to 3 with SMAP.
# With a model by name, EPYC, Xen panics in mwait_idle.
_CPU: Final = "max,-smap"
# By default Xen uses the lazy FPU on this CPU. dom0's vector registers are then sometimes lost while a guest
# runs.
_XEN: Final = (
    "com1=115200,8n1 console=com1 loglvl=warning guest_loglvl=warning "
    "dom0_mem=1400M,max:1400M spec-ctrl=eager-fpu"
)
_DOM0: Final = "console=hvc0 quiet loglevel=4"
_MEMORY_MB: Final = 2560
# Keys for Xen (xen/common/keyhandler.c), which receives them because of conswitch: 0 prints dom0's registers,
# d those of each processor, r the run queues. A key without a meaning still causes an interrupt. An emulated
# timer's interrupt sometimes seems to get lost. Then nothing interrupts a guest that computes, and dom0 does
# not run until a key comes.
_KEYS_FOR_XEN: Final = "conswitch=ax"
_KICK: Final = b"~"
_KICK_S: Final = 0.25
_ASK_XEN: Final = b"0dr"
_ANSWER_S: Final = 3.0
_TAIL_LINES: Final = 40
_MOST_AT_ONCE: Final = 1 << 16


class Host:
    """A Xen host that runs inside the `with` block.

    Args:
        hypervisor: The program that QEMU boots.
        command: A shell script for dom0, run in its directory `/vramtap` when Xen's services are up.
        out: An existing directory that dom0 sees as `/out`. The console's log goes there too.
        keys_for: The receiver of the console's keys: Xen (`follow` needs that) or dom0.
    """

    def __init__(
        self, hypervisor: Path, command: str, *, out: Path, keys_for: Literal["xen", "dom0"] = "xen"
    ) -> None:
        self._hypervisor = hypervisor
        self._command = command
        self._out = out.resolve()
        self._arguments = f"{_XEN} {_KEYS_FOR_XEN}" if keys_for == "xen" else _XEN
        self._cleanup = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes]
        self._line: socket.socket
        self._said: Path
        self._monitor: Monitor

    def __enter__(self) -> Self:
        """Build what is missing and start QEMU.

        Raises:
            TestbedError: A part cannot be built, or QEMU does not start.
        """
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill QEMU and remove all temporary files."""
        self._cleanup.close()

    @property
    def running(self) -> bool:
        """Whether QEMU's process is running."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End QEMU at once, from any thread. `follow` then returns or raises. No effect after the end."""
        stop(self._process)

    def follow(self, timeout_s: float, on_line: Callable[[str], None]) -> int:
        """Wait until the command has ended.

        Args:
            timeout_s: The time limit, from now.
            on_line: Called with each line of the command's output.

        Returns:
            The command's exit status.

        Raises:
            TestbedError: dom0 did not boot, or the time is up. The message has the console's last lines.
        """
        console = _Console(on_line)
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector, (self._out / CONSOLE).open("wb") as log:
            selector.register(self._line, selectors.EVENT_READ)
            while True:
                ready = selector.select(min(_KICK_S, max(0.0, deadline - time.monotonic())))
                if time.monotonic() >= deadline:
                    self._send(_ASK_XEN)
                    until = time.monotonic() + _ANSWER_S
                    while selector.select(max(0.0, until - time.monotonic())) and (data := self._receive()):
                        log.write(data)
                    log.write(self._registers().encode())
                    raise TestbedError(f"Xen host: not done after {timeout_s:.0f} s{console.tail()}")
                if not ready:
                    self._send(_KICK)
                    continue
                data = self._receive()
                if not data:
                    break
                log.write(data)
                log.flush()
                console.feed(data)
        if self._process.wait():
            said = self._said.read_text(errors="replace").strip()
            raise TestbedError(f"Xen host: QEMU's exit status {self._process.returncode}: {said}")
        try:
            return int((self._out / _STATUS).read_text())
        except (FileNotFoundError, ValueError) as error:
            raise TestbedError(f"Xen host: ended before its command did{console.tail()}") from error

    def converse(self) -> None:
        """Connect this process's terminal with the console until QEMU ends.

        Raises:
            TestbedError: Standard input is not a terminal.
        """
        if not sys.stdin.isatty():
            raise TestbedError("a shell in dom0 needs a terminal (--run takes a command)")
        keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
        before = termios.tcgetattr(keyboard)
        with selectors.DefaultSelector() as selector:
            selector.register(self._line, selectors.EVENT_READ)
            selector.register(keyboard, selectors.EVENT_READ)
            tty.setraw(keyboard)
            try:
                while True:
                    for ready, _ in selector.select():
                        if ready.fileobj is not self._line:
                            self._line.sendall(os.read(keyboard, _MOST_AT_ONCE))
                        elif data := self._line.recv(_MOST_AT_ONCE):
                            os.write(screen, data)
                        else:
                            return
            finally:
                termios.tcsetattr(keyboard, termios.TCSADRAIN, before)

    def _send(self, keys: bytes) -> None:
        """Send keys to the console. If QEMU has ended, ignore that: `_receive` reports it."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._line.sendall(keys)

    def _receive(self) -> bytes:
        """Return the console's next output, or nothing if QEMU has ended, even with unread keys."""
        try:
            return self._line.recv(_MOST_AT_ONCE)
        except ConnectionResetError:
            return b""

    def _registers(self) -> str:
        """Return the registers of the emulated processor, which help if Xen does not answer."""
        try:
            self._monitor.greet()
            return self._monitor.human("info registers")
        except TestbedError as error:
            return f"no registers: {error}\n"

    def _start(self) -> None:
        name = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="vramtap-xen-"))
        directory = Path(name)
        layers.write(self._command, directory)
        # Relative names, because QEMU splits its list of boot modules at commas and spaces.
        (directory / "xen").symlink_to(self._hypervisor)
        (directory / "out").symlink_to(self._out)
        (self._out / _STATUS).unlink(missing_ok=True)
        self._said = directory / "qemu.log"
        self._line, theirs = socket.socketpair()
        self._cleanup.enter_context(self._line)
        ours, monitor = socket.socketpair()
        self._monitor = Monitor(ours)
        self._cleanup.callback(self._monitor.close)
        with theirs, monitor, self._said.open("wb") as log:
            argv = ["qemu-system-x86_64", "-accel", "tcg", "-M", "pc", "-cpu", _CPU, "-m", str(_MEMORY_MB)]
            argv += ["-nodefaults", "-no-reboot", "-display", "none", "-vga", "none"]
            argv += ["-chardev", f"socket,id=com1,fd={theirs.fileno()}", "-serial", "chardev:com1"]
            argv += [
                "-chardev",
                f"socket,id=testbed,fd={monitor.fileno()}",
                "-mon",
                "chardev=testbed,mode=control",
            ]
            argv += ["-kernel", "xen", "-append", self._arguments, "-initrd", f"vmlinuz {_DOM0},initrd"]
            argv += ["-virtfs", "local,path=out,mount_tag=out,security_model=none"]
            self._process = spawn(
                argv,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(), monitor.fileno()),
                cwd=directory,
            )
        self._cleanup.callback(stop, self._process)


class _Console:
    """Splits the serial port's bytes into the command's lines, and keeps the last lines for an error."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""
        self._last: list[str] = []
        self._ready = False

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for each in lines:
            line = _seen(each)
            self._last = [*self._last[1 - _TAIL_LINES :], line]
            if self._ready and not line.startswith("(XEN)"):
                self._on_line(line)
            self._ready = self._ready or line.endswith(_READY)

    def tail(self) -> str:
        said = "\n".join([*self._last, _seen(self._rest)]).strip()
        return f"; the console's last lines:\n{said}" if said else "; its console said nothing"


def _seen(line: bytes) -> str:
    """Return a line as a terminal shows it. The consoles on the way add carriage returns."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
