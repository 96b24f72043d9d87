"""Boots a Xen host in emulated QEMU, runs one command in its dom0, and brings back what that leaves.

Two ways lead out of dom0. Its console is Xen's serial port: text, live, and good for nothing that has to be
complete, since the hypervisor writes there too. Files go through a 9p share of a directory of ours: 3 MB take
0.2 s, while Xen traps every byte to a serial line of dom0's, and a disk image would have to be taken apart.
The exit status is such a file. That there will be no more is QEMU's end: dom0 powers off after the command.
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
"""File beside what dom0 leaves: everything that the serial port said; where the time was up, with what Xen
says of dom0's registers, its processors and its run queues, and QEMU of the processor's registers."""
# What dom0's init writes before it runs the command, and where the command's exit status goes.
_READY: Final = "TESTBED ready"
_STATUS: Final = "status"
# max: AMD's virtualization with nested paging. QEMU 7.2 faults on dom0's return from ring 0 to 3 with SMAP.
# With a model by name, EPYC, Xen panics in mwait_idle.
_CPU: Final = "max,-smap"
# With the lazy FPU that Xen takes by default on this CPU, dom0's vector registers are lost now and then while
# a guest runs.
_XEN: Final = (
    "com1=115200,8n1 console=com1 loglvl=warning guest_loglvl=warning "
    "dom0_mem=1400M,max:1400M spec-ctrl=eager-fpu"
)
_DOM0: Final = "console=hvc0 quiet loglevel=4"
_MEMORY_MB: Final = 2560
# Keys for Xen (xen/common/keyhandler.c), which gets them because of conswitch: 0 asks for dom0's registers, d
# for every processor's, r for the run queues. One without a meaning is an interrupt all the same: an emulated
# timer's seems to get lost now and then, and while nothing else interrupts a guest that computes, dom0 stands
# still.
_KEYS_FOR_XEN: Final = "conswitch=ax"
_KICK: Final = b"~"
_KICK_S: Final = 0.25
_ASK_XEN: Final = b"0dr"
_ANSWER_S: Final = 3.0
_TAIL_LINES: Final = 40
_MOST_AT_ONCE: Final = 1 << 16


class Host:
    """A Xen host that boots inside the `with` block and is gone at its end, whatever happens.

    Args:
        hypervisor: The program that QEMU boots.
        command: A shell script for dom0, run in its directory `/vramtap` when Xen's services are up.
        out: An existing directory that dom0 sees as `/out`; the console's text is left there too.
        keys_for: Who gets what is typed on the console: Xen, which `follow` needs, or dom0.
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
            TestbedError: it cannot be built or started.
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
        """Kill it and remove everything."""
        self._cleanup.close()

    @property
    def running(self) -> bool:
        """Whether QEMU's process is there."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End QEMU at once, from any thread: whoever follows it is told. Harmless when it has ended."""
        stop(self._process)

    def follow(self, timeout_s: float, on_line: Callable[[str], None]) -> int:
        """Wait until the command has ended.

        Args:
            timeout_s: How long all of it may take, from now.
            on_line: Told each line of the command's output as it comes.

        Returns:
            The command's exit status.

        Raises:
            TestbedError: dom0 did not come up, or the time is up; with the console's last lines.
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
            TestbedError: standard input is no terminal.
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
        """Type them; who has ended takes none, and `_receive` says so."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._line.sendall(keys)

    def _receive(self) -> bytes:
        """What the console says next; nothing: QEMU has ended, be it with keys that it had not taken."""
        try:
            return self._line.recv(_MOST_AT_ONCE)
        except ConnectionResetError:
            return b""

    def _registers(self) -> str:
        """Those of the emulated processor: where Xen does not answer, it stands there."""
        try:
            self._monitor.greet()
            return self._monitor.human("info registers")
        except TestbedError as error:
            return f"no registers: {error}\n"

    def _start(self) -> None:
        name = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="vramtap-xen-"))
        directory = Path(name)
        layers.write(self._command, directory)
        # Relative names: QEMU takes its list of boot modules apart at commas and spaces.
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
    """Takes the serial port's bytes apart: the command's lines as they come, the last lines for an error."""

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
    """What a terminal would show of a line; the consoles on the way add carriage returns of their own."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
