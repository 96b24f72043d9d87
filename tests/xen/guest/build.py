"""Builds what the Xen laboratory's HVM guests boot from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from lab.cache import built, key
from lab.errors import LabError
from lab.image import image

HERE: Final = Path(__file__).resolve().parent
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
    """The initramfs of the Linux guest: the QEMU laboratory's, whose init needs no module for what it does.

    Raises:
        LabError: it cannot be built.
    """
    return image().initrd


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
