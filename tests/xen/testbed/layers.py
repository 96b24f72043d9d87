"""Builds dom0's initramfs from archives that change at different rates.

The layers are Debian's packages (built once), the dependencies (after a change of pyproject.toml), the
program (after a change of `src`), and the tests, guests and command (built for each boot).
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePath
from typing import Final

from support.testbed.cpio import Archive
from xen.guest.build import boot_sector_disk, linux_disk, linux_initramfs, linux_kernel
from xen.testbed.debian import Debian, debian
from xen.testbed.program import PROJECT, dependencies, program

HOME: Final = "vramtap"
"""dom0's directory with the project's tests and pyproject.toml, below `/`."""
_TESTS: Final = PROJECT / "tests"
_INIT: Final = _TESTS / "xen" / "dom0" / "init"


def prepare() -> tuple[Debian, list[Path]]:
    """Build the layers that are missing in the cache.

    Raises:
        TestbedError: A part cannot be built.
    """
    base = debian()
    _guests(base)
    return base, [base.layer, dependencies(base), program(base)]


def write(command: str, into: Path) -> None:
    """Write dom0's `vmlinuz` and `initrd`.

    Args:
        command: A shell script for dom0, run in its directory `/vramtap` when Xen's services are up.
        into: The directory to write to.

    Raises:
        TestbedError: A part cannot be built.
    """
    base, layers = prepare()
    (into / "vmlinuz").symlink_to(base.kernel)
    with (into / "initrd").open("wb") as initrd:
        for layer in layers:
            with layer.open("rb") as source:
                shutil.copyfileobj(source, initrd, 1 << 20)
        initrd.write(_fresh(command, _guests(base)))


def _guests(base: Debian) -> dict[str, Path]:
    """Return the files of /guests in dom0, by name."""
    return {
        "boot-sector.img": boot_sector_disk(),
        "linux.img": linux_disk(),
        "linux.kernel": linux_kernel(base.kernel),
        "linux.cpio": linux_initramfs(base.busybox),
    }


def _fresh(command: str, guests: dict[str, Path]) -> bytes:
    archive = Archive()
    archive.file("init", _INIT.read_bytes(), executable=True)
    archive.file("testbed/command", f"cd /{HOME}\n{command}\n".encode())
    for guest, source in guests.items():
        archive.file(f"guests/{guest}", source.read_bytes())
    archive.directory(HOME)
    archive.file(f"{HOME}/pyproject.toml", (PROJECT / "pyproject.toml").read_bytes())
    directories: set[PurePath] = set()
    for path in sorted(_TESTS.rglob("*")):
        wanted = path.suffix == ".py" or path.parent.name in ("guest", "dom0")
        if not wanted or not path.is_file() or "__pycache__" in path.parts:
            continue
        name = PurePath(HOME) / path.relative_to(PROJECT)
        for parent in reversed(name.parents[:-2]):
            if parent not in directories:
                directories.add(parent)
                archive.directory(str(parent))
        archive.file(str(name), path.read_bytes())
    return archive.finish()
