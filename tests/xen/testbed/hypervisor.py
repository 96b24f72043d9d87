"""The two hypervisors: Debian's current one, and one that can do shadow paging (`hap=0`).

Xen deprecates shadow paging (XSA-495) and Debian's security builds leave it out, so an older build is looked
for: in the file named by VRAMTAP_XEN_SHADOW_DEB, in the cache, among all versions that apt knows.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.testbed import cache
from support.testbed.errors import TestbedError
from xen.testbed import apt

if TYPE_CHECKING:
    from collections.abc import Iterator

SHADOW_DEB: Final = "VRAMTAP_XEN_SHADOW_DEB"
"""Environment variable: path of a hypervisor package built with shadow paging."""
_PACKAGE: Final = re.compile(r"xen-hypervisor-[0-9.]+-amd64")
_SHADOW: Final = "CONFIG_SHADOW_PAGING=y"


def current() -> Path:
    """The hypervisor a Debian host gets today.

    Raises:
        TestbedError: apt cannot fetch it.
    """

    def build(into: Path) -> None:
        _unpack(apt.download(_package(), into), into)

    return cache.built(f"xen/current-{_recipe()}", build) / "xen"


def shadow() -> Path:
    """A hypervisor with shadow paging; `hap=1` works there as well.

    Raises:
        TestbedError: none can be had; the line says where it was looked for.
    """

    def build(into: Path) -> None:
        tried: list[str] = []
        for archive in _candidates(into, tried):
            _unpack(archive, into)
            if _SHADOW in (into / "config").read_text().splitlines():
                return
            tried.append(f"{archive.name} without it")
        raise TestbedError(
            f"no hypervisor with shadow paging: tried {'; '.join(tried)} (let {SHADOW_DEB} name a package)"
        )

    named = os.environ.get(SHADOW_DEB, "")
    return cache.built(f"xen/shadow-{cache.key(_recipe(), named)}", build) / "xen"


def _candidates(into: Path, tried: list[str]) -> Iterator[Path]:
    named = os.environ.get(SHADOW_DEB)
    if named:
        if not Path(named).is_file():
            raise TestbedError(f"{SHADOW_DEB}={named}: no such file")
        yield Path(named)
        return
    yield from sorted((cache.ROOT / "xen").glob("xen-hypervisor-*.deb"))
    try:
        package = _package()
        offered = apt.versions(package)
        if not offered:
            tried.append(f"apt, which has no {package}")
        for version in offered:
            yield apt.download(f"{package}={version}", into)
    except TestbedError as error:
        tried.append(f"apt: {error}")


def _package() -> str:
    return apt.dependency("xen-system-amd64", _PACKAGE)


def _recipe() -> str:
    return cache.key(Path(__file__).read_bytes(), Path(apt.__file__).read_bytes())


def _unpack(archive: Path, into: Path) -> None:
    """Leave `xen`, the program, and `config`, what it was built with."""
    unpacked = into / "unpacked"
    apt.unpack(archive, unpacked)
    try:
        (program,) = unpacked.glob("boot/xen-[0-9]*.gz")
        (config,) = unpacked.glob("boot/xen-[0-9]*.config")
    except ValueError as error:
        raise TestbedError(f"{archive.name}: no hypervisor in it") from error
    (into / "xen").write_bytes(gzip.decompress(program.read_bytes()))
    shutil.copyfile(config, into / "config")
    shutil.rmtree(unpacked)
    if archive.parent == into:
        archive.unlink()
