"""dom0's Debian: its kernel and the layer of its initramfs that holds Xen's tools, QEMU and Python.

Everything dom0 has is initramfs: no disk, no loop device, nothing to clean up. The packages are those that
a user of Xen on Debian has; what only their installation needs is left out, since every megabyte costs an
emulated CPU 15 ms at boot.
"""

from __future__ import annotations

import compileall
import lzma
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Final

from support.testbed import cache
from support.testbed.cpio import Archive
from support.testbed.errors import TestbedError
from xen.testbed import apt

XEN: Final = re.compile(r"xen-utils-[0-9.]+")
"""Debian names its packages of Xen by the release, which `xen-system-amd64` depends on."""
_KERNEL: Final = re.compile(r"linux-image-[0-9][A-Za-z0-9.+-]*-amd64")
_PACKAGES: Final = ("xenstore-utils", "qemu-system-xen", "python3", "busybox-static")
MODULES: Final = (
    "xen-evtchn", "xen-privcmd", "xen-gntdev", "xen-gntalloc", "xenfs",
    "virtio_pci", "9pnet_virtio", "9p",
)  # fmt: skip
"""Kernel modules for dom0; those that they need come along."""
# Needed by scripts of the packages, which are not run, or by programs that dom0 does not.
_LEFT_OUT: Final = re.compile(
    r"(perl|libperl|libicu|dpkg|debconf|media-types|udev|iso-codes|ucf|adduser|passwd|libpam|libsemanage|ipxe|tar"
    r"|coreutils|mawk|gcc-\d+-base|sensible-utils).*"
)
_TRIMMED: Final = (
    "boot", "lib/systemd", "lib/udev", "usr/lib/udev", "usr/lib/debug", "usr/lib/xen-*/boot/xen-shim",
    "usr/lib/*/gconv", "usr/lib/*/gstreamer-1.0",
    *(f"usr/share/{name}" for name in (
        "applications", "bash-completion", "bug", "doc", "icons", "info", "iso-codes", "lintian", "locale",
        "man", "vim", "zsh",
    )),
    *(f"usr/share/qemu/{name}" for name in (
        "*.dtb", "edk2*", "firmware", "hppa*", "openbios*", "opensbi*", "palcode*", "s390*", "skiboot*",
        "slof*", "u-boot*",
    )),
    *(f"usr/lib/python3.*/{name}" for name in (
        "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "turtledemo",
    )),
)  # fmt: skip
_DIRECTORIES: Final = (
    "busybox", "dev", "etc/xen", "guests", "modules", "out", "proc", "root", "run", "sys", "testbed", "tmp",
    "usr/local/bin", "var/lib/xen/dump", "var/lib/xenstored", "var/log/xen",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Debian:
    """What is built from Debian's packages.

    Args:
        kernel: dom0's kernel, which an HVM guest can boot too.
        layer: An archive for the initramfs.
        busybox: The static program, for a guest's own initramfs.
        python: Version of dom0's Python: `3.11`.
    """

    kernel: Path
    layer: Path
    busybox: Path
    python: str


def debian() -> Debian:
    """dom0's kernel and Debian layer, from the cache where possible.

    Raises:
        TestbedError: apt cannot fetch the packages.
    """
    sources = [Path(__file__).read_bytes(), Path(apt.__file__).read_bytes()]
    python = "{}.{}".format(*sys.version_info)
    fetched = packages()  # not by the build below, which holds the cache's lock
    name = f"xen/debian-{cache.key(*sources, python, fetched.name)}"
    built = cache.built(name, lambda into: _build(fetched, into))
    return Debian(
        built / "vmlinuz", built / "layer.cpio", built / "busybox", (built / "python").read_text().strip()
    )


def packages() -> Path:
    """A directory with all packages, `root/*.deb` and `kernel/*.deb`, from the cache where possible.

    Raises:
        TestbedError: apt cannot fetch them.
    """
    return cache.built(f"xen/packages-{cache.key(*_PACKAGES)}", _fetch)


def _fetch(into: Path) -> None:
    xen = apt.dependency("xen-system-amd64", XEN)
    for name in ("root", "kernel"):
        (into / name).mkdir()
    apt.closure([xen, *_PACKAGES], into / "root")
    apt.download(apt.dependency("linux-image-amd64", _KERNEL), into / "kernel")


def _build(fetched: Path, into: Path) -> None:
    root = into / "root"
    root.mkdir()
    for archive in sorted((fetched / "root").glob("*.deb")):
        if not _LEFT_OUT.fullmatch(archive.name.partition("_")[0]):
            apt.unpack(archive, root)
    _trim(root)
    _furnish(root)
    (archive,) = (fetched / "kernel").glob("*.deb")
    unpacked = into / "kernel"
    apt.unpack(archive, unpacked)
    (vmlinuz,) = unpacked.glob("boot/vmlinuz-*")
    vmlinuz.rename(into / "vmlinuz")
    _modules(unpacked, root / "modules")
    shutil.copy2(root / "bin/busybox", into / "busybox")
    interpreter = (root / "usr/bin/python3").readlink().name
    python = interpreter.removeprefix("python")
    (into / "python").write_text(python)
    compile_python(root, root / "usr/lib" / interpreter, python)
    layer = Archive()
    layer.tree(root)
    (into / "layer.cpio").write_bytes(layer.finish())
    shutil.rmtree(root)
    shutil.rmtree(unpacked)


def compile_python(root: Path, directory: Path, python: str) -> None:
    """Leave bytecode beside the modules: emulated, it takes Python four times as long without.

    Args:
        root: What is dom0's `/`.
        directory: Below it; searched for modules.
        python: dom0's version. Bytecode of this process's is of use to no other: then none is left.
    """
    if python == "{}.{}".format(*sys.version_info):
        compileall.compile_dir(
            directory,
            quiet=2,
            force=True,
            workers=0,
            stripdir=str(root),
            prependdir="/",
            invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
        )


def _trim(root: Path) -> None:
    for pattern in _TRIMMED:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _furnish(root: Path) -> None:
    """What the scripts of the packages would have made."""
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / "var/run", ignore_errors=True)
    (root / "var/run").symlink_to("/run")
    (tools,) = root.glob("usr/lib/xen-[0-9]*")
    (root / "usr/lib/xen").symlink_to(tools.name)
    busybox = root / "bin/busybox"
    for applet in cache.run(str(busybox), "--list").split():
        (root / "busybox" / applet).symlink_to("/bin/busybox")
    for name in ("bin/sh", "usr/bin/env"):
        if not (root / name).exists():
            (root / name).symlink_to("/bin/busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost dom0\n")


def _modules(kernel: Path, into: Path) -> None:
    """Copy dom0's modules, and what they need, with the order in which to load them."""
    found = {path.name.split(".ko")[0].replace("-", "_"): path for path in kernel.rglob("*.ko*")}
    order: list[str] = []

    def take(name: str) -> None:
        name = name.replace("-", "_")
        if name in order:
            return
        if name not in found:
            raise TestbedError(f"kernel module {name}: not in Debian's kernel package")
        content = found[name].read_bytes()
        if found[name].suffix == ".xz":
            content = lzma.decompress(content)
        # The section .modinfo: strings, each closed by a zero.
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for needed in filter(None, needs.group(1).decode().split(",") if needs else []):
            take(needed)
        (into / f"{name}.ko").write_bytes(content)
        order.append(name)

    for module in MODULES:
        take(module)
    (into / "order").write_text("".join(f"{name}\n" for name in order))
