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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from lab.errors import LabError
from lab.supervise import spawn, stop
from xen.lab import layers

READY: Final = "LAB ready"
"""What dom0's init writes before it runs the command."""
STATUS: Final = "status"
CONSOLE: Final = "console.log"
"""File beside what dom0 leaves: everything that the serial port said."""
# max: AMD's virtualization with nested paging. QEMU 7.2 faults on dom0's return from ring 0 to 3 with SMAP.
# A named model, EPYC, has Xen panic in mwait_idle.
_CPU: Final = "max,-smap"
# With the lazy FPU that Xen takes by default on this CPU, dom0's vector registers are lost now and then while
# a guest runs.
_XEN: Final = (
    "com1=115200,8n1 console=com1 loglvl=warning guest_loglvl=warning "
    "dom0_mem=1400M,max:1400M spec-ctrl=eager-fpu"
)
_DOM0: Final = "console=hvc0 quiet loglevel=4"
_MEMORY_MB: Final = 2560
_TAIL_LINES: Final = 40


def run(
    hypervisor: Path,
    command: str,
    *,
    out: Path,
    timeout_s: float,
    on_line: Callable[[str], None] | None = None,
) -> int:
    """Boot, run a command in dom0, end.

    Args:
        hypervisor: The program that QEMU boots.
        command: A shell script; see `layers.write`.
        out: An existing directory that dom0 sees as `/out`; the console's text is left there too.
        timeout_s: For all of it.
        on_line: Told each line of the command's output as it comes.

    Returns:
        The command's exit status.

    Raises:
        LabError: it cannot be built or does not boot, QEMU ended before the command did, or the time is up;
            with the console's last lines.
    """
    console = _Console(on_line)
    deadline = time.monotonic() + timeout_s
    (out / STATUS).unlink(missing_ok=True)
    with _booted(hypervisor, command, out) as (process, line), (out / CONSOLE).open("wb") as log:
        with selectors.DefaultSelector() as selector:
            selector.register(line, selectors.EVENT_READ)
            while True:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise LabError(f"Xen host: not done after {timeout_s:.0f} s{console.tail()}")
                data = line.recv(1 << 16)
                if not data:
                    break
                log.write(data)
                log.flush()
                console.feed(data)
        process.wait()
    try:
        return int((out / STATUS).read_text())
    except (FileNotFoundError, ValueError) as error:
        raise LabError(f"Xen host: ended before its command did{console.tail()}") from error


def shell(hypervisor: Path, out: Path) -> None:
    """Boot and connect this process's terminal with a shell in dom0, until that ends.

    Raises:
        LabError: standard input is no terminal, or it cannot be built.
    """
    if not sys.stdin.isatty():
        raise LabError("a shell in dom0 needs a terminal (for one command there is --run)")
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    was = termios.tcgetattr(keyboard)
    with (
        _booted(hypervisor, "setsid cttyhack sh -i", out) as (_, line),
        selectors.DefaultSelector() as selector,
    ):
        try:
            tty.setraw(keyboard)
            selector.register(line, selectors.EVENT_READ)
            selector.register(keyboard, selectors.EVENT_READ)
            while True:
                for ready, _ in selector.select():
                    if ready.fileobj is line:
                        data = line.recv(1 << 16)
                        if not data:
                            return
                        os.write(screen, data)
                    else:
                        line.sendall(os.read(keyboard, 4096))
        finally:
            termios.tcsetattr(keyboard, termios.TCSADRAIN, was)


@contextlib.contextmanager
def _booted(
    hypervisor: Path, command: str, out: Path
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """QEMU and its serial port; gone at the end of the block, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="vramtap-xen-") as name, contextlib.ExitStack() as cleanup:
        # Relative names: QEMU takes the list of boot modules apart at its commas and spaces.
        directory = Path(name)
        layers.write(command, directory)
        (directory / "xen").symlink_to(hypervisor)
        (directory / "out").symlink_to(out.resolve())
        line, theirs = socket.socketpair()
        cleanup.enter_context(line)
        with theirs, (directory / "qemu.log").open("wb") as log:
            argv = ["qemu-system-x86_64", "-accel", "tcg", "-M", "pc", "-cpu", _CPU, "-m", str(_MEMORY_MB)]
            argv += ["-nodefaults", "-no-reboot", "-display", "none", "-vga", "none"]
            argv += ["-chardev", f"socket,id=com1,fd={theirs.fileno()}", "-serial", "chardev:com1"]
            argv += ["-kernel", "xen", "-append", _XEN, "-initrd", f"vmlinuz {_DOM0},initrd"]
            argv += ["-virtfs", "local,path=out,mount_tag=out,security_model=none"]
            process = spawn(
                argv, stdout=log, stderr=subprocess.STDOUT, pass_fds=(theirs.fileno(),), cwd=directory
            )
        cleanup.callback(stop, process)
        yield process, line
        if process.poll():
            said = (directory / "qemu.log").read_text(errors="replace").strip()
            raise LabError(f"QEMU: exit status {process.returncode}: {said}")


class _Console:
    """Takes the serial port's bytes apart: the command's lines as they come, the last lines for an error."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line = on_line
        self._rest = b""
        self._last: list[str] = []
        self._ready = False

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for each in lines:
            line = _seen(each)
            self._last = [*self._last[1 - _TAIL_LINES :], line]
            if self._ready and self._on_line is not None and not line.startswith("(XEN)"):
                self._on_line(line)
            self._ready = self._ready or line.endswith(READY)

    def tail(self) -> str:
        said = "\n".join([*self._last, _seen(self._rest)]).strip()
        return f"; the console's last lines:\n{said}" if said else "; its console said nothing"


def _seen(line: bytes) -> str:
    """What a terminal would show of a line; the laboratory's consoles add carriage returns of their own."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
