"""Builds what the Xen laboratory's HVM guests boot from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from lab.cache import built, key
from lab.cpio import Archive
from lab.errors import LabError

HERE: Final = Path(__file__).resolve().parent
INIT: Final = HERE.parents[1] / "lab" / "guest" / "init"
BUSYBOX: Final = Path("/bin/busybox")
LOADED_AT: Final = 0x7C00
"""Where a BIOS loads the boot sector and enters it."""
MOST_SECTORS: Final = 64
"""What the boot sector loads, itself included; guest.S ends there too."""
SECTOR_BYTES: Final = 512
DISK_BYTES: Final = 1 << 20
"""A disk of this size: SeaBIOS takes no geometry from a smaller one."""


def boot_sector_disk() -> Path:
    """The raw disk image of the boot-sector guest (`guest.S`), assembled if its source has changed.

    Raises:
        LabError: binutils is not there or refuses the source, or the guest has outgrown what it loads.
    """
    sources = sorted(HERE.glob("*.S"))
    name = f"xen-boot-sector-{key(*(path.read_bytes() for path in sources), Path(__file__).read_bytes())}"
    return built(name, lambda directory: _assemble(HERE / "guest.S", directory)) / "boot-sector.img"


def linux_initramfs() -> Path:
    """The initramfs of the Linux guest: busybox and the QEMU laboratory's init, which needs no module.

    Nothing more, because the BIOS reads it byte by byte through an emulated port.

    Raises:
        LabError: there is no busybox here.
    """
    if not BUSYBOX.exists():
        raise LabError(f"{BUSYBOX} not found (install the package busybox-static)")
    init, busybox = INIT.read_bytes(), BUSYBOX.read_bytes()

    def build(directory: Path) -> None:
        archive = Archive()
        for name in ("bin", "dev"):
            archive.directory(name)
        archive.device("dev/console", 5, 1)
        archive.file("init", init, executable=True)
        archive.file("bin/busybox", busybox, executable=True)
        (directory / "linux.cpio").write_bytes(archive.finish())

    name = f"xen-linux-{key(Path(__file__).read_bytes(), init, busybox)}"
    return built(name, build) / "linux.cpio"


def _assemble(source: Path, directory: Path) -> None:
    obj, flat = directory / "guest.o", directory / "guest.bin"
    # Assembled as 64-bit code, which can hold 16- and 32-bit code too; not the other way round.
    _run("as", "--64", "-I", str(HERE), "-o", str(obj), str(source))
    _run("ld", "-m", "elf_x86_64", "-Ttext", hex(LOADED_AT), "--oformat", "binary", "-o", str(flat), str(obj))
    code = flat.read_bytes()
    if len(code) > MOST_SECTORS * SECTOR_BYTES:
        raise LabError(f"{source.name}: {len(code)} bytes, but its boot sector loads {MOST_SECTORS} sectors")
    (directory / "boot-sector.img").write_bytes(code.ljust(DISK_BYTES, b"\0"))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{command[0]}: not found (install binutils)") from error
    if done.returncode:
        raise LabError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip()}")
