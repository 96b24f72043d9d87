"""Builds what the Xen testbed's HVM guests boot from."""

from __future__ import annotations

import lzma
import struct
import subprocess
from pathlib import Path
from typing import Final

from support.testbed.cache import built, key
from support.testbed.cpio import Archive
from support.testbed.errors import TestbedError

HERE: Final = Path(__file__).resolve().parent
INIT: Final = HERE.parents[1] / "support" / "testbed" / "guest" / "init"
LOADED_AT: Final = 0x7C00
"""Where a BIOS loads the boot sector and enters it."""
MOST_SECTORS: Final = 64
"""What the boot sector loads, itself included; guest.S ends there too."""
SECTOR_BYTES: Final = 512
DISK_BYTES: Final = 1 << 20
"""A disk of this size: SeaBIOS takes no geometry from a smaller one."""
KERNEL_AT: Final = 0x1000000
"""The physical address that Debian's kernel is linked for, and its 64-bit entry."""
# The setup header in a bzImage and in `boot_params`, its magic number, and the member payload_offset.
_HEADER: Final = 0x1F1
_HEADER_MAGIC: Final = 0x202
_PAYLOAD: Final = 0x248
_PAGE: Final = 4096
_PT_LOAD: Final = 1


def boot_sector_disk() -> Path:
    """The raw disk image of the boot-sector guest (`guest.S`), assembled if its source has changed.

    Raises:
        TestbedError: binutils is not there or refuses the source, or the guest has outgrown what it loads.
    """
    return _disk("guest.S", MOST_SECTORS)


def linux_disk() -> Path:
    """The raw disk image that enters the Linux guest's kernel (`linux.S`); built as the other.

    Raises:
        TestbedError: as `boot_sector_disk`.
    """
    return _disk("linux.S", 1)


def linux_kernel(bzimage: Path) -> Path:
    """What dom0 writes into the Linux guest's memory to boot it.

    A page that becomes the kernel's `boot_params`, with the setup header in it, then the kernel as it lies in
    memory from `KERNEL_AT` on, whose first byte is its 64-bit entry. An emulated guest would take a minute to
    unpack it.

    Args:
        bzimage: The kernel as Debian packs it.

    Raises:
        TestbedError: it is no kernel of that kind.
    """
    content = bzimage.read_bytes()

    def build(directory: Path) -> None:
        (directory / "linux.kernel").write_bytes(_boot_params(content) + _kernel(content))

    return built(f"xen/linux-kernel-{_recipe(content)}", build) / "linux.kernel"


def linux_initramfs(busybox: Path) -> Path:
    """The initramfs of the Linux guest: busybox and the QEMU testbed's init, which needs no module.

    Args:
        busybox: The static program.
    """
    init, program = INIT.read_bytes(), busybox.read_bytes()

    def build(directory: Path) -> None:
        archive = Archive()
        for name in ("bin", "dev"):
            archive.directory(name)
        archive.device("dev/console", 5, 1)
        archive.file("init", init, executable=True)
        archive.file("bin/busybox", program, executable=True)
        (directory / "linux.cpio").write_bytes(archive.finish())

    return built(f"xen/linux-initramfs-{_recipe(init, program)}", build) / "linux.cpio"


def _boot_params(bzimage: bytes) -> bytes:
    """The page of that name, empty but for the setup header (Documentation/x86/boot.rst)."""
    if bzimage[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS":
        raise TestbedError("the kernel for the Linux guest: no bzImage")
    end = _HEADER_MAGIC + bzimage[_HEADER_MAGIC - 1]
    return (bytes(_HEADER) + bzimage[_HEADER:end]).ljust(_PAGE, b"\0")


def _kernel(bzimage: bytes) -> bytes:
    """The kernel's segments where they lie in memory, from the bzImage's payload."""
    offset, size = struct.unpack_from("<II", bzimage, _PAYLOAD)
    start = (bzimage[_HEADER] + 1) * SECTOR_BYTES + offset
    try:
        elf = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(bzimage[start : start + size])
    except lzma.LZMAError as error:
        raise TestbedError(f"the kernel for the Linux guest: not packed with xz: {error}") from error
    # Elf64_Ehdr and Elf64_Phdr of elf(5).
    entry, table = struct.unpack_from("<QQ", elf, 24)
    entry_bytes, entries = struct.unpack_from("<HH", elf, 54)
    memory = bytearray()
    for number in range(entries):
        kind, _, at, _, address, in_file = struct.unpack_from("<IIQQQQ", elf, table + number * entry_bytes)
        if kind == _PT_LOAD:
            place = address - KERNEL_AT
            memory.extend(bytes(max(0, place + in_file - len(memory))))
            memory[place : place + in_file] = elf[at : at + in_file]
    if entry != KERNEL_AT:
        raise TestbedError(f"the kernel for the Linux guest: entry at {entry:#x}, not {KERNEL_AT:#x}")
    # What is zero at the end is .bss, which the kernel clears.
    return bytes(memory.rstrip(b"\0"))


def _disk(source: str, most_sectors: int) -> Path:
    sources = sorted(HERE.glob("*.S"))
    name = f"xen/{Path(source).stem}-{_recipe(*(path.read_bytes() for path in sources))}"
    return built(name, lambda directory: _assemble(HERE / source, most_sectors, directory)) / "disk.img"


def _recipe(*parts: bytes) -> str:
    return key(Path(__file__).read_bytes(), *parts)


def _assemble(source: Path, most_sectors: int, directory: Path) -> None:
    obj, flat = directory / "guest.o", directory / "guest.bin"
    # Assembled as 64-bit code, which can hold 16- and 32-bit code too; not the other way round.
    _run("as", "--64", "-I", str(HERE), "-o", str(obj), str(source))
    _run("ld", "-m", "elf_x86_64", "-Ttext", hex(LOADED_AT), "--oformat", "binary", "-o", str(flat), str(obj))
    code = flat.read_bytes()
    if len(code) > most_sectors * SECTOR_BYTES:
        raise TestbedError(f"{source.name}: {len(code)} bytes, but {most_sectors} sectors of it are loaded")
    (directory / "disk.img").write_bytes(code.ljust(DISK_BYTES, b"\0"))


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise TestbedError(f"{command[0]}: not found (install binutils)") from error
    if done.returncode:
        raise TestbedError(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr.strip()}")
