"""Builds the guest's image: Debian's kernel, unpacked but not installed, and a busybox initramfs."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.testbed import cache
from support.testbed.cpio import Archive
from support.testbed.errors import TestbedError

MODULES: Final = (
    "evdev",
    "psmouse",
    "usb-common",
    "usbcore",
    "uhci-hcd",
    "hid",
    "hid-generic",
    "usbhid",
)
"""Kernel modules that `load-input` loads."""

_SOURCES: Final = Path(__file__).resolve().parent / "guest"
_METAPACKAGE: Final = "linux-image-amd64"
_VERSIONED: Final = re.compile(r"linux-image-[0-9][A-Za-z0-9.+-]*-amd64")


@dataclass(frozen=True, slots=True)
class Image:
    """Files that QEMU boots.

    Args:
        kernel: The bzImage.
        initrd: The initramfs. It is uncompressed because an emulated CPU decompresses slowly.
    """

    kernel: Path
    initrd: Path


def image() -> Image:
    """Return the guest's kernel and initramfs. Build them if the cache lacks them.

    Raises:
        TestbedError: A tool or the network is missing.
    """
    kernel = _kernel()
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        raise TestbedError(f"{busybox} not found (install the package busybox-static)")
    fbtool = cache.compiled(_SOURCES / "fbtool.c", "-static")
    scripts = {name: (_SOURCES / name).read_bytes() for name in ("init", "load-input")}
    programs = {"busybox": busybox.read_bytes(), "fbtool": fbtool.read_bytes()}
    builder = Path(__file__).read_bytes()
    name = f"initramfs-{cache.key(builder, kernel.name, *scripts.values(), *programs.values())}"

    def build(into: Path) -> None:
        archive = Archive()
        for directory in ("bin", "dev", "modules"):
            archive.directory(directory)
        archive.device("dev/console", 5, 1)
        archive.file("init", scripts["init"], executable=True)
        archive.file("bin/load-input", scripts["load-input"], executable=True)
        for program, content in programs.items():
            archive.file(f"bin/{program}", content, executable=True)
        for module in MODULES:
            archive.file(f"modules/{module}.ko", (kernel / f"{module}.ko").read_bytes())
        (into / "initrd").write_bytes(archive.finish())

    return Image(kernel / "vmlinuz", cache.built(name, build) / "initrd")


def _kernel() -> Path:
    """Return the directory with `vmlinuz` and the modules. Any version in the cache will do."""
    kept = sorted(cache.ROOT.glob("linux-image-*"))
    if kept:
        return kept[-1]
    try:
        return _download()
    except TestbedError:
        # The usual cause is a package list that is missing or out of date.
        if os.geteuid() != 0:
            raise
        cache.run("apt-get", "update", "-q")
        return _download()


def _download() -> Path:
    found = _VERSIONED.search(cache.run("apt-cache", "depends", _METAPACKAGE))
    if not found:
        raise TestbedError(f"apt knows no dependency of {_METAPACKAGE} (run apt-get update)")
    package = found.group()

    def build(into: Path) -> None:
        # The user of apt's sandbox cannot write into this directory. apt would warn and go on as root.
        cache.run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package, cwd=into)
        (archive,) = into.glob("*.deb")
        _unpack(archive, into)
        archive.unlink()

    return cache.built(package, build)


def _unpack(archive: Path, into: Path) -> None:
    wanted = {f"{module}.ko" for module in MODULES}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as unpacker:
        with tarfile.open(fileobj=unpacker.stdout, mode="r|") as members:
            for member in members:
                name = Path(member.name).name
                name = "vmlinuz" if name.startswith("vmlinuz-") else name
                content = members.extractfile(member) if member.isreg() else None
                if content is not None and (name == "vmlinuz" or name in wanted):
                    (into / name).write_bytes(content.read())
        assert unpacker.stdout is not None
        unpacker.stdout.read()
    missing = [name for name in ("vmlinuz", *sorted(wanted)) if not (into / name).exists()]
    if unpacker.returncode or missing:
        raise TestbedError(f"{archive.name}: exit status {unpacker.returncode}, missing {missing}")
