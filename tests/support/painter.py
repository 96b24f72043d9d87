"""Painter: a QEMU guest that boots in a second, under any accelerator, and writes pixels for ever."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.testbed import ppm
from support.testbed.cache import built, key, run
from support.testbed.qmp import Monitor
from support.testbed.supervise import spawn, stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

SOURCE: Final = Path(__file__).with_name("painter.S")
SIZE: Final = (600, 800)
"""Height and width of its screen."""
_DISK_BYTES: Final = 1 << 20
_PICTURE: Final = "picture.ppm"


@dataclass(frozen=True)
class Painter:
    """A running guest.

    Args:
        pid: The started process: QEMU, unless it turns itself into a daemon.
        directory: Holds sockets and pictures.
        monitor: QMP monitor for the test itself.
    """

    pid: int
    directory: Path
    monitor: Monitor

    def url(self, number: int = 0) -> str:
        """Return the URL to tap, with one of two further monitors."""
        return f"qemu:{self.directory}/qmp{number}"

    def picture(self) -> NDArray[np.uint32]:
        """Return QEMU's screendump, shape `(height, width)`. It tears unless the guest is stopped."""
        path = self.directory / _PICTURE
        self.monitor.execute("screendump", filename=str(path))
        return ppm.parse(path.read_bytes())


@contextlib.contextmanager
def painter(*arguments: str, prefix: Sequence[str] = ()) -> Iterator[Painter]:
    """Run QEMU with this guest inside the `with` block.

    Args:
        arguments: Further arguments for QEMU. Without `-accel` QEMU emulates.
        prefix: Command that runs QEMU.
    """
    accelerator = () if "-accel" in arguments else ("-accel", "tcg")
    with contextlib.ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="vramtap-painter-")))
        directory.chmod(0o711)  # QEMU may run as another user
        (directory / _PICTURE).touch()
        (directory / _PICTURE).chmod(0o666)
        disk = directory / "disk"
        disk.write_bytes(_sector().read_bytes().ljust(_DISK_BYTES, b"\0"))
        ours, theirs = socket.socketpair()
        with theirs:
            argv = [*prefix, "qemu-system-x86_64", "-nodefaults", *accelerator, "-m", "64", "-vga", "std"]
            argv += ["-display", "none", "-drive", f"file={disk},format=raw,if=ide"]
            argv += ["-chardev", f"socket,id=test,fd={theirs.fileno()}", "-mon", "chardev=test,mode=control"]
            for number in range(2):
                argv += ["-qmp", f"unix:{directory}/qmp{number},server=on,wait=off"]
            process = spawn([*argv, *arguments], pass_fds=(theirs.fileno(),))
        cleanup.callback(stop, process)
        monitor = Monitor(ours)
        cleanup.callback(monitor.close)
        monitor.greet()
        yield Painter(process.pid, directory, monitor)


def _sector() -> Path:
    def build(into: Path) -> None:
        target = str(into / "painter.o")
        run("gcc", "-m32", "-c", "-o", target, str(SOURCE))
        run(
            "ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "-o", f"{into}/painter", target
        )
        os.unlink(target)

    return built(f"painter-{key(SOURCE.read_bytes())}", build) / "painter"
